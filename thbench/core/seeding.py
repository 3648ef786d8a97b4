"""Seeds and noise as functions of their purpose, not of the order in which they are drawn."""

from __future__ import annotations

import hashlib

import torch

from thbench.core.types import Request


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2^63) from any values: equal parts give equal seeds on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def noise_generator(request: Request, *parts: object) -> torch.Generator:
    """A request's noise generator for a purpose, independent of order, devices and batch."""
    return torch.Generator().manual_seed(derive_seed(request.seed, request.id, *parts))
