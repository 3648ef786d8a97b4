"""The modules that attend along time: AnimateDiff's (Guo et al. 2023), in diffusers' container."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import MotionAdapter
from torch import Tensor, nn

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


def over_time(module: nn.Module, x: Tensor, frames: int, *, alone: bool = False) -> Tensor:
    """A module's output for feature maps (N, C, h, w) of clips of ``frames`` frames each.

    Args:
        module: one of ``build_temporal``'s.
        x: (N, C, h, w), clip after clip.
        frames: of a clip.
        alone: the group norm sees each frame alone, as in AnimateDiff's own code; diffusers' takes
            mean and variance over the whole clip.
    """
    part: Any = module
    if not alone:
        return part(x, num_frames=frames)  # type: ignore[no-any-return]
    rows = part.norm(x).unflatten(0, (-1, frames)).permute(0, 3, 4, 1, 2)
    y = part.proj_in(rows.flatten(0, 2))
    for block in part.transformer_blocks:
        y = block(y)
    y = part.proj_out(y).view(rows.shape).permute(0, 3, 4, 1, 2)
    return x + y.reshape(x.shape)


def in_order(adapter: Any) -> list[nn.Module | None]:
    """The modules in the order in which the U-Net's blocks run; None where there is none."""
    down = [m for block in adapter.down_blocks for m in block.motion_modules]
    middle = [None] if adapter.mid_block is None else list(adapter.mid_block.motion_modules)
    return [*down, *middle, *(m for block in adapter.up_blocks for m in block.motion_modules)]
