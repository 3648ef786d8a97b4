"""Attention over time, within a local window of frames, and over space.

Frames are placed by their true index in the clip, so that the same layers serve contiguous frames,
strided key frames and frames observed from elsewhere. A band of width w lets two frames see each
other where their true indices differ by at most w / 2. Since indices ascend, that is never further
apart in the sequence, so a block of queries needs its own keys and a halo of w / 2 on either
side: exact, and linear in the number of frames.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thbench.core.errors import UserError
from thbench.nn.input_init import unit_gain


@dataclass(frozen=True)
class LocalMask:
    """Who sees whom, worked out once and shared by all layers of a network.

    G is 1 where all windows of the batch have the same gaps between their frames, else B. Dense
    attention is one block.

    Attributes:
        positions: (G, T) float32, from 0.
        distance: (G, blocks, queries, keys) int64, key minus query.
        allowed: as ``distance``, bool.
        half: frames seen on either side, None where attention is dense.
    """

    positions: Tensor
    distance: Tensor
    allowed: Tensor
    half: int | None

    @property
    def blocks(self) -> int:
        return self.distance.shape[1]


def portrait_positions(frames: Tensor) -> Tensor:
    """Places for portraits among frames: each stands in for the frame before its successor.

    Args:
        frames: (B, T) int64, frame indices; negative for the portrait, which comes before the
            frames that it is observed for.

    Returns:
        (B, T) int64. Portraits in a row take successive places; indices of frames are unchanged.
    """
    n = frames.shape[1]
    index = torch.arange(n, device=frames.device).expand_as(frames)
    following = torch.where(frames < 0, n - 1, index).flip(1).cummin(1).values.flip(1)
    return frames.gather(1, following) - (following - index)


def local_attention_mask(
    positions: Tensor, window: int | None = None, device: torch.device | None = None
) -> LocalMask:
    """The band of ``window`` frames (half on either side) around each frame, or all frames.

    Args:
        positions: (B, T) int64, ascending; equal neighbours make attention dense, masked by
            distance.
        window: full width in frames, or None.
        device: where the attention will run; the positions' by default.

    Raises:
        ValueError: the positions do not ascend.
        UserError: a window below 2 frames.
    """
    device = device or positions.device
    places = positions.cpu()
    places = places - places[:, :1]
    if bool((places == places[:1]).all()):
        places = places[:1]
    gaps = places.diff(dim=1)
    if bool((gaps < 0).any()):
        raise ValueError("frames must be in ascending order")
    n = places.shape[1]
    if window is not None and window < 2:
        raise UserError(f"window must be 2 frames or more, or null for all, not {window}.")
    half = None if window is None else window // 2
    if half is None or n <= 3 * half or bool((gaps == 0).any()):
        distance = (places[:, None, :] - places[:, :, None])[:, None]
        allowed = torch.ones_like(distance, dtype=torch.bool)
        if half is not None:
            allowed = distance.abs() <= half
        half = None
    else:
        distance, allowed = _blocked(places, half)
    return LocalMask(places.float().to(device), distance.to(device), allowed.to(device), half)


def _blocked(places: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Distances and permissions for blocks of ``half`` queries and ``3 * half`` keys."""
    n = places.shape[1]
    far = torch.iinfo(torch.int32).max
    tail = -n % half
    queries = F.pad(places, (0, tail)).unflatten(1, (-1, half))
    keys = F.pad(places, (half, half + tail), value=far).unfold(1, 3 * half, half)
    distance = keys[:, :, None, :] - queries[..., None]
    allowed = distance.abs() <= half
    # A row without any key would be NaN, and poison the gradient although it is cut off.
    padding = torch.arange(n + tail).view(1, -1, half, 1) >= n
    return distance.clamp(-n, n), allowed | padding


def local_attention(
    q: Tensor, k: Tensor, v: Tensor, local_mask: LocalMask, bias: Tensor | None = None
) -> Tensor:
    """Softmax attention within a band.

    Args:
        q: (B, P, H, T, D); the P sequences of a window (its pixels) share their places in time.
        k: as ``q``.
        v: as ``q``.
        local_mask: from ``local_attention_mask``.
        bias: (G, H, blocks, queries, keys), added to the scores, or None.

    Returns:
        (B, P, H, T, D).
    """
    n = q.shape[3]
    mask = local_mask.allowed[:, None]
    if bias is not None:
        mask = bias.masked_fill(~mask, float("-inf")).to(q.dtype)
    mask = mask.expand(-1, q.shape[2], -1, -1, -1).flatten(1, 2)
    if local_mask.half is not None:
        q, k, v = _split(q, k, v, local_mask.half)
    parts = [(q, k, v)] if len(mask) == 1 else zip(*(x.split(1) for x in (q, k, v)), strict=True)
    made = []
    for part, seen in zip(parts, mask.split(1), strict=True):
        a, b, c = (x.flatten(0, 1) for x in part)
        made.append(F.scaled_dot_product_attention(a, b, c, attn_mask=seen))
    out = torch.cat(made).unflatten(0, q.shape[:2])
    out = out.unflatten(2, (-1, local_mask.blocks)).flatten(3, 4)
    return out[:, :, :, :n]


