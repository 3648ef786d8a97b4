"""A deterministic image descriptor of 240 numbers that needs no weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from metrics.extractors.base import Extractor

GRID = 4
SIZES = (128, 64, 32, 16)


def describe(frames: Tensor) -> Tensor:
    """Colour and edge statistics of frames in a 4 x 4 grid.

    Luma and two colour differences (ITU-R BT.601) of the frame at 128 x 128: their cell means
    (48 numbers). Luma at 128, 64, 32 and 16 pixels: cell means of the absolute horizontal and
    vertical differences and of the absolute difference from its 3 x 3 mean (48 numbers a scale).

    Args:
        frames: (n, 3, H, W) uint8 RGB.

    Returns:
        (n, 240) float32 in grey levels (0 to 255).
    """
    colour = _ycc(_resize(frames.float(), SIZES[0]))
    parts = [F.adaptive_avg_pool2d(colour, GRID)]
    for size in SIZES:
        luma = colour[:, :1] if size == SIZES[0] else _resize(colour[:, :1], size)
        parts.append(F.adaptive_avg_pool2d(_edges(luma), GRID))
    return torch.cat([part.flatten(1) for part in parts], 1)


class Pyramid(Extractor):
    """The descriptor of ``describe``, as an extractor."""

    name = "pyramid"

    def forward(self, frames: Tensor) -> Tensor:
        return describe(frames)


def _resize(x: Tensor, size: int) -> Tensor:
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)


def _ycc(rgb: Tensor) -> Tensor:
    r, g, b = rgb.unbind(1)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    return torch.stack([luma, 0.564 * (b - luma), 0.713 * (r - luma)], 1)


def _edges(luma: Tensor) -> Tensor:
    padded = F.pad(luma, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    detail = luma - F.avg_pool2d(padded, 3, stride=1)
    return torch.cat([across, down, detail], 1).abs()
