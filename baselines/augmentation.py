"""Noise on what is observed in training, for strategies that observe what they made themselves.

Conditioning augmentation (Ho et al. 2022, "Cascaded Diffusion Models", section 4): a network that
trusts the frames before too much adds its own errors up, and does not listen. Those errors are
patches, so the noise is of all sizes. Each frame has its own: where the difference of two frames
stays clean, a network goes on as fast as they moved, and errors swing up.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PATCHES = 4
"""The largest patches of noise divide a frame into so many by so many."""


def spoil(frames: Tensor, most: float) -> Tensor:
    """Frames (B, C, T, H, W) with noise, of a deviation from 0 to ``most`` for each clip."""
    deviation = most * torch.rand(len(frames), 1, 1, 1, 1).to(frames)
    noise = patchy_noise(frames.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(frames), -1))
    return frames + deviation * noise.transpose(1, 2)


def patchy_noise(like: Tensor) -> Tensor:
    """Normal noise with as much power in patches of 1, 2, 4, ... pixels, of about unit variance.

    Args:
        like: (B, C, H, W), whose shape and device it has.
    """
    layers, side = [], like.shape[-1]
    while side >= PATCHES:
        coarse = torch.randn(*like.shape[:2], side, side, device=like.device, dtype=like.dtype)
        layers.append(F.interpolate(coarse, like.shape[-2:], mode="nearest"))
        side //= 2
    return torch.stack(layers).sum(0) / len(layers) ** 0.5
