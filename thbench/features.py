"""One decode per video, and from it every feature that metrics ask for; kept on disk.

Features are described in ``metrics.base``. All of them, landmarks too, are taken from the frames at
the scoring resolution (but for ``frames@N``), and by the same code for generated and reference
videos.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np
import torch
from torch import Tensor

from metrics.base import BenchMetric
from metrics.extractors.base import Extractor
from metrics.weights import WeightsMissing, WeightsUnreadable
from thbench.config import content_hash
from thbench.contracts import SAMPLES_PER_FRAME
from thbench.data import places, video
from thbench.data.files import replacing, sha256
from thbench.data.store import resize
from thbench.errors import UserError
from thbench.protocol import extractor_registry

TRACK = ("landmarks", "pose", "eyes", "mouth", "valid")
TRACK_VERSION = 2  # 1: by mediapipe itself
PLAIN = ("frames", "waveform", *TRACK)
"""Features that need no extractor; ``frames@N`` are others."""

Tracker = Callable[[Tensor], Mapping[str, Tensor]]


def default_cache() -> Path:
    """``$THBENCH_CACHE``, or ``~/.cache/thbench/features``."""
    given = places.named()
    return Path(given) if given else places.user_cache("features")


def track(frames: Tensor) -> dict[str, Tensor]:
    """Face features of a clip's frames (T, 3, H, W) uint8, as ``metrics.base`` describes them."""
    from thbench.data import landmarks, pose

    found = landmarks.track(frames)
    values = {
        "landmarks": found.landmarks,
        "pose": found.pose,
        "eyes": found.eyes,
        "mouth": pose.mouth_opening(found.landmarks),
    }
    tensors = {k: torch.as_tensor(np.asarray(v, np.float32)) for k, v in values.items()}
    return {**tensors, "valid": torch.as_tensor(np.asarray(found.valid, bool))}


def sound(path: Path, length: int) -> Tensor:
    """The waveform of the first ``length`` frames, (S,) at 16 kHz; (0,) without any.

    S is at most 640 a frame, and less where the sound ends before the picture: SyncNet's authors
    count the frames that have sound, so nothing may be put in for it.
    """
    from thbench.data import audio

    try:
        return torch.as_tensor(audio.load(path)[: length * SAMPLES_PER_FRAME])
    except audio.NoSoundError:
        return torch.zeros(0)


def sizes_of(needs: Iterable[str]) -> tuple[int, ...]:
    """The N of all ``frames@N`` among features."""
    return tuple(sorted({size for need in needs if (size := _own_size(need))}))


class Video:
    """A video file as scoring sees it. Decoded at most once, when first needed.

    Args:
        path: of the file.
        size: frames are resized to ``size`` x ``size``.
        limit: frames from the start that count, or None for all.
        sizes: further sizes, for ``frames_at``.
    """

    def __init__(
        self, path: Path, size: int, limit: int | None, sizes: Collection[int] = ()
    ) -> None:
        self.path = path
        self.digest = sha256(path)
        self._size = size
        self._limit = limit
        self._sizes = sizes
        self._decoded: dict[int | None, Tensor] = {}

    @property
    def frames(self) -> Tensor:
        """(T, 3, size, size) uint8 at 25 fps.

        Raises:
            UserError: the file cannot be read, or its frames are not square.
        """
        return self._all()[None]

    def frames_at(self, size: int) -> Tensor:
        """(T, 3, size, size) uint8: the same, resized by OpenCV's bilinear without antialiasing.

        That is what published evaluations do to the frames of a file of any size.

        Raises:
            UserError: as for ``frames``.
        """
        return self._all()[size]

    def _all(self) -> dict[int | None, Tensor]:
        """Frames by further size, and those at the scoring resolution under None."""
        if not self._decoded:
            self._decoded = self._decode()
        return self._decoded

    def _decode(self) -> dict[int | None, Tensor]:
        parts: dict[int | None, list[Tensor]] = {key: [] for key in (None, *self._sizes)}
        count = 0
        for part in video.stream(self.path):
            height, width = part.shape[-2:]
            if height != width:
                raise UserError(
                    f"{self.path} is {width}x{height}, not square: crop it to the face first."
                )
            part = part if self._limit is None else part[: self._limit - count]
            parts[None].append(resize(part, self._size))
            for size in self._sizes:
                parts[size].append(_resize_opencv(part, size))
            count += len(part)
            if count == self._limit:
                break
        if not count:
            raise UserError(f"{self.path} holds no frames.")
        # One by one, so that frames are held twice for one size only.
        return {key: torch.cat(parts.pop(key)) for key in list(parts)}


