"""Smoothness of a video: optical flow magnitude and squared difference between frames."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metrics.base import Features, FrameMetric

Mode = Literal["formula", "as-published"]
MODES = ("formula", "as-published")

PUBLISHED_SIZE = 128

Frame = NDArray[np.uint8]


def magnitude(before: Frame, after: Frame) -> NDArray[np.float32]:
    """Length of Farneback's optical flow in pixels, (H, W), between frames (H, W, 3) RGB.

    The parameters are those of Stypulkowski et al. (2024), appendix A.
    """
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (before, after)]
    flow = cv2.calcOpticalFlowFarneback(  # type: ignore[call-overload]
        grey[0],
        grey[1],
        None,  # no first guess
        pyr_scale=0.5,
        levels=7,
        winsize=5,
        iterations=15,
        poly_n=5,
        poly_sigma=1.2,
        flags=0,
    )
    return np.hypot(flow[..., 0], flow[..., 1])


def coloured(values: NDArray[np.float32]) -> Frame:
    """Values (H, W), scaled to 0 to 255 by their extremes, in OpenCV's "jet" as (H, W, 3)."""
    spread = cv2.normalize(values, None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    return cv2.applyColorMap(spread.astype(np.uint8), cv2.COLORMAP_JET)  # type: ignore[return-value]


def optical_flow_magnitude(frames: Frame, mode: Mode = "formula") -> float:
    """OFM (equation 20 of Stypulkowski et al. 2024): mean flow over pixels and frame pairs.

    ``formula`` is in pixels per frame. ``as-published`` is what the authors' evaluation computes:
    each flow field is scaled to its own range, mapped to colours, and the colours are
    averaged, so that the size of the motion is lost and no motion scores 42.67.

    Between equal frames that are not uniform, OpenCV finds a little flow. So a still video of a
    face scores slightly over 0, and 43 to 45.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        mode: see above.

    Returns:
        NaN with fewer than two frames.
    """
    return _mean(flow_between(a, b, mode) for a, b in pairwise(frames))


def flow_between(before: Frame, after: Frame, mode: Mode = "formula") -> float:
    """Mean flow between two frames (H, W, 3); see ``optical_flow_magnitude``."""
    field = magnitude(before, after)
    if mode == "as-published":
        return float(coloured(field).mean())
    return float(field.mean(dtype=np.float64))


def frame_mse(frames: Frame, mode: Mode = "formula") -> float:
    """F-MSE (equation 21): mean squared difference of consecutive frames in levels of 0 to 255.

    ``as-published`` subtracts and squares in 8 bits as the authors' evaluation does, where both
    wrap around: no value is over 255.

    Args:
        frames: (T, H, W, 3) uint8.
        mode: see above.

    Returns:
        NaN with fewer than two frames.
    """
    return _mean(change_between(a, b, mode) for a, b in pairwise(frames))


def change_between(before: Frame, after: Frame, mode: Mode = "formula") -> float:
    """Mean squared difference of two frames (H, W, 3); see ``frame_mse``."""
    if mode == "as-published":
        return float(np.square(after - before).mean())
    return float(np.square(after.astype(np.float64) - before).mean())


class _Smoothness(FrameMetric):
    """A metric of consecutive frames, at the scoring resolution or at a size of its own.

    Args:
        mode: ``formula`` or ``as-published``.
        size: frames are brought from the video's own size to ``size`` x ``size`` as OpenCV does it
            (bilinear, no antialiasing). By default 128 as published, and none in ``formula``.

    Raises:
        ValueError: no such mode, or a size under 1.
    """

    direction = "reference"
    version = 2
    before = 1
    needs = ("frames",)
    title: str

    def __init__(self, mode: Mode = "formula", size: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(MODES)}, not '{mode}'")
        if size is not None and size < 1:
            raise ValueError(f"size is a number of pixels, not {size}")
        self.mode: Mode = mode
        self.size = size or (PUBLISHED_SIZE if mode == "as-published" else None)
        self.feature = f"frames@{self.size}" if self.size else "frames"
        self.needs = (self.feature,)

    @property
    def name(self) -> str:
        size = f", {self.size} px" if self.size else ""
        return f"{self.title} ({self.mode}{size})"

    @abstractmethod
    def between(self, before: Frame, after: Frame) -> float:
        """The value of two frames (H, W, 3)."""

    def measure_frames(self, generated: Features, reference: Features | None) -> Tensor:
        frames = generated[self.feature].permute(0, 2, 3, 1).contiguous().cpu().numpy()
        values = [self.between(a, b) for a, b in pairwise(frames)]
        return torch.tensor(values, dtype=torch.float64)


class OFM(_Smoothness):
    """Optical flow magnitude, mean over frame pairs, then clips. See ``optical_flow_magnitude``.

    To be near the reference's own: a still video has next to none. NaN with fewer than two frames.
    """

    title = "OFM"

    def __init__(self, mode: Mode = "formula", size: int | None = None, **kwargs: Any) -> None:
        super().__init__(mode, size, **kwargs)
        published = mode == "as-published"
        self.unit = "levels of a colour map" if published else "pixels per frame"
        self.bounds = (0.0, 255.0) if published else (0.0, math.inf)

    def between(self, before: Frame, after: Frame) -> float:
        return flow_between(before, after, self.mode)


class FrameMSE(_Smoothness):
    """Squared difference of consecutive frames, mean, then over clips. See ``frame_mse``.

    To be near the reference's own: a still video has 0. NaN with fewer than two frames.
    """

    unit = "grey levels squared"
    bounds = (0.0, 255.0**2)
    title = "F-MSE"

    def between(self, before: Frame, after: Frame) -> float:
        return change_between(before, after, self.mode)


def _mean(values: Iterator[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found) if found else math.nan
