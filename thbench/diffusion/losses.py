"""What errors of predictions are averaged over."""

from __future__ import annotations

from torch import Tensor


def frame_mean(error: Tensor, counted: Tensor) -> Tensor:
    """Mean over frames that count; 0 where none does. (B, C, T, h, w) and (B, 1, T, 1, 1)."""
    per_frame = error.mean(dim=(1, 3, 4), keepdim=True)
    return (per_frame * counted).sum() / counted.sum().clamp(min=1)
