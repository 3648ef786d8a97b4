"""Configuration: every YAML file loads, words are checked, hashes follow content."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thbench import config
from thbench.core.errors import UserError

SCALED = [(name, scale) for name in config.names("strategy") for scale in config.scales(name)]
TEXT = """
title: Toy
target: a:B
scales:
  tiny: {size: 64, stages: {one: {max_steps: 5}}}
  paper: {size: 128}
stages:
  one: {target: "a:C", model: {width: 3}}
"""


@pytest.fixture
def toy(tmp_path) -> str:
    path = tmp_path / "toy.yaml"
    path.write_text(TEXT)
    return str(path)


@pytest.mark.parametrize(("name", "scale"), SCALED)
def test_every_strategy_file_fits_the_schema_at_every_scale(name, scale):
    loaded = config.load(name, [f"scale={scale}"])
    assert loaded.scale == scale
    assert loaded.target
    for stage in loaded.stages.values():
        assert stage.target
        assert set(stage.needs) <= set(loaded.stages)


@pytest.mark.parametrize("name", config.names("data"))
def test_every_data_file_fits_the_schema(name):
    assert config.load("dawn", [f"data={name}"]).data.root


ENCODERS = {
    **dict.fromkeys(("dawn", "ar", "sar", "ttr", "rolling"), "hubert"),
    "diffused_heads": "logmel",
    "fd2talk": "wav2vec2",
    "hallo": "wav2vec2-layers",
}
"""Of the papers; what is compared on DAWN's latents takes DAWN's."""


@pytest.mark.parametrize("name", ENCODERS)
def test_each_strategy_has_its_paper_s_audio_encoder_whatever_the_data(name):
    paper = config.load(name, ["scale=paper", "data=hdtf"])
    assert (paper.data.audio, paper.data.root) == (ENCODERS[name], "data/hdtf")
    assert config.load(name, ["scale=tiny", "data=cremad"]).data.audio == "logmel"
    chosen = config.load(name, ["data=synthetic", "data.audio=hubert=w", "scale=paper"])
    assert chosen.data.audio == "hubert=w"


def test_a_block_without_a_root_chooses_no_data_set(tmp_path):
    def load(text, *words):
        path = tmp_path / "toy.yaml"
        path.write_text(f"{{title: Toy, target: 'a:B', {text}}}")
        data = config.load(str(path), words).data
        return data.root, data.audio

    assert load("data: {audio: x}") == ("data/synthetic", "x")
    assert load("data: {audio: x}", "data=hdtf") == ("data/hdtf", "x")
    assert load("data: hdtf, scales: {tiny: {data: {audio: x}}}") == ("data/hdtf", "x")
    assert load("data: {root: mine}, scales: {tiny: {data: {audio: x}}}") == ("mine", "x")
    assert load("data: {root: mine}, scales: {tiny: {data: hdtf}}") == ("data/hdtf", "logmel")
    assert load("data: {audio: x}", "data={root: yours}") == ("yours", "x")


def test_layers_override_in_the_documented_order(toy):
    tiny = config.load(toy, ["stages.one.model.width=7"])
    assert (tiny.size, tiny.stages["one"].max_steps) == (64, 5)
    assert tiny.stages["one"].model == {"width": 7}
    assert config.load(toy, ["scale=paper"]).size == 128
    assert config.load(toy, ["scale=paper", "size=256"]).size == 256


def test_a_base_that_is_no_list_is_refused(tmp_path):
    (tmp_path / "high.yaml").write_text("{base: strategy/dawn.yaml}")
    with pytest.raises(UserError, match=r"base is a list of files"):
        config.load(str(tmp_path / "high.yaml"))


def test_bases_lie_below_the_file(tmp_path, monkeypatch):
    (tmp_path / "strategy").mkdir()
    (tmp_path / "strategy" / "low.yaml").write_text("{title: low, size: 32, target: a:B}")
    (tmp_path / "strategy" / "high.yaml").write_text("{base: [strategy/low.yaml], title: high}")
    monkeypatch.setattr("thbench.config.search.configs_root", lambda: tmp_path)
    content = config.read_yaml(config.find("strategy", "high"))
    assert content == {"title": "high", "size": 32, "target": "a:B"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["siz=3"], "no key 'siz'.*Did you mean 'size'"),
        (["trainer.devces=2"], "Did you mean 'trainer.devices'"),
        (["stages.one.max_step=2"], "Did you mean 'stages.one.max_steps'"),
        (["size=large"], "size: .*large"),
        (["data.decoder=decor"], "data.decoder=decor: use pyav or decord.* 'decord'"),
        (["sampler.precision=bf16-mixd"], "bf16-mixd: use 32-true, .*mean 'bf16-mixed'"),
        (["sampler.precision=16-true"], "sampler.precision=16-true: use 32-true"),
        (["eval.data.decoder=x"], "eval.data.decoder=x: use pyav or decord"),
        (["size"], "not of the form key=value"),
        (["scale=tinny"], "Did you mean 'tiny'"),
        (["data=nowhere"], "No data set 'nowhere'.*data prepare"),
        (["stages.two.max_steps=2"], "no key 'stages.two.max_steps'"),
    ],
)
def test_wrong_words_are_one_clear_line(toy, words, message):
    with pytest.raises(UserError, match=message) as caught:
        config.load(toy, words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "model"),
    [
        (["stages.one.model.net.deep.x=false"], {"width": 3, "net": {"deep": {"x": False}}}),
        (["stages.one.model={net: {x: 1}}"], {"width": 3, "net": {"x": 1}}),
        (["stages.one.model.net.x=1", "stages.one.model.net=null"], {"width": 3}),
        (["stages.one.model.width={x: 1}"], {"width": {"x": 1}}),
        (["stages.one.model.width=null"], {"width": None}),  # a value that a class may know
        (["stages.one.model=null", "stages.one.model.x=2"], {"x": 2}),
    ],
    ids=str,
)
def test_a_model_takes_keys_that_the_file_does_not_have(toy, words, model):
    assert config.load(toy, words).stages["one"].model == model


@pytest.mark.parametrize(
    "word",
    ["stages.one.model.width.x=1", "stages.one.draw.deep.x=1", "stages.two.model.x=1",
     "stages.one.modle.x=1", "stages.one.draw={framez: 2}"],
)  # fmt: skip
def test_what_the_schema_fixes_takes_no_new_keys(toy, word):
    with pytest.raises(UserError, match="There is no key"):
        config.load(toy, [word])


def test_a_misspelt_key_in_a_file_is_found(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("{target: a:B, sampler: {stepz: 3}}")
    with pytest.raises(UserError, match=r"Did you mean 'sampler\.steps'"):
        config.load(str(path))


def test_unknown_strategy_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'dawn'"):
        config.load("dwan")


def test_a_prepared_folder_is_a_data_set(toy, tmp_path, monkeypatch):
    (tmp_path / "data" / "vox").mkdir(parents=True)
    (tmp_path / "data" / "vox" / "manifest.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    assert config.load(toy, ["data=vox"]).data.root == str(Path("data") / "vox")
    assert config.load(toy, [f"data={tmp_path / 'data' / 'vox'}"]).data.name == "vox"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), values, max_size=4))
def test_the_content_hash_does_not_depend_on_order(value):
    backwards = dict(reversed(value.items()))
    assert config.content_hash(value) == config.content_hash(backwards)


def test_the_content_hash_follows_content(toy):
    one, two = config.load(toy), config.load(toy, ["seed=1"])
    assert config.content_hash(one) == config.content_hash(config.load(toy))
    assert config.content_hash(one) != config.content_hash(two)


def test_the_content_hash_takes_numbers_by_value():
    assert config.content_hash({"a": [20, 0.5]}) == config.content_hash({"a": [20.0, 0.5]})
    assert config.content_hash({"a": 1}) != config.content_hash({"a": "1"})


def test_yaml_round_trip(toy, tmp_path):
    loaded = config.load(toy)
    (tmp_path / "config.yaml").write_text(config.to_yaml(loaded))
    assert config.load(str(tmp_path / "config.yaml")) == loaded


def test_the_data_to_test_on_is_the_training_data_unless_said_otherwise(toy, tmp_path):
    (tmp_path / "manifest.jsonl").touch()
    assert config.load(toy).eval_data == config.load(toy).data
    chosen = config.load(toy, [f"eval.data={tmp_path}", "data.audio=hubert"])
    assert (chosen.eval_data.root, chosen.eval_data.audio) == (str(tmp_path), "hubert")
    assert chosen.data.root == config.load(toy).data.root
    cached = config.load(toy, [f"eval.data={tmp_path}", "data.cache=here"])
    assert cached.eval_data.cache == "here"
    assert config.load(toy, [f"eval.data={tmp_path}", "eval.data.cache=x"]).eval_data.cache == "x"


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("scales: {tiny: {size: 64}, paper: {size: 128}}", ("paper", "tiny")),
        ("scales: {small: {size: 64}}", ("paper", "small")),
        ("size: 64", ("paper", "tiny")),
        ("base: [strategy/dawn.yaml]", ("paper", "small", "tiny")),
        ("base: [strategy/dawn.yaml], scales: {small: null}", ("paper", "tiny")),
    ],
)
def test_a_scale_that_a_strategy_lacks_is_refused(text, has, tmp_path):
    """Else a strategy without small networks would be trained with the paper's."""
    path = tmp_path / "toy.yaml"
    path.write_text(f"{{{text}, title: Toy, target: 'a:B'}}")
    assert config.scales(str(path)) == has
    for scale in config.SCALES:
        if scale in has:
            assert config.load(str(path), [f"scale={scale}"]).scale == scale
            continue
        with pytest.raises(UserError, match=f"no scale '{scale}'. It has: {', '.join(has)}"):
            config.load(str(path), [f"scale={scale}"])


