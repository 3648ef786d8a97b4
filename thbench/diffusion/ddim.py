"""DDIM with a noise level for each frame (Song et al. 2021; Chen et al. 2024).

diffusers' samplers take one level for a whole sample, so the step is written here; its tests hold
it against ``DDIMScheduler.step`` wherever all frames stand at one level.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thbench.config import SamplerConfig
from thbench.core.errors import UserError, did_you_mean
from thbench.diffusion.noise_schedule import NoiseSchedule

SPACINGS = ("linspace", "trailing", "leading")


def grid(schedule: NoiseSchedule, config: SamplerConfig) -> Tensor:
    """The levels that a frame passes through.

    ``linspace`` and ``trailing`` start at pure noise. ``leading`` is there to compare with older
    systems: it starts one stride short of it (level 951 of 1000 at 20 steps), as diffusers' does.
    The levels are diffusers' timesteps plus one, and then 0.

    Returns:
        (steps + 1,) int64, descending, ending at 0.

    Raises:
        UserError: an unknown spacing, or more steps than the schedule has.
    """
    if config.spacing not in SPACINGS:
        hint = did_you_mean(config.spacing, SPACINGS)
        raise UserError(f"No sampler spacing '{config.spacing}'.{hint}")
    n, total = config.steps, schedule.steps
    if not 1 <= n <= total:
        raise UserError(f"sampler.steps must be from 1 to {total}, the schedule's, not {n}.")
    if config.spacing == "linspace":
        levels = torch.linspace(total, 1, n, dtype=torch.float64).round()
    elif config.spacing == "trailing":
        levels = (total - torch.arange(n, dtype=torch.float64) * (total / n)).round()
    else:
        levels = torch.arange(n - 1, -1, -1, dtype=torch.float64) * (total // n) + 1
    return torch.cat([levels, torch.zeros(1)]).to(torch.int64)


def step(
    schedule: NoiseSchedule,
    noisy: Tensor,
    prediction: Tensor,
    t: Tensor,
    s: Tensor,
    noise: Tensor | None,
    config: SamplerConfig,
) -> Tensor:
    """Take each frame from level ``t`` to level ``s`` (DDIM eq. 12 and 16).

    At eta 1 the step is ancestral on the levels that are visited, and a learned variance is used;
    below, where DDIM sets the variance itself, it is not.

    Args:
        schedule: the noise schedule; says what ``prediction`` is.
        noisy: (B, C, T, h, w) or (B, C, T), at levels ``t``.
        prediction: the network's, shaped as ``noisy``; twice its channels with a learned variance.
        t: (B, T) int64.
        s: (B, T) int64, ``s <= t``. Frames with ``s == t`` are left as they are.
        noise: standard normal, shaped as ``noisy``; may be None at eta 0.
        config: eta in [0, 1] (0 deterministic, 1 ancestral) and the thresholds.

    Returns:
        Float32, shaped as ``noisy``, at levels ``s``.

    Raises:
        UserError: eta outside [0, 1].
    """
    if not 0 <= config.eta <= 1:
        raise UserError(f"sampler.eta must lie in [0, 1], not {config.eta}.")
    moving = t != s
    prediction, channels = schedule.split(prediction)
    clean = schedule.to_clean(prediction, noisy, t)
    if config.threshold is None:
        direction = schedule.to_noise(prediction, noisy, t)
    else:
        clean = threshold(clean, moving, config.threshold, config.bound)
        # Keep noise and clean value consistent, or what was cut returns with the noise.
        direction = schedule.noise_between(clean, noisy, t)
    signal, _ = schedule.scales(s, noisy)
    abar_t, above = schedule.variances(t, noisy)
    abar_s, below = schedule.variances(s, noisy)
    variance = config.eta**2 * schedule.transition(t, s, noisy)[1]
    # What this leaves of 1 - abar_s, written without differences of nearly equal numbers.
    ratio = below / (above * abar_s).clamp(min=1e-20)
    rest = (1 - config.eta**2) * below + config.eta**2 * ratio * below * abar_t
    if channels is not None and config.eta == 1:
        variance = torch.where(variance > 0, schedule.log_variance(channels, t, s).exp(), 0.0)
    moved = signal * clean + rest.sqrt() * direction
    if config.eta > 0:
        if noise is None:
            raise ValueError("eta > 0 needs noise")
        moved = moved + variance.sqrt() * noise.float()
    keep = (moving.shape[0], 1, moving.shape[1]) + (1,) * (noisy.ndim - 3)
    return torch.where(moving.to(noisy.device).reshape(keep), moved, noisy.float())


def threshold(clean: Tensor, moving: Tensor, percentile: float, bound: float) -> Tensor:
    """Dynamic thresholding (Saharia et al. 2022, Imagen, section 2.3), once per window.

    The ``percentile`` of absolute values, but at least ``bound``, becomes the largest value, and
    the window is scaled so that this is ``bound``. Percentile 0 clamps to ``bound`` and scales
    nothing.

    Args:
        clean: (B, C, T, ...), predicted clean values.
        moving: (B, T) bool, the frames that count and are changed; others are left alone.
        percentile: in [0, 1].
        bound: the largest absolute value of the result.

    Raises:
        UserError: a percentile outside [0, 1] or a bound that is not positive.
    """
    if not 0 <= percentile <= 1 or bound <= 0:
        raise UserError("sampler.threshold must lie in [0, 1], and sampler.bound must be positive.")
    result = clean.clone()
    for window, values, mask in zip(result, clean, moving.to(clean.device), strict=True):
        chosen = values[:, mask]
        if chosen.numel() and not percentile:
            window[:, mask] = chosen.clamp(-bound, bound)
        elif chosen.numel():
            limit = _quantile(chosen.abs().flatten(), percentile).clamp(min=bound)
            window[:, mask] = chosen.clamp(-limit, limit) * (bound / limit)
    return result


def _quantile(values: Tensor, q: float) -> Tensor:
    """Linear interpolation between order statistics; torch's own refuses 2^24 values and more."""
    ordered = values.sort().values
    place = q * (len(ordered) - 1)
    low = int(place)
    return torch.lerp(ordered[low], ordered[min(low + 1, len(ordered) - 1)], place - low)
