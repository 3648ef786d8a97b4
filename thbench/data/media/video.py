"""Reading and writing video and images: the module through which all frames come and go.

Frames are uint8 RGB, channels first. ``read`` takes stored frames by index
(``thbench.data.media.random_access``); ``chunks`` and ``stream`` decode a file in order, in
constant memory, and bring any frame rate to 25 fps. ``probe``, ``VideoWriter`` and ``read_image``
live in modules of their own and are reached through this one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
import torch
from torch import Tensor

from thbench.config import DECODERS
from thbench.core.errors import UserError
from thbench.core.types import FPS
from thbench.data.media.container import open_media, video_track
from thbench.data.media.decoding import DecodedFrame, decode_frames, first_timestamp
from thbench.data.media.image import read_image
from thbench.data.media.probing import (
    VideoInfo,
    decoder,
    display_size,
    median_interval,
    probe,
    read_metadata,
    to_pixels,
    to_tensor,
)
from thbench.data.media.random_access import check_decoder, has_decord, read
from thbench.data.media.writer import VideoWriter

__all__ = [
    "DECODERS",
    "Chunk",
    "VideoInfo",
    "VideoWriter",
    "check_decoder",
    "chunks",
    "decoder",
    "frame_at",
    "has_decord",
    "open_media",
    "probe",
    "read",
    "read_image",
    "read_metadata",
    "resample",
    "stream",
]

CHUNK_BYTES = 2**26
"""A chunk holds no more frames than fit in, but one."""
BACKWARDS = 1.0
"""Seconds by which time stamps may run backwards: later frames wait until they are due again."""
PAUSE = 3600.0
"""Seconds without a frame, at most."""

F = TypeVar("F")


@dataclass(frozen=True)
class Chunk:
    """Some frames in a row, and how far they can be trusted.

    Attributes:
        frames: uint8 (n, 3, H, W) RGB.
        damaged: bool (n,). The picture is broken, or stands in for one that was lost.
        away: float32 (n,), in seconds, from where the frame is shown to its picture's time stamp.
            Half a source frame is normal; more means that the picture stands still.
    """

    frames: Tensor
    damaged: np.ndarray
    away: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)


def chunks(path: str | Path, chunk: int = 64, fps: float = FPS) -> Iterator[Chunk]:
    """All frames in order, ``chunk`` at a time, or fewer large ones, in bounded memory.

    Frame k shows the picture whose time stamp is nearest to k / fps seconds after the first one
    displayed; rotation metadata and oblong pixels are applied. Damage raises nothing, it is
    flagged (``thbench.data.media.decoding`` says what can be seen). A picture whose time stamp does
    not come after the one before is not shown.

    Args:
        path: any video, of constant or variable frame rate.
        chunk: frames per chunk; the last one may be shorter, as are those of ``CHUNK_BYTES``.
        fps: rate to resample to.

    Raises:
        UserError: the file is missing, empty, or no video; or, after the frames that are there, it
            is cut short, its picture changes its shape, or its time stamps run backwards by more
            than ``BACKWARDS`` or pause for more than ``PAUSE`` seconds.
    """
    items = resample(_timed(path), fps, None)
    placed = ((item, abs(k / fps - item.time)) for k, item in enumerate(items))
    return _chunked(placed, chunk)


def stream(path: str | Path, chunk: int = 64, fps: float | None = FPS) -> Iterator[Tensor]:
    """As ``chunks``, of a video that must be whole.

    Args:
        path: any video, of constant or variable frame rate.
        chunk: frames per tensor (the last one may be shorter).
        fps: rate to resample to; None keeps the frames as stored.

    Yields:
        uint8 (n, 3, H, W) RGB, in channels-last memory as the decoder leaves it.

    Raises:
        UserError: as ``chunks``, and when a frame is damaged, in front of its chunk.
    """
    if fps is None:
        parts = _chunked(((_Shown(p, p.time, p.damaged), 0.0) for p in decode_frames(path)), chunk)
    else:
        parts = chunks(path, chunk, fps)
    done = 0
    for part in parts:
        if part.damaged.any():
            raise UserError(f"{path} is damaged at frame {done + int(part.damaged.argmax())}.")
        yield part.frames
        done += len(part)


def frame_at(path: str | Path, seconds: float) -> Tensor:
    """The picture shown at a time, uint8 (3, H, W), damaged or not.

    Args:
        path: any video.
        seconds: after the first frame displayed.

    Raises:
        UserError: the file holds no picture, or none can be decoded.
    """
    start = first_timestamp(path)
    found = None if start is None else _shown_at(path, start + seconds, seek=True)
    # Some containers seek beyond the time that was asked for: then from the start.
    if found is None and start is not None:
        found = _shown_at(path, start + seconds, seek=False)
    if found is None:
        raise UserError(f"{path} holds no frame that can be decoded: is the file complete?")
    return torch.from_numpy(to_pixels(found).copy()).permute(2, 0, 1).contiguous()


def _shown_at(path: str | Path, time: float, seek: bool) -> DecodedFrame | None:
    """The last picture whose time stamp is not behind ``time``, in seconds on the file's clock."""
    found: DecodedFrame | None = None
    with open_media(path) as container, suppress(av.FFmpegError):
        source = video_track(container)
        if seek:
            container.seek(int(time / source.time_base), stream=source)
        for frame in container.decode(source):
            if frame.time is not None and frame.time > time + 1e-6:
                break
            found = DecodedFrame(frame, time, False, source.sample_aspect_ratio or 1)
    return found


