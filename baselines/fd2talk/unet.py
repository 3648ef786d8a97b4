"""FD2Talk's U-Net over latents, with two cross-attentions in every block (section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from thbench.nn import input_init
from thbench.nn.unet3d import sinusoid
from thbench.nn.zero_init import zero_init


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Sizes of ``UNet``; the defaults are LDM's for f = 4 (Rombach et al. 2022) on three levels.

    Attributes:
        dim, mults: channels at the levels are ``dim`` times ``mults``.
        blocks: per level on the way down; one more on the way up.
        head_dim: channels of a head of the cross-attentions.
        groups: of the group norms.
    """

    dim: int = 224
    mults: Sequence[int] = (1, 2, 3)
    blocks: int = 2
    head_dim: int = 32
    groups: int = 32


class CrossAttention(nn.Module):
    """From pixels to tokens. Tokens that all images share are projected once.

    Args:
        dim: channels of the pixels.
        width: of the tokens.
        head_dim: channels of a head.
    """

    def __init__(self, dim: int, width: int, head_dim: int) -> None:
        super().__init__()
        self.heads = max(1, dim // head_dim)
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(width, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Pixels (N, P, dim) and tokens (N or 1, S, width) to the pixels, residual added."""
        q = self._split(self.to_q(self.norm(x)))
        k, v = (self._split(part) for part in self.to_kv(tokens).chunk(2, dim=-1))
        k, v = (part.expand(len(q), -1, -1, -1) for part in (k, v))
        made = F.scaled_dot_product_attention(q, k, v)
        return x + self.to_out(made.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Conditioned(nn.Module):
    """phi_1 and phi_2 (eqs. 6 and 7) one after the other, then a feed-forward layer.

    Args:
        dim: channels of the pixels.
        width: of the tokens.
        head_dim: channels of a head.
        groups: of the group norm.
        kinds: attentions in a row: two, or one over joined conditions (Table 2).
    """

    def __init__(self, dim: int, width: int, head_dim: int, groups: int, kinds: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, dim)
        self.entry = nn.Linear(dim, dim)
        self.attend = nn.ModuleList(CrossAttention(dim, width, head_dim) for _ in range(kinds))
        for attend in list(self.attend)[1:]:
            # Over the reference, a long sequence, attention at first is an average.
            assert isinstance(attend, CrossAttention)
            input_init.unit_gain(attend.to_kv, slice(dim, None))
            input_init.unit_gain(attend.to_out)
        self.norm_feed = nn.LayerNorm(dim)
        self.feed = FeedForward(dim, mult=2, activation_fn="geglu")
        self.exit = zero_init(nn.Linear(dim, dim))

    def forward(self, x: Tensor, conditions: Sequence[Tensor]) -> Tensor:
        """(N, dim, h, w) to the same; ``conditions`` are tokens, one tensor per attention."""
        tokens = self.entry(self.norm(x).flatten(2).transpose(1, 2))
        for attend, condition in zip(self.attend, conditions, strict=True):
            tokens = attend(tokens, condition)
        tokens = tokens + self.feed(self.norm_feed(tokens))
        return x + self.exit(tokens).transpose(1, 2).unflatten(-1, x.shape[-2:])


class Block(nn.Module):
    """A residual block that time shifts, then the conditions."""

    def __init__(self, dim_in: int, dim: int, time: int, groups: int, **attention: int) -> None:
        super().__init__()
        self.residual = ResnetBlock2D(
            in_channels=dim_in, out_channels=dim, temb_channels=time, groups=groups
        )
        self.conditioned = Conditioned(dim, groups=groups, **attention)

    def forward(self, x: Tensor, time: Tensor, conditions: Sequence[Tensor]) -> Tensor:
        """(N, dim_in, h, w) with time (N, 4 dim) and tokens to (N, dim, h, w)."""
        return self.conditioned(self.residual(x, time), conditions)


class UNet(nn.Module):
    """Levels of ``Block``, on the way down, in the middle and on the way up.

    Args:
        inputs, outputs: channels.
        width: of the tokens.
        kinds: cross-attentions in a row, see ``Conditioned``.
        config: sizes of the network.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int, kinds: int, config: UNetConfig
    ) -> None:
        super().__init__()
        dim, mults, blocks, groups = config.dim, config.mults, config.blocks, config.groups
        attention = {"width": width, "head_dim": config.head_dim, "kinds": kinds}
        self.dim, time = dim, 4 * dim
        self.time = TimestepEmbedding(dim, time)
        self.stem = nn.Conv2d(inputs, dim, 3, padding=1)

        def block(dim_in: int, dim_out: int) -> Block:
            return Block(dim_in, dim_out, time, groups, **attention)

        widths, skips, now = [dim * m for m in mults], [dim], dim
        self.down = nn.ModuleList()
        for level, out in enumerate(widths):
            for _ in range(blocks):
                self.down.append(block(now, out))
                now = out
                skips.append(now)
            if level < len(widths) - 1:
                self.down.append(Downsample2D(now, use_conv=True))
                skips.append(now)
        self.middle = nn.ModuleList([block(now, now), block(now, now)])
        self.up = nn.ModuleList()
        for level, out in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(block(now + skips.pop(), out))
                now = out
            if level:
                self.up.append(Upsample2D(now, use_conv=True))
        self.norm = nn.GroupNorm(groups, dim)
        self.head = zero_init(nn.Conv2d(dim, outputs, 3, padding=1))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        conditions: Sequence[Tensor],
        places: Tensor,
        with_time: Tensor | float = 0.0,
    ) -> Tensor:
        """(N, inputs, h, w) at levels ``t`` (N,) to (N, outputs, h, w).

        ``places`` (1, dim, h, w) tell where a pixel is, or it could not look at the same place, or
        one beside it, in the reference. ``with_time`` (N, 4 dim) is added to the embedded noise
        levels.
        """
        time = self.time(sinusoid(t, self.dim).to(self.stem.weight.dtype)) + with_time
        x = self.stem(x) + places
        kept = [x]
        for layer in self.down:
            x = layer(x, time, conditions) if isinstance(layer, Block) else layer(x)
            kept.append(x)
        for layer in self.middle:
            x = layer(x, time, conditions)
        for layer in self.up:
            if isinstance(layer, Block):
                x = layer(torch.cat([x, kept.pop()], dim=1), time, conditions)
            else:
                x = layer(x)
        return self.head(F.silu(self.norm(x)))
