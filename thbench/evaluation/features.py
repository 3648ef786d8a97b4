"""From a video every feature that metrics ask for, in bounded memory; kept on disk.

Features are described in ``metrics.base``. All of them, landmarks too, are taken from the frames at
the scoring resolution (but for ``frames@N``), and by the same code for generated and reference
videos. The pictures of a short clip are decoded once and held; those of a longer one are decoded
for each network anew, which costs little beside it, and only a part of them is ever in memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np
import torch
from torch import Tensor

from metrics.base import BenchMetric
from metrics.extractors.base import Extractor
from metrics.frames import Frames
from metrics.weights import WeightsMissing, WeightsUnreadable
from thbench.config import content_hash
from thbench.core.errors import UserError
from thbench.core.files import replacing, sha256
from thbench.core.types import SAMPLES_PER_FRAME
from thbench.data import cache_folders
from thbench.data.media import video
from thbench.data.store import resize
from thbench.evaluation.protocol import extractor_registry

TRACK = ("landmarks", "pose", "eyes", "mouth", "valid")
TRACK_VERSION = 2  # 1: by mediapipe itself
READER_VERSION = 2
"""Raised whenever a file is read as other frames or sound than before, by the same decoder."""
PLAIN = ("frames", "size", "waveform", *TRACK)
"""Features that need no extractor; ``frames@N`` are others."""

CHUNK_BYTES = 2**24
CHUNK_FRAMES = 64
"""What is decoded at a time: so many frames, or as many as have so many bytes, but one."""
HELD_BYTES = 2**26
"""A clip with no more of pictures is held in memory: 85 frames of 512 x 512, 1365 of 128 x 128."""

Tracker = Callable[[Frames], Mapping[str, Tensor]]


def default_cache() -> Path:
    """``$THBENCH_CACHE``, or ``~/.cache/thbench/features``."""
    given = cache_folders.named()
    return Path(given) if given else cache_folders.user_cache("features")


def track(frames: Iterable[Tensor]) -> dict[str, Tensor]:
    """Face features of a clip, as ``metrics.base`` describes them.

    Args:
        frames: chunks (n, 3, H, W) uint8 of its T frames.
    """
    from thbench.data.face import landmarks, pose

    found = landmarks.track(frames)
    values = {
        "landmarks": found.landmarks,
        "pose": found.pose,
        "eyes": found.eyes,
        "mouth": pose.mouth_opening(found.landmarks),
    }
    tensors = {k: torch.as_tensor(np.asarray(v, np.float32)) for k, v in values.items()}
    return {**tensors, "valid": torch.as_tensor(np.asarray(found.valid, bool))}


def sizes_of(needs: Iterable[str]) -> tuple[int, ...]:
    """The N of all ``frames@N`` among features."""
    return tuple(sorted({size for need in needs if (size := _own_size(need))}))


class Video:
    """A video file as scoring sees it. Nothing is decoded before it is needed.

    Args:
        path: of the file.
        size: frames are resized to ``size`` x ``size``.
        limit: frames from the start that count, or None for all.
        sizes: further sizes that may be asked for.
    """

    def __init__(
        self, path: Path, size: int, limit: int | None, sizes: Collection[int] = ()
    ) -> None:
        self.path = path
        self.digest = sha256(path)
        self._size = size
        self._limit = limit
        self._sizes = sizes
        self._held: dict[int | None, list[Tensor]] | None = None  # {}: they are too many

    def scan(self) -> Tensor:
        """Which of the frames that count are damaged, (T,) bool.

        Raises:
            UserError: the file cannot be read to its end, or its frames are not square.
        """
        return torch.cat(self._look(to_the_end=True))

    def frames(self, length: int, size: int | None = None) -> Frames:
        """The first frames at 25 fps.

        Args:
            length: how many.
            size: one of ``sizes``, to which frames are brought from the file's own size by
                OpenCV's bilinear without antialiasing, as published evaluations do; by default the
                scoring resolution, antialiased.

        Returns:
            Of shape (``length``, 3, size, size). Reading them raises UserError as ``scan`` does.
        """
        return _FileFrames(self, length, size)

    def shape(self, size: int | None) -> tuple[int, int, int]:
        """Of each of ``frames``."""
        return 3, size or self._size, size or self._size

    def chunks(self, size: int | None) -> Iterator[Tensor]:
        """What ``frames`` of that size is made of, as far as frames count."""
        if self._held is None:
            self._look(to_the_end=False)
        if self._held:
            yield from self._held[size]
        else:
            yield from (self._sized(frames, size) for frames, _ in self._decoded())

    def sound(self, length: int) -> Tensor:
        """The waveform of the first ``length`` frames, (S,) at 16 kHz; (0,) without any.

        S is at most 640 a frame, and less where the sound ends before the picture: SyncNet's
        authors count the frames that have sound, so nothing may be put in for it.
        """
        return self._waveform[: length * SAMPLES_PER_FRAME]

    @cached_property
    def _waveform(self) -> Tensor:
        from thbench.data.media import audio

        try:
            return torch.as_tensor(audio.load(self.path))
        except audio.NoAudioError:
            return torch.zeros(0)

    def _look(self, to_the_end: bool) -> list[Tensor]:
        """Hold the pictures if they are few, and say which are damaged, chunk by chunk.

        Args:
            to_the_end: go on where they turn out to be too many.
        """
        held: dict[int | None, list[Tensor]] = {key: [] for key in (None, *self._sizes)}
        self._held, count, found = {}, 0, []
        for frames, damaged in self._decoded():
            found.append(damaged)
            for key, parts in held.items():
                parts.append(self._sized(frames, key))
                count += parts[-1].nbytes
            if count > HELD_BYTES:
                held = {}
                if not to_the_end:
                    break
        self._held = held
        return found

    def _decoded(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Frames (n, 3, H, H) as stored, and which are damaged (n,), as far as they count."""
        count = 0
        for chunk in video.chunks(self.path, self._at_a_time):
            height, width = chunk.frames.shape[-2:]
            if height != width:
                raise UserError(
                    f"{self.path} is {width}x{height}, not square: crop it to the face first."
                )
            stop = len(chunk.frames) if self._limit is None else self._limit - count
            frames = chunk.frames[:stop]
            yield frames, torch.from_numpy(chunk.damaged[:stop])
            count += len(frames)
            if count == self._limit:
                break
        if not count:
            raise UserError(f"{self.path} holds no frames.")

    @cached_property
    def _at_a_time(self) -> int:
        """Frames to decode at a time: a frame of the film industry is 100 MB."""
        info = video.probe(self.path)
        largest = max(info.height * info.width, *(n * n for n in (self._size, *self._sizes)))
        return max(1, min(CHUNK_FRAMES, CHUNK_BYTES // (3 * largest)))

    def _sized(self, frames: Tensor, size: int | None) -> Tensor:
        return resize(frames, self._size) if size is None else _resize_opencv(frames, size)


class _FileFrames(Frames):
    """The first ``length`` frames of a video."""

    def __init__(self, source: Video, length: int, size: int | None) -> None:
        self._source, self._length, self._side = source, length, size

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (self._length, *self._source.shape(self._side))

    def __iter__(self) -> Iterator[Tensor]:
        left = self._length
        for chunk in self._source.chunks(self._side):
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                return


class FeatureStore:
    """Computes features and keeps them by file, extractor, size, length and the reader's versions.

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
        return len(self._damage(source))

    def damaged(self, source: Video, length: int) -> int:
        """How many of the first ``length`` frames are damaged."""
        return int(self._damage(source)[:length].sum())

    def features(
        self, source: Video, wanted: Collection[str], length: int
    ) -> dict[str, Tensor | Frames]:
        """The wanted features of the first ``length`` frames; pictures as ``Frames``.

        Raises:
            UserError: the file cannot be read, or a feature is NaN or infinite.
        """
        found: dict[str, Any] = {}
        for name in wanted:
            self._add(source, name, length, found)
        for name, value in found.items():
            if isinstance(value, Tensor) and not _all_finite(value):
                raise UserError(f"{source.path}: its {name} features are NaN or infinite.")
        return {name: found[name] for name in wanted}

    def _damage(self, source: Video) -> Tensor:
        """Which of the frames that count are damaged, (T,) bool."""
        names = ("damaged",)
        return self._kept(source, "length", 0, names, lambda: {"damaged": source.scan()})["damaged"]

    def _add(self, source: Video, name: str, length: int, found: dict[str, Any]) -> None:
        """Put a feature among those found, and, where it has to be made, those that it needs."""
        if name not in found:
            found |= self._compute(source, name, length, found)

    def _compute(
        self, source: Video, name: str, length: int, found: dict[str, Any]
    ) -> Mapping[str, Tensor | Frames]:
        if name == "frames":
            return {name: source.frames(length)}
        if own := _own_size(name):
            return {name: source.frames(length, own)}
        if name == "size":
            return {name: torch.tensor([self.size, self.size])}
        if name == "waveform":
            return {name: source.sound(length)}
        if name in TRACK:
            key = f"track-{TRACK_VERSION}"
            return self._kept(
                source, key, length, TRACK, lambda: self.tracker(source.frames(length))
            )
        extractor = self.extractors[name]

        def extract() -> dict[str, Tensor]:
            for need in extractor.needs:
                self._add(source, need, length, found)
            return {name: extractor.extract(source.frames(length), found)}

        return self._kept(source, extractor.fingerprint, length, (name,), extract)

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
        reader = [video.decoder(), READER_VERSION]
        key = content_hash([maker, self.size, length or self.limit, *reader])
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


def _all_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


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