class FeatureStore:
    """Computes features and keeps them by file, extractor, size, length and decoder's version.

    Args:
        extractors: by feature name.
        size: scoring resolution.
        limit: frames from the start that count, or None for all.
        cache: the folder, or None to keep nothing.
        tracker: finds the face features in frames; ``track`` by default.
        sizes: the N of the features ``frames@N`` that will be asked for.
    """

    def __init__(
        self,
        extractors: Mapping[str, Extractor],
        size: int,
        limit: int | None = None,
        cache: Path | None = None,
        tracker: Tracker | None = None,
        sizes: Collection[int] = (),
    ) -> None:
        self.extractors = dict(extractors)
        self.size = size
        self.limit = limit
        self.cache = cache
        self.tracker = tracker or track
        self.sizes = sizes

    def open(self, path: Path) -> Video:
        """The video, not decoded yet."""
        try:
            return Video(path, self.size, self.limit, self.sizes)
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror}.") from error

    def length(self, source: Video) -> int:
        """Frames of the video that count."""

        def count() -> dict[str, Tensor]:
            return {"length": torch.tensor(len(source.frames))}

        return int(self._kept(source, "length", 0, ("length",), count)["length"])

    def features(self, source: Video, wanted: Collection[str], length: int) -> dict[str, Tensor]:
        """The wanted features of the first ``length`` frames.

        Raises:
            UserError: the file cannot be read, or a feature is NaN or infinite.
        """
        found: dict[str, Tensor] = {}
        for name in self._in_order(wanted):
            if name not in found:
                found |= self._compute(source, name, length, found)
        for name, value in found.items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise UserError(f"{source.path}: its {name} features are NaN or infinite.")
        return {name: found[name] for name in wanted}

    def _in_order(self, wanted: Iterable[str]) -> list[str]:
        """The wanted features, each behind those that it needs itself."""
        order: list[str] = []
        for name in wanted:
            if name in self.extractors:
                order += self._in_order(self.extractors[name].needs)
            order.append(name)
        return list(dict.fromkeys(order))

    def _compute(
        self, source: Video, name: str, length: int, given: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        if name == "frames":
            return {name: source.frames[:length]}
        if size := _own_size(name):
            return {name: source.frames_at(size)[:length]}
        if name == "waveform":
            return {name: sound(source.path, length)}
        if name in TRACK:
            key = f"track-{TRACK_VERSION}"
            return self._kept(
                source, key, length, TRACK, lambda: self.tracker(source.frames[:length])
            )
        extractor = self.extractors[name]
        return self._kept(
            source,
            extractor.fingerprint,
            length,
            (name,),
            lambda: {name: extractor.extract(source.frames[:length], given)},
        )

    def _kept(
        self,
        source: Video,
        maker: str,
        length: int,
        names: Collection[str],
        make: Callable[[], Mapping[str, Tensor]],
    ) -> Mapping[str, Tensor]:
        if self.cache is None:
            return make()
        key = content_hash([maker, self.size, length or self.limit, video.decoder()])
        path = self.cache / source.digest[:2] / f"{source.digest}-{key}.npz"
        found = _read_npz(path)
        if found is not None and set(names) <= set(found):
            return found
        made = make()
        _write_npz(path, made)
        return made


def build_extractors(
    metrics: Iterable[BenchMetric], device: torch.device | str = "cpu"
) -> tuple[dict[str, Extractor], dict[str, str]]:
    """The extractors that metrics need.

    Returns:
        Extractors by feature; and of features that cannot be made, the remedy.
    """
    built: dict[str, Extractor] = {}
    missing: dict[str, str] = {}
    for feature, (name, options) in sorted(_recipes(metrics).items()):
        if name not in extractor_registry:
            missing[feature] = f"nothing here makes the feature '{feature}': add an extractor"
            continue
        try:
            built[feature] = extractor_registry.load(name)(device=device, **options)
        except (WeightsMissing, WeightsUnreadable) as error:
            missing[feature] = str(error)
    return built, missing


def domain_of(metric: BenchMetric) -> str:
    """The only pictures that a metric's networks know, "" for all; see ``Extractor``."""
    names = {name for name, _ in _recipes([metric]).values() if name in extractor_registry}
    return next(filter(None, (extractor_registry.load(name).domain for name in sorted(names))), "")


def _recipes(metrics: Iterable[BenchMetric]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """The extractor, and its options, of every feature that needs one."""
    return {
        need: metric.recipes.get(need, (need, {}))
        for metric in metrics
        for need in metric.needs
        if need not in PLAIN and not _own_size(need)
    }


def _own_size(name: str) -> int | None:
    """The N of ``frames@N``, None for any other feature."""
    kind, _, size = name.partition("@")
    return int(size) if kind == "frames" and size.isdecimal() else None


def _resize_opencv(frames: Tensor, size: int) -> Tensor:
    """uint8 (n, 3, H, W) to (n, 3, size, size)."""
    pictures = frames.permute(0, 2, 3, 1).contiguous().numpy()
    small = np.stack([cv2.resize(picture, (size, size)) for picture in pictures])
    return torch.from_numpy(small).permute(0, 3, 1, 2)


def _read_npz(path: Path) -> dict[str, Tensor] | None:
    """None where there is no such file, or a damaged one, which is then made anew."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, BadZipFile, zlib.error):
        return None


def _write_npz(path: Path, values: Mapping[str, Tensor]) -> None:
    arrays: dict[str, Any] = {name: value.cpu().numpy() for name, value in values.items()}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
