"""Validation with own and with another clip's audio: what it exchanges, logs, says and leaves."""

import math
from dataclasses import replace

import pytest
import torch

from tests import toy_training as toy
from thbench.core.errors import UserError
from thbench.core.types import Batch
from thbench.training import fit
from thbench.training.hearing import HeardRatio, Validation, with_other_audio
from thbench.training.loggers import read_curves
from thbench.training.runs import stage_run


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two clips to validate on."""
    folder = tmp_path_factory.mktemp("data")
    return toy.make_root(folder, (8, 9, 12, 10, 7, 11, 9), "tttttvv")


class Heeding(toy.ToyStage):
    """A tone of each clip and moment is in its audio: how far that is from what the frames show."""

    drawn = ()

    def loss(self, batch):
        losses = super().loss(batch)
        t, both = batch.audio[..., 0], batch.audio[..., 1]
        told = 20 * (both - t) + 8 * t
        shown = batch.video.float().mean((2, 3, 4))
        noise = torch.rand(())
        if not self.training:
            Heeding.drawn += (float(noise),)
        return {**losses, "lip": (told - shown).square().mean() + 1 + noise}


class Lips(Heeding):
    audio_loss = "lip"


class Deaf(toy.ToyStage):
    """Looks at frames alone, and takes noise."""

    def loss(self, batch):
        return super().loss(replace(batch, audio=0 * batch.audio))


class Mistaken(toy.ToyStage):
    audio_loss = "twise"


class Still(Lips):
    audio_loss = ""


class Unhearing(Lips):
    uses_audio = False


def trained(root, runs, kind, **stage):
    made = toy.config(root, runs, target=f"tests.test_hearing:{kind.__name__}", **stage)
    fit.fit(made)
    return stage_run(made, "toy")


def curves(run):
    return read_curves(run.folder / "metrics.csv")


def batch(ids, frames=3):
    b = len(ids)
    audio = torch.arange(b * frames * 2.0).view(b, frames, 2)
    zeros = torch.zeros(b, frames, 1)
    return Batch(
        *(zeros, zeros[:, 0], audio, zeros, zeros, zeros, zeros[..., 0].bool()),
        *(zeros[:, 0], zeros[:, 0], zeros[:, 0], zeros[..., 0].long(), zeros[:, 0, 0].long()),
        ids,
    )


def test_each_clip_has_the_audio_of_the_next_other_clip():
    given = batch(("a", "b", "b", "c"))
    kept = given.audio.clone()
    found = with_other_audio(given)
    assert torch.equal(found.audio, kept[[1, 3, 3, 0]])
    assert torch.equal(given.audio, kept)
    assert found.video is given.video
    assert found.ids == given.ids


def test_clips_without_another_have_their_own_audio_from_end_to_start():
    for ids in (("a",), ("a", "a")):
        given = batch(ids)
        assert torch.equal(with_other_audio(given).audio, given.audio.flip(1))
    assert with_other_audio(batch(("a",), frames=1)) is None


def test_a_ratio_is_one_of_sums_over_batches_and_devices():
    ratio = HeardRatio()
    assert ratio.take(lambda sums: sums) is None
    ratio.add(torch.tensor(1.0), torch.tensor(3.0), 1)
    ratio.add(torch.tensor(5.0), torch.tensor(5.0), 3)
    assert float(ratio.take(lambda sums: sums + torch.tensor([16.0, 14.0]))) == 1
    assert ratio.take(lambda sums: sums) is None
    ratio.add(torch.tensor(0.0), torch.tensor(3.0), 1)
    assert math.isnan(ratio.take(lambda sums: sums))


def test_a_stage_that_hears_has_a_higher_loss_with_another_clips_audio(root, tmp_path, capsys):
    Heeding.drawn = ()
    found = curves(trained(root, tmp_path, Lips))
    (_, own), (_, other), (step, heard) = (
        found[name][-1] for name in ("val/lip", "val_other_audio/lip", "val/heard")
    )
    assert step == 12
    assert heard == pytest.approx(other / own, rel=1e-5)
    assert heard > 5
    assert found["val/loss"][-1] != found["val_other_audio/loss"][-1]
    # Two validations of two batches, each batch twice with the same noise, and other noise in each.
    own, other = Heeding.drawn[::2], Heeding.drawn[1::2]
    assert own == other
    assert own[:2] == own[2:]
    assert own[0] != own[1]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("toy: last validation: loss ")
    assert f"({heard:.2f} x)" in last
    assert "not heard" not in last


def test_a_stage_that_does_not_hear_has_the_same_loss_and_says_so(root, tmp_path, capsys):
    found = curves(trained(root, tmp_path, Deaf))
    assert found["val/loss"] == found["val_other_audio/loss"]
    assert [value for _, value in found["val/heard"]] == [1.0, 1.0]
    assert "(1.00 x): the audio is not heard yet" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [Still, Unhearing])
def test_stages_that_should_not_hear_log_nothing_more(root, tmp_path, capsys, kind):
    found = curves(trained(root, tmp_path, kind, max_steps=6))
    assert "val/lip" in found
    assert not any("heard" in name or "other" in name for name in found)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"toy: last validation: loss {found['val/loss'][-1][1]:.4g}"


def test_a_loss_that_is_not_there_is_refused_with_its_nearest_name(root, tmp_path):
    with pytest.raises(UserError, match=r"audio_loss is 'twise'.*gives loss, twice.*'twice'"):
        trained(root, tmp_path, Mistaken)


@pytest.mark.parametrize("kind", [toy.ToyStage, toy.ByHand])
def test_training_is_the_same_with_and_without_validation(root, tmp_path, kind):
    states = []
    for every in (0, 3):
        made = toy.config(root, tmp_path / str(every), clip=0.0)
        made.stages["toy"].target = f"tests.toy_training:{kind.__name__}"
        made.trainer.validate_every = every
        fit.fit(made)
        saved = torch.load(stage_run(made, "toy").last, weights_only=True)
        states.append({**saved["state_dict"], **saved["current_model_state"]})
        assert ("val/heard" in curves(stage_run(made, "toy"))) == bool(every)
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name


def test_what_is_read_of_a_validation():
    assert Validation.read({}, "lip") is None
    logged = {"val/loss": 0.5, "val/lip": 0.0, "val_other_audio/lip": 0.0, "val/heard": math.nan}
    undefined = Validation.read(logged, "lip")
    assert "not heard" not in str(undefined)  # it is not known
    assert str(Validation.read({"val/loss": 0.5}, "lip")) == "last validation: loss 0.5"
