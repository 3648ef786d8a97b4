"""Every network at paper scale, whole, answers to each of its conditions alike."""

import pytest

from tests.conditions import MOST, cases, draws_for, farthest, responses

pytestmark = pytest.mark.paper
CASES = list(cases("paper"))


@pytest.mark.parametrize(
    ("strategy", "network", "build"), CASES, ids=[" ".join(case[:2]) for case in CASES]
)
def test_one_deviation_of_each_condition_is_answered_alike(strategy, network, build):
    """Within a factor of five. Hallo's networks take 10 GiB, the others little."""
    found = responses(build(), draws_for(network))
    assert farthest(found) < MOST, found
