"""Wilcoxon's signed-rank test of paired values, such as those of one clip under two conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import wilcoxon

MIN_PAIRS = 6
"""Of fewer pairs all differences have one sign by chance in more than 1 of 20 cases."""


class SignedRank(NamedTuple):
    """Median difference; two-sided p value or None; pairs whose values differ."""

    median: float
    p: float | None
    differ: int


def signed_rank(first: Sequence[float], second: Sequence[float]) -> SignedRank:
    """Compare paired values (Wilcoxon 1945).

    Pairs without a difference are left out of the test, as Wilcoxon does, but not of the median.
    With fewer than ``MIN_PAIRS`` that differ there is no p value: it could not fall below .05.

    Args:
        first: (n,) finite values.
        second: (n,), of the same pairs in the same order.

    Returns:
        The median of first - second, the p value of scipy's test, and how many pairs it is of.

    Raises:
        ValueError: no pairs, or the lengths differ.
    """
    if not len(first) or len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values are no pairs")
    differences = np.subtract(first, second, dtype=np.float64)
    apart = differences[differences != 0]
    p = float(wilcoxon(apart).pvalue) if len(apart) >= MIN_PAIRS else None
    return SignedRank(float(np.median(differences)), p, len(apart))
