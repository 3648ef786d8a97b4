"""What errors of predictions are averaged over."""

from __future__ import annotations

from torch import Tensor


def counted_mean(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of values where ``counted`` (broadcasting to them, 0 or 1) says so; 0 where nowhere."""
    return (values * counted).sum() / counted.expand_as(values).sum().clamp(min=1)


def frame_mean(error: Tensor, counted: Tensor) -> Tensor:
    """Mean over frames that count; 0 where none does. (B, C, T, h, w) and (B, 1, T, 1, 1)."""
    return counted_mean(error.mean(dim=(1, 3, 4), keepdim=True), counted)
