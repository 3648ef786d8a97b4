"""The networks of a strategy's roles, and those that a stage builds on, are of the right class."""

from typing import ClassVar

import pytest
from torch import nn

from tests.toys import Counting
from thbench.config import SamplerConfig
from thbench.core.errors import UserError
from thbench.training.stage import Stage, StageContext

CONTEXT = StageContext(size=8, audio_dim=4)


class Flows(nn.Linear):
    """A network that is more than its role asks for."""


class WithRoles(Counting):
    roles: ClassVar = {"flow": nn.Linear}
    optional_roles: ClassVar = {"pose": nn.GRU}

    def __init__(self, nets):
        super(Counting, self).__init__(nets, CONTEXT, {"name": "nar"}, SamplerConfig())


FLOW, POSE = Flows(1, 1), nn.GRU(1, 1)


@pytest.mark.parametrize(
    ("nets", "says"),
    [
        ({}, r"nets\.flow is missing: WithRoles needs the class Linear\. Set nets\.flow=STAGE"),
        (
            {"flow": POSE},
            r"nets\.flow: WithRoles needs the class Linear, not a GRU\. Set nets\.flow=STAGE",
        ),
        ({"flow": FLOW, "pose": FLOW}, r"nets\.pose: WithRoles needs the class GRU, not a Flows"),
        ({"flow": FLOW, "pse": POSE}, r"nets\.pse: WithRoles has no such role.*mean 'pose'"),
    ],
)
def test_a_missing_unknown_or_wrong_role_is_told_with_its_key(nets, says):
    with pytest.raises(UserError, match=says):
        WithRoles(nets)


def test_a_network_of_a_role_is_had_as_its_class():
    made = WithRoles({"flow": FLOW})
    assert made.network("flow", nn.Linear) is FLOW
    assert WithRoles({"flow": FLOW, "pose": POSE}).network("pose", nn.GRU) is POSE
    with pytest.raises(UserError, match=r"nets\.pose: WithRoles needs the class GRU, not none"):
        made.network("pose", nn.GRU)
    with pytest.raises(UserError, match="needs the class Conv2d, not a Flows"):
        made.network("flow", nn.Conv2d)


class BuildsOn(Stage):
    net: nn.Linear

    def loss(self, batch):
        return {"loss": self.needed("first", nn.Linear)(batch)}


class SaysNothing(Stage):
    loss = BuildsOn.loss


def test_a_stage_that_is_not_named_or_trains_something_else_is_told():
    def stage(**needs):
        return BuildsOn(StageContext(size=8, audio_dim=4, needs=needs))

    assert stage(first=FLOW).needed("first", nn.Linear) is FLOW
    with pytest.raises(
        UserError, match=r"stage 'first', which trains a Linear: .*needs: \[first\]"
    ):
        stage(other=FLOW).needed("first", nn.Linear)
    with pytest.raises(UserError, match=r"builds on a Linear, and stage 'first' .* trains a GRU"):
        stage(first=POSE).needed("first", nn.Linear)


def test_a_stage_says_which_network_it_trains():
    assert BuildsOn.network_class() is nn.Linear
    assert SaysNothing.network_class() is nn.Module
