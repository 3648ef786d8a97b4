import itertools
import math

import numpy as np
import pytest
from scipy.stats import rankdata

from metrics.signed_rank import signed_rank


def all_signs(differences):
    """The two-sided p value by trying every way in which the differences may have had signs."""
    ranks = rankdata(np.abs(differences))
    seen = abs(float((np.sign(differences) * ranks).sum()))
    sums = [
        abs(float(np.dot(signs, ranks)))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    return sum(s >= seen - 1e-9 for s in sums) / len(sums)


@pytest.mark.parametrize("seed", range(6))
def test_p_is_the_share_of_signs_that_are_as_one_sided(seed):
    draw = np.random.default_rng(seed)
    first, second = draw.normal(0.2 * seed, 1, 9), draw.normal(0, 1, 9)
    found = signed_rank(first, second)
    assert found.p == pytest.approx(all_signs(first - second))
    assert found.median == pytest.approx(sorted(first - second)[4])
    assert found.differ == 9
    assert signed_rank(second, first) == pytest.approx((-found.median, found.p, 9))


def test_values_worked_out_by_hand():
    assert signed_rank([1, 2, 3, 4, 5, 6], [0] * 6) == (3.5, 2 / 64, 6)
    # Of the 64 subsets of ranks 1 to 6, 14 have a sum of at most 6.
    assert signed_rank([1, 2, 3, 4, 5, -6], [0] * 6).p == pytest.approx(28 / 64)


def test_equal_pairs_count_in_the_median_and_not_in_the_test():
    found = signed_rank([1.0, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 0, 0], [0] * 13)
    assert found == (0, 2 / 64, 6)


def test_too_few_pairs_have_no_p_value():
    assert signed_rank([1, 2, 3, 4, 5], [0] * 5) == (3, None, 5)
    assert signed_rank([1, 2, 3, 4, 5, 7], [0, 0, 0, 0, 0, 7]).p is None
    assert signed_rank([2.0] * 20, [2.0] * 20) == (0, None, 0)
    for pair in (([], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match="no pairs"):
            signed_rank(*pair)
    assert not math.isnan(signed_rank([1], [0]).median)
