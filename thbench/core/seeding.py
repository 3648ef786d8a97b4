"""Seeds and noise as functions of what they are for, not of the order in which they are drawn."""

from __future__ import annotations

import hashlib

import torch

from thbench.core.types import Request


def derive_seed(*parts: object) -> int:
    """A seed below 2^63 from any values: equal parts give equal seeds on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def noise_generator(request: Request, *parts: object) -> torch.Generator:
    """The request's own source of noise, independent of order, device count and batch."""
    return torch.Generator().manual_seed(derive_seed(request.seed, request.id, *parts))