def test_small_networks_learn_from_the_small_data_unless_others_are_named():
    for name in ("dawn", "sar", "ttr"):
        assert config.load(name, ["scale=small"]).data.root == "data/small"
        assert config.load(name, ["scale=small", "data=hdtf"]).data.root == "data/hdtf"
    assert config.load("dawn", ["scale=small"]).data.audio == "logmel"


def test_the_command_that_makes_a_data_set_is_known_by_its_folder():
    assert config.made_by("data/small").startswith("thbench data synth --out data/small --id")
    assert config.made_by("data/elsewhere") == ""
    assert "made_by" not in config.read_data("small")


@pytest.mark.parametrize(
    "seeds", ["3", "[]", "[0,0]", "[-1]", "[1.5]", "[true]", "['1']", "x", "{a: 1}", "[[0]]"]
)
def test_seeds_are_different_whole_numbers(seeds):
    with pytest.raises(UserError, match=r"eval\.seeds=.* list of different whole numbers from 0"):
        config.load("dawn", [f"eval.seeds={seeds}"])


def test_seeds_are_the_protocol_s_unless_they_are_set():
    assert config.load("dawn").eval.seeds is None
    assert config.load("dawn", ["eval.seeds=null"]).eval.seeds is None
    assert config.load("dawn", ["eval.seeds=[4, 0]"]).eval.seeds == [4, 0]
