"""Plans: every builder, every length, against the rules and against counting by brute force."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thbench.core.errors import UserError
from thbench.generation import plans
from thbench.generation.plans import SOURCE, Window

OPTIONS = {
    "nar": st.just({}),
    "frames": st.just({}),
    "ar": st.fixed_dictionaries(
        {"motion": st.integers(0, 3), "stabilize": st.sampled_from([0, 1, 5])}
    ),
    "sar": st.fixed_dictionaries({"segment": st.integers(1, 50), "overlap": st.integers(0, 12)}),
    "ttr": st.fixed_dictionaries({"stride": st.integers(1, 20), "single_model": st.booleans()}),
    "rolling": st.fixed_dictionaries({"window": st.integers(1, 20), "context": st.integers(0, 6)}),
}


@pytest.mark.parametrize("name", plans.BUILDERS)
def test_every_length_from_1_to_1000_is_a_valid_plan(name):
    for n in range(1, 1001) if name in ("nar", "sar", "ttr") else [*range(1, 60), 97, 500, 1000]:
        plan = plans.build(name, n)
        plans.check(plan)
        assert plans.n_frames(plan) == n


@settings(deadline=None, max_examples=300)
@given(data=st.data(), name=st.sampled_from(sorted(OPTIONS)), n=st.integers(1, 1000))
def test_any_options_give_a_valid_plan_whose_cost_is_what_counting_says(data, name, n):
    options = data.draw(OPTIONS[name])
    plan = plans.build(name, n, **options)
    plans.check(plan)
    steps = plans.levels(plan) * data.draw(st.integers(1, 3))
    depth = evaluations = 0
    for round_ in plan:
        longest = 0
        for window in round_:
            calls = 0
            level = list(window.enter)
            while level != list(window.leave):
                for _ in range(steps // plans.levels(plan)):
                    calls += 1
                    evaluations += len(window.observe) + len(window.generate)
                level = [x - 1 for x in level]
            longest = max(longest, calls)
        depth += longest
    cost = plans.cost(plan, steps)
    assert (cost.depth, cost.evaluations) == (depth, evaluations)


@given(n=st.integers(1, 300), motion=st.integers(0, 3))
def test_ar_sees_the_frames_before_it_and_the_portrait_where_there_are_none(n, motion):
    for i, (window,) in enumerate(plans.ar(n, motion)):
        assert window.generate == (i,)
        assert window.observe == tuple(j if j >= 0 else SOURCE for j in range(i - motion, i))


def test_ar_stabilize_puts_the_portrait_in_place_of_the_oldest_motion_frame():
    plan = plans.ar(11, motion=2, stabilize=5)
    assert plan[5][0].observe == (SOURCE, 4)
    assert plan[6][0].observe == (4, 5)
    assert plan[10][0].observe == (SOURCE, 9)


def test_sar_segments_observe_the_tail_before_them():
    plan = plans.sar(100, segment=40, overlap=10)
    assert [w.generate[0] for (w,) in plan] == [0, 40, 80]
    assert plan[0][0].observe == ()
    assert plan[2][0].observe == tuple(range(70, 80))
    assert plan[2][0].generate == tuple(range(80, 100))


@given(n=st.integers(1, 400), stride=st.integers(1, 30))
def test_ttr_makes_keys_then_all_gaps_in_one_round(n, stride):
    plan = plans.ttr(n, stride)
    keys = plan[0][0].generate
    assert keys[-1] == n - 1
    assert len(plan) <= 2
    for window in plan[1] if len(plan) == 2 else ():
        before, after = window.observe
        assert window.generate == tuple(range(before + 1, after))
        assert {before, after} <= set(keys)


@given(n=st.integers(1, 200), window=st.integers(1, 24))
def test_rolling_finishes_one_frame_a_round_once_it_is_full(n, window):
    plan = plans.rolling(n, window)
    assert len(plan) == n + window - 1
    finished = [i for (w,) in plan for i, s in zip(w.generate, w.leave, strict=True) if s == 0]
    assert finished == list(range(n))


@pytest.mark.parametrize(
    ("windows", "words"),
    [
        ([Window((0,), (), (1,), (0,)), Window((0,), (), (1,), (0,))], "two windows"),
        ([Window((0, 1), (), (2, 1), (1, 0))], "frame 1 at 2 goes 1->0"),
        ([Window((0,), (1,), (1,), (0,)), Window((1,), (), (1,), (0,))], "before it is finished"),
        ([Window((1, 0), (), (1, 1), (0, 0))], "must ascend"),
        ([Window((0,), (), (2,), (1,))], "ends at level 1"),
        ([Window((0, 1), (), (2, 2), (0, 1))], "same number of levels"),
    ],
)
def test_check_refuses_what_cannot_be_executed(windows, words):
    with pytest.raises(ValueError, match=words):
        plans.check((tuple(windows),))


def test_wrong_words_are_answered_with_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'rolling'"):
        plans.build("roling", 4)
    with pytest.raises(UserError, match="Did you mean 'segment'"):
        plans.build("sar", 4, segmnt=3)
    with pytest.raises(UserError, match=r"plan\.stride must be a whole number of at least 1"):
        plans.build("ttr", 4, stride=0)
    with pytest.raises(UserError, match=r"take sampler\.steps=16"):
        plans.cost(plans.rolling(10, window=16), 20)
