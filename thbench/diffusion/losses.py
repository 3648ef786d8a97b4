"""What errors of predictions are averaged over.

A loss is a mean over clips of what each clip alone gives. So the gradient of a batch is the mean of
its clips', and does not depend on how the batch is divided over devices and parts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thbench.diffusion.noise_schedule import NoiseSchedule


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


def min_snr_weight(
    process: NoiseSchedule, t: Tensor, like: Tensor, gamma: float, *, shifted: bool = False
) -> Tensor:
    """Min-SNR weight of a prediction's squared error (Hang et al. 2023, section 3.4).

    In terms of the clean value it is ``min(SNR, gamma)``, with ``SNR = abar / (1 - abar)``. An
    error of the noise is ``SNR`` times and one of v ``SNR + 1`` times that of the clean value, so
    theirs are ``min(SNR, gamma) / SNR`` and ``min(SNR, gamma) / (SNR + 1)``.

    Args:
        process: its kind of prediction and its schedule.
        t: (B, T) levels.
        like: (B, C, T, ...), what the weight multiplies.
        gamma: the most that an error of the clean value weighs; 5 in the paper.
        shifted: for v, ``min(SNR + 1, gamma) / (SNR + 1)``: Hallo's released code. Pure noise then
            weighs 1; by the paper's formula, 0.

    Returns:
        (B, 1, T, 1...), 0 on clean frames.
    """
    abar, rest = process.variances(t, like)
    if process.prediction == "epsilon":
        weight = (gamma * rest / abar).clamp(max=1)
    elif process.prediction == "x0":
        weight = (abar / rest.clamp(min=1e-20)).clamp(max=gamma)
    elif shifted:
        weight = (gamma * rest).clamp(max=1)
    else:
        weight = torch.minimum(abar, gamma * rest)
    return weight * (rest > 0)
