"""What the latent flow generator's training asks for beside the paper's losses, and its PSNR."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from thbench.core.types import Batch
from thbench.nn.regions import region_mask

MARGIN = 0.03  # of the frame's width: takes in the skin that lips and lids uncover


@torch.no_grad()
def pixel_weight(
    batch: Batch, source: Tensor, driving: Tensor, *, motion: float, regions: float
) -> Tensor | None:
    """Importance of pixels, (B * T, 1, H, W) of mean 1 over each clip; None for 1 everywhere.

    Args:
        batch: B clips of T frames.
        source: (B * T, 3, H, W) in [0, 1], the portraits.
        driving: (B * T, 3, H, W) in [0, 1], the frames.
        motion: weight of the blurred difference between portrait and frame.
        regions: added in the mouth's and the eyes' regions, where the face was seen.
    """
    if not (motion or regions):
        return None
    size = driving.shape[-1]
    moved = (source - driving).abs().mean(1, keepdim=True)
    reach = size // 32 * 2 + 1
    moved = F.avg_pool2d(moved, reach, stride=1, padding=reach // 2, count_include_pad=False)
    weight = 1 + motion * moved
    if regions:
        seen = batch.valid.flatten().reshape(-1, 1, 1, 1)
        points = batch.landmarks.flatten(0, 1)
        for region in ("lips", "eyes"):
            mask = region_mask(points, region, size, margin=MARGIN)
            weight = weight + regions * mask * seen
    clips = weight.unflatten(0, batch.valid.shape)
    return (clips / clips.mean((1, 2, 3, 4), keepdim=True)).flatten(0, 1)


def variation(flow: Tensor) -> Tensor:
    """Mean absolute difference between a flow's neighbours, (B, 2, h, w) in [-1, 1] units."""
    across, down = flow.diff(dim=-1), flow.diff(dim=-2)
    return across.abs().mean() + down.abs().mean()


def psnr(made: Tensor, wanted: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, mean over images (B, 3, H, W) in [0, 1]."""
    error = (made.detach() - wanted).square().mean((1, 2, 3))
    return -10 * torch.log10(error.clamp(min=1e-10)).mean()
