"""Reading and writing video and images: the one door through which pictures come and go.

Frames are uint8 RGB, channels first. ``read`` picks source frames by index, exactly, with PyAV or,
where it is asked for, decord (both give the same pixels); ``chunks`` and ``stream`` walk through a
file in constant memory and bring any frame rate to 25 fps. What a header says of rate, duration and
count is not believed: time stamps decide. ``VideoWriter``, the one encoder, and ``read_image`` live
in files of their own and are reached through this one.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
import torch
from torch import Tensor

from thbench.config import DECODERS
from thbench.core.errors import UserError, did_you_mean
from thbench.core.files import check_file
from thbench.core.types import FPS
from thbench.data.media.container import open_media, picture_track
from thbench.data.media.decoding import UNSTAMPED, Picture, first_time, pictures, shown, stamps
from thbench.data.media.image import read_image
from thbench.data.media.writer import VideoWriter

__all__ = [
    "DECODERS",
    "Chunk",
    "VideoInfo",
    "VideoWriter",
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
"""A chunk holds no more pictures than fit in, but one."""
BACKWARDS = 1.0
"""Seconds by which time stamps may run backwards: later pictures wait until they are due again."""
PAUSE = 3600.0
"""Seconds without a picture, at most."""

F = TypeVar("F")
Indices = Sequence[int] | slice | None
_CONTAINER_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder"}


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds.

    Attributes:
        width, height: in pixels as displayed (rotation and pixel shape applied).
        fps: frames per second, on average, as the time stamps have it.
        n_frames: frames stored that are shown.
        duration: of the picture, in seconds.
        has_audio: there is a sound track.
        container: FFmpeg's name of the format ("mov,mp4,m4a,3gp,3g2,mj2").
        upright: stored as displayed, without rotation or oblong pixels.
        bits: of a sample of brightness.
    """

    width: int
    height: int
    fps: float
    n_frames: int
    duration: float
    has_audio: bool
    container: str
    upright: bool
    bits: int


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


def probe(path: str | Path) -> VideoInfo:
    """Describe a video, after decoding its first frame and reading all time stamps.

    Raises:
        UserError: the file is missing, empty, or no video that can be decoded.
    """
    first = next(shown(path))
    with open_media(path) as container:
        track: Any = picture_track(container)
        has_audio, kind = bool(container.streams.audio), container.format.name
        said = float(track.average_rate or 0)
        width, height = _display_size(first)
    upright = (width, height) == (first.frame.width, first.frame.height)
    times = [time for time in stamps(path) if time >= first.time - 1e-6]
    interval = _interval(times, 1 / said if said else 1 / FPS)
    duration = times[-1] - times[0] + interval
    return VideoInfo(
        width,
        height,
        _rate(len(times), duration, said),
        len(times),
        duration,
        has_audio,
        kind,
        upright and not first.frame.rotation,
        first.frame.format.components[0].bits,
    )


def read(path: str | Path, indices: Indices = None, decoder: str = "pyav") -> Tensor:
    """Frames by index, without resampling in time.

    Args:
        path: any video.
        indices: of the frames as stored; negative ones count from the end, repeats are allowed.
            None reads all.
        decoder: one of ``DECODERS``. decord is only asked for files that it reads rightly: upright
            mp4 of 8 bits without an edit list. PyAV reads all others.

    Returns:
        uint8 (T, 3, H, W) RGB.

    Raises:
        UserError: the file cannot be read to the end of what was asked for, is damaged there, or
            the decoder is unknown or not installed.
        IndexError: an index is out of range.
    """
    check_decoder(decoder)
    frames = _read_decord(path, indices) if decoder == "decord" else None
    return _read_av(path, indices) if frames is None else frames


def check_decoder(name: str) -> None:
    """See that a decoder is known and there.

    Raises:
        UserError: it is not.
    """
    if name not in DECODERS:
        raise UserError(f"There is no decoder '{name}'.{did_you_mean(name, DECODERS)}")
    if name == "decord" and not has_decord():
        raise UserError("decord is not installed: pip install decord, or set data.decoder=pyav.")


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
        parts = _chunked(((_Shown(p, p.time, p.damaged), 0.0) for p in pictures(path)), chunk)
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
    start = first_time(path)
    found = None if start is None else _shown_at(path, start + seconds, seek=True)
    # Some containers seek beyond the time that was asked for: then from the start.
    if found is None and start is not None:
        found = _shown_at(path, start + seconds, seek=False)
    if found is None:
        raise UserError(f"{path} holds no frame that can be decoded: is the file complete?")
    return torch.from_numpy(_pixels(found).copy()).permute(2, 0, 1).contiguous()


