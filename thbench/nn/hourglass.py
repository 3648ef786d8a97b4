"""Convolution blocks and the hourglass of Siarohin et al. (MRAA, 2021; after Newell et al., 2016).

Where the originals have batch norm, these have group norm: as many parameters, but no state and no
dependence on the rest of the batch. So a frame decodes to the same image in any batch, small
batches and several devices train alike, and an average of weights needs no re-estimated statistics.
Batch norm is an option (``norm``) for weights that were trained with it.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thbench.core.errors import UserError

GROUP = 16
NORMS = ("group", "batch")


def normalise(channels: int, norm: str = "group") -> nn.Module:
    """A norm of feature maps.

    Args:
        channels: of the maps.
        norm: ``group``, over groups of 16 channels, or over all where 16 does not divide them; or
            ``batch``.

    Raises:
        UserError: no such norm.
    """
    if norm not in NORMS:
        raise UserError(f"norm must be one of {', '.join(NORMS)}, not '{norm}'.")
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(channels // GROUP if channels % GROUP == 0 else 1, channels)


class Same(nn.Sequential):
    """Convolution, norm, ReLU at constant resolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, norm: str = "group") -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2),
            normalise(outputs, norm),
            nn.ReLU(inplace=True),
        )


class Down(Same):
    """``Same``, then halving by means: (B, C, H, W) -> (B, C', H/2, W/2)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(super().forward(x), 2)


class Up(Same):
    """Doubling by repetition, then ``Same``: (B, C, H, W) -> (B, C', 2H, 2W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2, mode="nearest"))


class Residual(nn.Module):
    """``x + conv(relu(norm(conv(relu(norm(x))))))`` with 3x3 convolutions."""

    def __init__(self, channels: int, norm: str = "group") -> None:
        super().__init__()
        self.body = nn.Sequential(
            normalise(channels, norm),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            normalise(channels, norm),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Contraction(nn.Module):
    """The first half of an hourglass: ``blocks`` halvings with growing width.

    Width after block i is ``min(max_features, expansion * 2**(i+1))``.
    """

    def __init__(
        self, inputs: int, expansion: int, max_features: int, blocks: int, norm: str = "group"
    ) -> None:
        super().__init__()
        widths = [min(max_features, expansion * 2 ** (i + 1)) for i in range(blocks)]
        self.widths = [inputs, *widths]
        self.blocks = nn.ModuleList(Down(a, b, norm=norm) for a, b in pairwise(self.widths))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The input and what each block makes of it, finest first."""
        levels = [x]
        for block in self.blocks:
            levels.append(block(levels[-1]))
        return levels


class Hourglass(nn.Module):
    """Contraction and expansion with skips: (B, inputs, H, W) -> (B, outputs, H, W).

    ``outputs`` is ``expansion + inputs``: the last level is concatenated with the input itself.
    H and W must be divisible by ``2**blocks``.

    Args:
        inputs, expansion, max_features, blocks: see ``Contraction``.
        norm: see ``normalise``.
    """

    def __init__(
        self, inputs: int, expansion: int, max_features: int, blocks: int, norm: str = "group"
    ) -> None:
        super().__init__()
        self.contract = Contraction(inputs, expansion, max_features, blocks, norm)
        widths = [min(max_features, expansion * 2**i) for i in range(blocks + 1)]
        self.expand = nn.ModuleList(
            Up(widths[i + 1] * (1 if i == blocks - 1 else 2), widths[i], norm=norm)
            for i in reversed(range(blocks))
        )
        self.outputs = expansion + inputs

    def forward(self, x: Tensor) -> Tensor:
        levels = self.contract(x)
        x = levels.pop()
        for block in self.expand:
            x = torch.cat([block(x), levels.pop()], dim=1)
        return x
