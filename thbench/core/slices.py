"""Splitting ranges into slices."""

from __future__ import annotations

from collections.abc import Iterator


def iterate_slices(n: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` elements that cover range(n)."""
    for a in range(0, n, size):
        yield slice(a, min(a + size, n))
