"""TTR's two networks share a clip, each with its own idea of how large flows are."""

import pytest
import torch

from baselines.ttr import TTR, GapDenoiser
from tests.dawn.test_traps import AUDIO, LATENT, LFG, SIZE
from tests.toys import request
from thbench.config import SamplerConfig
from thbench.core.errors import UserError
from thbench.dawn.a2v_net import A2VNet, A2VNetConfig
from thbench.dawn.lfg import LatentFlowGenerator, LatentFlowGeneratorConfig
from thbench.dawn.pbnet import PBNet
from thbench.generation.runner import generate
from thbench.training.stage import StageContext

SMALL = {"dim": 8, "mults": (1,), "heads": 1, "head_dim": 8, "normalize": "location"}


def net(features, scale, **options):
    made = A2VNet(AUDIO, features, LATENT, A2VNetConfig(**(SMALL | options)))
    stats = made.statistics["flow"]
    stats.mean.fill_(0.1 * scale)
    stats.variance.fill_(scale**2)
    return made.eval()


@pytest.fixture
def build():
    def made(plan=None, **options):
        torch.manual_seed(0)
        lfg = LatentFlowGenerator(LatentFlowGeneratorConfig(**LFG))
        pbnet = PBNet(AUDIO, latent=8, widths=[8, 8, 8], dim=8, hidden=16)
        nets = {
            "lfg": lfg,
            "pbnet": pbnet,
            "a2v": net(lfg.latent_dim, 1.0),
            "gaps": net(lfg.latent_dim, 3.0, **options),
        }
        chosen = plan or {"name": "ttr", "stride": 4}
        return TTR(nets, StageContext(SIZE, AUDIO), chosen, SamplerConfig(steps=2))

    return made


def flows(n):
    return torch.randn(n, 2, LATENT, LATENT), torch.rand(n, 1, LATENT, LATENT)


@torch.no_grad()
def test_keys_are_taken_to_the_scale_of_the_gaps_network(build):
    strategy = build()
    flow, occlusion = flows(4)
    given = strategy.encode(request(9, size=SIZE, audio_dim=AUDIO))
    frames = torch.tensor([[0, 4], [4, 8]])
    motion = given.flow.at(frames).motion.flatten(0, 1)
    of_keys = strategy.a2v.to_latent(flow, occlusion, motion)
    of_gaps = strategy.gaps.to_latent(flow, occlusion, motion)
    assert (of_keys - of_gaps).abs().max() > 0.5

    def stand(latent):  # two windows of two keys
        return latent.unflatten(0, (2, 2)).transpose(1, 2)

    denoiser = GapDenoiser(strategy.gaps, strategy.a2v)
    moved = denoiser.observe(stand(of_keys), frames, given)
    torch.testing.assert_close(moved, stand(of_gaps), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_gaps_network_is_shown_the_keys_at_its_scale_and_its_own_conditions(build):
    strategy = build()
    shown = []
    real = strategy.gaps.forward

    def record(noisy, t, frames, given, keep):
        shown.append((noisy, t, frames, given.static))
        return real(noisy, t, frames, given, keep)

    strategy.gaps.forward = record
    given = strategy.encode(request(9, size=SIZE, audio_dim=AUDIO))
    (sweep,) = strategy.passes(request(9))
    context = torch.full((1, 3, 2, LATENT, LATENT), 0.5)
    frames = torch.tensor([[0, 4, 1, 2, 3]])
    t = torch.tensor([[0, 0, 9, 9, 9]])
    noisy = torch.randn(1, 3, 5, LATENT, LATENT)
    sweep.denoisers["gaps"].denoise(noisy, t, frames, given, context)
    ((seen, _, _, static),) = shown
    assert torch.equal(seen[:, :, :2], context)
    assert torch.equal(seen[:, :, 2:], noisy[:, :, 2:])
    assert torch.equal(static, given.gaps.static)
    assert not torch.equal(static, given.keys.flow.static)


@torch.no_grad()
def test_each_frame_is_decoded_at_the_scale_of_the_network_that_made_it(build):
    strategy = build()
    given = strategy.encode(request(9, size=SIZE, audio_dim=AUDIO))
    assert given.in_gap.tolist() == [i % 4 != 0 for i in range(9)]
    flow, occlusion = flows(9)
    motion = given.flow.motion[0]
    latents = torch.where(
        given.in_gap[:, None, None, None],
        strategy.gaps.to_latent(flow, occlusion, motion),
        strategy.a2v.to_latent(flow, occlusion, motion),
    )
    wanted = strategy.lfg.decode(given.flow.source, flow, occlusion)
    made = strategy.decode(latents, torch.arange(9), given)
    torch.testing.assert_close(made, wanted, rtol=1e-3, atol=1e-3)


def test_one_network_makes_all_where_the_plan_says_so(build):
    strategy = build({"name": "ttr", "stride": 4, "single_model": True})
    calls = []
    strategy.gaps.forward = lambda *a: calls.append(a)
    asked = request(9, size=SIZE, audio_dim=AUDIO)
    assert sum(len(c) for c in generate(strategy, asked).chunks) == 9
    assert calls == []


def test_all_gaps_are_one_batch(build):
    strategy = build()
    sizes = []
    real = strategy.gaps.forward
    strategy.gaps.forward = lambda noisy, *rest: sizes.append(noisy.shape[0]) or real(noisy, *rest)
    list(generate(strategy, request(13, size=SIZE, audio_dim=AUDIO)).chunks)
    assert sizes == [3, 3]  # three gaps, two steps


def test_networks_of_two_noise_processes_are_refused(build):
    strategy = build(process={"prediction": "x0"})
    with pytest.raises(UserError, match="other noise processes"):
        strategy.passes(request(9))
