"""One split of a prepared data set, with fast random access.

Opening an mp4 for one random frame costs milliseconds, so decoded frames are kept in one
memory-mapped file, ``<root>/cache/frames-<size>-<hash>.npy`` (N, 3, size, size) uint8, where they
fit below a limit. Measurements (36 bytes of motion and 2.9 kB of landmarks per
frame) are always packed the same way. ``thbench.data.cache_folders`` says where these are if
``root`` cannot be written. The hash covers the data set's content, the split and the size; a file
is written under a temporary name and renamed, so it is whole or absent.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision
from tqdm import tqdm

from thbench.config import DataConfig, content_hash
from thbench.core.errors import UserError
from thbench.core.types import EYES_DIM, N_LANDMARKS, POSE_DIM, Clip, Track
from thbench.data import manifest
from thbench.data.cache_folders import caches, locked, named
from thbench.data.embedding.cache import Embeddings, kind_of, print_once
from thbench.data.embedding.encoders import ENCODERS
from thbench.data.media import video

MOTION_DIM = POSE_DIM + EYES_DIM + 1
_GB = 1e9


@dataclass(frozen=True)
class Store:
    """The clips of one split.

    Args:
        root: the prepared data set.
        split: ``train``, ``val`` or ``test``.
        size: frames are resized to ``size`` x ``size``, antialiased.
        audio: the audio encoder whose embeddings are read, and computed where they are missing.
        cache_gb: frames are cached if they take no more than this, in gigabytes.
        video: frames are read at all.
        cache: folder of the caches if not beside the data (``data.cache``).
        decoder: reads frames that are not cached (``data.decoder``).
    """

    root: Path
    split: str
    size: int
    audio: str
    cache_gb: float = 8.0
    video: bool = True
    cache: str | None = None
    decoder: str = "pyav"

    @classmethod
    def of(cls, data: DataConfig, split: str, size: int, **options: Any) -> Store:
        """A split of the data set that a configuration names; ``options`` take its place."""
        named = {"cache_gb": data.cache_gb, "cache": data.cache, "decoder": data.decoder}
        return cls(Path(data.root), split, size, data.audio, **{**named, **options})

    @cached_property
    def embeddings(self) -> Embeddings:
        """Audio embeddings of all clips of the data set."""
        return Embeddings(self.root, self.audio, self.cache)

    @cached_property
    def clips(self) -> tuple[Clip, ...]:
        rows = manifest.read(self.root)
        return tuple(sorted((c for c in rows if c.split == self.split), key=lambda c: c.id))

    @cached_property
    def silent(self) -> np.ndarray:
        """Which clips have no sound, bool (clips,)."""
        return np.array([manifest.is_silent(clip) for clip in self.clips], bool)

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each clip's frames begin in the packed files, int64 (clips + 1,)."""
        return np.cumsum([0, *(clip.n_frames for clip in self.clips)], dtype=np.int64)

    @property
    def caches_frames(self) -> bool:
        """Whether the decoded frames fit below the limit."""
        return self.video and self._frame_bytes <= self.cache_gb * _GB

    def prepare(self) -> None:
        """Check the data and build the missing caches. One process per machine calls this.

        Raises:
            UserError: embeddings are missing and cannot be computed, a file disagrees with the
                manifest, the cache cannot be written, or the decoder is not installed.
        """
        video.check_decoder(self.decoder)
        if not self.clips:
            return
        self.embeddings.prepare()
        self._check_audio()
        self._report_cache_folder()
        build_once(self.cache_path("motion"), self._motion_shape, np.float32, self._fill_motion)
        build_once(self.cache_path("landmarks"), self._mesh_shape, np.float16, self._fill_landmarks)
        build_once(self.cache_path("extent"), self._extent_shape, np.float16, self._fill_extent)
        if self.caches_frames:
            build_once(self.cache_path("frames"), self._frames_shape, np.uint8, self._fill_frames)

    def valid(self, i: int) -> np.ndarray:
        """In which frames of clip ``i`` the face was found, bool (n_frames,)."""
        return self._motion[self.offsets[i] : self.offsets[i + 1], -1] > 0

    def portrait(self, i: int) -> int:
        """The first frame of clip ``i`` in which the face was found, 0 where there is none."""
        return int(self.valid(i).argmax())

    def extent(self, i: int) -> np.ndarray:
        """Least and greatest x and y of each landmark over clip ``i``, float32 (2, 478, 2).

        Frames without a face do not count; NaN where there is no other.
        """
        return self._extent[i].astype(np.float32)

    @property
    def is_packed(self) -> bool:
        """Whether measurements are packed already."""
        return self.cache_path("motion").is_file()

    def valid_if_known(self, i: int) -> np.ndarray | None:
        """``valid`` (n_frames,) without building caches; None where no file has it."""
        if self.is_packed:
            return self.valid(i)
        path = self.root / self.clips[i].track
        if not path.is_file():
            return None
        with np.load(path) as npz:
            return np.asarray(npz["valid"], bool)

    def unbuilt(self, video: bool) -> Iterator[tuple[Path, int]]:
        """Files that ``prepare`` would still write, with their bytes; frames only if wanted."""
        frames = {"frames": self._frame_bytes} if video and self.caches_frames else {}
        motion, mesh = (int(np.prod(s)) for s in (self._motion_shape, self._mesh_shape))
        for kind, size in {"motion": 4 * motion, "landmarks": 2 * mesh, **frames}.items():
            if not self.cache_path(kind).is_file():
                yield self.cache_path(kind), size

    def track(self, i: int, indices: np.ndarray) -> Track:
        """Measurements on frames ``indices`` (n,) of clip ``i``."""
        rows = self.offsets[i] + indices
        motion = self._motion[rows]
        return Track(
            landmarks=self._landmarks[rows].astype(np.float32),
            pose=motion[:, :POSE_DIM],
            eyes=motion[:, POSE_DIM : POSE_DIM + EYES_DIM],
            valid=motion[:, -1] > 0,
        )

    def audio_features(self, i: int, indices: np.ndarray) -> np.ndarray:
        """Audio embeddings of frames ``indices`` (n,), float32 (n, D).

        An encoder's layers are concatenated in D. A silent clip has zeros, which only those may
        read who make nothing of audio (``PreparedDataset``).
        """
        if self.silent[i]:
            return np.zeros((len(indices), self.audio_dim), np.float32)
        embedding = np.load(self.audio_path(i), mmap_mode="r")
        return np.asarray(embedding[indices], np.float32).reshape(len(indices), -1)

    def frames(self, i: int, indices: np.ndarray) -> Tensor:
        """Frames ``indices`` (n,) of clip ``i``, uint8 (n, 3, size, size)."""
        if self.caches_frames:
            return torch.from_numpy(self._frames[self.offsets[i] + indices])
        wanted, back = np.unique(indices, return_inverse=True)
        found = video.read(self.root / self.clips[i].video, wanted.tolist(), self.decoder)
        return resize(found, self.size)[torch.from_numpy(back)]

    def audio_path(self, i: int) -> Path:
        return self.embeddings.path(self.clips[i].id)

    @cached_property
    def audio_dim(self) -> int:
        """D, channels of the audio embedding; the encoder's usual one if all clips are silent."""
        if self.silent.all():
            return int(ENCODERS.load(kind_of(self.audio)).default_dim)
        first = int(self.silent.argmin())
        return int(np.prod(np.load(self.audio_path(first), mmap_mode="r").shape[1:]))

    @cached_property
    def _motion(self) -> np.ndarray:
        return np.load(self.cache_path("motion"), mmap_mode="r")

    @cached_property
    def _landmarks(self) -> np.ndarray:
        return np.load(self.cache_path("landmarks"), mmap_mode="r")

    @cached_property
    def _extent(self) -> np.ndarray:
        return np.load(self.cache_path("extent"), mmap_mode="r")

    @cached_property
    def _frames(self) -> np.ndarray:
        return np.load(self.cache_path("frames"), mmap_mode="r")

    def __getstate__(self) -> dict[str, Any]:
        # A memory map would be pickled as its content; each process opens its own.
        return {k: v for k, v in self.__dict__.items() if k in self.__dataclass_fields__}

    @property
    def _motion_shape(self) -> tuple[int, ...]:
        return (int(self.offsets[-1]), MOTION_DIM)

    @property
    def _mesh_shape(self) -> tuple[int, ...]:
        return (int(self.offsets[-1]), N_LANDMARKS, 3)

    @property
    def _extent_shape(self) -> tuple[int, ...]:
        return (len(self.clips), 2, N_LANDMARKS, 2)

    @property
    def _frames_shape(self) -> tuple[int, ...]:
        return (int(self.offsets[-1]), 3, self.size, self.size)

    @property
    def _frame_bytes(self) -> int:
        return int(np.prod(self._frames_shape, dtype=np.int64))

    @cached_property
    def _digest(self) -> str:
        return content_hash([manifest.digest(self.root), self.split])

    def cache_path(self, kind: str) -> Path:
        """Of the file for ``kind`` among this split's caches, there or not yet."""
        name = f"{kind}-{self.size}" if kind == "frames" else kind
        beside = self.root / "cache" / f"{name}-{self._digest}.npy"
        return beside if beside.is_file() else self._new / beside.name

    @cached_property
    def _new(self) -> Path:
        """Folder of caches that do not exist yet."""
        return caches(self.root, self.cache)

    def _report_cache_folder(self) -> None:
        here = self.root / "cache"
        if not self.cache and not named() and self._new != here:
            print_once(f"{self.root} cannot be written to: its caches are kept in {self._new}.")

    def _check_audio(self) -> None:
        for i, clip in enumerate(self.clips):
            if self.silent[i]:
                continue
            length = len(np.load(self.audio_path(i), mmap_mode="r"))
            if length != clip.n_frames:
                raise UserError(_disagree(self.audio_path(i), length, clip))

    def _fill_motion(self, out: np.ndarray) -> None:
        for a, _, npz in self._tracks("packing tracks"):
            rows = np.concatenate([npz["pose"], npz["eyes"], npz["valid"][:, None]], axis=1)
            out[a : a + len(rows)] = rows

    def _fill_landmarks(self, out: np.ndarray) -> None:
        for a, clip, npz in self._tracks("packing landmarks"):
            out[a : a + clip.n_frames] = npz["landmarks"]

    def _fill_extent(self, out: np.ndarray) -> None:
        for i in range(len(self.clips)):
            points = self._landmarks[self.offsets[i] : self.offsets[i + 1], :, :2][self.valid(i)]
            out[i] = [points.min(0), points.max(0)] if len(points) else np.nan

    def _tracks(self, title: str) -> Iterator[tuple[int, Clip, Any]]:
        for a, clip in zip(self.offsets, progress(self.clips, title), strict=False):
            path = self.root / clip.track
            if not path.is_file():
                raise UserError(f"{path} is missing: prepare the data set again.")
            with np.load(path) as npz:
                if len(npz["valid"]) != clip.n_frames:
                    raise UserError(_disagree(path, len(npz["valid"]), clip))
                yield int(a), clip, npz

    def _fill_frames(self, out: np.ndarray) -> None:
        def decode(i: int) -> None:
            clip, first, found = self.clips[i], int(self.offsets[i]), 0
            for chunk in video.stream(self.root / clip.video, fps=None):
                wanted = chunk[: max(0, clip.n_frames - found)]
                if len(wanted):
                    at = first + found
                    out[at : at + len(wanted)] = resize(wanted, self.size).numpy()
                found += len(chunk)
            if found != clip.n_frames:
                raise UserError(_disagree(self.root / clip.video, found, clip))

        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            try:
                list(
                    progress(pool.map(decode, range(len(self.clips))), "decoding", len(self.clips))
                )
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def resize(frames: Tensor, size: int) -> Tensor:
    """uint8 (n, 3, H, W) to (n, 3, size, size), bilinear and antialiased."""
    if frames.shape[-2:] == (size, size):
        return frames
    return vision.resize(frames, [size, size], antialias=True)


