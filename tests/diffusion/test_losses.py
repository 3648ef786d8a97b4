"""What losses are means of, for all strategies."""

from dataclasses import replace

import pytest
import torch

from baselines.fd2talk.autoencoder import ReferenceAutoencoder
from baselines.fd2talk.frame import FrameStage
from baselines.hallo.stage import ImageStage, VideoStage
from tests.baselines import test_diffused_heads as heads
from tests.baselines import test_fd2talk as fd2talk
from tests.baselines import test_hallo as hallo
from tests.baselines import test_windows as windows
from tests.data.test_morphable import model as found_model
from tests.dawn import test_a2v as a2v
from tests.dawn import test_pbnet as pbnet
from thbench.diffusion.losses import clip_mean, counted_mean, frame_mean, region_mean
from thbench.nn.normalize import RunningStats


def test_clips_weigh_alike_however_many_of_their_frames_count():
    values, counted = torch.tensor([[1.0, 3, 5], [7, 0, 0], [9, 9, 9]]), torch.zeros(3, 3)
    counted[0], counted[1, 0] = 1, 1
    assert clip_mean(values, counted) == pytest.approx((3 + 7 + 0) / 3)
    assert counted_mean(values, counted) == pytest.approx((1 + 3 + 5 + 7) / 4)
    assert clip_mean(values, torch.zeros(3, 1)) == 0
    error = values[:, None, :, None, None].expand(3, 2, 3, 4, 4)
    assert frame_mean(error, counted[:, None, :, None, None]) == pytest.approx(10 / 3)


def test_a_region_s_error_is_divided_by_its_own_cells():
    error, region = torch.ones(2, 3, 2, 4, 4), torch.zeros(2, 1, 2, 4, 4)
    region[0, :, :, 1, 1:3] = 1
    region[1, :, 0, 0, 0] = 1
    error[1] *= 5
    counted = torch.ones(2, 1, 2, 1, 1)
    assert region_mean(error, region, counted) == pytest.approx((3 + 15) / 2)
    counted[1] = 0
    assert region_mean(error, region, counted) == pytest.approx(3 / 2)


def window_stage():
    return windows.stage({"name": "sar", "segment": 4, "overlap": 2}, clip=[10, 10], w_lip=2.0)


def frame_stage():
    torch.manual_seed(0)
    auto = fd2talk.spread(ReferenceAutoencoder(**fd2talk.AUTO))
    needs = fd2talk.context(morphable=found_model(), autoencoder=auto)
    return FrameStage(needs, net=fd2talk.UNET, w_lip=2.0)


STAGES = {
    "a2v-paper": lambda: (a2v.stage(), a2v.batch(3, 4)),
    "a2v-code": lambda: (a2v.stage(loss="code"), a2v.batch(3, 4)),
    "windows": lambda: (window_stage(), a2v.batch(3, 8)),
    "pbnet": lambda: (pbnet.stage(steps=10), pbnet.batch(3)),
    "motion": lambda: (fd2talk.motion_stage(found_model()), fd2talk.batch(3)),
    "frame": lambda: (frame_stage(), fd2talk.batch(3, 4)),
    "image": lambda: (hallo.stage(ImageStage, w_lip=2.0), hallo.batch(3, 3, around=0)),
    "video": lambda: (hallo.stage(VideoStage, w_lip=2.0), hallo.batch(3)),
    "diffused_heads": lambda: (heads.stage(), heads.batch((7, 9, 30))),
}


@pytest.fixture
def same_chance(monkeypatch):
    """All clips are given the same noise, at the same level, and all of their conditions."""

    def normal(like, **_):
        drawn = torch.Generator().manual_seed(like[0].numel())
        return torch.randn(like.shape[1:], generator=drawn).expand_as(like)

    def whole(*args, **_):
        *bounds, shape = args
        return torch.full(tuple(shape), sum(bounds) // 2)

    monkeypatch.setattr(torch, "randn_like", normal)
    monkeypatch.setattr(torch, "randint", whole)
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.ones(shape))


def gradient(stage, batch):
    stage.zero_grad()
    losses = stage.loss(batch)
    losses["loss"].backward()
    grads = [p.grad for p in stage.net.parameters() if p.requires_grad and p.grad is not None]
    return losses, torch.cat([g.flatten() for g in grads])


@pytest.mark.parametrize("name", STAGES)
def test_a_batch_s_gradient_is_the_mean_of_its_clips_whatever_frames_they_lack(name, same_chance):
    """So it does not depend on devices and parts, over which gradients are averaged."""
    stage, batch = STAGES[name]()
    if name not in ("a2v-paper", "a2v-code", "windows", "pbnet"):
        fd2talk.spread(stage.net)
    stage.eval()
    middle = batch.valid.shape[1] // 2
    batch.valid[0] = False
    batch.valid[0, middle] = True
    batch.valid[1] = False
    losses, whole = gradient(stage, batch)
    alone = []
    for i in range(3):
        one = batch.map(lambda tensor, i=i: tensor[i : i + 1])
        alone.append(gradient(stage, replace(one, ids=batch.ids[i : i + 1])))
    for term, value in losses.items():
        mean = torch.stack([found[term] for found, _ in alone]).mean()
        torch.testing.assert_close(value, mean, rtol=1e-4, atol=1e-6)
    scale = whole.abs().max()
    assert scale > 0
    mean = torch.stack([found for _, found in alone]).mean(0)
    torch.testing.assert_close(whole / scale, mean / scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", STAGES)
def test_what_is_no_data_is_no_statistic(name):
    """Faces that were not found, and frames that only repeat a clip's first or last."""
    stage, batch = STAGES[name]()
    stage.train()
    batch.valid[0, 1] = False
    for values in (batch.pose, batch.eyes, batch.landmarks):
        values[0, 1] = 1e6
    if name not in ("windows", "pbnet"):  # these draw no frames beyond a clip's ends
        batch.frames = batch.frames.clone()
        batch.frames[2, -1] = batch.frames[2, -2]
        batch.audio[2, -1] = 1e6
    stage.loss(batch)
    found = [m for m in stage.net.modules() if isinstance(m, RunningStats)]
    assert found
    for stats in found:
        assert int(stats.count) == 1
        assert stats.mean.abs().max() < 1e3
        assert stats.deviation.max() < 1e3