def _shown_at(path: str | Path, time: float, seek: bool) -> Picture | None:
    """The last picture whose time stamp is not behind ``time``, in seconds on the file's clock."""
    found: Picture | None = None
    with open_media(path) as container, suppress(av.FFmpegError):
        source = picture_track(container)
        if seek:
            container.seek(int(time / source.time_base), stream=source)
        for frame in container.decode(source):
            if frame.time is not None and frame.time > time + 1e-6:
                break
            found = Picture(frame, time, False, source.sample_aspect_ratio or 1)
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
        shown = _interval(times, 1 / fps) if last is None else last
        for _ in range(k, max(1, round((before[0] + shown) * fps))):
            yield before[1]


def read_metadata(path: str | Path) -> dict[str, str]:
    """The tags of a file as ``VideoWriter`` was given them.

    Raises:
        UserError: the file cannot be read.
    """
    with open_media(path) as container:
        tags = dict(container.metadata)
    return {key: value for key, value in tags.items() if key not in _CONTAINER_TAGS}


@functools.cache
def decoder() -> str:
    """What decodes pictures and sound here: another version may give other pixels."""
    names = ("libavcodec", "libswscale", "libswresample")
    versions = [f"{name} {'.'.join(map(str, av.library_versions[name]))}" for name in names]
    return ", ".join([f"av {av.__version__}", *versions])


@functools.cache
def has_decord() -> bool:
    """Whether decord can be imported (it has wheels for Linux on x86-64 only)."""
    return importlib.util.find_spec("decord") is not None


def _to_tensor(pictures: Sequence[np.ndarray], as_decoded: bool = False) -> Tensor:
    frames = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return frames if as_decoded else frames.contiguous()


class _Shown:
    """A picture that is shown, once or more often; its pixels are made when they are asked for."""

    def __init__(
        self, picture: Picture, time: float, damaged: bool, size: tuple[int, int] | None = None
    ) -> None:
        self.time, self.damaged = time, damaged
        self._picture, self._size = picture, size

    @functools.cached_property
    def pixels(self) -> np.ndarray:
        """uint8 (H, W, 3)."""
        if self._picture.frame is None:
            raise ValueError("a lost picture has no pixels")
        return _pixels(self._picture, self._size)

    def instead(self) -> _Shown:
        """This one in the place of another that was lost."""
        other = _Shown(self._picture, self.time, True)
        other.__dict__["pixels"] = self.pixels
        return other


def _timed(path: str | Path) -> Iterator[tuple[float, _Shown]]:
    """Pictures with seconds since the first, strictly in order of time."""
    start, last, good, size = 0.0, None, None, None
    for picture in pictures(path):
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
    picture: Picture, size: tuple[int, int] | None, time: float, path: str | Path
) -> tuple[int, int]:
    """The first picture's size, in which those of a call whose quality changes are shown."""
    own = _display_size(picture)
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
    frames = _to_tensor(pixels, as_decoded=True)
    return Chunk(frames, np.array(damaged, bool), np.array(away, np.float32))


def _interval(times: Sequence[float], alone: float) -> float:
    """Seconds between two pictures: the median; ``alone`` for less than two."""
    steps = np.diff(times)
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else alone


def _rate(n: int, duration: float, said: float) -> float:
    """Pictures per second; as the header has it where the time stamps agree, being more exact."""
    found = n / duration
    return said if abs(said - found) < 0.002 * found else round(found, 3)


def _display_size(picture: Picture) -> tuple[int, int]:
    frame = picture.frame
    width, height = max(1, round(frame.width * picture.ratio)), frame.height
    return (height, width) if frame.rotation % 180 else (width, height)


