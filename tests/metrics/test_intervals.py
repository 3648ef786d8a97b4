import math

import numpy as np
import pytest

from metrics.intervals import bootstrap_mean, jackknife


def test_bootstrap_covers_the_mean_and_ignores_order():
    values = np.random.default_rng(1).normal(5, 2, 400)
    low, high = bootstrap_mean(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15)
    assert bootstrap_mean(values[::-1]) == (low, high)
    assert bootstrap_mean([*values, math.nan]) == (low, high)
    assert bootstrap_mean([1.0, math.nan]) is None


def test_jackknife_of_a_mean_is_the_usual_interval():
    values = np.random.default_rng(1).normal(5, 2, 40)
    left_out = [np.delete(values, i).mean() for i in range(40)]
    low, high = jackknife(values.mean(), left_out)
    error = values.std(ddof=1) / math.sqrt(40)
    assert (high - low) / 2 == pytest.approx(2.0227 * error, rel=1e-4)
    assert (high + low) / 2 == pytest.approx(values.mean())
    assert jackknife(1.0, [1.0, 2.0]) is None
    assert jackknife(1.0, [1.0, 2.0, math.nan]) is None
