"""The modules that attend along time: AnimateDiff's (Guo et al. 2023), in diffusers' container."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import MotionAdapter
from torch import nn

from thbench.nn.zero_init import zero_init


def build_temporal(
    channels: Sequence[int], layers: int, *, heads: int, groups: int, longest: int, mid: bool
) -> nn.Module:
    """A module after each residual block, with the names of published motion modules.

    A new one leaves its input as it is: its last layers start at zero, as AnimateDiff's did.

    Args:
        channels: of the U-Net at each resolution.
        layers: residual blocks of the U-Net at each resolution.
        heads: of the modules' attentions.
        groups: of the modules' group norms.
        longest: most frames that a module attends over.
        mid: whether there is a module in the middle block.
    """
    adapter: Any = MotionAdapter(
        block_out_channels=tuple(channels),
        motion_layers_per_block=layers,
        motion_num_attention_heads=heads,
        motion_norm_num_groups=groups,
        motion_max_seq_length=longest,
        use_motion_mid_block=mid,
    )
    for module in in_order(adapter):
        if module is not None:
            zero_init(module.proj_out)  # type: ignore[type-var]
    return adapter  # type: ignore[no-any-return]


def in_order(adapter: Any) -> list[nn.Module | None]:
    """The modules in the order in which the U-Net's blocks run; None where there is none."""
    down = [m for block in adapter.down_blocks for m in block.motion_modules]
    middle = [None] if adapter.mid_block is None else list(adapter.mid_block.motion_modules)
    return [*down, *middle, *(m for block in adapter.up_blocks for m in block.motion_modules)]
