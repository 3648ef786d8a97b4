"""Optimisers and learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from thbench.config import OptimConfig
from thbench.core.errors import UserError, did_you_mean

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def build_optimizer(params: Iterable[nn.Parameter], optim: OptimConfig) -> dict[str, Any]:
    """Build an optimiser and its learning-rate schedule per step, as Lightning's dictionary.

    Raises:
        UserError: an unknown optimiser or schedule, or a cosine without its end.
    """
    scale = check_optim(optim)
    optimizer = OPTIMIZERS[optim.name](
        params, lr=optim.lr, betas=tuple(optim.betas), weight_decay=optim.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def check_optim(optim: OptimConfig) -> Callable[[int], float]:
    """The learning rate's scale, see ``rate_scale``, of an optimiser that there is.

    Raises:
        UserError: an unknown name, or a cosine without an end.
    """
    if optim.name not in OPTIMIZERS:
        raise UserError(f"No optimiser '{optim.name}'.{did_you_mean(optim.name, OPTIMIZERS)}")
    if len(optim.betas) != 2:
        raise UserError(f"optim.betas must be two numbers, not {optim.betas}.")
    return rate_scale(optim)


def rate_scale(optim: OptimConfig) -> Callable[[int], float]:
    """The learning rate of step n (from 0) as a fraction of ``optim.lr``.

    It rises linearly over ``warmup`` steps, then is constant or falls along half a cosine to
    ``floor`` at ``decay_steps``, where it stays.

    Raises:
        UserError: an unknown schedule, or a cosine without its end.
    """
    schedules = ("constant", "cosine")
    if optim.schedule not in schedules:
        raise UserError(f"No schedule '{optim.schedule}'.{did_you_mean(optim.schedule, schedules)}")
    end, warmup = optim.decay_steps, optim.warmup
    if optim.schedule == "cosine" and (end is None or end <= warmup):
        raise UserError("optim.schedule=cosine needs optim.decay_steps, larger than optim.warmup.")

    def scale(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if optim.schedule == "constant" or end is None:
            return 1.0
        progress = min(1.0, (step - warmup) / (end - warmup))
        return optim.floor + (1 - optim.floor) * (1 + math.cos(math.pi * progress)) / 2

    return scale
