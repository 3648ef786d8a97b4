"""Layers of YAML: what of a plan below is kept, stages like others, switches."""

import pytest

from thbench import config, layers
from thbench.errors import UserError

TEXT = """
target: a:B
plan: {name: sar, segment: 40, overlap: 10}
nets: {one: a}
stages:
  a: {target: "a:C", max_steps: 9, model: {width: 3, deep: {x: 1}}, draw: {frames: 4}}
  b: {like: a, max_steps: 5, model: {deep: {y: 2}}}
  c: {like: b, draw: {frames: 7}}
switches:
  wide: {title: Wide, nets: {one: b}, plan: {overlap: 3}}
  other: {plan: {name: ttr, stride: 5}}
scales:
  tiny: {stages: {a: {max_steps: 2, batch_size: 3}}}
"""


@pytest.fixture
def toy(tmp_path) -> str:
    path = tmp_path / "toy.yaml"
    path.write_text(TEXT)
    return str(path)


def plan(toy, *words):
    return config.load(toy, words).plan


def test_a_plan_of_another_name_starts_from_nothing(toy):
    assert plan(toy) == {"name": "sar", "segment": 40, "overlap": 10}
    for words in (["plan=ttr"], ["plan.name=ttr"], ["plan={name: ttr}"]):
        assert plan(toy, *words) == {"name": "ttr"}
    assert plan(toy, "plan={name: ar, motion: 1}") == {"name": "ar", "motion": 1}


def test_a_plan_of_the_same_name_or_none_keeps_what_it_does_not_say(toy):
    wanted = {"name": "sar", "segment": 20, "overlap": 10}
    assert plan(toy, "plan.segment=20") == wanted
    assert plan(toy, "plan={segment: 20}") == wanted
    assert plan(toy, "plan={name: sar, segment: 20}") == wanted


def test_the_order_of_words_does_not_matter(toy):
    for words in (["plan.stride=4", "plan.name=ttr"], ["plan.name=ttr", "plan.stride=4"]):
        assert plan(toy, *words) == {"name": "ttr", "stride": 4}


def test_a_plan_that_is_none_is_told(toy):
    with pytest.raises(UserError, match="plan must be a plan's name"):
        plan(toy, "plan=[1, 2]")


def test_a_stage_is_like_another_but_for_what_it_says(toy):
    stages = config.load(toy).stages
    assert stages["b"].target == "a:C"
    assert stages["b"].model == {"width": 3, "deep": {"x": 1, "y": 2}}
    assert (stages["b"].max_steps, stages["b"].batch_size) == (5, 3)  # after the scale's block
    assert (stages["c"].max_steps, stages["c"].draw.frames) == (5, 7)
    assert stages["a"].model == {"width": 3, "deep": {"x": 1}}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"a": {"like": "bb"}, "b": {}}, "stages.a.like: no stage 'bb'"),
        ({"a": {"like": "b"}, "b": {"like": "a"}}, "in a circle: a -> b"),
    ],
)
def test_likeness_that_leads_nowhere_is_told(stages, message):
    with pytest.raises(UserError, match=message):
        layers.complete_stages(stages)


def test_a_switch_is_a_layer(toy):
    on = config.load(toy, ["wide=true"])
    assert (on.title, on.nets) == ("Wide", {"one": "b"})
    assert on.plan == {"name": "sar", "segment": 40, "overlap": 3}
    assert config.load(toy, ["wide=false"]) == config.load(toy)
    assert plan(toy, "other=true") == {"name": "ttr", "stride": 5}
    assert plan(toy, "plan.overlap=1", "wide=true")["overlap"] == 1
    with pytest.raises(UserError, match="wide is a switch"):
        config.load(toy, ["wide=3"])


def test_layers_are_left_as_they_were():
    low = {"a": {"b": 1}}
    assert layers.stack([low, {"a": {"c": 2}}]) == {"a": {"b": 1, "c": 2}}
    assert low == {"a": {"b": 1}}