def build_once(
    path: Path,
    shape: tuple[int, ...],
    dtype: Any,
    fill: Callable[[np.ndarray], None],
    without: str = "set data.cache_gb=0 to decode frames on demand",
) -> None:
    """Create the .npy file ``path`` unless it exists.

    Processes of one machine that build the same file wait for the first of them.

    Args:
        path: of the file.
        shape: of the array.
        dtype: of the array.
        fill: writes the array in place.
        without: how to do without the file, where there is no room for it.

    Raises:
        UserError: it cannot be written.
    """
    if path.is_file():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            if not path.is_file():
                _build(path, shape, dtype, fill)
    except OSError as error:
        remedy = "make it writable, or set data.cache to a folder where you may write"
        if error.errno == errno.ENOSPC:
            remedy = f"free some space, or {without}"
        raise UserError(f"Cannot write {path} ({error.strerror or error}): {remedy}.") from error


def _build(
    path: Path, shape: tuple[int, ...], dtype: Any, fill: Callable[[np.ndarray], None]
) -> None:
    part = path.with_name(f"{path.stem}.{os.getpid()}.part.npy")
    try:
        array = np.lib.format.open_memmap(part, "w+", dtype, shape)
        # Writing to a sparse map on a full disk kills the process: reserve the space first.
        if hasattr(os, "posix_fallocate"):
            with open(part, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
        fill(array)
        array.flush()
        del array
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def progress(items: Any, title: str, total: int | None = None) -> Any:
    """``items``, with a bar over clips on terminals."""
    length = total if total is not None else len(items)
    return tqdm(items, title, total=length, unit="clip", leave=False, disable=None)


def _disagree(path: Path, found: int, clip: Clip) -> str:
    return (
        f"{path} has {found} frames, the manifest says {clip.n_frames}: prepare the data set again."
    )
