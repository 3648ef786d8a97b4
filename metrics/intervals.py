"""Confidence intervals: bootstrap over clips for means, jackknife for Frechet distances."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student


def bootstrap_mean(
    values: Sequence[float], confidence: float = 0.95, draws: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean over clips.

    Values are sorted first, so that the interval does not depend on their order. NaN are left
    out. None with fewer than two values.
    """
    defined = np.sort([v for v in values if not math.isnan(v)])
    if len(defined) < 2:
        return None
    picks = np.random.default_rng(seed).integers(len(defined), size=(draws, len(defined)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined[picks].mean(1), [tail, 1 - tail])
    return float(low), float(high)


def jackknife(
    figure: float, left_out: Sequence[float], confidence: float = 0.95
) -> tuple[float, float] | None:
    """Interval around ``figure`` from the figures with one group of clips left out at a time.

    The standard error is sqrt((g - 1) / g * sum (x - mean x)^2) over g groups (Efron and Tibshirani
    1993, ch. 11), times Student's quantile with g - 1 degrees of freedom. A bootstrap would not do
    for a Frechet distance: repeated samples bias it upwards. None with fewer than three groups.
    """
    groups = len(left_out)
    if groups < 3 or not np.isfinite([figure, *left_out]).all():
        return None
    scatter = float(np.square(np.subtract(left_out, np.mean(left_out))).sum())
    error = math.sqrt((groups - 1) / groups * scatter)
    reach = float(student.ppf((1 + confidence) / 2, groups - 1)) * error
    return figure - reach, figure + reach
