"""A U-Net over frames: convolutions in space, attention in time, a noise level for each frame.

Ho et al. (2022), "Video Diffusion Models", with the conditioning of DAWN (2024), section 3.3.
Convolutions and group norms see one frame at a time, so that neither the length of a clip nor the
noise levels of other frames change what happens inside a frame; only attention crosses time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from thbench.core.errors import UserError
from thbench.nn.attention import (
    LocalMask,
    SpatialAttention,
    SpatialLinearAttention,
    TemporalAttention,
)

GROUPS = 8
"""Groups of every group norm over feature maps."""


@dataclass(frozen=True, kw_only=True)
class UNet3DConfig:
    """Sizes of ``UNet3D``; the defaults are DAWN's.

    Attributes:
        dim, mults: channels at the levels are ``dim`` times ``mults``.
        heads, head_dim: of all attentions: in time, in space and to the conditions.
        stem: side of the first convolutions' kernels, odd.
        modulate: conditions also scale and shift the residual blocks, as the noise level does. They
            are heard sooner so than by attention alone, which the paper has.
    """

    dim: int = 64
    mults: Sequence[int] = (1, 2, 4, 8)
    heads: int = 8
    head_dim: int = 32
    stem: int = 7
    modulate: bool = False


def sinusoid(t: Tensor, dim: int) -> Tensor:
    """Sines and cosines of noise levels: (...) to (..., dim), float32."""
    half = dim // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / (half - 1))
    angles = t[..., None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class TokenAttention(nn.Module):
    """Cross-attention from the pixels of a frame to one token per kind of condition.

    Each kind has its own attention over its token and a learned null; the outputs are summed. A
    softmax over two scores is the logistic of their difference, and queries and outputs are linear,
    so all of it reduces to one direction in channel space per head for the score and one for the
    output: a pixel costs 2 x heads x channels instead of 2 x heads x head_dim x channels.

    Args:
        dim: channels of the pixels.
        kinds: width of the token by kind.
        heads, head_dim: of each kind's attention.
    """

    def __init__(self, dim: int, kinds: Mapping[str, int], heads: int, head_dim: int) -> None:
        super().__init__()
        inner = heads * head_dim
        self.kinds, self.heads, self.head_dim = tuple(kinds), heads, head_dim
        self.norm = nn.GroupNorm(1, dim)
        self.to_q = nn.ModuleDict({k: nn.Linear(dim, inner, bias=False) for k in kinds})
        self.to_kv = nn.ModuleDict(
            {k: nn.Linear(width, 2 * inner, bias=False) for k, width in kinds.items()}
        )
        self.null = nn.ParameterDict({k: nn.Parameter(torch.randn(2, inner) * 0.02) for k in kinds})
        self.to_out = nn.ModuleDict({k: nn.Linear(inner, dim, bias=False) for k in kinds})

    def forward(self, x: Tensor, tokens: Mapping[str, Tensor], keep: Tensor) -> Tensor:
        """What to add to ``x``.

        Args:
            x: (N, C, h, w).
            tokens: (N, width) by kind.
            keep: (N,) bool; False leaves only the null token.
        """
        scores, values, base = zip(
            *(self._directions(k, tokens[k]) for k in self.kinds), strict=True
        )
        pixels = self.norm(x).flatten(2)
        gate = torch.sigmoid(torch.cat(scores, dim=1) @ pixels) * keep[:, None, None]
        made = torch.cat(values, dim=1).transpose(1, 2) @ gate
        constant = torch.stack(base).sum(0)[:, None]
        return (made + constant).unflatten(-1, x.shape[-2:])

    def _directions(self, kind: str, token: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, heads, C) for scores and for outputs, and the output (C,) of the null alone."""
        shape = (-1, self.heads, self.head_dim)
        key, value = self.to_kv[kind](token).chunk(2, dim=-1)
        null_key, null_value = self.null[kind]
        q = weight(self.to_q[kind]).view(self.heads, self.head_dim, -1)
        out = weight(self.to_out[kind])
        split = out.view(-1, self.heads, self.head_dim)
        score = torch.einsum("nhd,hdc->nhc", (key - null_key).view(shape), q.to(key.dtype))
        made = torch.einsum("nhd,chd->nhc", (value - null_value).view(shape), split.to(key.dtype))
        return score * self.head_dim**-0.5, made, out @ null_value


