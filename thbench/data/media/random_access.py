"""Reading single frames of a video by their indices, exactly, with PyAV or decord.

Both decoders give the same pixels; PyAV reads what decord would not read rightly.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from thbench.config import DECODERS
from thbench.core.errors import UserError, did_you_mean
from thbench.core.files import check_file
from thbench.data.media.container import open_media, video_track
from thbench.data.media.decoding import UNSTAMPED, DecodedFrame, decode_frames, timestamps
from thbench.data.media.probing import probe, to_pixels, to_tensor

Indices = Sequence[int] | slice | None


def read(path: str | Path, indices: Indices = None, decoder: str = "pyav") -> Tensor:
    """Frames by index, without resampling in time.

    Args:
        path: any video.
        indices: of the frames as stored; negative ones count from the end, repeats are allowed.
            None reads all.
        decoder: one of ``DECODERS``. decord is used only for files that it reads rightly: upright
            mp4 of 8 bits without an edit list. PyAV reads all others.

    Returns:
        uint8 (T, 3, H, W) RGB.

    Raises:
        UserError: the file is cut short or damaged before the last requested frame, or
            the decoder is unknown or not installed.
        IndexError: an index is out of range.
    """
    check_decoder(decoder)
    frames = _read_decord(path, indices) if decoder == "decord" else None
    return _read_av(path, indices) if frames is None else frames


def check_decoder(name: str) -> None:
    """Check that a decoder is known and installed.

    Raises:
        UserError: it is not.
    """
    if name not in DECODERS:
        raise UserError(f"There is no decoder '{name}'.{did_you_mean(name, DECODERS)}")
    if name == "decord" and not has_decord():
        raise UserError("decord is not installed: pip install decord, or set data.decoder=pyav.")


@functools.cache
def has_decord() -> bool:
    """Whether decord can be imported (it has wheels for Linux on x86-64 only)."""
    return importlib.util.find_spec("decord") is not None


def _resolve(indices: Indices, n: int, path: str | Path) -> list[int]:
    if indices is None or isinstance(indices, slice):
        return list(range(n))[indices or slice(None)]
    resolved = [int(i) + n if i < 0 else int(i) for i in indices]
    if any(not 0 <= i < n for i in resolved):
        raise IndexError(f"{path} has {n} frames, requested {min(indices)}..{max(indices)}")
    return resolved


def _read_decord(path: str | Path, indices: Indices) -> Tensor | None:
    """Frames by decord; None where it cannot be trusted: then PyAV reads, or reports the error."""
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
    """Number of frames of a file; 0 where decord would not read it rightly.

    It ignores rotation and edit lists, misses frames in MPEG streams, and spreads the colour of
    over 8 bits over pixels in another way than FFmpeg does now (up to 20 levels).
    """
    info = probe(path)
    if not (info.upright and "mp4" in info.container and info.bits == 8):
        return 0
    with open_media(path) as container:
        track = video_track(container)
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
    # Some containers seek beyond the requested frame: then read from the start.
    found = _collect(path, needed, seek=True)
    if len(found) < len(needed):
        found = _collect(path, needed, seek=False)
    if len(found) < len(needed):
        raise UserError(f"{path} is cut short or damaged: {len(needed) - len(found)} frames miss.")
    return to_tensor([found[i] for i in wanted])


def _collect(path: str | Path, needed: dict[int, int], seek: bool) -> dict[int, np.ndarray]:
    """Frames by index, of the frames whose time stamps are the keys of ``needed``."""
    found: dict[int, np.ndarray] = {}
    with open_media(path) as container:
        source: Any = video_track(container)
        source.codec_context.thread_count = 1  # as ``thbench.data.media.decoding`` says
        if seek:
            container.seek(min(needed), stream=source)  # to the key frame before it
        for packet in container.demux(source):
            for frame in _decode(packet, path):
                if frame.pts in needed:
                    ratio = source.sample_aspect_ratio or 1
                    found[needed[frame.pts]] = to_pixels(DecodedFrame(frame, 0.0, False, ratio))
            if len(found) == len(needed):
                break
    return found


def _decode(packet: Any, path: str | Path) -> list[Any]:
    try:
        frames = list(packet.decode())
    except av.FFmpegError as error:
        raise UserError(f"{path} cannot be decoded: the file is damaged.") from error
    if any(frame.is_corrupt for frame in frames):
        raise UserError(f"{path} is damaged: create it anew.")
    return frames


def _read_in_order(path: str | Path, indices: Indices) -> Tensor:
    """Read a file whose time stamps do not identify its frames, counting from the start."""
    wanted = _resolve(indices, len(timestamps(path)), path)
    if not wanted:
        return torch.from_numpy(_nothing(path)).permute(0, 3, 1, 2)
    needed, found = set(wanted), {}
    for index, decoded in enumerate(decode_frames(path)):
        if index in needed:
            if decoded.damaged:
                raise UserError(f"{path} is damaged at frame {index}.")
            found[index] = to_pixels(decoded)
        if len(found) == len(needed):
            break
    if len(found) < len(needed):
        raise UserError(f"{path} is cut short or damaged: {len(needed) - len(found)} frames miss.")
    return to_tensor([found[i] for i in wanted])


def _display_stamps(path: str | Path) -> list[int] | None:
    """Time stamps in order of display, in ticks; None where they do not identify frames."""
    with open_media(path) as container:
        source = video_track(container)
        if source is None:
            raise UserError(f"{path} has no video track: a video is needed here.")
        if container.format.name in UNSTAMPED:
            return None
        found = [p.pts for p in container.demux(source) if p.size and not p.is_discard]
    if None in found or len(set(found)) < len(found):
        return None
    return sorted(found)


def _nothing(path: str | Path) -> np.ndarray:
    info = probe(path)
    return np.empty((0, info.height, info.width, 3), np.uint8)
