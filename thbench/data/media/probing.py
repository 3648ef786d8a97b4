"""What a video file holds, and its frames as arrays of pixels.

What a header says of rate, duration and count is not believed: time stamps decide.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from thbench.core.types import FPS
from thbench.data.media.container import open_media, video_track
from thbench.data.media.decoding import DecodedFrame, decode_on_demand, timestamps

_CONTAINER_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder"}


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds.

    Attributes:
        width, height: in pixels as displayed, after rotation and pixel aspect ratio.
        fps: mean frames per second, by the time stamps.
        n_frames: stored frames that are displayed.
        duration: of the video track, in seconds.
        has_audio: there is an audio track.
        container: FFmpeg's name of the format ("mov,mp4,m4a,3gp,3g2,mj2").
        upright: stored as displayed, without rotation or oblong pixels.
        bits: per luma sample.
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
    """Describe a video, after decoding its first frame and reading all time stamps.

    Raises:
        UserError: the file is missing, empty, or no video that can be decoded.
    """
    first = next(decode_on_demand(path))
    with open_media(path) as container:
        track: Any = video_track(container)
        has_audio, kind = bool(container.streams.audio), container.format.name
        stated = float(track.average_rate or 0)
        width, height = display_size(first)
    upright = (width, height) == (first.frame.width, first.frame.height)
    times = [time for time in timestamps(path) if time >= first.time - 1e-6]
    interval = median_interval(times, 1 / stated if stated else 1 / FPS)
    duration = times[-1] - times[0] + interval
    return VideoInfo(
        width,
        height,
        _frame_rate(len(times), duration, stated),
        len(times),
        duration,
        has_audio,
        kind,
        upright and not first.frame.rotation,
        first.frame.format.components[0].bits,
    )


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata that ``VideoWriter`` was given for a file.

    Raises:
        UserError: the file cannot be read.
    """
    with open_media(path) as container:
        tags = dict(container.metadata)
    return {key: value for key, value in tags.items() if key not in _CONTAINER_TAGS}


@functools.cache
def decoder() -> str:
    """Name and versions of the decoding libraries: another version may give other pixels."""
    names = ("libavcodec", "libswscale", "libswresample")
    versions = [f"{name} {'.'.join(map(str, av.library_versions[name]))}" for name in names]
    return ", ".join([f"av {av.__version__}", *versions])


def median_interval(times: Sequence[float], default: float) -> float:
    """Seconds between two frames: the median; ``default`` for less than two."""
    steps = np.diff(times)
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else default


def display_size(decoded: DecodedFrame) -> tuple[int, int]:
    """Width and height in pixels as displayed: rotation and pixel shape applied."""
    frame = decoded.frame
    width, height = max(1, round(frame.width * decoded.ratio)), frame.height
    return (height, width) if frame.rotation % 180 else (width, height)


class _Reformatters(threading.local):
    """A reformatter for frames of each kind. One for each frame takes ten times as long."""

    def __init__(self) -> None:
        self.of = functools.lru_cache(maxsize=8)(lambda *kind: VideoReformatter())


_REFORMATTERS = _Reformatters()


def to_pixels(decoded: DecodedFrame, size: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 (H, W, 3), in its own size or (width, height)."""
    frame = decoded.frame
    turn = frame.rotation
    width, height = size or display_size(decoded)
    if turn % 180:
        width, height = height, width
    kind = (frame.format.name, frame.colorspace, frame.color_range, frame.width, frame.height)
    reformatter = _REFORMATTERS.of(*kind, width, height)
    pixels = reformatter.reformat(frame, width, height, "rgb24").to_ndarray()
    return np.rot90(pixels, round(turn / 90)) if turn else pixels


def to_tensor(images: Sequence[np.ndarray], as_decoded: bool = False) -> Tensor:
    """Images (H, W, 3) as uint8 (T, 3, H, W), contiguous unless ``as_decoded``."""
    frames = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return frames if as_decoded else frames.contiguous()


def _frame_rate(n: int, duration: float, stated: float) -> float:
    """Frames per second; as the header has it where the time stamps agree, being more exact."""
    found = n / duration
    return stated if abs(stated - found) < 0.002 * found else round(found, 3)
