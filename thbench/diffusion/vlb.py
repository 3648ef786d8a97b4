"""The variational bound of a diffusion model, by which a learned variance is trained."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thbench.diffusion.noise_schedule import NoiseSchedule

HALF_STEP = 1 / 255
"""Half the distance of neighbouring 8-bit values, in [-1, 1]."""


def bound_term(
    schedule: NoiseSchedule, output: Tensor, clean: Tensor, noisy: Tensor, t: Tensor
) -> Tensor:
    """Each frame's term of the bound L_vlb at its level, in bits per dimension.

    Above level 1 it is KL(q(x_s | x_t, x_0) || p(x_s | x_t)) with s = t - 1, both Gaussian; at
    level 1 it is -log p(x_0 | x_1), the Gaussian's mass on the 8-bit value (Ho et al. 2020, eqs. 5
    and 13). Only the variance is trained by it: the gradient to the prediction is cut (Nichol and
    Dhariwal 2021, section 3.1).

    Args:
        schedule: with a learned variance.
        output: (B, 2 C, T, ...), the network's.
        clean: (B, C, T, ...), 8-bit values scaled to [-1, 1].
        noisy: shaped as ``clean``, at levels ``t``.
        t: (B, T) int64, at least 1.

    Returns:
        (B, T) float32.

    Raises:
        ValueError: the schedule has a fixed variance.
    """
    prediction, channels = schedule.split(output)
    if channels is None:
        raise ValueError("the bound trains a learned variance, and this schedule has a fixed one")
    clean = clean.float()
    wrong = clean - schedule.to_clean(prediction.detach(), noisy, t)
    s = t - 1
    log_variance = schedule.log_variance(channels, t, s)
    forward, _ = schedule.transition(t, s, clean)
    _, above = schedule.variances(t, clean)
    # Both means hold the same share of x_t, so they differ by this share of the clean values.
    shift = schedule.scales(s, clean)[0] * forward / above * wrong
    # At level 1 q has no variance; the value below is then not used.
    true = schedule.log_variance(torch.full_like(channels, -1.0), t, s)
    divergence = (log_variance - true + (true - log_variance).exp() - 1) / 2
    divergence = divergence + shift.square() * (-log_variance).exp() / 2
    first = t.reshape(t.shape[0], 1, t.shape[1], *[1] * (clean.ndim - 3)) == 1
    nats = torch.where(first, -log_mass(clean, clean - shift, log_variance), divergence)
    return nats.mean((1, *range(3, clean.ndim))) / math.log(2)


def log_mass(values: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log of a Gaussian's mass on 8-bit values in [-1, 1]; the end values take the tails.

    Ho et al. (2020), eq. 13.
    """
    scale = (-log_variance / 2).exp()
    upper = (values + HALF_STEP - mean) * scale
    lower = (values - HALF_STEP - mean) * scale
    over = torch.special.ndtr(-lower)
    inside = torch.special.ndtr(upper) - torch.special.ndtr(lower)
    mass = torch.where(values < -0.999, torch.special.ndtr(upper), inside)
    mass = torch.where(values > 0.999, over, mass)
    return mass.clamp(min=1e-12).log()
