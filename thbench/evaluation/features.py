"""Extracts the features that metrics need from a video, in bounded memory; keeps them on disk.

``metrics.base`` lists the features. All of them, landmarks too, are computed from the frames at the
scoring resolution (but for ``frames@N``), and by the same code for generated and reference videos.
The frames of a short clip are decoded once and held in memory. Those of a longer clip are decoded
anew for each network, which takes little time beside it, and only a part of them is ever held.
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
"""Raised whenever a file is read as other frames or audio than before, by the same decoder."""
PLAIN = ("frames", "size", "waveform", *TRACK)
"""Features that need no extractor; ``frames@N`` are others."""

CHUNK_BYTES = 2**24
CHUNK_FRAMES = 64
"""Decoded at a time: at most so many frames, and at most so many bytes, but at least a frame."""
HELD_BYTES = 2**26
"""A clip whose frames have no more is held in memory: 85 of 512 x 512, 1365 of 128 x 128."""

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
    """A video file as it is scored. Nothing is decoded before it is needed.

    Args:
        path: of the file.
        size: frames are resized to ``size`` x ``size``.
        limit: frames from the start that count, or None for all.
        sizes: further sizes to which frames may be requested.
    """

    def __init__(
        self, path: Path, size: int, limit: int | None, sizes: Collection[int] = ()
    ) -> None:
        self.path = path
        self.digest = sha256(path)
        self._size = size
        self._limit = limit
        self._sizes = sizes
        self._held: dict[int | None, list[Tensor]] | None = None  # {}: too many to hold

    def damaged_frames(self) -> Tensor:
        """Which of the frames that count are damaged, (T,) bool.

        Raises:
            UserError: the file cannot be read to its end, or its frames are not square.
        """
        return torch.cat(self._hold(to_the_end=True))

    def frames(self, length: int, size: int | None = None) -> Frames:
        """The first frames at 25 fps.

        Args:
            length: how many.
            size: one of ``sizes``, to which frames are brought from the file's own size by
                OpenCV's bilinear without antialiasing, as published evaluations do; by default the
                scoring resolution, antialiased.

        Returns:
            Of shape (``length``, 3, size, size), uint8. Iterating raises UserError where the file
            cannot be read, or its frames are not square.
        """
        return _FileFrames(self, length, size)

    def frame_shape(self, size: int | None) -> tuple[int, int, int]:
        """(3, H, W) of a frame of that size, None for the scoring resolution."""
        return 3, size or self._size, size or self._size

    def chunks(self, size: int | None) -> Iterator[Tensor]:
        """The frames that count, in chunks (n, 3, H, W) uint8 of that size."""
        if self._held is None:
            self._hold(to_the_end=False)
        if self._held:
            yield from self._held[size]
        else:
            yield from (self._sized(frames, size) for frames, _ in self._decoded())

    def waveform(self, length: int) -> Tensor:
        """The audio of the first ``length`` frames, (S,) float32 at 16 kHz; (0,) without any.

        S is at most 640 a frame, and less where the audio ends before the frames: SyncNet's
        authors count the frames that have audio, so it is never padded.
        """
        return self._audio[: length * SAMPLES_PER_FRAME]

    @cached_property
    def _audio(self) -> Tensor:
        from thbench.data.media import audio

        try:
            return torch.as_tensor(audio.load(self.path))
        except audio.NoAudioError:
            return torch.zeros(0)

    def _hold(self, to_the_end: bool) -> list[Tensor]:
        """Decode the frames and hold them in memory if they are few.

        Args:
            to_the_end: go on where they turn out to be too many to hold.

        Returns:
            Which frames are damaged, (n,) bool for each chunk.
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
        """Frames to decode at a time: a single frame of film footage may have 100 MB."""
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
        return (self._length, *self._source.frame_shape(self._side))

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
        sizes: the N of the features ``frames@N`` that may be requested.
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
        """Features of the first ``length`` frames, by name; frames as ``Frames``, the rest tensors.

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
        return self._cached(
            source, "length", 0, names, lambda: {"damaged": source.damaged_frames()}
        )["damaged"]

    def _add(self, source: Video, name: str, length: int, found: dict[str, Any]) -> None:
        """Add a feature to those found, and, where it has to be computed, those that it needs."""
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
            return {name: source.waveform(length)}
        if name in TRACK:
            key = f"track-{TRACK_VERSION}"
            return self._cached(
                source, key, length, TRACK, lambda: self.tracker(source.frames(length))
            )
        extractor = self.extractors[name]

        def extract() -> dict[str, Tensor]:
            for need in extractor.needs:
                self._add(source, need, length, found)
            return {name: extractor.extract(source.frames(length), found)}

        return self._cached(source, extractor.fingerprint, length, (name,), extract)

    def _cached(
        self,
        source: Video,
        fingerprint: str,
        length: int,
        names: Collection[str],
        make: Callable[[], Mapping[str, Tensor]],
    ) -> Mapping[str, Tensor]:
        """Features from their file, or from ``make``, which is then written.

        Args:
            source: the video.
            fingerprint: of what makes them.
            length: frames of the video, 0 for all that count.
            names: of the features.
            make: computes them.
        """
        if self.cache is None:
            return make()
        reader = [video.decoder(), READER_VERSION]
        key = content_hash([fingerprint, self.size, length or self.limit, *reader])
        path = self.cache / source.digest[:2] / f"{source.digest}-{key}.npz"
        known = _read_npz(path)
        if known is not None and set(names) <= set(known):
            return known
        found = make()
        _write_npz(path, found)
        return found


def build_extractors(
    metrics: Iterable[BenchMetric], device: torch.device | str = "cpu"
) -> tuple[dict[str, Extractor], dict[str, str]]:
    """The extractors that metrics need.

    Returns:
        Extractors by feature; and of features that cannot be extracted, the remedy.
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
    """``Extractor.domain`` of a metric's networks: the only images they know, "" for any."""
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
    images = frames.permute(0, 2, 3, 1).contiguous().numpy()
    small = np.stack([cv2.resize(image, (size, size)) for image in images])
    return torch.from_numpy(small).permute(0, 3, 1, 2)


def _read_npz(path: Path) -> dict[str, Tensor] | None:
    """None where there is no such file, or a damaged one, which is then written anew."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, BadZipFile, zlib.error):
        return None


def _write_npz(path: Path, values: Mapping[str, Tensor]) -> None:
    arrays: dict[str, Any] = {name: value.cpu().numpy() for name, value in values.items()}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
