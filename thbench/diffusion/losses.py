"""What errors of predictions are averaged over.

A loss is a mean over clips of what each clip alone gives. So the gradient of a batch is the mean of
its clips', and does not depend on how the batch is divided over devices and parts.
"""

from __future__ import annotations

from torch import Tensor


def counted_mean(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of all values where ``counted`` (broadcasting to them, 0 or 1) says so; 0 where nowhere.

    Clips with more that counts weigh more, so this is for figures and pairs; losses of frames take
    ``clip_mean``.
    """
    return (values * counted).sum() / counted.expand_as(values).sum().clamp(min=1)


def clip_mean(values: Tensor, counted: Tensor) -> Tensor:
    """Mean over clips of each clip's mean where ``counted`` says so.

    A clip in which nothing counts adds 0, and stays among the clips that are divided by.

    Args:
        values: (B, ...).
        counted: 0 or 1, broadcasting to ``values``.
    """
    inside = counted.expand_as(values).float()
    return ((values * inside).flatten(1).sum(1) / inside.flatten(1).sum(1).clamp(min=1)).mean()


def frame_mean(error: Tensor, counted: Tensor) -> Tensor:
    """``clip_mean`` over whole frames: (B, C, T, h, w) and (B, 1, T, 1, 1)."""
    return clip_mean(error.mean(dim=(1, 3, 4), keepdim=True), counted)


def region_mean(error: Tensor, region: Tensor, counted: Tensor) -> Tensor:
    """Mean over clips of the error within a region, divided by the region's own cells.

    Channels are summed, so this is the square length of a cell's error.

    Args:
        error: (B, C, T, h, w).
        region: (B, 1, T, h, w), 0 or 1.
        counted: (B, 1, T, 1, 1), 0 or 1.
    """
    return clip_mean(error.sum(dim=1, keepdim=True), region * counted)
