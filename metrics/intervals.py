"""Confidence intervals: bootstrap over clips for means, jackknife for Frechet distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Interval = tuple[float, float]


def bootstrap_mean(
    values: Sequence[float], confidence: float = 0.95, draws: int = 1000, seed: int = 0
) -> Interval | None:
    """Percentile bootstrap interval of the mean over clips.

    Values are sorted first, so that the interval does not depend on their order. NaN are left
    out. None with fewer than two values.
    """
    return bootstrap([(v,) for v in values], lambda means: means[:, 0], confidence, draws, seed)


def bootstrap(
    clips: Sequence[Sequence[float]],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    confidence: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Interval | None:
    """Percentile bootstrap interval of a function of several means over the same clips.

    Clips are drawn whole, so what belongs to one clip stays together: the interval of a difference
    between two methods is narrower than their own intervals tell where both find the same clips
    hard.

    Args:
        clips: (n, k) values; a clip with a NaN among them is left out. Their order does not matter.
        statistic: from the means (draws, k) to (draws,).
        confidence: of the interval.
        draws: how often n clips are drawn.
        seed: of the draws.

    Returns:
        The interval, or None with fewer than two clips.
    """
    table = np.array([c for c in clips if not any(map(math.isnan, c))], np.float64)
    if len(table) < 2:
        return None
    table = table[np.lexsort(table.T[::-1])]
    random = np.random.default_rng(seed)
    picks = random.integers(len(table), size=(draws, len(table)))
    means = np.stack([column[picks].mean(1) for column in table.T], 1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistic(means), [tail, 1 - tail])
    return float(low), float(high)


def jackknife(value: float, left_out: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Interval around ``value`` from the values with one group of clips left out at a time.

    The standard error is sqrt((g - 1) / g * sum (x - mean x)^2) over g groups (Efron and Tibshirani
    1993, ch. 11), times Student's quantile with g - 1 degrees of freedom. A bootstrap would not do
    for a Frechet distance: repeated samples bias it upwards. None with fewer than three groups.
    """
    groups = len(left_out)
    if groups < 3 or not np.isfinite([value, *left_out]).all():
        return None
    scatter = float(np.square(np.subtract(left_out, np.mean(left_out))).sum())
    error = math.sqrt((groups - 1) / groups * scatter)
    reach = float(student.ppf((1 + confidence) / 2, groups - 1)) * error
    return value - reach, value + reach
