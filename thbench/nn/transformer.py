"""Transformer layers over frames: RoPE by true frame indices, local attention."""

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

    def forward(self, x: Tensor, memory: Tensor, local_mask: LocalMask) -> Tensor:
        """Queries ``x`` and keys ``memory``, both (B, T, dim)."""
        parts = torch.cat([self.to_q(x), self.to_kv(memory)], dim=-1)
        heads = parts.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)[:, :, None]
        q, k = (rope(part, local_mask.positions) for part in heads[:2])
        made = local_attention(q, k, heads[2], local_mask)[:, 0]
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
        local_mask: LocalMask,
        memory: Tensor | None = None,
        memory_mask: LocalMask | None = None,
    ) -> Tensor:
        """(B, T, dim) to the same.

        Args:
            x: (B, T, dim).
            local_mask: which frames see each other.
            memory: (B, T, dim), what ``x`` attends to with ``cross``.
            memory_mask: which frames of the memory a frame sees; ``local_mask`` where not given.
        """
        for attend, norm in zip(self.attend, self.norms, strict=False):
            y = norm(x)
            own = attend is self.attend[0]
            x = x + self.drop(
                attend(y, y if own else memory, local_mask if own else memory_mask or local_mask)
            )
        return x + self.drop(self.feed(self.norms[-1](x)))


def transformer_layers(dim: int, *, cross: bool, depth: int, **options: Any) -> nn.ModuleList:
    """``depth`` transformer layers; ``options`` are those of ``Layer``."""
    return nn.ModuleList(Layer(dim, cross=cross, **options) for _ in range(depth))
