"""Reading and writing video and images: the one door through which pictures come and go.

Frames are uint8 RGB, channels first. ``read`` picks source frames by index, exactly, with decord
where it is installed and PyAV otherwise (both give the same pixels); ``stream`` walks through a
file in constant memory and brings any frame rate to 25 fps. ``VideoWriter``, the one encoder, and
``read_image`` live in files of their own and are reached through this one.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
import torch
from av.container import InputContainer
from torch import Tensor

from thbench.contracts import FPS
from thbench.data.files import check_file
from thbench.data.image import read_image
from thbench.data.writer import VideoWriter
from thbench.errors import UserError

__all__ = [
    "Chunk",
    "VideoInfo",
    "VideoWriter",
    "chunks",
    "decoder",
    "has_decord",
    "open_media",
    "probe",
    "read",
    "read_image",
    "read_metadata",
    "resample",
    "stream",
]

# None drops FFmpeg's log lines inside C. Any level routes them through Python, and FFmpeg's threads
# then wait for the interpreter lock while a closing decoder, holding it, waits for them.
av.logging.set_level(None)

F = TypeVar("F")
Indices = Sequence[int] | slice | None
_CONTAINER_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder"}


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds.

    Attributes:
        width, height: in pixels as displayed (rotation and pixel shape applied).
        fps: frames per second, on average.
        n_frames: frames stored.
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


def probe(path: str | Path) -> VideoInfo:
    """Describe a video, after decoding its first frame.

    Raises:
        UserError: the file is missing, empty, or no video that can be decoded.
    """
    with open_media(path) as container:
        stream = _picture(container, path)
        first = next(_frames(container, stream, path), None)
        if first is None:
            raise UserError(f"{path} holds no frame that can be decoded: is the file complete?")
        width, height = _display_size(first, stream)
        rate = float(stream.average_rate or stream.guessed_rate or FPS)
        n_frames = stream.frames
        has_audio, kind = bool(container.streams.audio), container.format.name
        upright = (width, height) == (first.width, first.height) and not first.rotation
        bits = first.format.components[0].bits
        seconds = float((stream.duration or 0) * stream.time_base)
    if not n_frames:  # MPEG-1 and Matroska headers do not say
        n_frames = _count_packets(path)
        seconds = n_frames / rate
    return VideoInfo(
        width, height, rate, n_frames, seconds or n_frames / rate, has_audio, kind, upright, bits
    )


def read(path: str | Path, indices: Indices = None) -> Tensor:
    """Frames by index, without resampling in time.

    Args:
        path: any video.
        indices: of the frames as stored; negative ones count from the end, repeats are allowed.
            None reads all.

    Returns:
        uint8 (T, 3, H, W) RGB.

    Raises:
        UserError: the file cannot be read to the end of what was asked for.
        IndexError: an index is out of range.
    """
    if has_decord():
        frames = _read_decord(path, indices)
        if frames is not None:
            return frames
    return _read_av(path, indices)


def stream(path: str | Path, chunk: int = 64, fps: int | None = FPS) -> Iterator[Tensor]:
    """All frames in order, ``chunk`` at a time, in memory that does not grow with length.

    Frame k shows the picture whose time stamp is nearest to k / fps seconds after the first one;
    rotation metadata and oblong pixels are applied.

    Args:
        path: any video, of constant or variable frame rate.
        chunk: frames per tensor (the last one may be shorter).
        fps: rate to resample to; None keeps the frames as stored.

    Yields:
        uint8 (n, 3, H, W) RGB, in channels-last memory as the decoder leaves it.

    Raises:
        UserError: the file is missing, empty, truncated, or no video.
    """
    with open_media(path) as container:
        source = _picture(container, path)
        timed = _timed(container, source, path)
        if fps is None:
            pictures: Iterator[np.ndarray] = (picture for _, picture in timed)
        else:
            rate = float(source.average_rate or source.guessed_rate or fps)
            pictures = resample(timed, fps, 1 / rate)
        waiting: list[np.ndarray] = []
        for picture in pictures:
            waiting.append(picture)
            if len(waiting) == chunk:
                yield _to_tensor(waiting, as_decoded=True)
                waiting = []
        if waiting:
            yield _to_tensor(waiting, as_decoded=True)


@dataclass(frozen=True)
class Chunk:
    """Stand-in until the reader that knows damage is here."""

    frames: Tensor
    damaged: np.ndarray
    away: np.ndarray


def chunks(path: str | Path, chunk: int = 64, fps: int = FPS) -> Iterator[Chunk]:
    """Stand-in, which finds no damage."""
    for frames in stream(path, chunk, fps):
        yield Chunk(frames, np.zeros(len(frames), bool), np.zeros(len(frames), np.float32))


def resample(timed: Iterable[tuple[float, F]], fps: float, last: float) -> Iterator[F]:
    """Items at a constant rate, each the nearest in time.

    Args:
        timed: (seconds, item) in order of time, starting at 0.
        fps: the wanted rate.
        last: seconds for which the last item is shown.

    Yields:
        round(fps * total seconds) items, at least one if there is one.
    """
    k, before = 0, None
    for time, item in timed:
        if before is not None:
            middle = (before[0] + time) / 2
            while k / fps < middle - 1e-9:
                yield before[1]
                k += 1
        before = (time, item)
    if before is not None:
        for _ in range(k, max(1, round((before[0] + last) * fps))):
            yield before[1]


def read_metadata(path: str | Path) -> dict[str, str]:
    """The tags of a file as ``VideoWriter`` was given them.

    Raises:
        UserError: the file cannot be read.
    """
    with open_media(path) as container:
        tags = dict(container.metadata)
    return {key: value for key, value in tags.items() if key not in _CONTAINER_TAGS}


def open_media(path: str | Path) -> InputContainer:
    """Open a video or sound file for reading.

    Raises:
        UserError: the file is missing, empty, or of no known format.
    """
    check_file(path)
    av.logging.set_level(None)  # again: torchvision, up to 0.25, turns it on when it is imported
    try:
        return av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise UserError(f"{path} is no video or sound file, or it is cut short.") from error


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


def _picture(container: InputContainer, path: str | Path) -> Any:
    if not container.streams.video:
        raise UserError(f"{path} has no picture: a video is needed here.")
    source = container.streams.video[0]
    source.thread_type = "AUTO"
    return source


def _frames(container: InputContainer, source: Any, path: str | Path) -> Iterator[Any]:
    """Decoded frames; a file that ends before its header says so is an error."""
    packets = 0
    try:
        for packet in container.demux(source):
            packets += packet.size > 0
            yield from packet.decode()
    except av.FFmpegError as error:
        raise UserError(
            f"{path} cannot be decoded after frame {packets}: the file is damaged."
        ) from error
    if packets < source.frames:
        raise UserError(
            f"{path} is cut short: {packets} of {source.frames} frames are there. Copy it again."
        )


def _timed(
    container: InputContainer, source: Any, path: str | Path
) -> Iterator[tuple[float, np.ndarray]]:
    rate = source.average_rate or source.guessed_rate or FPS
    start: float | None = None
    for index, frame in enumerate(_frames(container, source, path)):
        time = float(index / rate) if frame.time is None else frame.time
        start = time if start is None else start
        yield time - start, _pixels(frame, source)
    if start is None:
        raise UserError(f"{path} holds no frame that can be decoded: is the file complete?")


def _display_size(frame: Any, source: Any) -> tuple[int, int]:
    ratio = source.sample_aspect_ratio or 1
    width, height = max(1, round(frame.width * ratio)), frame.height
    return (height, width) if frame.rotation % 180 else (width, height)


def _pixels(frame: Any, source: Any) -> np.ndarray:
    ratio = source.sample_aspect_ratio or 1
    width = max(1, round(frame.width * ratio))
    pixels = frame.to_ndarray(format="rgb24", width=width)
    return np.rot90(pixels, round(frame.rotation / 90)) if frame.rotation else pixels


def _count_packets(path: str | Path) -> int:
    with open_media(path) as container:
        return sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))


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
    if not _suits_decord(path, state.st_size, state.st_mtime_ns):
        return None
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        # decord repeats the last good frame of a damaged file unless it is told not to
        reader = decord.VideoReader(str(path), num_threads=1, fault_tol=1e-6)
        wanted = _resolve(indices, len(reader), path)
        frames = reader.get_batch(wanted).asnumpy() if wanted else _nothing(path)
    except (decord.DECORDError, RuntimeError, AssertionError):
        return None
    return torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()


@functools.lru_cache(maxsize=65_536)
def _suits_decord(path: str | Path, size: int, changed: int) -> bool:
    """False where decord errs.

    It ignores rotation, misses frames in MPEG streams, and spreads the colour of over 8 bits over
    pixels in another way than FFmpeg does now (up to 20 levels).
    """
    info = probe(path)
    return info.upright and "mp4" in info.container and info.bits == 8


def _read_av(path: str | Path, indices: Indices) -> Tensor:
    times = _times(path)
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
        source = _picture(container, path)
        if seek:
            container.seek(min(needed), stream=source)  # to the key frame before it
        for packet in container.demux(source):
            for frame in _decode(packet, path):
                if frame.pts in needed:
                    found[needed[frame.pts]] = _pixels(frame, source)
            if len(found) == len(needed):
                break
    return found


def _decode(packet: Any, path: str | Path) -> list[Any]:
    try:
        return list(packet.decode())
    except av.FFmpegError as error:
        raise UserError(f"{path} cannot be decoded: the file is damaged.") from error


def _times(path: str | Path) -> list[int]:
    """Time stamps of the frames in order of display, without decoding where packets have them."""
    with open_media(path) as container:
        source = _picture(container, path)
        packets = [p for p in container.demux(source) if p.size]
        if all(p.pts is not None for p in packets):
            return sorted(p.pts for p in packets if not p.is_discard)
    with open_media(path) as container:
        source = _picture(container, path)
        return [frame.pts for frame in _frames(container, source, path)]


def _nothing(path: str | Path) -> np.ndarray:
    info = probe(path)
    return np.empty((0, info.height, info.width, 3), np.uint8)
