"""Transformer layers over frames: RoPE by true frame indices, attention inside a band."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from thbench.nn.attention import LocalMask, local_attention, rope


class Attention(nn.Module):
    """Multi-head attention over frames with RoPE, inside a band."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim)
        self.to_kv = nn.Linear(dim, 2 * dim)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor, band: LocalMask) -> Tensor:
        """Queries ``x`` and keys ``memory``, both (B, T, dim)."""
        parts = torch.cat([self.to_q(x), self.to_kv(memory)], dim=-1)
        heads = parts.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)[:, :, None]
        q, k = (rope(part, band.positions) for part in heads[:2])
        made = local_attention(q, k, heads[2], band)[:, 0]
        return self.to_out(made.transpose(1, 2).flatten(-2))


class Layer(nn.Module):
    """A transformer layer, normalised first; with ``cross`` it also attends to a memory."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, cross: bool) -> None:
        super().__init__()
        self.attend = nn.ModuleList(Attention(dim, heads) for _ in range(1 + cross))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 + cross))
        self.feed = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim)
        )
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        band: LocalMask,
        memory: Tensor | None = None,
        reach: LocalMask | None = None,
    ) -> Tensor:
        """(B, T, dim) to the same.

        Args:
            x: (B, T, dim).
            band: which frames see each other.
            memory: (B, T, dim), what ``x`` attends to with ``cross``.
            reach: which frames of the memory a frame sees; ``band`` where not given.
        """
        for attend, norm in zip(self.attend, self.norms, strict=False):
            y = norm(x)
            own = attend is self.attend[0]
            x = x + self.drop(attend(y, y if own else memory, band if own else reach or band))
        return x + self.drop(self.feed(self.norms[-1](x)))


def stack(dim: int, *, cross: bool, depth: int, **options: Any) -> nn.ModuleList:
    """``depth`` transformer layers; ``options`` are those of ``Layer``."""
    return nn.ModuleList(Layer(dim, cross=cross, **options) for _ in range(depth))
