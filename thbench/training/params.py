"""Parameters of every part of a strategy, counted without memory for a single weight."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from thbench import config as configs
from thbench.core.errors import UserError
from thbench.core.plugins import blame
from thbench.data.embedding.cache import kind_of
from thbench.data.embedding.encoders import ENCODERS
from thbench.training.runs import build_stage, order

TOTAL = "total"
OWN = "(own)"
"""Parameters of a network outside its named parts."""


def build(strategy: str, scale: str) -> dict[str, nn.Module]:
    """The networks of all stages that roles need, by stage, on the meta device.

    Args:
        strategy: a name in configs/strategy, or a YAML file.
        scale: one that the strategy has, with the audio encoder that the strategy's YAML names.
    """
    loaded = configs.load(strategy, [f"scale={scale}"])
    encoder = ENCODERS.load(kind_of(loaded.data.audio))
    nets: dict[str, nn.Module] = {}
    with torch.device("meta"):
        for name in order(loaded):
            stage = loaded.stages[name]
            needs = {need: nets[need] for need in stage.needs}
            nets[name] = build_stage(loaded, name, needs, encoder.default_dim).net
    return nets


def count(strategy: str, scale: str) -> dict[str, dict[str, int]]:
    """Parameters by role and named part of its network, with ``total``; no empty parts."""
    nets = build(strategy, scale)
    roles: Mapping[str, str] = configs.load(strategy, [f"scale={scale}"]).nets
    return {role: count_parts(nets[stage]) for role, stage in roles.items()}


def count_parts(net: nn.Module) -> dict[str, int]:
    """Parameters of a network's children by name, its own, and ``total``."""
    parts = {name: _size(child) for name, child in net.named_children()}
    parts[OWN] = sum(p.numel() for p in net.parameters(recurse=False))
    return {**{name: n for name, n in parts.items() if n}, TOTAL: _size(net)}


def table() -> list[tuple[str, ...]]:
    """Rows of all strategies: strategy, role, part, and its parameters at each scale.

    Where a strategy has no such scale, or the scale no such part, stands ``-``.
    """
    rows: list[tuple[str, ...]] = [("strategy", "role", "part", *configs.SCALES)]
    for strategy in configs.names("strategy"):
        try:
            with blame(configs.package_of(strategy), f"strategy '{strategy}'"):
                counts = {scale: count(strategy, scale) for scale in configs.scales(strategy)}
        except UserError as error:
            rows.append((strategy, f"unusable: {error}", "", *("" for _ in configs.SCALES)))
            continue
        roles = dict.fromkeys(role for found in counts.values() for role in found)
        for role in roles:
            found = [counts.get(scale, {}).get(role, {}) for scale in configs.SCALES]
            names = dict.fromkeys(name for parts in found for name in parts if name != TOTAL)
            for part in (*names, TOTAL):
                sizes = (f"{parts[part]:,}" if part in parts else "-" for parts in found)
                rows.append((strategy, role, part, *sizes))
    return rows


def _size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())
