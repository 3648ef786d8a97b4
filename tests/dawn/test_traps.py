"""Faults that are easily made in systems of DAWN's kind, and must not be in this one.

Those that have a natural home are tested there: the face mask's encoder and dropout in
``test_a2v``, turns of generator and discriminator and the ramp of the KL term in ``test_pbnet``,
the schedule's index in ``tests/diffusion``, eye landmarks in ``tests/data/test_pose``.
"""

import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.dawn.test_a2v import batch
from tests.toys import request
from thbench.config import SamplerConfig
from thbench.dawn import a2v_net
from thbench.dawn.a2v import A2VStage
from thbench.dawn.a2v_net import A2VNet, A2VNetConfig
from thbench.dawn.dawn import DAWN
from thbench.dawn.lfg import LatentFlowGenerator, LatentFlowGeneratorConfig
from thbench.dawn.pbnet import PBNet
from thbench.generation.runner import generate
from thbench.nn import attention, transformer
from thbench.training.stage import StageContext

SIZE, LATENT, AUDIO = 16, 8, 4
LFG = {
    "regions": 2, "expansion": 8, "down": 1, "bottleneck": 1, "region_net": [4, 8, 2],
    "background_net": [4, 8, 2], "flow_net": [4, 8, 2], "kernel": 3,
}  # fmt: skip
UNET = {"dim": 8, "mults": (1,), "heads": 1, "head_dim": 8, "mask_dim": 4}
MOTION = {"latent": 8, "widths": (8, 8, 8), "dim": 8, "heads": 1, "hidden": 16}

_opened: list[str] | None = None


def _watch(event, arguments):
    if _opened is not None and event == "open" and isinstance(arguments[0], str):
        _opened.append(arguments[0])


sys.addaudithook(_watch)  # cannot be taken away again, so it is idle outside of its test


def dawn(plan=None, window=20, steps=2, threshold=0.9):
    torch.manual_seed(0)
    lfg = LatentFlowGenerator(LatentFlowGeneratorConfig(**LFG))
    nets = {
        "lfg": lfg,
        "a2v": A2VNet(AUDIO, lfg.latent_dim, LATENT, A2VNetConfig(window=window, **UNET)),
        "pbnet": PBNet(AUDIO, window=window, **MOTION),
    }
    sampler = SamplerConfig(steps=steps, spacing="trailing", threshold=threshold)
    return DAWN(nets, StageContext(SIZE, AUDIO), plan or {"name": "nar"}, sampler)


def ask(n):
    return request(n, size=SIZE, audio_dim=AUDIO)


def frames_of(strategy, asked):
    return torch.cat(list(generate(strategy, asked).chunks))


@pytest.mark.parametrize(
    "plan", [{"name": "nar"}, {"name": "sar", "segment": 12, "overlap": 3}], ids=lambda p: p["name"]
)
def test_what_the_portrait_contributes_is_worked_out_once(plan):
    """Not per frame, per chunk of frames, per window or per step."""
    strategy, calls = dawn(plan, steps=4), Counter()
    parts = {
        "encoder": strategy.lfg.encoder,
        "stem": strategy.a2v.unet.stem_static,
        "mask": strategy.a2v.mask_encoder,
        "denoiser": strategy.a2v.unet,
    }
    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: calls.update([name]))
    assert len(frames_of(strategy, ask(40))) == 40
    assert (calls["encoder"], calls["stem"], calls["mask"]) == (1, 1, 1)
    assert calls["denoiser"] == 4 * (1 if plan["name"] == "nar" else 4)


def test_the_face_mask_reaches_the_denoiser():
    net = dawn().a2v
    features, faces = torch.rand(1, 16, LATENT, LATENT), torch.rand(2, 478, 3)
    one, other = (net.static(features, face[None]) for face in faces)
    assert (one - other).abs().max() > 1e-4


def test_conditions_are_the_same_in_training_and_at_generation():
    strategy, clip = dawn(), batch(1, 6)
    stage = A2VStage(StageContext(SIZE, AUDIO, needs={"lfg": strategy.lfg}), net=UNET)
    stage.net.load_state_dict(strategy.a2v.state_dict())
    own = ("audio", "pose", "eyes", "source", "source_pose", "source_eyes", "source_landmarks")
    asked = replace(ask(6), **{name: getattr(clip, name)[0] for name in own})
    shown, made = stage.eval().prepare(clip)[1], strategy.encode(asked).flow
    for kind in ("audio", "pose", "eyes"):
        torch.testing.assert_close(made.tokens[kind], shown.tokens[kind])
    torch.testing.assert_close(made.static, shown.static)


def test_no_clip_is_too_long():
    """Sound at the end of a clip of over 200 frames is heard there, and only there."""
    strategy, asked = dawn(window=8, threshold=None), ask(230)  # a threshold joins all frames
    made, motion = frames_of(strategy, asked), generate(strategy, asked)
    assert len(made) == len(motion.pose) == len(motion.eyes) == 230
    asked.audio = asked.audio.clone()
    asked.audio[225:] += 100
    changed = (frames_of(strategy, asked) != made).flatten(1).any(1)
    assert changed[225:].all()
    assert not changed[:150].any()


class Shapes(TorchDispatchMode):
    """Notes the shapes of all tensors that are made."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.seen |= {tuple(x.shape) for x in tree_leaves(made) if isinstance(x, torch.Tensor)}
        return made


def test_no_tensor_is_square_in_the_frames():
    """A mask or score of N x N would be gigabytes for a minute of video, at any window."""
    n = 300
    strategy = dawn()
    with Shapes() as shapes:
        assert len(frames_of(strategy, ask(n))) == n
    assert any(n in shape for shape in shapes.seen)
    assert not [shape for shape in shapes.seen if sum(size >= n for size in shape) > 1]


def test_positions_turn_whole_heads(monkeypatch):
    """RoPE on a few dimensions only would leave most of a head blind to the order of frames."""
    turned = {"unet": set(), "motion": set()}
    real = attention.rope

    def spy(name):
        def rope(x, positions):
            turned[name].add(x.shape[-1])
            return real(x, positions)

        return rope

    monkeypatch.setattr(attention, "rope", spy("unet"))
    monkeypatch.setattr(transformer, "rope", spy("motion"))
    frames_of(dawn(), ask(6))
    assert turned == {"unet": {UNET["head_dim"]}, "motion": {MOTION["dim"] // MOTION["heads"]}}


def test_nothing_goes_through_files_between_networks(monkeypatch):
    """Neither arrays nor pictures: flows stay in full precision, pictures in full range."""
    strategy, latents = dawn(), []
    real = a2v_net.A2VNet.from_latent
    monkeypatch.setattr(
        a2v_net.A2VNet,
        "from_latent",
        lambda net, x, *given: latents.append(x) or real(net, x, *given),
    )
    frames_of(strategy, ask(4))  # what is imported or opened once, is now
    monkeypatch.setattr(sys.modules[__name__], "_opened", [])
    frames_of(strategy, ask(20))
    assert _opened == []
    assert {x.dtype for x in latents} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_portraits_flow_is_found_in_full_precision(dtype):
    """As the flows were that the denoiser was trained on, also where all else is in half."""
    strategy, kinds = dawn({"name": "ar", "motion": 1}), []
    strategy.lfg.region_predictor.register_forward_hook(
        lambda *_: kinds.append(torch.is_autocast_enabled("cpu"))
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert frames_of(strategy, ask(3)).shape == (3, 3, SIZE, SIZE)
    assert kinds
    assert not any(kinds)
