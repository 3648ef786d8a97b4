import math

import numpy as np
import pytest

from metrics.intervals import bootstrap, bootstrap_mean, jackknife


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


def test_bootstrap_of_pairs_is_narrower_than_of_each_alone():
    rng = np.random.default_rng(0)
    hard = rng.normal(10, 5, 60)
    rows = [(h + 0.5, h + rng.normal(0, 0.5)) for h in hard]
    low, high = bootstrap(rows, lambda m: m[:, 0] - m[:, 1])
    assert 0 < low < 0.5 < high < 1
    alone = bootstrap_mean([a for a, _ in rows])
    assert high - low < 0.2 * (alone[1] - alone[0])
    assert bootstrap(rows[::-1], lambda m: m[:, 0] - m[:, 1]) == (low, high)
    assert bootstrap([*rows, (math.nan, 0.0)], lambda m: m[:, 0] - m[:, 1]) == (low, high)


def test_bootstrap_of_one_column_is_that_of_the_mean():
    values = [3.0, 1.0, 2.0, 7.0]
    assert bootstrap([(v,) for v in values], lambda m: m[:, 0]) == bootstrap_mean(values)
    assert bootstrap([(1.0, 2.0)], lambda m: m[:, 0]) is None
    assert bootstrap([], lambda m: m[:, 0]) is None


def test_confidence_draws_and_seed_are_as_told():
    values = np.random.default_rng(1).normal(5, 2, 400)
    low, high = bootstrap_mean(values, confidence=0.5)
    assert high - low == pytest.approx(2 * 0.6745 * 2 / 20, rel=0.15)
    once = bootstrap_mean(values, draws=1)
    assert once[0] == once[1]
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values)
    assert bootstrap_mean(values, seed=1) == pytest.approx(bootstrap_mean(values), abs=0.05)


def test_every_clip_may_be_drawn_and_each_as_often_as_there_are_clips():
    assert bootstrap_mean([0.0, 1.0]) == (0, 1)
    # None, one, two or three of three: in thirds, and all thrice about once in 27 draws.
    low, high = bootstrap([(0.0,), (0.0,), (1.0,)], lambda m: m[:, 0], confidence=0.99)
    assert (low, high) == pytest.approx((0, 1))
