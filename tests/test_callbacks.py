"""What averaging, clipping and accumulation do to a short training."""

import pytest
import torch

from tests import toy_training as toy
from thbench.training import fit
from thbench.training.runs import META, build_stage, read_checkpoint, stage_run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return toy.make_root(tmp_path_factory.mktemp("data"))


def trained(root, runs, accumulate=1, **stage):
    """The checkpoint of a toy that was trained for two steps."""
    made = toy.config(root, runs, **{"max_steps": 2, **stage})
    made.trainer.accumulate, made.trainer.validate_every = accumulate, 2
    fit.fit(made)
    return read_checkpoint(stage_run(made, "toy"))


def test_weights_are_averaged_as_slowly_as_the_stage_says(root, tmp_path):
    slow, quick = (trained(root, tmp_path, ema=decay) for decay in (0.9, 0.01))
    name = "net.0.weight"
    assert torch.equal(slow["current_model_state"][name], quick["current_model_state"][name])
    newest = slow["current_model_state"][name]
    away = [(c["state_dict"][name] - newest).norm() for c in (slow, quick)]
    assert 0 < away[1] < 0.2 * away[0]


def test_validation_and_samples_see_the_averaged_weights(root, tmp_path, monkeypatch):
    seen, loss = [], toy.ToyStage.loss

    def watched(stage, batch):
        if not stage.training:
            seen.append(stage.net[0].weight.detach().clone())
        return loss(stage, batch)

    monkeypatch.setattr(toy.ToyStage, "loss", watched)
    sampled = []
    monkeypatch.setattr(
        toy.ToyStage,
        "samples",
        lambda stage, batch: sampled.append(stage.net[0].weight.detach().clone()) or {},
    )
    made = toy.config(root, tmp_path, max_steps=2, ema=0.9)
    made.trainer.validate_every = made.trainer.sample_every = 2
    fit.fit(made)
    checkpoint = read_checkpoint(stage_run(made, "toy"))
    averaged = checkpoint["state_dict"]["net.0.weight"]
    assert not torch.equal(checkpoint["current_model_state"]["net.0.weight"], averaged)
    assert seen
    assert sampled
    for weights in (*seen, *sampled):
        assert torch.equal(weights, averaged)


def test_gradients_are_clipped_to_the_stage_s_norm(root, tmp_path):
    """Adam takes steps of one size, but for gradients far below its epsilon."""
    moved = []
    for clip in (0.0, 1e-10):
        made = toy.config(root, tmp_path, clip=clip)
        before = build_stage(made, "toy", {}, toy.AUDIO_DIM).net.state_dict()["0.weight"]
        after = trained(root, tmp_path, clip=clip, ema=0.0)["state_dict"]["net.0.weight"]
        moved.append(float((after - before).abs().max()))
    assert moved[1] < 0.1 * moved[0]


def test_an_optimiser_step_is_a_whole_global_batch(root, tmp_path):
    checkpoint = trained(root, tmp_path, accumulate=2)
    assert checkpoint["global_step"] == checkpoint[META]["steps"] == 2


def test_the_learning_rate_moves_with_every_step(root, tmp_path):
    """It rises over three steps to 0.01; the optimiser has the next one's."""
    for steps, rate in ((1, 2 / 3), (2, 1.0)):
        (state,) = trained(root, tmp_path / str(steps), max_steps=steps)["optimizer_states"]
        assert state["param_groups"][0]["lr"] == pytest.approx(0.01 * rate)
