"""How every stage that learns to denoise draws noise levels, and that it keeps to them."""

import pytest
import torch

from baselines.fd2talk.autoencoder import ReferenceAutoencoder
from baselines.fd2talk.frame import FrameStage
from baselines.hallo.stage import ImageStage, VideoStage
from tests.baselines import test_diffused_heads as diffused_heads
from tests.baselines import test_fd2talk as fd2talk
from tests.baselines import test_hallo as hallo
from tests.baselines import test_windows as windows
from tests.dawn import test_a2v as a2v

STEPS = 3
NET = {"process": {"steps": STEPS}}


def fd2talk_frames():
    torch.manual_seed(0)
    auto = ReferenceAutoencoder(**fd2talk.AUTO)
    needs = fd2talk.context(morphable=fd2talk.found_model(), autoencoder=auto)
    return FrameStage(needs, net={**fd2talk.UNET, **NET}), fd2talk.batch(b=3, n=2)


SAR = {"name": "sar", "segment": 3, "overlap": 2}
STAGES = {
    "a2v": lambda: (a2v.stage(net=NET), a2v.batch()),
    "a2v, a level per frame": lambda: (a2v.stage(net=NET, levels="frame"), a2v.batch()),
    "windows": lambda: (
        windows.stage(SAR, clip=[9, 9], net=windows.SMALL | NET), windows.batch(2, 9)
    ),
    "windows, a level per frame": lambda: (
        windows.stage(SAR, clip=[9, 9], net=windows.SMALL | NET, levels="frame"),
        windows.batch(2, 9),
    ),
    "diffused heads": lambda: (diffused_heads.stage(options=NET), diffused_heads.batch()),
    "fd2talk's motion": lambda: (
        fd2talk.motion_stage(fd2talk.found_model(), net=NET), fd2talk.batch()
    ),
    "fd2talk's frames": fd2talk_frames,
    "hallo's pictures": lambda: (
        hallo.stage(ImageStage, options=NET), hallo.batch(n=1, around=0)
    ),
    "hallo's clips": lambda: (hallo.stage(VideoStage, options=NET), hallo.batch()),
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_frames_are_noised_by_the_level_that_the_network_is_told_and_by_every_level(name):
    stage, shown = STAGES[name]()
    process, noised, targets, told = stage.net.process, [], [], []
    add_noise, target, forward = process.add_noise, process.target, stage.net.forward

    def watch(calls, function):
        def watched(*args, **options):
            calls.append(args)
            return function(*args, **options)

        return watched

    process.add_noise, process.target = watch(noised, add_noise), watch(targets, target)
    stage.net.forward = watch(told, forward)
    for seed in range(8):
        torch.manual_seed(seed)
        stage.loss(shown)
    found = []
    for (clean, noise, _), wanted, (noisy, t, *_) in zip(noised, targets, told, strict=True):
        t = t.reshape(len(clean), -1).expand(-1, clean.shape[2])
        kept = process.alpha_bar[t].reshape(len(t), 1, -1, *[1] * (clean.ndim - 3)).float()
        expected = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        torch.testing.assert_close(noisy.reshape(expected.shape), expected)
        for given, mine in zip(wanted, (clean, noise, t), strict=True):
            assert torch.equal(given.expand_as(mine), mine)
        found.append(t)
    assert {int(x) for t in found for x in t.flatten()} - {0} == {1, 2, 3}
    assert any(len(set(t.amax(1).tolist())) > 1 for t in found)  # clips do not share one