def resample(timed: Iterable[tuple[float, F]], fps: float, last: float | None) -> Iterator[F]:
    """Items at a constant rate, each the nearest in time.

    Args:
        timed: (seconds, item) in order of time, starting at 0.
        fps: the wanted rate.
        last: seconds for which the last item is shown. None: the median of the intervals between
            items, or one of ``fps`` where there are none.

    Yields:
        round(fps * total seconds) items, at least one if there is one.
    """
    k, before, times = 0, None, []
    for time, item in timed:
        if before is not None:
            middle = (before[0] + time) / 2
            while k / fps < middle - 1e-9:
                yield before[1]
                k += 1
        before = (time, item)
        times.append(time)
    if before is not None:
        shown = median_interval(times, 1 / fps) if last is None else last
        for _ in range(k, max(1, round((before[0] + shown) * fps))):
            yield before[1]


class _Shown:
    """A picture that is shown, once or more often; its pixels are made when they are asked for."""

    def __init__(
        self, picture: DecodedFrame, time: float, damaged: bool, size: tuple[int, int] | None = None
    ) -> None:
        self.time, self.damaged = time, damaged
        self._picture, self._size = picture, size

    @functools.cached_property
    def pixels(self) -> np.ndarray:
        """uint8 (H, W, 3)."""
        if self._picture.frame is None:
            raise ValueError("a lost picture has no pixels")
        return to_pixels(self._picture, self._size)

    def instead(self) -> _Shown:
        """This one in the place of another that was lost."""
        other = _Shown(self._picture, self.time, True)
        other.__dict__["pixels"] = self.pixels
        return other


def _timed(path: str | Path) -> Iterator[tuple[float, _Shown]]:
    """Pictures with seconds since the first, strictly in order of time."""
    start, last, good, size = 0.0, None, None, None
    for picture in decode_frames(path):
        if last is None:
            start = picture.time
        time = picture.time - start
        if last is not None:
            _check_step(last, time, path)
            if time <= last:
                continue
        if picture.frame is not None:
            size = _same_shape(picture, size, time, path)
            good = _Shown(picture, time, picture.damaged, size)
        if good is not None:
            yield time, good if picture.frame is not None else good.instead()
        last = time


def _same_shape(
    picture: DecodedFrame, size: tuple[int, int] | None, time: float, path: str | Path
) -> tuple[int, int]:
    """The first picture's size, in which those of a call whose quality changes are shown."""
    own = display_size(picture)
    if size is not None and abs(own[0] * size[1] / (own[1] * size[0]) - 1) > 0.05:
        raise UserError(
            f"{path}: the picture changes its shape at {time:.2f} s, from {size[0]}x{size[1]} to"
            f" {own[0]}x{own[1]}: cut the file there."
        )
    return size or own


def _check_step(last: float, time: float, path: str | Path) -> None:
    if last - time > BACKWARDS:
        raise UserError(
            f"{path}: the picture's time stamps run backwards, from {last:.2f} to {time:.2f} s: it"
            " is several recordings in one, so split it, or encode it anew."
        )
    if time - last > PAUSE:
        raise UserError(
            f"{path}: the picture's time stamps pause from {last:.2f} to {time:.2f} s: cut the"
            " file there, or encode it anew."
        )


def _chunked(placed: Iterable[tuple[_Shown, float]], chunk: int) -> Iterator[Chunk]:
    waiting: list[tuple[np.ndarray, bool, float]] = []
    try:
        for item, away in placed:
            waiting.append((item.pixels, item.damaged, away))
            if len(waiting) >= min(chunk, CHUNK_BYTES // item.pixels.nbytes):
                yield _packed(waiting)
                waiting = []
    except UserError:
        if waiting:
            yield _packed(waiting)
        raise
    if waiting:
        yield _packed(waiting)


def _packed(shown: Sequence[tuple[np.ndarray, bool, float]]) -> Chunk:
    pixels, damaged, away = zip(*shown, strict=True)
    frames = to_tensor(pixels, as_decoded=True)
    return Chunk(frames, np.array(damaged, bool), np.array(away, np.float32))
