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
import torch.nn.functional as F
from torch import Tensor, nn

from thbench.core.errors import UserError
from thbench.nn.attention import (
    ChannelNorm,
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
        cosine: conditions are attended to as in DAWN's released code: ``CosineAttention`` from a
            block's input, in place of ``TokenAttention`` from its first convolution.
        middle: as there, both blocks in the middle are conditioned, and the last block neither by
            conditions nor by the noise level.
        one_bias: as there, all attentions in time share one relative bias.
        early_skip: as there, the outermost skip is taken before the first attention in time.
        over_clip: as there, group norms take the frames of a call together.
        per_pixel: as there, attentions over space take a norm of each pixel, not of the frame.
        split: as there, output channels come from heads of their own with a block of their own
            each, such as ``[2, 1]`` for flow and occlusion; None for one head.
    """

    dim: int = 64
    mults: Sequence[int] = (1, 2, 4, 8)
    heads: int = 8
    head_dim: int = 32
    stem: int = 7
    modulate: bool = False
    cosine: bool = False
    middle: bool = False
    one_bias: bool = False
    early_skip: bool = False
    over_clip: bool = False
    per_pixel: bool = False
    split: Sequence[int] | None = None


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


class CosineAttention(nn.Module):
    """Cross-attention of DAWN's released code, from the pixels of a frame to its conditions.

    Each kind of condition has its own attention over its token and a learned null, both of whose
    keys are compared with the query by cosine similarity, times ``SIMILARITY`` and learned gains.
    Outputs are normalised per pixel, then summed. A token that is hidden is zero, as where the
    network was trained; the null is there always. A softmax over two scores is the logistic of
    their difference.

    Args:
        dim: channels of the pixels.
        dim_out: channels of the output.
        kinds: width of the token by kind.
    """

    SIMILARITY = 8.0
    HEADS, HEAD_DIM = 8, 8

    def __init__(self, dim: int, dim_out: int, kinds: Mapping[str, int]) -> None:
        super().__init__()
        inner, wide = self.HEADS * self.HEAD_DIM, 2 * dim_out
        self.kinds = tuple(kinds)
        self.embed = nn.ModuleDict(
            {k: nn.Sequential(nn.SiLU(), nn.Linear(width, wide)) for k, width in kinds.items()}
        )
        self.norm = nn.ModuleDict({k: ChannelNorm(dim) for k in kinds})
        self.to_q = nn.ModuleDict({k: nn.Linear(dim, inner, bias=False) for k in kinds})
        self.to_kv = nn.ModuleDict({k: nn.Linear(wide, 2 * inner, bias=False) for k in kinds})
        self.null = nn.ParameterDict(
            {k: nn.Parameter(torch.randn(2, self.HEAD_DIM)) for k in kinds}
        )
        self.gain = nn.ParameterDict({k: nn.Parameter(torch.ones(2, self.HEAD_DIM)) for k in kinds})
        self.to_out = nn.ModuleDict({k: nn.Linear(inner, dim_out, bias=False) for k in kinds})
        self.norm_out = nn.ModuleDict({k: ChannelNorm(dim_out) for k in kinds})

    def forward(self, x: Tensor, tokens: Mapping[str, Tensor], keep: Tensor) -> Tensor:
        """What to add to the block, (N, dim_out, h, w).

        Args:
            x: (N, C, h, w).
            tokens: (N, width) by kind.
            keep: (N,) bool; False makes the tokens of a frame zero.
        """
        made = [self._attend(k, x, tokens[k] * keep[:, None]) for k in self.kinds]
        return torch.stack(made).sum(0)

    def _attend(self, kind: str, x: Tensor, token: Tensor) -> Tensor:
        heads = (self.HEADS, self.HEAD_DIM)
        pixels = self.norm[kind](x).flatten(2).transpose(1, 2)
        q = F.normalize(self.to_q[kind](pixels).unflatten(-1, heads), dim=-1)
        key, value = self.to_kv[kind](self.embed[kind](token)).unflatten(-1, (2, *heads)).unbind(1)
        null_key, null_value = self.null[kind]
        apart = F.normalize(key, dim=-1) - F.normalize(null_key, dim=-1)
        query_gain, key_gain = self.gain[kind]
        apart = self.SIMILARITY * query_gain * key_gain * apart
        gate = torch.sigmoid(torch.einsum("nphd,nhd->nph", q, apart))[..., None]
        seen = null_value + gate * (value - null_value)[:, None]
        made = self.to_out[kind](seen.flatten(2)).transpose(1, 2)
        return self.norm_out[kind](made.unflatten(-1, x.shape[-2:]))


class ResidualBlock(nn.Module):
    """Two convolutions; time scales and shifts the first, then it attends to the conditions.

    Args:
        dim_in, dim_out: channels.
        time_dim: width of the embedded noise level; None for a block that does not see it.
        attend: to the conditions: from the first convolution, or, by cosine, from the input.
        over_clip: group norms take the frames of a call together.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        time_dim: int | None,
        attend: TokenAttention | CosineAttention | None,
        over_clip: bool = False,
    ) -> None:
        super().__init__()
        self.over_clip = over_clip
        self.time: nn.Sequential | None = None
        if time_dim is not None:
            self.time = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, 2 * dim_out))
        self.conv1 = nn.Conv2d(dim_in, dim_out, 3, padding=1)
        self.norm1 = nn.GroupNorm(GROUPS, dim_out)
        self.attend = attend
        self.conv2 = nn.Conv2d(dim_out, dim_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, dim_out)
        self.act = nn.SiLU()
        self.skip = nn.Conv2d(dim_in, dim_out, 1) if dim_in != dim_out else nn.Identity()

    def forward(
        self, x: Tensor, time: Tensor, tokens: Mapping[str, Tensor], keep: Tensor, n: int
    ) -> Tensor:
        """(N, C, h, w) with ``time`` (N, time_dim) to (N, dim_out, h, w).

        Args:
            x: (N, C, h, w), ``n`` frames of one clip, then of the next.
            time: (N, time_dim).
            tokens: (N, width) by kind.
            keep: (N,) bool; False hides the conditions of a frame.
            n: frames of a clip.
        """
        h = self._normed(self.norm1, self.conv1(x), n)
        if self.time is not None:
            scale, shift = self.time(time)[:, :, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        h = self.act(h)
        if self.attend is not None:
            asks = x if isinstance(self.attend, CosineAttention) else h
            h = h + self.attend(asks, tokens, keep)
        return self.act(self._normed(self.norm2, self.conv2(h), n)) + self.skip(x)

    def _normed(self, norm: nn.GroupNorm, x: Tensor, n: int) -> Tensor:
        if not self.over_clip:
            return norm(x)
        return norm(x.unflatten(0, (-1, n)).transpose(1, 2)).transpose(1, 2).flatten(0, 1)


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
        n = local_mask.positions.shape[1]
        x = second(first(x, time, tokens, keep, n), time, tokens, keep, n)
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
        n = local_mask.positions.shape[1]
        x = over_time(self.time, self.space(first(x, time, tokens, keep, n)), local_mask)
        return second(x, time, tokens, keep, n)


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
        UserError: a stem of an even side, or a split that does not make up the channels.
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

        def block(a: int, b: int, conditioned: bool = True, timed: bool = True) -> ResidualBlock:
            attend: TokenAttention | CosineAttention | None = None
            if conditioned and kinds and config.cosine:
                attend = CosineAttention(a, b, kinds)
            elif conditioned and kinds:
                attend = TokenAttention(b, kinds, heads, head_dim)
            return ResidualBlock(a, b, time_dim if timed else None, attend, config.over_clip)

        def level(a: int, b: int) -> Level:
            space = SpatialLinearAttention(b, heads, head_dim, config.per_pixel)
            return Level([block(a, b), block(b, b)], space, temporal(b))

        shared: list[nn.Embedding] = []

        def temporal(c: int) -> TemporalAttention:
            made = TemporalAttention(c, heads, head_dim, bias=shared[0] if shared else None)
            if config.one_bias and not shared:
                shared.append(made.bias)
            return made

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
            [block(dims[-1], dims[-1], conditioned=config.middle) for _ in range(2)],
            SpatialAttention(dims[-1], heads, head_dim, config.per_pixel),
            temporal(dims[-1]),
        )
        self.up = nn.ModuleList(level(2 * b, a) for a, b in reversed(ends))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(a, a, 4, 2, 1) for a, _ in reversed(ends[1:]))
        self.early_skip = config.early_skip
        split = [channels] if config.split is None else list(config.split)
        if sum(split) != channels:
            raise UserError(f"split must make up {channels} output channels, not {split}.")
        ends_with = {"conditioned": not config.middle, "timed": not config.middle}
        self.last = block(2 * dim, dim, **ends_with)
        self.head = nn.Conv2d(dim, split[0], 1)
        self.more = nn.ModuleList(
            nn.ModuleList([block(2 * dim, dim, **ends_with), nn.Conv2d(dim, part, 1)])
            for part in split[1:]
        )

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
        x = before = x.flatten(0, 1)
        x = over_time(self.stem_time, x, local_mask)
        first = before if self.early_skip else x
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
        x = torch.cat([x, first], dim=1)
        heads = [(self.last, self.head), *self.more]
        x = torch.cat([head(last(x, time, flat, kept, n)) for last, head in heads], dim=1)
        return x.unflatten(0, (b, n)).transpose(1, 2)
