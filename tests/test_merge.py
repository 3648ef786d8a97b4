"""Layers of YAML: what of a plan below is kept, stages like others, switches."""

import pytest

from thbench import config
from thbench.config import merge
from thbench.core.errors import UserError

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
        merge.complete_stages(stages)


def test_a_switch_is_a_layer(toy):
    on = config.load(toy, ["wide=true"])
    assert (on.title, on.nets) == ("Wide", {"one": "b"})
    assert on.plan == {"name": "sar", "segment": 40, "overlap": 3}
    assert config.load(toy, ["wide=false"]) == config.load(toy)
    assert plan(toy, "other=true") == {"name": "ttr", "stride": 5}
    assert plan(toy, "plan.overlap=1", "wide=true")["overlap"] == 1
    with pytest.raises(UserError, match="wide is a switch"):
        config.load(toy, ["wide=3"])


NULLS = """
target: a:B
plan: {name: sar, segment: 40}
options: {guidance: 2, weights: {lip: 1, eyes: 2}}
nets: {one: a, two: b}
stages: {a: {target: "a:C", model: {net: {x: 1}, w: 2}}, b: {like: a}}
switches:
  less:
    title: "{title}, less"
    nets: {two: null}
    plan: {segment: null}
    options: {weights: {lip: null}}
    stages: {a: {model: {net: null}}, b: null}
  more: {title: "{title}, more", options: null}
"""


def test_null_takes_out_in_layers(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text("title: Toy" + NULLS)
    left = config.load(str(path), ["less=true"])
    assert (left.title, left.nets, left.plan) == ("Toy, less", {"one": "a"}, {"name": "sar"})
    assert left.options == {"guidance": 2, "weights": {"eyes": 2}}
    assert list(left.stages) == ["a"]
    assert left.stages["a"].model == {"w": 2}
    both = config.load(str(path), ["less=true", "more=true"])
    assert (both.title, both.options) == ("Toy, less, more", {})


def test_null_in_a_file_s_switch_outlives_that_of_its_base():
    base = {"switches": {"s": {"options": {"weights": {"lip": 1}}}}}
    merged = merge.stack([base, {"switches": {"s": {"options": {"weights": None}}}}])
    below = {"options": {"weights": {"eyes": 2}, "guidance": 1}}
    on = merge.take_switches(merged["switches"], {"s": True})
    assert merge.stack([below, *on]) == {"options": {"guidance": 1}}


def test_null_takes_out_in_words(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text("title: Toy" + NULLS)
    words = ["nets.two=null", "plan.segment=null", "options.weights={lip: null}", "stages.b=null"]
    left = config.load(str(path), words)
    assert (left.nets, left.plan, list(left.stages)) == ({"one": "a"}, {"name": "sar"}, ["a"])
    assert left.options == {"guidance": 2, "weights": {"eyes": 2}}
    assert config.load(str(path), ["options=null"]).options == {}
    with pytest.raises(UserError, match=r"no key 'nets\.twoo' to take out.*'nets\.two'"):
        config.load(str(path), ["nets.twoo=null"])


def test_layers_are_left_as_they_were():
    low = {"a": {"b": 1}}
    assert merge.stack([low, {"a": {"c": 2}}]) == {"a": {"b": 1, "c": 2}}
    assert low == {"a": {"b": 1}}
