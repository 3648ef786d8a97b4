"""CPBD: the share of an image's edges that look sharp."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metrics.base import Features, FrameMetric

BLOCK = 64
EDGE_SHARE = 0.002
"""A block with no larger share of Canny's edge pixels is smooth and does not count."""
WIDE, NARROW, CONTRAST = 5, 3, 50
"""Just noticeable widths in pixels: at block contrasts up to ``CONTRAST``, and above."""
REACH = 100

SOBEL_CUTOFF = 2.0
"""Grey levels per pixel: the authors' threshold of the horizontal Sobel response."""
CANNY_SIGMA, CANNY_TAPS = math.sqrt(2), 16
NOT_EDGES, LOW_SHARE, BINS = 0.7, 0.4, 64
"""MATLAB's choice of Canny's thresholds: the high one leaves out 70 % of the pixels, told from a
histogram of 64 bins, and the low one is .4 of it."""

Image = NDArray[np.uint8]
Reals = NDArray[np.float64]
Mask = NDArray[np.bool_]


def cpbd(luma: Image) -> float:
    r"""Cumulative probability of blur detection of one image (Narvekar and Karam 2011).

    An edge of width w in a block of just noticeable width j is seen as blurred with probability
    :math:`1 - exp(-(w / j)^{3.6})`; the value is the share of edges for which that is at most
    63 %, rounded to per cent. At w = j it is 63.2 %, and widths are whole pixels: these are the
    edges of w <= j. As in the authors' program, edges are MATLAB's vertical Sobel edges, and
    MATLAB's Canny edges tell edge blocks from smooth ones. A width runs from the nearest local
    extremum on the left to the one on the right (Marziliano et al. 2002).

    Args:
        luma: (H, W), 0 to 255.

    Returns:
        In [0, 1], higher is sharper; 0 without edges, NaN where not one block of 64 x 64 fits.
    """
    height, width = (n // BLOCK * BLOCK for n in luma.shape)
    if not height or not width:
        return math.nan
    arrays = luma, canny_edges(luma), edge_widths(luma, sobel_edges(luma))
    levels, edges, widths = (_blocks(x[:height, :width]) for x in arrays)
    contrast = levels.max(1) - levels.min(1)
    noticeable = np.where(contrast <= CONTRAST, WIDE, NARROW)[:, None]
    counts = (edges.mean(1) > EDGE_SHARE)[:, None] & (widths > 0)
    sharp = counts & (widths <= noticeable)
    return float(sharp.sum() / counts.sum()) if counts.any() else 0.0


def sobel_edges(luma: Image) -> Mask:
    """MATLAB's vertical Sobel edges of (H, W), with the authors' threshold: True on edges.

    Where the horizontal response is over the threshold and strongest of its column, or strongest
    of its row and no smaller than the vertical response. The neighbour before may be as strong.
    The image is padded with its outermost pixels; responses outside it are 0.
    """
    across, down = (
        np.abs(cv2.Sobel(luma, cv2.CV_16S, *order, borderType=cv2.BORDER_REPLICATE))
        for order in ((1, 0), (0, 1))
    )
    above, below, left, right = (_shifted(across, *to) for to in ((-1, 0), (1, 0), (0, -1), (0, 1)))
    in_row = (across >= down) & (left <= across) & (across > right)
    in_column = (above <= across) & (across > below)
    # The kernel's weights add up to 8 on either side.
    return (across > 8 * SOBEL_CUTOFF) & (in_row | in_column)


def canny_edges(luma: Image) -> Mask:
    """MATLAB's Canny edges of (H, W) with its own thresholds: True on edges.

    Canny (1986) with a Gaussian of standard deviation sqrt(2) pixels. The filters have an even
    length, which shifts edges by half a pixel, as those that python-cpbd keeps as reference data.
    """
    across, down = _gaussian_gradient(luma)
    strength = np.hypot(across, down)
    if not strength.any():
        return np.zeros(luma.shape, bool)
    strength /= strength.max()
    counts = np.bincount((strength * (BINS - 1) + 0.5).astype(np.uint8).ravel(), minlength=BINS)
    high = float(np.argmax(counts.cumsum() > NOT_EDGES * strength.size) + 1) / BINS
    thin = _thin(strength, across, down, LOW_SHARE * high)
    # Hysteresis: connected parts of thin edge that are strong somewhere.
    count, parts = cv2.connectedComponents(thin.astype(np.uint8), connectivity=8)
    strong = np.zeros(count, bool)
    strong[parts[thin & (strength > high)]] = True
    return strong[parts]


def _gaussian_gradient(luma: Image) -> tuple[Reals, Reals]:
    x = np.arange(CANNY_TAPS) - (CANNY_TAPS - 1) / 2
    smooth = np.exp(-(x**2) / (2 * CANNY_SIGMA**2))
    smooth /= smooth.sum()
    slope = np.gradient(smooth)
    slope /= slope[slope > 0].sum()
    image = luma.astype(np.float64)

    def filtered(along_x: Reals, along_y: Reals) -> Reals:
        # A correlation: turned round, the kernels make it MATLAB's convolution.
        kernels, anchor = (along_x[::-1], along_y[::-1]), (CANNY_TAPS // 2 - 1,) * 2
        return cv2.sepFilter2D(  # type: ignore[return-value]
            image, cv2.CV_64F, *kernels, anchor=anchor, borderType=cv2.BORDER_REPLICATE
        )

    return filtered(slope, smooth), filtered(smooth, slope)


def _thin(strength: Reals, across: Reals, down: Reals, low: float) -> Mask:
    """Where (H, W) is over ``low`` and no less than one pixel along the gradient and against it.

    Those lie between pixels, and are interpolated from the two nearest of the eight neighbours.
    Never in the outermost pixels.
    """
    inside = np.zeros(strength.shape, bool)
    inside[1:-1, 1:-1] = strength[1:-1, 1:-1] > low
    at, values = np.flatnonzero(inside), strength.ravel()
    right, below = across.ravel()[at], down.ravel()[at]
    wide, tall = np.abs(right), np.abs(below)
    # From the straight neighbour, beside or below, towards the diagonal one.
    part = np.minimum(wide, tall) / np.maximum(wide, tall)
    vertical = np.where(right * below >= 0, 1, -1) * strength.shape[1]
    straight, diagonal = np.where(tall > wide, vertical, 1), vertical + 1
    thin = np.ones(len(at), bool)
    for way in (1, -1):
        beyond = (1 - part) * values[at + way * straight] + part * values[at + way * diagonal]
        thin &= values[at] >= beyond
    inside.ravel()[at] = thin
    return inside


def edge_widths(luma: Image, edges: Mask) -> NDArray[np.int32]:
    """Widths in pixels of the edges whose gradient is within 22.5 degrees of the row, else 0.

    Where the gradient has no part along the row, the authors' program takes its direction for 0
    degrees. Where all directions are 0, it measures nothing.

    Args:
        luma: (H, W).
        edges: (H, W); the outermost pixels do not count.

    Returns:
        (H, W); a side reaches at most 101 pixels.
    """
    widths = np.zeros(luma.shape, np.int32)
    image = luma.astype(np.int16)
    padded = np.pad(image, 1, mode="edge")
    across = padded[1:-1, 2:] - padded[1:-1, :-2]
    down = padded[2:, 1:-1] - padded[:-2, 1:-1]
    if not ((across < 0) | ((across != 0) & (down != 0))).any():
        return widths
    near = np.abs(down) < math.tan(math.pi / 8) * np.abs(across)
    step = np.diff(image, axis=1, prepend=image[:, :1])
    rising, falling = (across == 0) | (near & (across > 0)), near & (across < 0)
    for wanted, monotone in ((rising, step > 0), (falling, step < 0)):
        before, after = _runs(monotone), _runs(monotone[:, ::-1])[:, ::-1]
        row, col = np.nonzero((wanted & edges)[1:-1, 1:-1])
        row, col = row + 1, col + 1
        # Steps onto the pixel before and off the pixel behind the edge, while they go on its way.
        behind = np.pad(after, ((0, 0), (0, 1)))[row, col + 2]
        widths[row, col] = np.minimum(before[row, col - 1], REACH) + np.minimum(behind, REACH) + 2
    return widths


class CPBD(FrameMetric):
    """Sharpness without a reference, mean over frames, then clips. See ``cpbd``.

    Luma is ITU-R BT.601, rounded. NaN for frames smaller than 64 pixels and clips without frames.
    """

    direction = "higher"
    bounds = (0.0, 1.0)
    needs = ("frames",)
    version = 2

    @property
    def name(self) -> str:
        return "CPBD"

    def measure_frames(self, generated: Features, reference: Features | None) -> Tensor:
        frames = generated["frames"].permute(0, 2, 3, 1).contiguous().cpu().numpy()
        values = [cpbd(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)) for frame in frames]
        return torch.tensor(values, dtype=torch.float64)


def _shifted(x: NDArray, rows: int, cols: int) -> NDArray:
    """Of each place of (H, W) the value so many rows below and columns to the right, 0 outside."""
    height, width = x.shape
    padded = np.pad(x, 1)
    return padded[1 + rows : 1 + rows + height, 1 + cols : 1 + cols + width]


def _runs(mask: Mask) -> NDArray[np.int32]:
    """How many True end at each place of a row, itself included."""
    place = np.broadcast_to(np.arange(mask.shape[1], dtype=np.int32), mask.shape)
    return place - np.maximum.accumulate(np.where(mask, np.int32(-1), place), axis=1)


def _blocks(x: NDArray) -> NDArray:
    rows, cols = x.shape[0] // BLOCK, x.shape[1] // BLOCK
    return x.reshape(rows, BLOCK, cols, BLOCK).swapaxes(1, 2).reshape(rows * cols, -1)