def _pixels(picture: Picture, size: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 (H, W, 3), in its own size or (width, height)."""
    turn = picture.frame.rotation
    width, height = size or _display_size(picture)
    if turn % 180:
        width, height = height, width
    pixels = picture.frame.to_ndarray(format="rgb24", width=width, height=height)
    return np.rot90(pixels, round(turn / 90)) if turn else pixels


def _resolve(indices: Indices, n: int, path: str | Path) -> list[int]:
    if indices is None or isinstance(indices, slice):
        return list(range(n))[indices or slice(None)]
    resolved = [int(i) + n if i < 0 else int(i) for i in indices]
    if any(not 0 <= i < n for i in resolved):
        raise IndexError(f"{path} has {n} frames, asked for {min(indices)}..{max(indices)}")
    return resolved


def _read_decord(path: str | Path, indices: Indices) -> Tensor | None:
    """None where decord is not to be trusted: then PyAV reads, or explains what is wrong."""
    check_file(path)
    state = Path(path).stat()
    n = _suits_decord(path, state.st_size, state.st_mtime_ns)
    if not n:
        return None
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        # decord repeats the last good frame of a damaged file unless it is told not to
        reader = decord.VideoReader(str(path), num_threads=1, fault_tol=1e-6)
        if len(reader) != n:
            return None
        wanted = _resolve(indices, n, path)
        frames = reader.get_batch(wanted).asnumpy() if wanted else _nothing(path)
    except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, AssertionError):
        return None
    return torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()


@functools.lru_cache(maxsize=65_536)
def _suits_decord(path: str | Path, size: int, changed: int) -> int:
    """How many frames there are; 0 where decord errs.

    It ignores rotation and edit lists, misses frames in MPEG streams, and spreads the colour of
    over 8 bits over pixels in another way than FFmpeg does now (up to 20 levels).
    """
    info = probe(path)
    if not (info.upright and "mp4" in info.container and info.bits == 8):
        return 0
    with open_media(path) as container:
        track = picture_track(container)
        if any(packet.is_discard for packet in container.demux(track)):
            return 0
    return info.n_frames


def _read_av(path: str | Path, indices: Indices) -> Tensor:
    times = _display_stamps(path)
    if times is None:
        return _read_in_order(path, indices)
    wanted = _resolve(indices, len(times), path)
    if not wanted:
        return torch.from_numpy(_nothing(path)).permute(0, 3, 1, 2)
    needed = {times[i]: i for i in wanted}
    # Some containers seek beyond the frame that was asked for: then from the start.
    found = _collect(path, needed, seek=True)
    if len(found) < len(needed):
        found = _collect(path, needed, seek=False)
    if len(found) < len(needed):
        raise UserError(f"{path} is cut short or damaged: {len(needed) - len(found)} frames miss.")
    return _to_tensor([found[i] for i in wanted])


def _collect(path: str | Path, needed: dict[int, int], seek: bool) -> dict[int, np.ndarray]:
    """Pictures by index, of the frames whose time stamps are the keys of ``needed``."""
    found: dict[int, np.ndarray] = {}
    with open_media(path) as container:
        source: Any = picture_track(container)
        source.codec_context.thread_count = 1  # as ``thbench.data.media.decoding`` says
        if seek:
            container.seek(min(needed), stream=source)  # to the key frame before it
        for packet in container.demux(source):
            for frame in _decode(packet, path):
                if frame.pts in needed:
                    ratio = source.sample_aspect_ratio or 1
                    found[needed[frame.pts]] = _pixels(Picture(frame, 0.0, False, ratio))
            if len(found) == len(needed):
                break
    return found


def _decode(packet: Any, path: str | Path) -> list[Any]:
    try:
        frames = list(packet.decode())
    except av.FFmpegError as error:
        raise UserError(f"{path} cannot be decoded: the file is damaged.") from error
    if any(frame.is_corrupt for frame in frames):
        raise UserError(f"{path} is damaged: make it again.")
    return frames


def _read_in_order(path: str | Path, indices: Indices) -> Tensor:
    """Of a file whose time stamps do not name its frames: by counting them, from the start."""
    wanted = _resolve(indices, len(stamps(path)), path)
    if not wanted:
        return torch.from_numpy(_nothing(path)).permute(0, 3, 1, 2)
    needed, found = set(wanted), {}
    for index, picture in enumerate(pictures(path)):
        if index in needed:
            if picture.damaged:
                raise UserError(f"{path} is damaged at frame {index}.")
            found[index] = _pixels(picture)
        if len(found) == len(needed):
            break
    if len(found) < len(needed):
        raise UserError(f"{path} is cut short or damaged: {len(needed) - len(found)} frames miss.")
    return _to_tensor([found[i] for i in wanted])


def _display_stamps(path: str | Path) -> list[int] | None:
    """Time stamps of the frames in order of display, in ticks; None where they do not name them."""
    with open_media(path) as container:
        source = picture_track(container)
        if source is None:
            raise UserError(f"{path} has no picture: a video is needed here.")
        if container.format.name in UNSTAMPED:
            return None
        found = [p.pts for p in container.demux(source) if p.size and not p.is_discard]
    if None in found or len(set(found)) < len(found):
        return None
    return sorted(found)


def _nothing(path: str | Path) -> np.ndarray:
    info = probe(path)
    return np.empty((0, info.height, info.width, 3), np.uint8)
