"""Which networks a stage builds on."""

from dataclasses import replace

import torch

from tests import toy_training as toy
from thbench.training import fit
from thbench.training.runs import load_net


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
