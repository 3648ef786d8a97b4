"""Which strategies `thbench demo` runs: those whose configuration has a ``demo:`` block."""

from thbench import config as configs
from thbench.cli import demo


def test_a_new_strategy_is_in_the_demo_without_an_edit(tmp_path, monkeypatch):
    folder = tmp_path / "strategy"
    folder.mkdir()
    (folder / "mine.yaml").write_text("base: [strategy/dawn.yaml]\ndemo: {a2v1: 3}\n")
    (folder / "slow.yaml").write_text("base: [strategy/dawn.yaml]\ndemo: null\n")
    monkeypatch.setenv("THBENCH_CONFIG_DIR", str(tmp_path))
    names = demo.strategies()
    assert "mine" in names
    assert "dawn" in names
    assert "slow" not in names
    assert demo.steps_of(configs.load("mine"))["a2v1"] == 3


def test_a_stage_that_the_block_does_not_name_has_a_default():
    config = configs.load("dawn")
    config.demo = {"lfg": 7}
    steps = demo.steps_of(config)
    assert steps == {**dict.fromkeys(steps, demo.DEFAULT_STEPS), "lfg": 7}
    assert set(steps) == {"lfg", "pbnet", "a2v1", "a2v2"}
