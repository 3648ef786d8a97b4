"""Kept rows of a frozen network: the same as live ones, and never another network's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from baselines.fd2talk.frame import FrameStage
from baselines.hallo.stage import ImageStage, VideoStage
from tests import toy_training as toy
from tests.baselines import test_fd2talk as fd2talk
from tests.baselines import test_hallo as hallo
from tests.data.test_datamodule import make
from tests.dawn.test_a2v import AUDIO, stage
from thbench.config import DrawConfig
from thbench.core.errors import UserError
from thbench.data.frozen_cache import FrozenCache, FrozenRows, weights_hash


@pytest.fixture
def root(tmp_path):
    return toy.make_root(tmp_path, (30, 20, 25, 10), "tttv")


def mean(portrait, frames):
    """Of a frame, less that of the portrait."""
    return (frames.float().mean((1, 2, 3)) - portrait.float().mean())[:, None]


def rows(compute, bias=0.0):
    net = nn.Linear(1, 1)
    nn.init.constant_(net.weight, bias)
    nn.init.zeros_(net.bias)
    return FrozenRows("mean", net, (1,), compute)


def stores(root):
    return [make(root, options={"split": split}).store for split in ("train", "val")]


def test_rows_are_what_the_network_gives_for_these_frames(root):
    splits = stores(root)
    kept = FrozenCache(splits, rows(mean))
    for store in splits:
        for i, clip in enumerate(store.clips):
            frames = torch.tensor([[3, 0, 7, 7]])
            live = mean(store.frames(i, np.array([store.portrait(i)])), store.frames(i, frames[0]))
            torch.testing.assert_close(kept.rows([clip.id], frames)[0], live)


def test_a_portrait_among_the_frames_has_its_own_row(root):
    batch = make(root, frames=4, source="random").batch(0, range(2))
    shown = batch.frames.clone()
    shown[:, 1] = -1
    kept = FrozenCache(stores(root), rows(mean))
    portraits, frames = kept.of(replace(batch, frames=shown))
    torch.testing.assert_close(frames[:, 1], portraits)
    torch.testing.assert_close(portraits, kept.rows(batch.ids, batch.source_frame[:, None])[:, 0])
    torch.testing.assert_close(frames[:, 2], kept.rows(batch.ids, batch.frames)[:, 2])


def test_a_second_run_computes_nothing_and_other_weights_everything(root):
    calls = []

    def counted(portrait, frames):
        calls.append(len(frames))
        return mean(portrait, frames)

    FrozenCache(stores(root), rows(counted))
    assert sum(calls) == 85
    FrozenCache(stores(root), rows(counted))
    assert sum(calls) == 85
    FrozenCache(stores(root), rows(counted, bias=1.0))
    assert sum(calls) == 170


def test_an_interrupted_build_leaves_no_file(root):
    def fails(portrait, frames):
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        FrozenCache(stores(root), rows(fails))
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
    kept.kept = FrozenCache(splits, kept.frozen_rows())
    kept.lfg.calls.clear()
    wanted, found = live.prepare(batch)[0], kept.prepare(batch)[0]
    torch.testing.assert_close(found, wanted)
    assert kept.lfg.calls == []


@pytest.mark.parametrize("kind", [ImageStage, VideoStage])
def test_hallo_learns_the_same_from_kept_latents(root, kind):
    n, around = (6, 2) if kind is VideoStage else (1, 0)
    batch = make(root, frames=n, source="random", context=around).batch(0, range(2))
    batch = replace(batch, audio=torch.randn(2, n + 2 * around, hallo.AUDIO))
    live, kept = hallo.stage(kind), hallo.stage(kind, cache=True)
    kept.kept = FrozenCache(stores(root), kept.frozen_rows())
    for found, wanted in zip(kept._latents(batch), live._latents(batch), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_fd2talk_learns_the_same_from_kept_latents(root):
    batch = make(root, frames=3, source="random").batch(0, range(2))
    faces = fd2talk.batch(n=3)
    names = ("landmarks", "pose", "source_landmarks", "source_pose", "valid")
    batch = replace(batch, **{name: getattr(faces, name) for name in names})
    torch.manual_seed(0)
    auto = fd2talk.ReferenceAutoencoder(**fd2talk.AUTO).eval()
    context = fd2talk.context(morphable=fd2talk.found_model(), autoencoder=auto)
    live, kept = (FrameStage(context, net=fd2talk.UNET, cache=cache) for cache in (False, True))
    kept.kept = FrozenCache(stores(root), kept.frozen_rows())
    for found, wanted in zip(kept.prepare(batch), live.prepare(batch), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_latents_under_jitter_are_not_kept():
    with pytest.raises(UserError, match="keeps a latent for each frame"):
        hallo.stage(ImageStage, cache=True).check_draw(DrawConfig(jitter=[0.1, 0, 0, 0]))


@pytest.mark.parametrize("draw", [{"source": "random"}, {"source": "opening", "jitter": [0.1] * 4}])
def test_flows_that_are_not_always_the_same_are_not_kept(draw):
    with pytest.raises(UserError, match=r"needs draw\.source=opening"):
        stage(cache=True).check_draw(DrawConfig(frames=4, **draw))
    stage(cache=True).check_draw(DrawConfig(frames=4, source="opening"))
    stage().check_draw(DrawConfig(frames=4, **draw))
