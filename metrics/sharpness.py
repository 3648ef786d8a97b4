"""CPBD: how many of a picture's edges look sharp."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from metrics.base import ClipMetric, Features

BLOCK = 64
EDGE_SHARE = 0.002
"""A block with no larger share of edge pixels is smooth and does not count."""
BETA = 3.6
WIDE, NARROW, CONTRAST = 5.0, 3.0, 50.0
"""Just noticeable widths in pixels: at block contrasts up to ``CONTRAST``, and above."""
NOTICEABLE = 63
"""Per cent of viewers who see blur at the just noticeable width: 1 - 1/e."""
REACH = 100

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def cpbd(luma: NDArray[np.uint8]) -> float:
    r"""Cumulative probability of blur detection of one picture (Narvekar and Karam 2011).

    An edge of width w in a block of just noticeable width j is seen as blurred with probability
    :math:`1 - exp(-(w / j)^{3.6})`; the figure is the share of edges for which that is at most
    63 %, rounded to per cent as the authors do. Edges are maxima along the row of the horizontal
    Sobel response, where its square is over four times its mean (MATLAB's rule for vertical
    edges); they also tell edge blocks from smooth ones, for which the authors use Canny's, so the
    figure is not theirs to the last digit. A width runs from the nearest local extremum on the
    left to the one on the right (Marziliano et al. 2002).

    Args:
        luma: (H, W), 0 to 255.

    Returns:
        In [0, 1], higher is sharper; 0 without edges, NaN where not one block of 64 x 64 fits.
    """
    height, width = (n // BLOCK * BLOCK for n in luma.shape)
    if not height or not width:
        return math.nan
    image = luma.astype(np.float64)
    edges = sobel_edges(image)
    widths = edge_widths(image, edges)
    blocks = [_blocks(x[:height, :width]) for x in (image, edges, widths)]
    image_blocks, edge_blocks, width_blocks = blocks
    contrast = image_blocks.max(1) - image_blocks.min(1)
    noticeable = np.where(contrast <= CONTRAST, WIDE, NARROW)[:, None]
    counts = (edge_blocks.mean(1) > EDGE_SHARE)[:, None] & (width_blocks > 0)
    if not counts.any():
        return 0.0
    blurred = 1 - np.exp(-((width_blocks / noticeable) ** BETA))
    return float((np.round(100 * blurred[counts]) <= NOTICEABLE).mean())


def sobel_edges(image: Array) -> Mask:
    """Where (H, W) has a vertical edge; never in the outermost pixels."""
    response = cv2.Sobel(image, cv2.CV_64F, 1, 0, ksize=3, borderType=cv2.BORDER_REPLICATE)
    strength = np.square(response)
    edges = np.zeros(image.shape, bool)
    # One side may be equal: a step between two pixels answers equally in both.
    middle, left, right = strength[:, 1:-1], strength[:, :-2], strength[:, 2:]
    edges[:, 1:-1] = (middle > 4 * strength.mean()) & (left <= middle) & (middle > right)
    edges[[0, -1]] = False
    return edges


def edge_widths(image: Array, edges: Mask) -> Array:
    """Widths in pixels of the edges whose gradient is within 22.5 degrees of the row, else 0.

    Args:
        image: (H, W).
        edges: (H, W), False in the outermost columns.

    Returns:
        (H, W); a side reaches at most 101 pixels.
    """
    down, across = np.gradient(image)
    turns = np.round(np.degrees(np.arctan2(down, across)) / 45)
    step = np.diff(image, axis=1, prepend=image[:, :1])
    widths = np.zeros_like(image)
    for wanted, monotone in ((turns == 0, step > 0), (np.abs(turns) == 4, step < 0)):
        before, after = _runs(monotone), _runs(monotone[:, ::-1])[:, ::-1]
        here = wanted & edges
        row, col = np.nonzero(here)
        # Steps onto the pixel before and off the pixel behind the edge, while they go on its way.
        padded = np.pad(after, ((0, 0), (0, 2)))
        widths[here] = np.minimum(before[row, col - 1], REACH) + 1
        widths[here] += np.minimum(padded[row, col + 2], REACH) + 1
    return widths


class CPBD(ClipMetric):
    """Sharpness without a reference, mean over frames, then clips. See ``cpbd``.

    Luma is ITU-R BT.601, rounded. NaN for frames smaller than 64 pixels and clips without frames.
    """

    direction = "higher"
    bounds = (0.0, 1.0)
    needs = ("frames",)

    @property
    def name(self) -> str:
        return "CPBD"

    def measure(self, generated: Features, reference: Features | None) -> float:
        frames = generated["frames"].permute(0, 2, 3, 1).cpu().numpy()
        values = [cpbd(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)) for frame in frames]
        return float(torch.tensor(values, dtype=torch.float64).mean())


def _runs(mask: Mask) -> NDArray[np.int64]:
    """How many True end at each place of a row, itself included."""
    place = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
    return place - np.maximum.accumulate(np.where(mask, -1, place), axis=1)


def _blocks(x: NDArray) -> NDArray:
    rows, cols = x.shape[0] // BLOCK, x.shape[1] // BLOCK
    return x.reshape(rows, BLOCK, cols, BLOCK).swapaxes(1, 2).reshape(rows * cols, -1)
