"""What a stage draws at random depends on the seed, the step and the rank, and on nothing else."""

import itertools

import pytest
import torch

from tests import toy_training as toy
from thbench.config import DataConfig
from thbench.training.runs import build_stage
from thbench.training.stage import StageContext


class Drawing(toy.ToyStage):
    """Its loss is a random number; it may play any rank."""

    rank = 0
    uses_audio = False
    global_rank = property(lambda self: self.rank)

    def loss(self, batch):
        return {"loss": torch.rand(())}

    def log_losses(self, split, losses, n):
        return losses["loss"]


def stage(seed, rank=0):
    made = Drawing(StageContext(toy.SIZE, toy.AUDIO_DIM, seed=seed))
    made.rank = rank
    return made


def trained(seed, rank, step):
    """What a stage draws in its training step ``step``, if others drew before it."""
    made = stage(seed, rank)
    made.batches_seen.fill_(step)
    torch.manual_seed(seed + rank + step)
    made.on_train_batch_start([], 0)
    assert int(made.batches_seen) == step + 1
    return float(made.training_step([], 0))


def validated(seed, rank, batch):
    """What it draws in batch ``batch`` of a validation."""
    drawn, made = [], stage(seed, rank)
    made.log_losses = lambda split, losses, n: drawn.append(float(losses["loss"]))
    made.validation_step([], batch)
    return drawn[0]


@pytest.mark.parametrize("draw", [trained, validated])
def test_seed_rank_and_step_each_change_what_is_drawn_and_nothing_else_does(draw):
    places = list(itertools.product((0, 1), (0, 1), (0, 1, 2)))
    found = [draw(*place) for place in places]
    assert len(set(found)) == len(places)
    torch.manual_seed(99)
    assert [draw(*place) for place in places] == found


def test_training_and_validation_do_not_draw_the_same():
    assert trained(0, 0, 0) != validated(0, 0, 0)


def test_the_seed_gives_the_weights_that_training_starts_from(tmp_path):
    def weights(seed):
        made = toy.config(tmp_path, tmp_path)
        made.data, made.seed = DataConfig(), seed
        return build_stage(made, "toy", {}, toy.AUDIO_DIM).net[0].weight

    one = weights(3)
    torch.manual_seed(99)
    assert torch.equal(weights(3), one)
    assert not torch.equal(weights(4), one)
