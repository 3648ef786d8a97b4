"""Which networks a stage builds on."""

import shutil
from dataclasses import replace

import pytest
import torch

from tests import toy_training as toy
from thbench.core.errors import UserError
from thbench.training import fit
from thbench.training.runs import load_net, stage_run


def test_a_stage_gets_the_very_networks_it_was_trained_on(tmp_path, monkeypatch):
    """Also where the data are gone and others were trained alike on other data."""
    made = []
    for lengths in ((6, 6), (7, 7)):
        root = toy.make_root(tmp_path / f"of-{lengths[0]}", lengths, "tt")
        made.append(toy.config(root, tmp_path / "runs", max_steps=1))
        fit.fit(made[-1])
    both = made[0]
    both.stages["second"] = replace(
        both.stages["toy"], target="tests.toy_training:Needy", needs=["toy"]
    )
    fit.fit(both)
    wanted = load_net(both, "toy")[0].state_dict()
    both.data.root = str(tmp_path / "gone")
    found, build = {}, toy.Needy.__init__

    def noted(stage, context, **options):
        found.update(context.needs["toy"].state_dict())
        build(stage, context, **options)

    monkeypatch.setattr(toy.Needy, "__init__", noted)
    load_net(both, "second")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def trained(tmp_path, **stage):
    root = toy.make_root(tmp_path / "data", (6, 6), "tt")
    made = toy.config(root, tmp_path / "runs", max_steps=1, **stage)
    fit.fit(made)
    return made


def test_a_stage_that_was_trained_otherwise_is_named_with_what_differs(tmp_path):
    """As where a stage was trained in bf16 and another default is asked for."""
    made = trained(tmp_path, precision="bf16-mixed")
    (folder,) = (tmp_path / "runs").glob("toy-*")
    made.stages["toy"].precision = None
    with pytest.raises(UserError, match="not trained") as found:
        load_net(made, "toy")
    assert str(found.value).endswith(
        f"{folder} is trained with precision=bf16-mixed (here 32-true)."
    )
    made.stages["toy"].clip, made.stages["toy"].ema = 0.5, 0.8
    with pytest.raises(UserError) as found:
        load_net(made, "toy")
    assert "precision=bf16-mixed (here 32-true)" in str(found.value)
    made.stages["toy"].batch_size = 8
    with pytest.raises(UserError) as found:
        load_net(made, "toy")
    assert str(found.value).endswith("Run `thbench fit` first."), "four settings differ"


def test_of_several_runs_the_nearest_is_named_and_an_untrained_one_is_not(tmp_path):
    made = trained(tmp_path, ema=0.5)
    made.stages["toy"].clip = 7.0
    fit.fit(made)
    near = stage_run(made, "toy").folder
    made.stages["toy"].ema = 0.9
    with pytest.raises(UserError, match=f"{near} is trained with ema=0.5"):
        load_net(made, "toy")
    (near / "last.ckpt").unlink()
    with pytest.raises(UserError, match=r"is trained with clip=1\.0.*, ema=0.5"):
        load_net(made, "toy")


def test_runs_of_before_fingerprints_are_passed_over(tmp_path):
    """Folders of an older thbench may lie beside those of today."""
    made = trained(tmp_path)
    old = tmp_path / "runs" / "toy-0123456789ab"
    old.mkdir()
    (old / "last.ckpt").touch()
    (old / "stage.json").write_text('{"stage": "toy", "hash": "0123456789ab", "determines": {}}')
    made.stages["toy"].clip = 7.0
    with pytest.raises(UserError, match=r"is trained with clip=1\.0"):
        load_net(made, "toy")
    made.stages["toy"].clip = 1.0
    shutil.move(made.data.root, tmp_path / "elsewhere")
    assert load_net(made, "toy")
