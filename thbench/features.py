"""One decode per video, and from it every feature that metrics ask for; kept on disk.

Features are described in ``metrics.base``. All of them, landmarks too, are taken from the frames at
the scoring resolution, and by the same code for generated and reference videos.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from metrics.base import BenchMetric
from metrics.extractors.base import Extractor
from metrics.weights import WeightsMissing, WeightsUnreadable
from thbench.config import content_hash
from thbench.data import video
from thbench.data.files import replacing, sha256
from thbench.data.store import resize
from thbench.errors import UserError
from thbench.protocol import extractor_registry

TRACK = ("landmarks", "pose", "eyes", "mouth", "valid")
TRACK_VERSION = 1
PLAIN = ("frames", "waveform", *TRACK)
"""Features that need no extractor."""

Tracker = Callable[[Tensor], Mapping[str, Tensor]]


def default_cache() -> Path:
    """``$THBENCH_CACHE``, or ``~/.cache/thbench/features``."""
    given = os.environ.get("THBENCH_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "thbench" / "features"


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
    """The waveform of the first ``length`` frames, (640 * length,) at 16 kHz; (0,) without any."""
    from thbench.data import audio

    try:
        return torch.as_tensor(audio.fit_length(audio.load(path), length))
    except audio.NoSoundError:
        return torch.zeros(0)


class Video:
    """A video file as scoring sees it. Decoded at most once, when first needed.

    Args:
        path: of the file.
        size: frames are resized to ``size`` x ``size``.
        limit: frames from the start that count, or None for all.
    """

    def __init__(self, path: Path, size: int, limit: int | None) -> None:
        self.path = path
        self.digest = sha256(path)
        self._size = size
        self._limit = limit
        self._frames: Tensor | None = None

    @property
    def frames(self) -> Tensor:
        """(T, 3, size, size) uint8 at 25 fps.

        Raises:
            UserError: the file cannot be read, or its frames are not square.
        """
        if self._frames is None:
            self._frames = self._decode()
        return self._frames

    def _decode(self) -> Tensor:
        parts: list[Tensor] = []
        count = 0
        for part in video.stream(self.path):
            height, width = part.shape[-2:]
            if height != width:
                raise UserError(
                    f"{self.path} is {width}x{height}, not square: crop it to the face first."
                )
            left = len(part) if self._limit is None else self._limit - count
            parts.append(resize(part[:left], self._size))
            count += len(parts[-1])
            if count == self._limit:
                break
        if not count:
            raise UserError(f"{self.path} holds no frames.")
        return torch.cat(parts)


class FeatureStore:
    """Computes features and keeps them in a folder, by file hash, extractor, size and length.

    Args:
        extractors: by feature name.
        size: scoring resolution.
        limit: frames from the start that count, or None for all.
        cache: the folder, or None to keep nothing.
        tracker: finds the face features in frames; ``track`` by default.
    """

    def __init__(
        self,
        extractors: Mapping[str, Extractor],
        size: int,
        limit: int | None = None,
        cache: Path | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.extractors = dict(extractors)
        self.size = size
        self.limit = limit
        self.cache = cache
        self.tracker = tracker or track

    def open(self, path: Path) -> Video:
        """The video, not decoded yet."""
        try:
            return Video(path, self.size, self.limit)
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror}.") from error

    def length(self, source: Video) -> int:
        """Frames of the video that count."""

        def count() -> dict[str, Tensor]:
            return {"length": torch.tensor(len(source.frames))}

        return int(self._kept(source, "length", 0, count)["length"])

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
        if name == "waveform":
            return {name: sound(source.path, length)}
        if name in TRACK:
            key = f"track-{TRACK_VERSION}"
            return self._kept(source, key, length, lambda: self.tracker(source.frames[:length]))
        extractor = self.extractors[name]
        return self._kept(
            source,
            extractor.fingerprint,
            length,
            lambda: {name: extractor.extract(source.frames[:length], given)},
        )

    def _kept(
        self, source: Video, maker: str, length: int, make: Callable[[], Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        if self.cache is None:
            return make()
        key = content_hash([maker, self.size, length or self.limit])
        path = self.cache / source.digest[:2] / f"{source.digest}-{key}.npz"
        found = _read_npz(path)
        if found is not None:
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


def _recipes(metrics: Iterable[BenchMetric]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """The extractor, and its options, of every feature that needs one."""
    return {
        need: metric.recipes.get(need, (need, {}))
        for metric in metrics
        for need in metric.needs
        if need not in PLAIN
    }


def _read_npz(path: Path) -> dict[str, Tensor] | None:
    """None where there is no such file, or a damaged one, which is then made anew."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}
    except (OSError, ValueError, EOFError, BadZipFile):
        return None


def _write_npz(path: Path, values: Mapping[str, Tensor]) -> None:
    arrays: dict[str, Any] = {name: value.cpu().numpy() for name, value in values.items()}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