def weight(layer: nn.Module) -> Tensor:
    """Of a linear layer."""
    assert isinstance(layer, nn.Linear)
    return layer.weight


class ResidualBlock(nn.Module):
    """Two convolutions; time scales and shifts the first, then it attends to the conditions."""

    def __init__(
        self, dim_in: int, dim_out: int, time_dim: int, attend: TokenAttention | None
    ) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, 2 * dim_out))
        self.conv1 = nn.Conv2d(dim_in, dim_out, 3, padding=1)
        self.norm1 = nn.GroupNorm(GROUPS, dim_out)
        self.attend = attend
        self.conv2 = nn.Conv2d(dim_out, dim_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, dim_out)
        self.act = nn.SiLU()
        self.skip = nn.Conv2d(dim_in, dim_out, 1) if dim_in != dim_out else nn.Identity()

    def forward(
        self, x: Tensor, time: Tensor, tokens: Mapping[str, Tensor], keep: Tensor
    ) -> Tensor:
        """(N, C, h, w) with ``time`` (N, time_dim) to (N, dim_out, h, w)."""
        scale, shift = self.time(time)[:, :, None, None].chunk(2, dim=1)
        h = self.act(self.norm1(self.conv1(x)) * (1 + scale) + shift)
        if self.attend is not None:
            h = h + self.attend(h, tokens, keep)
        return self.act(self.norm2(self.conv2(h))) + self.skip(x)


class Level(nn.Module):
    """Two residual blocks, attention in space, attention in time."""

    def __init__(
        self, blocks: Sequence[ResidualBlock], space: nn.Module, time: TemporalAttention
    ) -> None:
        super().__init__()
        self.blocks, self.space, self.time = nn.ModuleList(blocks), space, time

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        tokens: Mapping[str, Tensor],
        keep: Tensor,
        local_mask: LocalMask,
    ) -> Tensor:
        """(N, C, h, w), N = B * T in that order."""
        first, second = self.blocks
        x = second(first(x, time, tokens, keep), time, tokens, keep)
        return over_time(self.time, self.space(x), local_mask)


class Middle(Level):
    """Residual block, attention in space, attention in time, residual block."""

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        tokens: Mapping[str, Tensor],
        keep: Tensor,
        local_mask: LocalMask,
    ) -> Tensor:
        """(N, C, h, w), N = B * T in that order, to the same."""
        first, second = self.blocks
        x = over_time(self.time, self.space(first(x, time, tokens, keep)), local_mask)
        return second(x, time, tokens, keep)


def over_time(attention: TemporalAttention, x: Tensor, local_mask: LocalMask) -> Tensor:
    """Run temporal attention on frames (B * T, C, h, w)."""
    t = local_mask.positions.shape[1]
    return attention(x.unflatten(0, (-1, t)), local_mask).flatten(0, 1)


