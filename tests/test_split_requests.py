"""Portraits of the requests of a split, on flat grey clips that tell their frames."""

import dataclasses

import pytest
import torch

from tests import toy_training as toy
from thbench.config import Config, DataConfig, EvalConfig
from thbench.evaluation import protocol
from thbench.evaluation.pipeline import requests_of
from thbench.generation.requests import SplitRequests


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return toy.make_root(tmp_path_factory.mktemp("data"), (25,) * 3, "eee")


def asked(root, seeds):
    data = DataConfig("toy", str(root), "toy")
    return SplitRequests(data, "test", toy.SIZE, seeds=seeds, source_frame="random")


def test_a_random_portrait_is_one_frame_in_picture_pose_eyes_and_landmarks(root):
    for request in asked(root, (0, 1)):
        person, frame = divmod(int(request.source_pose[0]), 100)
        assert request.id == f"person{person}/clip"
        wanted = toy.grey(person, torch.tensor(frame)).float()
        assert abs(request.source.float().mean() - wanted) <= 3  # lossy video
        assert request.source_eyes.tolist() == pytest.approx([frame / 100] * 2)
        assert (request.source_landmarks == person).all()


def test_random_portraits_depend_on_the_clip_and_on_the_seed(root):
    seeds = range(6)
    requests = asked(root, seeds)
    frames = {(*requests.name(k), int(r.source_pose[0]) % 100) for k, r in enumerate(requests)}
    by_clip = [{(seed, at) for id, seed, at in frames if id[6] == str(i)} for i in range(3)]
    assert by_clip[0] != by_clip[1] != by_clip[2]
    assert all(len({at for _, at in of}) > 3 for of in by_clip)


def test_a_protocol_says_what_is_asked_for(root):
    config = Config(size=toy.SIZE, data=DataConfig("toy", str(root), "toy"))
    rule = protocol.parse("p", {"size": toy.SIZE, "metrics": [{"metric": "psnr"}]})
    plain = requests_of(config, rule)
    assert [plain.name(i) for i in range(len(plain))] == [(f"person{i}/clip", 0) for i in range(3)]
    assert plain[0].pose is not None
    assert plain.longest == 25
    other = dataclasses.replace(
        rule, seeds=(0, 7), pose="generated", source_frame="random", frames=9
    )
    config.eval = EvalConfig(limit=2, frames=12)
    asked = requests_of(config, other)
    names = [asked.name(i) for i in range(len(asked))]
    assert names == [(f"person{i}/clip", seed) for seed in (0, 7) for i in range(2)]
    assert all(request.pose is None for request in asked)
    assert {request.n_frames for request in asked} == {9}  # the less of both limits
    assert len({int(request.source_pose[0]) % 100 for request in asked}) > 1
    config.eval.frames = 5
    assert requests_of(config, other).longest == 5
