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
    """Consecutive frames, and how far they can be trusted.

    Attributes:
        frames: uint8 (n, 3, H, W) RGB.
        damaged: bool (n,). The frame is damaged, or replaces one that was lost.
        away: float32 (n,), seconds between the time of the output frame and the time stamp of the
            source frame that it shows. Half a source frame is normal; more means that the video
            stands still.
    """

    frames: Tensor
    damaged: np.ndarray
    away: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)


def chunks(path: str | Path, chunk: int = 64, fps: float = FPS) -> Iterator[Chunk]:
    """All frames in order, ``chunk`` at a time, or fewer large ones, in bounded memory.

    Output frame k is the source frame whose time stamp is nearest to k / fps seconds after the
    first one; rotation and pixel aspect ratio are applied. Damage raises nothing, it is flagged
    (``thbench.data.media.decoding`` says what can be seen). A frame whose time stamp is
    not after the one before is left out.

    Args:
        path: any video, of constant or variable frame rate.
        chunk: frames per chunk; the last one may be shorter, as are those of ``CHUNK_BYTES``.
        fps: rate to resample to.

    Raises:
        UserError: the file is missing, empty, or no video; or, after the frames that are there, it
            is cut short, its frames change their shape, or its time stamps run backwards by more
            than ``BACKWARDS`` or pause for more than ``PAUSE`` seconds.
    """
    items = resample(_timed_frames(path), fps, None)
    placed = ((item, abs(k / fps - item.time)) for k, item in enumerate(items))
    return _chunked(placed, chunk)


def stream(path: str | Path, chunk: int = 64, fps: float | None = FPS) -> Iterator[Tensor]:
    """The frames of a video that must be undamaged, in order, in bounded memory.

    Args:
        path: any video, of constant or variable frame rate.
        chunk: frames per tensor (the last one may be shorter).
        fps: rate to resample to; None keeps the frames as stored.

    Yields:
        uint8 (n, 3, H, W) RGB, in channels-last memory as the decoder leaves it.

    Raises:
        UserError: a frame is damaged, before its chunk is given; and what ``chunks`` raises.
    """
    if fps is None:
        parts = _chunked(
            ((_DisplayedFrame(p, p.time, p.damaged), 0.0) for p in decode_frames(path)), chunk
        )
    else:
        parts = chunks(path, chunk, fps)
    done = 0
    for part in parts:
        if part.damaged.any():
            raise UserError(f"{path} is damaged at frame {done + int(part.damaged.argmax())}.")
        yield part.frames
        done += len(part)


def frame_at(path: str | Path, seconds: float) -> Tensor:
    """The frame shown at a time, uint8 (3, H, W), damaged or not.

    Args:
        path: any video.
        seconds: after the first frame displayed.

    Raises:
        UserError: the file holds no frame, or none can be decoded.
    """
    start = first_timestamp(path)
    found = None if start is None else _frame_before(path, start + seconds, seek=True)
    # Some containers seek beyond the requested time: then decode from the start.
    if found is None and start is not None:
        found = _frame_before(path, start + seconds, seek=False)
    if found is None:
        raise UserError(f"{path} holds no frame that can be decoded: is the file complete?")
    return torch.from_numpy(to_pixels(found).copy()).permute(2, 0, 1).contiguous()


def _frame_before(path: str | Path, time: float, seek: bool) -> DecodedFrame | None:
    """The last frame whose time stamp is at or before ``time``, in seconds on the file's clock."""
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
        last: seconds that the last item lasts. None: the median of the intervals between
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


class _DisplayedFrame:
    """A frame to display, once or more often; its pixels are converted when first used."""

    def __init__(
        self, decoded: DecodedFrame, time: float, damaged: bool, size: tuple[int, int] | None = None
    ) -> None:
        self.time, self.damaged = time, damaged
        self._decoded, self._size = decoded, size

    @functools.cached_property
    def pixels(self) -> np.ndarray:
        """uint8 (H, W, 3)."""
        if self._decoded.frame is None:
            raise ValueError("a lost frame has no pixels")
        return to_pixels(self._decoded, self._size)

    def as_replacement(self) -> _DisplayedFrame:
        """This frame in place of one that was lost."""
        other = _DisplayedFrame(self._decoded, self.time, True)
        other.__dict__["pixels"] = self.pixels
        return other


def _timed_frames(path: str | Path) -> Iterator[tuple[float, _DisplayedFrame]]:
    """Frames with seconds since the first, strictly in order of time."""
    start, last, good, size = 0.0, None, None, None
    for decoded in decode_frames(path):
        if last is None:
            start = decoded.time
        time = decoded.time - start
        if last is not None:
            _check_step(last, time, path)
            if time <= last:
                continue
        if decoded.frame is not None:
            size = _same_shape(decoded, size, time, path)
            good = _DisplayedFrame(decoded, time, decoded.damaged, size)
        if good is not None:
            yield time, good if decoded.frame is not None else good.as_replacement()
        last = time


def _same_shape(
    decoded: DecodedFrame, size: tuple[int, int] | None, time: float, path: str | Path
) -> tuple[int, int]:
    """The first frame's size, to which later ones of a call with changing quality are scaled."""
    own = display_size(decoded)
    if size is not None and abs(own[0] * size[1] / (own[1] * size[0]) - 1) > 0.05:
        raise UserError(
            f"{path}: the frames change their shape at {time:.2f} s, from {size[0]}x{size[1]} to"
            f" {own[0]}x{own[1]}: cut the file there."
        )
    return size or own


def _check_step(last: float, time: float, path: str | Path) -> None:
    if last - time > BACKWARDS:
        raise UserError(
            f"{path}: the video's time stamps run backwards, from {last:.2f} to {time:.2f} s: it"
            " is several recordings in one, so split it, or encode it anew."
        )
    if time - last > PAUSE:
        raise UserError(
            f"{path}: the video's time stamps pause from {last:.2f} to {time:.2f} s: cut the"
            " file there, or encode it anew."
        )


def _chunked(placed: Iterable[tuple[_DisplayedFrame, float]], chunk: int) -> Iterator[Chunk]:
    pending: list[tuple[np.ndarray, bool, float]] = []
    try:
        for item, away in placed:
            pending.append((item.pixels, item.damaged, away))
            if len(pending) >= min(chunk, CHUNK_BYTES // item.pixels.nbytes):
                yield _packed(pending)
                pending = []
    except UserError:
        if pending:
            yield _packed(pending)
        raise
    if pending:
        yield _packed(pending)


def _packed(shown: Sequence[tuple[np.ndarray, bool, float]]) -> Chunk:
    pixels, damaged, away = zip(*shown, strict=True)
    frames = to_tensor(pixels, as_decoded=True)
    return Chunk(frames, np.array(damaged, bool), np.array(away, np.float32))