class UNet3D(nn.Module):
    """The denoising network.

    What does not change over a clip (the portrait's features, the face mask) enters through
    ``stem_static``, once per clip: a convolution of concatenated channels is the sum of the
    convolutions of its parts.

    Args:
        channels: of the noisy latent, and of the output.
        static: channels of what is constant over frames.
        kinds: width of the condition token by kind.
        config: sizes of the network.

    Raises:
        UserError: a stem of an even side.
    """

    def __init__(
        self,
        channels: int,
        static: int,
        kinds: Mapping[str, int],
        config: UNet3DConfig,
    ) -> None:
        super().__init__()
        dim, heads, head_dim = config.dim, config.heads, config.head_dim
        self.dim, self.depth, self.kinds = dim, len(config.mults), tuple(kinds)
        time_dim = 4 * dim
        dims = [dim, *(dim * m for m in config.mults)]

        def block(a: int, b: int, conditioned: bool = True) -> ResidualBlock:
            attend = None
            if conditioned and kinds:
                attend = TokenAttention(b, kinds, heads, head_dim)
            return ResidualBlock(a, b, time_dim, attend)

        def level(a: int, b: int) -> Level:
            space = SpatialLinearAttention(b, heads, head_dim)
            return Level([block(a, b), block(b, b)], space, temporal(b))

        def temporal(c: int) -> TemporalAttention:
            return TemporalAttention(c, heads, head_dim)

        self.time = nn.Sequential(
            nn.Linear(dim, time_dim), nn.GELU(), nn.Linear(time_dim, time_dim)
        )
        self.modulate: nn.Sequential | None = None
        if config.modulate and kinds:
            entry = nn.Linear(sum(kinds.values()), time_dim)
            self.modulate = nn.Sequential(entry, nn.SiLU(), nn.Linear(time_dim, time_dim))
        if config.stem % 2 == 0:
            raise UserError(f"stem must be odd, not {config.stem}.")
        side, padding = config.stem, config.stem // 2
        self.stem = nn.Conv2d(channels, dim, side, padding=padding)
        self.stem_static = nn.Conv2d(static, dim, side, padding=padding, bias=False)
        self.stem_time = temporal(dim)
        ends = list(pairwise(dims))
        self.down = nn.ModuleList(level(a, b) for a, b in ends)
        self.shrink = nn.ModuleList(nn.Conv2d(b, b, 4, 2, 1) for _, b in ends[:-1])
        self.middle = Middle(
            # Without conditions here the size is the published one; all around it has them.
            [block(dims[-1], dims[-1], conditioned=False) for _ in range(2)],
            SpatialAttention(dims[-1], heads, head_dim),
            temporal(dims[-1]),
        )
        self.up = nn.ModuleList(level(2 * b, a) for a, b in reversed(ends))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(a, a, 4, 2, 1) for a, _ in reversed(ends[1:]))
        self.last = block(2 * dim, dim)
        self.head = nn.Conv2d(dim, channels, 1)

    def forward(
        self,
        noisy: Tensor,
        t: Tensor,
        static: Tensor,
        tokens: Mapping[str, Tensor],
        keep: Tensor,
        local_mask: LocalMask,
    ) -> Tensor:
        """The prediction.

        Args:
            noisy: (B, channels, T, h, w); h and w divide by 2 at each level but the last.
            t: (B, T) noise levels.
            static: (B or 1, dim, h, w), ``stem_static`` of the clip's constant channels.
            tokens: (B, T, width) by kind.
            keep: (B, T) bool; False hides the conditions of a frame.
            local_mask: of these frames.
        """
        b, _, n = noisy.shape[:3]
        time = self.time(sinusoid(t, self.dim)).flatten(0, 1)
        flat = {kind: token.flatten(0, 1) for kind, token in tokens.items()}
        kept = keep.flatten()
        if self.modulate is not None:
            seen = torch.cat([flat[kind] for kind in self.kinds], dim=-1)
            time = time + self.modulate(seen) * kept[:, None]
        frames = noisy.transpose(1, 2).flatten(0, 1)
        x = self.stem(frames).unflatten(0, (b, n)) + static[:, None]
        x = first = over_time(self.stem_time, x.flatten(0, 1), local_mask)
        skips = []
        for i, level in enumerate(self.down):
            x = level(x, time, flat, kept, local_mask)
            skips.append(x)
            if i < self.depth - 1:
                x = self.shrink[i](x)
        x = self.middle(x, time, flat, kept, local_mask)
        for i, level in enumerate(self.up):
            x = level(torch.cat([x, skips.pop()], dim=1), time, flat, kept, local_mask)
            if i < self.depth - 1:
                x = self.grow[i](x)
        x = self.head(self.last(torch.cat([x, first], dim=1), time, flat, kept))
        return x.unflatten(0, (b, n)).transpose(1, 2)