def _split(q: Tensor, k: Tensor, v: Tensor, half: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, P, H, T, D) to (B, P, H * blocks, ...) of queries, and of keys with their halo."""
    tail = -q.shape[3] % half
    q = F.pad(q, (0, 0, 0, tail)).unflatten(3, (-1, half)).flatten(2, 3)
    halo = [F.pad(x, (0, 0, half, half + tail)).unfold(3, 3 * half, half) for x in (k, v)]
    k, v = (x.transpose(-1, -2).flatten(2, 3) for x in halo)
    return q, k, v


def rope(x: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotary position encoding over the whole head dimension (Su et al. 2021).

    Args:
        x: (B, P, H, T, D), D even.
        positions: (G, T) float32, G = 1 or B.
        base: of the wavelengths.
    """
    half = x.shape[-1] // 2
    rates = base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = (positions[:, :, None] * rates)[:, None, None]
    cos, sin = angles.cos(), angles.sin()
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


def relative_bucket(distance: Tensor, buckets: int = 32, furthest: int = 32) -> Tensor:
    """Buckets of signed distances: half per sign, exact near 0, logarithmic to ``furthest``.

    Raffel et al. (2020), T5, bidirectional.
    """
    side = buckets // 2
    exact = side // 2
    size = distance.abs()
    log = (size.clamp(min=1).float() / exact).log() / math.log(furthest / exact)
    coarse = (exact + (log * (side - exact)).long()).clamp(max=side - 1)
    return torch.where(size < exact, size, coarse) + side * (distance > 0)


class TemporalAttention(nn.Module):
    """Each pixel attends to itself in other frames: RoPE, T5 relative bias, a band.

    Args:
        dim: channels.
        heads, head_dim: of the attention.
        buckets: of the relative bias, shared between heads only in their distances.
        furthest: distance from which on all distances share a bucket.
        bias: of another layer, which this one shares; it must be of as many heads and buckets.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        head_dim: int = 32,
        buckets: int = 32,
        furthest: int = 32,
        bias: nn.Embedding | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.buckets, self.furthest = heads, buckets, furthest
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, dim, bias=False)
        self.bias = nn.Embedding(buckets, heads) if bias is None else bias
        nn.init.zeros_(self.bias.weight)
        # At first attention averages over frames, and what a few of them say is faint.
        unit_gain(self.to_qkv, slice(-heads * head_dim, None))
        unit_gain(self.to_out)

    def forward(self, x: Tensor, local_mask: LocalMask) -> Tensor:
        """(B, T, C, h, w) to the same, with the residual added."""
        b, t, c, h, w = x.shape
        tokens = x.permute(0, 3, 4, 1, 2).reshape(b, h * w, t, c)
        qkv = self.to_qkv(self.norm(tokens)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)
        q, k = rope(q, local_mask.positions), rope(k, local_mask.positions)
        bucket = relative_bucket(local_mask.distance, self.buckets, self.furthest)
        bias = self.bias(bucket).permute(0, 4, 1, 2, 3)
        made = self.to_out(local_attention(q, k, v, local_mask, bias).transpose(2, 3).flatten(-2))
        return x + made.view(b, h, w, t, c).permute(0, 3, 4, 1, 2)


class ChannelNorm(nn.Module):
    """Each pixel's channels at mean 0 and deviation 1 times a gain: (N, C, h, w) to the same.

    Layer norm (Ba et al. 2016) of a pixel without an offset, where ``nn.GroupNorm(1, C)`` takes a
    frame's pixels together.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight)
        return normed.movedim(-1, 1)


class _OverPixels(nn.Module, ABC):
    """Attention over the pixels of a frame (N, C, h, w), residual added.

    Args:
        dim: channels.
        heads, head_dim: of the attention.
        per_pixel: the norm is a ``ChannelNorm``, not one over the frame.
    """

    def __init__(
        self, dim: int, heads: int = 8, head_dim: int = 32, per_pixel: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm: nn.Module = ChannelNorm(dim) if per_pixel else nn.GroupNorm(1, dim)
        self.to_qkv = nn.Conv2d(dim, 3 * heads * head_dim, 1, bias=False)
        self.to_out = nn.Conv2d(heads * head_dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to the same."""
        qkv = self.to_qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1))
        made = self.attend(*qkv.unbind(1))
        return x + self.to_out(made.flatten(1, 2).unflatten(-1, x.shape[-2:]))

    @abstractmethod
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(N, heads, head_dim, pixels) each, to the same."""


class SpatialLinearAttention(_OverPixels):
    """Attention over the pixels of a frame at linear cost (Shen et al. 2021), residual added."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        context = k.softmax(dim=-1) @ v.transpose(-1, -2)
        return context.transpose(-1, -2) @ (q.softmax(dim=-2) * q.shape[-2] ** -0.5)


class SpatialAttention(_OverPixels):
    """Full attention over the pixels of a frame, residual added."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (part.transpose(-1, -2) for part in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
