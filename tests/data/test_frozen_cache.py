"""Kept rows of a frozen network: the same as live ones, and never another network's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests import toy_training as toy
from tests.data.test_datamodule import make
from tests.dawn.test_a2v import AUDIO, stage
from thbench.config import DrawConfig
from thbench.core.errors import UserError
from thbench.data.frozen_cache import FrozenCache, weights_hash


@pytest.fixture
def root(tmp_path):
    return toy.make_root(tmp_path, (30, 20, 25, 10), "tttv")


def mean(portrait, frames):
    """Of a frame, less that of the portrait."""
    return (frames.float().mean((1, 2, 3)) - portrait.float().mean())[:, None]


def stores(root):
    return [make(root, options={"split": split}).store for split in ("train", "val")]


def test_rows_are_what_the_network_gives_for_these_frames(root):
    splits = stores(root)
    kept = FrozenCache(splits, "mean", (1,), mean)
    for store in splits:
        for i, clip in enumerate(store.clips):
            frames = torch.tensor([[3, 0, 7, 7]])
            live = mean(store.frames(i, np.array([store.portrait(i)])), store.frames(i, frames[0]))
            torch.testing.assert_close(kept.rows([clip.id], frames)[0], live)


def test_a_second_run_computes_nothing_and_another_name_everything(root):
    calls = []

    def counted(portrait, frames):
        calls.append(len(frames))
        return mean(portrait, frames)

    FrozenCache(stores(root), "mean", (1,), counted)
    assert sum(calls) == 85
    FrozenCache(stores(root), "mean", (1,), counted)
    assert sum(calls) == 85
    FrozenCache(stores(root), "other", (1,), counted)
    assert sum(calls) == 170


def test_an_interrupted_build_leaves_no_file(root):
    def fails(portrait, frames):
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        FrozenCache(stores(root), "mean", (1,), fails)
    assert list((root / "cache").glob("mean*.npy")) == []


def test_the_hash_changes_with_any_weight_and_buffer():
    net = nn.BatchNorm1d(3)
    found = {weights_hash(net)}
    with torch.no_grad():
        net.weight[1] += 1e-6
    found.add(weights_hash(net))
    net.running_mean += 1
    found.add(weights_hash(net))
    assert len(found) == 3
    assert weights_hash(net) in found


def test_a_stage_learns_the_same_from_kept_flows(root):
    splits = stores(root)
    batch = make(root, frames=4, source="opening").batch(0, range(2))
    batch = replace(batch, audio=torch.randn(2, 4, AUDIO))
    live, kept = stage(), stage(cache=True)
    kept.keep_flows(splits)
    kept.lfg.calls.clear()
    wanted, found = live.prepare(batch)[0], kept.prepare(batch)[0]
    torch.testing.assert_close(found, wanted)
    assert kept.lfg.calls == []


@pytest.mark.parametrize("draw", [{"source": "random"}, {"source": "opening", "jitter": [0.1] * 4}])
def test_flows_that_are_not_always_the_same_are_not_kept(draw):
    with pytest.raises(UserError, match="fixed portrait"):
        stage(cache=True).check_draw(DrawConfig(frames=4, **draw))
    stage(cache=True).check_draw(DrawConfig(frames=4, source="opening"))
    stage().check_draw(DrawConfig(frames=4, **draw))
