"""Diffused Heads: what the network is, what it is shown, what it learns, and its switches."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from baselines.augmentation import patchy_noise
from baselines.diffused_heads.net import FrameNet, FrameNetConfig, to_grey
from baselines.diffused_heads.stage import FrameStage
from baselines.diffused_heads.strategy import DiffusedHeads, FrameDenoiser
from baselines.diffused_heads.unet import FilmBlock
from tests.toys import request
from thbench import config
from thbench.config import DrawConfig, OptimConfig, SamplerConfig
from thbench.core.errors import UserError
from thbench.core.types import Batch, to_unit
from thbench.diffusion.vlb import bound_term
from thbench.generation import plans
from thbench.generation.runner import generate
from thbench.nn.attention import SpatialAttention
from thbench.nn.regions import LIPS, box_mask
from thbench.training.optim import build_optimizer
from thbench.training.runs import build_stage
from thbench.training.stage import StageContext

SIZE, AUDIO = 16, 4
SMALL = {"dim": 8, "mults": (1, 2), "blocks": 1, "heads": 2, "head_dim": 4, "groups": 4,
         "audio_width": 8, "dropout": 0.0}  # fmt: skip


def net(**options):
    torch.manual_seed(0)
    made = FrameNet(AUDIO, SIZE, FrameNetConfig(**{**SMALL, **options}))
    spread(made)
    return made.eval()


def spread(module):
    """Weights that start at zero hide what goes through them."""
    for p in module.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)


def stage(*, options=None, **switches):
    torch.manual_seed(0)
    return FrameStage(StageContext(SIZE, AUDIO), net={**SMALL, **(options or {})}, **switches)


def batch(middle=(7, 9), around=3, seed=0, n_clip=100, valid=True):
    """Frames ``middle`` of clips with as many on either side; beyond an end it stands still."""
    torch.manual_seed(seed)
    b = len(middle)
    frames = (torch.tensor(middle)[:, None] + torch.arange(-around, around + 1)).clamp(
        0, n_clip - 1
    )
    n = frames.shape[1]
    clips = torch.randint(0, 256, (b, n_clip, 3, SIZE, SIZE), dtype=torch.uint8)
    sound = torch.randn(b, n_clip, AUDIO)
    rows = torch.arange(b)[:, None]
    return Batch(
        video=clips[rows, frames],
        source=clips[:, 50],
        audio=sound[rows, frames],
        pose=torch.zeros(b, n, 6),
        eyes=torch.zeros(b, n, 2),
        landmarks=0.4 + 0.2 * torch.rand(b, n, 478, 3),
        valid=torch.full((b, n), valid),
        source_pose=torch.zeros(b, 6),
        source_eyes=torch.zeros(b, 2),
        source_landmarks=torch.rand(b, 478, 3),
        frames=frames,
        source_frame=torch.full((b,), 50),
        ids=tuple("abcdef"[:b]),
    )


def strategy(*, plan=None, steps=2, **options):
    made = net(**options)
    plan = plan or {"name": "ar", "motion": made.motion}
    sampler = SamplerConfig(steps=steps, threshold=0)
    return DiffusedHeads({"frame": made}, StageContext(SIZE, AUDIO), plan, sampler)


def ask(n, **options):
    asked = request(n, size=SIZE, audio_dim=AUDIO, **options)
    asked.audio = torch.randn(n, AUDIO, generator=torch.Generator().manual_seed(n))
    return asked


def frames_of(made, asked):
    return torch.cat(list(generate(made, asked).chunks))


# The network


def paper(**options):
    with torch.device("meta"):
        return FrameNet(1024, 128, FrameNetConfig(**options))


def test_the_paper_s_sizes():
    made = paper()
    blocks = [m for m in made.modules() if isinstance(m, FilmBlock)]
    # Two per level and a halving between levels, the middle's two, three and a doubling on the
    # way up.
    assert len(blocks) == (3 * 2 + 2) + 2 + (3 * 3 + 2)
    assert [b.conv2.out_channels for b in blocks[:8]] == [256, 256, 256, 512, 512, 512, 768, 768]
    (attention,) = (m for m in made.modules() if isinstance(m, SpatialAttention))
    assert attention is made.unet.attention
    assert (attention.heads, attention.to_qkv.out_channels) == (4, 3 * 256)
    assert made.unet.head.out_channels == 6
    assert made.mix[0].in_features == 5 * 256
    assert made.mix[0].out_features == made.mix[2].out_features == 1024
    assert made.process.steps == 1000
    assert (made.process.schedule, made.process.prediction) == ("cosine", "epsilon")
    count = sum(p.numel() for p in made.parameters())
    assert count == 202_607_110


def test_the_paper_s_yaml_is_the_network_s_defaults():
    loaded = config.load("diffused_heads", ["scale=paper"])
    with torch.device("meta"):
        made = build_stage(loaded, "frame", {}, 1024)
    shapes = {k: v.shape for k, v in paper().state_dict().items()}
    assert {k: v.shape for k, v in made.net.state_dict().items()} == shapes
    assert (made.w_lip, made.w_bound) == (0.2, 1e-4)
    assert loaded.sampler == SamplerConfig(200, 1.0, "linspace", 0)
    assert loaded.plan == {"name": "ar", "motion": 2, "stabilize": 0}


@pytest.mark.parametrize(
    ("options", "channels"),
    [({}, 8), ({"grey": False}, 12), ({"motion": 3}, 9), ({"motion": 0}, 6), ({"motion": 1}, 7)],
)
def test_input_channels_are_those_of_frame_portrait_and_motion(options, channels):
    made = paper(**options)
    stems = [made.unet.stem, made.stem_portrait, made.stem_motion]
    assert sum(s.in_channels for s in stems if s is not None) == channels


def test_the_released_code_s_attention_is_a_switch():
    def count(**options):
        return sum(isinstance(m, SpatialAttention) for m in paper(**options).modules())

    assert count() == 1
    assert count(attention=[32]) == 1 + 2 + 3  # at 32 x 32: two blocks down, three up


def test_sound_scales_and_shifts_what_time_has_scaled_and_shifted():
    torch.manual_seed(0)
    block = FilmBlock(8, 8, 6, 4, 0.0)
    spread(block)
    x, time, sound = torch.randn(2, 8, 5, 5), torch.randn(2, 6), torch.randn(2, 6)
    t_s, t_b = block.time(F.silu(time))[:, :, None, None].chunk(2, 1)
    y_s, y_b = block.audio(F.silu(sound))[:, :, None, None].chunk(2, 1)
    h = F.group_norm(block.conv1(F.silu(block.norm1(x))), 4, block.norm2.weight, block.norm2.bias)
    h = (1 + y_s) * ((1 + t_s) * h + t_b) + y_b  # eq. 17
    torch.testing.assert_close(block(x, time, sound), x + block.conv2(F.silu(h)))


@pytest.mark.parametrize("grey", [True, False])
@pytest.mark.parametrize("patch", [1, 2])
def test_the_parts_of_the_stem_are_one_convolution_of_joined_channels(grey, patch):
    made = net(grey=grey, patch=patch)
    noisy, portrait = torch.randn(2, 2, 3, SIZE, SIZE)
    before = torch.randn(2, 3, 2, SIZE, SIZE)
    colours = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    parts = [(before[:, :, i] * colours).sum(1, keepdim=True) if grey else before[:, :, i]
             for i in range(2)]  # fmt: skip
    joined = torch.cat(
        [F.pixel_unshuffle(x, patch) for x in (noisy, portrait, torch.cat(parts, 1))], 1
    )
    stems = [made.unet.stem, made.stem_portrait, made.stem_motion]
    weight = torch.cat([s.weight for s in stems], dim=1)
    expected = F.conv2d(joined, weight, made.unet.stem.bias, padding=1)
    split = made.unet.stem(F.pixel_unshuffle(noisy, patch))
    split = split + made.portrait_features(portrait) + made.motion_features(before)
    torch.testing.assert_close(split, expected, rtol=1e-4, atol=1e-5)


def test_motion_frames_without_colour_leave_colour_to_the_portrait():
    red, blue = torch.zeros(2, 1, 3, 2, SIZE, SIZE)
    red[:, 0], blue[:, 2] = 0.114, 0.299  # equally bright
    grey, colour = net(), net(grey=False)
    torch.testing.assert_close(grey.motion_features(red), grey.motion_features(blue))
    assert (colour.motion_features(red) - colour.motion_features(blue)).abs().max() > 1e-3
    assert (
        grey.portrait_features(red[:, :, 0]) - grey.portrait_features(blue[:, :, 0])
    ).abs().max() > 1e-3
    ones = torch.ones(3, 2, 2)
    torch.testing.assert_close(to_grey(ones), ones[:1])


@pytest.mark.parametrize("context", [0, 1, 2, 3])
def test_a_frame_hears_its_own_sound_and_as_many_embeddings_on_either_side(context):
    made, audio = net(audio_context=context), torch.randn(1, 20, AUDIO)
    at = torch.arange(20)
    reference = made.audio_features(audio, at)
    changed = audio.clone()
    changed[:, 10] += 1
    heard = (made.audio_features(changed, at) - reference).abs().amax(-1)[0] > 1e-6
    assert heard.nonzero().flatten().tolist() == list(range(10 - context, 11 + context))


def test_beyond_the_ends_the_first_and_the_last_embedding_sound_again():
    made, audio = net(), torch.randn(1, 5, AUDIO)
    longer = torch.cat([audio[:, :1]] * 2 + [audio] + [audio[:, -1:]] * 2, dim=1)
    torch.testing.assert_close(
        made.audio_features(audio, torch.arange(5)), made.audio_features(longer, torch.arange(2, 7))
    )


# What it is shown


@pytest.mark.parametrize("k", [0, 1, 2, 7, 99])
@pytest.mark.parametrize("options", [{}, {"grey": False, "motion": 3}, {"motion": 0}])
def test_training_shows_what_generating_shows(k, options):
    """The same still picture and sound, also at the ends, where motion frames are the portrait."""
    made = stage(options=options)
    spread(made.net)
    clip = batch([k, 0])
    everything = batch([50, 50], around=50, n_clip=100)
    assert torch.equal(everything.video[0, k], clip.video[0, 3])  # the same clip
    example = made.prepare(clip)
    portrait = 2 * to_unit(clip.source[:1]) - 1
    sound = torch.cat([everything.audio[:1, :50], everything.audio[:1, 50:100]], 1)
    given = made.net.conditions(portrait, sound)
    window = plans.ar(100, motion=made.net.motion)[k][0]
    video = 2 * to_unit(everything.video[0]) - 1
    seen = [portrait[0] if i == plans.SOURCE else video[i] for i in window.observe]
    still = given.static
    if seen:
        frames = torch.tensor([[*window.observe, k]])
        still = FrameDenoiser(made.net).observe(torch.stack(seen, 1)[None], frames, given)
    torch.testing.assert_close(example.static[:1], still, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(example.audio[:1], given.audio[:, k])
    torch.testing.assert_close(example.clean[0, :, 0], video[k])


def test_it_trains_with_the_options_of_the_released_code():
    released = {"audio_width": None, "attention": [8], "grouped_attention": True, "qkv_bias": True,
                "high_rates": True, "grey": False}  # fmt: skip
    made = stage(options=released)
    spread(made.net)
    made.loss(batch())["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())
    (attention,) = {m.norm.num_groups for m in made.modules() if isinstance(m, SpatialAttention)}
    assert attention == SMALL["groups"]
    assert made.net.unet.attention.to_qkv.bias is not None


def test_motion_frames_are_noisy_in_training_alone():
    quiet, loud = stage(), stage(motion_noise=0.5)
    shown = batch([9] * 6)
    portrait = 2 * to_unit(shown.source) - 1
    filmed = quiet._motion_frames(shown, portrait)
    noise = loud._motion_frames(shown, portrait) - filmed
    both = torch.corrcoef(torch.stack([noise[:, :, 0].flatten(), noise[:, :, 1].flatten()]))
    assert abs(both[0, 1]) < 0.5, "each has its own"
    deviations = noise.flatten(1).std(1)
    assert 0 < deviations.min() < deviations.max() < 0.6
    loud.eval()
    assert torch.equal(loud._motion_frames(shown, portrait), filmed)
    with pytest.raises(UserError, match="motion_noise"):
        stage(motion_noise=-0.1)


def test_motion_frames_may_be_the_network_s_own(monkeypatch):
    """Frame by frame, each from those before it, as generation in one step makes them."""
    made = stage(rollout=2, options={"process": {"prediction": "x0"}})
    spread(made.net)
    shown = batch([9, 1], around=4)
    portrait = 2 * to_unit(shown.source) - 1
    monkeypatch.setattr(torch, "randint", lambda *args: torch.tensor(2))
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    found = made._motion_frames(shown, portrait)
    video, t = 2 * to_unit(shown.video) - 1, torch.full((1,), made.net.process.steps)
    for clip, seen in ((0, [video[0, 0], video[0, 1]]), (1, [portrait[1]] * 2)):
        for place in (2, 3):
            first = shown.frames[clip, 4] - 4 + place
            static = made.net.portrait_features(portrait[clip : clip + 1])
            static = static + made.net.motion_features(torch.stack(seen[-2:], 1)[None])
            audio = made.net.audio_features(shown.audio[clip : clip + 1], torch.tensor([place]))
            noise = torch.zeros(1, 3, SIZE, SIZE)
            out = made.net(noise, t, portrait[clip : clip + 1], static, audio[:, 0])[0, :3]
            seen.append(out.clamp(-1, 1) if first >= 0 else portrait[clip])
        torch.testing.assert_close(found[clip], torch.stack(seen[-2:], 1))
    assert not found.requires_grad
    made.eval()
    assert torch.equal(made._motion_frames(shown, portrait)[0], video[0, 2:4].transpose(0, 1))
    with pytest.raises(UserError, match=r"context 4 or more"):
        made.check_draw(DrawConfig(frames=1, context=3))
    with pytest.raises(UserError, match="rollout"):
        stage(rollout=-1)


def test_noise_of_motion_frames_is_of_all_sizes():
    torch.manual_seed(0)
    noise = patchy_noise(torch.zeros(200, 3, 32, 32))
    assert noise.var().item() == pytest.approx(1, rel=0.05)
    # Layers of 32, 16, 8 and 4 cells a side: means over k x k pixels keep those of k and above, and
    # of finer ones what chance leaves.
    for k, left in ((2, 3 + 1 / 4), (4, 2 + 1 / 4 + 1 / 16), (8, 1 + 1 / 4 + 1 / 16 + 1 / 64)):
        means = torch.nn.functional.avg_pool2d(noise, k)
        assert means.var().item() == pytest.approx(left / 4, rel=0.1)


def test_a_draw_without_enough_context_is_refused():
    made = stage(options={"audio_context": 2, "motion": 3})
    with pytest.raises(UserError, match=r"draw\.context 3 or more"):
        made.check_draw(DrawConfig(1, context=2))
    stage(options={"motion": 2}).check_draw(DrawConfig(1, context=2))


def test_what_does_not_change_is_worked_out_once():
    """Portrait and sound once per request, motion frames once per frame, not per step."""
    made, calls = strategy(steps=4), Counter()
    parts = {"portrait": made.net.stem_portrait, "sound": made.net.mix, "embed": made.net.embed,
             "motion": made.net.stem_motion, "steps": made.net.unet}  # fmt: skip
    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: calls.update([name]))
    asked = generate(made, ask(5))
    assert torch.cat(list(asked.chunks)).shape == (5, 3, SIZE, SIZE)
    assert calls == {"portrait": 1, "sound": 1, "embed": 1, "motion": 5, "steps": 20}
    assert (asked.cost.calls, asked.cost.evaluations) == (20, 4 * 5 * 3)


def test_stabilize_shows_the_portrait_in_place_of_the_oldest_motion_frame():
    made, shown = strategy(plan={"name": "ar", "motion": 2, "stabilize": 3}), []
    real = made.net.motion_features
    made.net.motion_features = lambda before: shown.append(before) or real(before)
    asked = ask(8)
    frames = frames_of(made, asked)
    portrait = 2 * to_unit(asked.source) - 1
    is_portrait = [[torch.equal(x[0, :, i], portrait) for i in range(2)] for x in shown]
    assert is_portrait == [[True, True], [True, False], [False] * 2, [True, False],
                           [False] * 2, [False] * 2, [True, False], [False] * 2]  # fmt: skip
    latest = torch.stack([x[0, :, 1] for x in shown[1:]])
    assert (to_unit(frames[:-1]) - (latest + 1) / 2).abs().max() < 0.01
    plain = frames_of(strategy(), asked)
    assert torch.equal(plain[:3], frames[:3])
    assert not torch.equal(plain[3], frames[3])


def test_the_future_of_the_sound_is_heard_and_no_further():
    made, asked = strategy(), ask(12)
    before = frames_of(made, asked)
    asked.audio[8:] += 3
    changed = (frames_of(made, asked) != before).flatten(1).any(1)
    assert changed.tolist() == [False] * 6 + [True] * 6


@pytest.mark.parametrize("motion", [0, 1, 2, 3])
@pytest.mark.parametrize("variance", ["learned", "fixed"])
def test_every_number_of_motion_frames_trains_and_generates(motion, variance):
    options = {"motion": motion, "process": {"variance": variance}}
    made = stage(options=options)
    losses = made.loss(batch())
    assert losses["loss"].isfinite()
    assert ("bound" in losses) == (variance == "learned")
    assert made.trained_for() == {"observed": motion, "levels": "clip", "frames": 1}
    frames = frames_of(strategy(**options), ask(5))
    assert frames.shape == (5, 3, SIZE, SIZE)
    assert frames.float().std() > 0


def test_the_learned_variance_is_sampled_with():
    made, other = strategy(steps=4), strategy(steps=4)
    with torch.no_grad():
        other.net.unet.head.bias[3:] += 3  # the channels that say the variance
    assert not torch.equal(frames_of(made, ask(2)), frames_of(other, ask(2)))
    made.sampler = other.sampler = SamplerConfig(steps=4, eta=0.0, threshold=0)
    assert torch.equal(frames_of(made, ask(2)), frames_of(other, ask(2)))


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ({"name": "nar"}, r"take plan=\{name: ar, motion: 2\}"),
        ({"name": "ar", "motion": 3}, "trained with 2 motion frame.*plan shows 3"),
        ({"name": "ar", "motion": 0}, "plan shows 0"),
    ],
)
def test_another_plan_is_refused(plan, says):
    with pytest.raises(UserError, match=says):
        strategy(plan=plan)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"motion": -1}, r"net\.motion"),
        ({"patch": 16}, "does not divide"),
        ({"shortcut": True}, r"needs net\.process\.prediction=x0"),
    ],
)
def test_a_network_that_cannot_be_is_refused(options, says):
    with pytest.raises(UserError, match=says):
        net(**options)


def test_one_switch_sets_the_motion_frames_of_network_and_plan():
    for motion in range(4):
        word = f"stages.frame.model.net.motion={motion}"
        loaded = config.load("diffused_heads", ["scale=tiny", word])
        assert loaded.plan["motion"] == loaded.stages["frame"].model["net"]["motion"] == motion


# What it learns


def test_the_box_around_the_lips_is_upright_and_holds_them():
    points = torch.zeros(2, 478, 3)
    points[:, list(LIPS), 0] = torch.linspace(0.30, 0.55, 20)
    points[:, list(LIPS), 1] = torch.linspace(0.70, 0.82, 20)
    points[1] += 0.1
    box = box_mask(points, "lips", 20, 0.0)[:, 0]
    rows, columns = (box.any(d)[0].nonzero().flatten().tolist() for d in (2, 1))
    assert rows == [14, 15]  # centres 0.725 and 0.775; 0.825 lies outside
    assert columns == [6, 7, 8, 9, 10]
    assert torch.equal(box[1].roll((-2, -2), (0, 1)), box[0])
    assert box_mask(points, "lips", 20, 0.1)[0].sum() == 9 * 6


@pytest.mark.parametrize(("name", "levels"), [("sum", 1000), ("mean", 1)])
def test_the_loss_is_the_formula_written_out(name, levels):
    made, given = stage(w_lip=0.5, w_bound=1e-3, bound=name), batch(seed=3)
    spread(made.net)
    torch.manual_seed(1)
    losses = made.loss(given)
    torch.manual_seed(1)
    t = torch.randint(1, 1001, (2, 1))
    clean = 2 * given.video[:, 3].float() / 255 - 1
    noise = torch.randn(2, 3, 1, SIZE, SIZE)[:, :, 0]
    abar = made.net.process.alpha_bar[t[:, 0]].float()[:, None, None, None]
    noisy = abar.sqrt() * clean + (1 - abar).sqrt() * noise
    example = made.prepare(given)
    output = made.net(noisy, t[:, 0], example.portrait, example.static, example.audio)
    error = (output[:, :3] - noise).square()
    inside = box_mask(given.landmarks[:, 3], "lips", SIZE, 0.05)[:, 0].bool()
    lip = torch.cat([e[:, mask].flatten() for e, mask in zip(error, inside, strict=True)]).mean()
    bound = (
        levels
        * bound_term(
            made.net.process, output[:, :, None], clean[:, :, None], noisy[:, :, None], t
        ).mean()
    )
    torch.testing.assert_close(losses["simple"], error.mean())
    torch.testing.assert_close(losses["lip"], lip)
    torch.testing.assert_close(losses["bound"], bound)
    torch.testing.assert_close(losses["loss"], error.mean() + 0.5 * lip + 1e-3 * bound)


def test_both_bounds_are_the_terms_of_all_levels_summed_or_averaged(monkeypatch):
    """Every level is drawn once: a batch of all levels estimates without error."""
    steps = 12
    given = batch(middle=(7,) * steps)
    given = given.map(lambda tensor: tensor[:1].expand(steps, *tensor.shape[1:]))
    real = torch.randint
    monkeypatch.setattr(
        torch, "randint", lambda *a, **k: torch.arange(1, steps + 1)[:, None] if a[0] == 1
        else real(*a, **k),
    )  # fmt: skip
    found, terms = {}, []
    for name in ("sum", "mean"):
        made = stage(bound=name, options={"process": {"steps": steps}})
        spread(made.net)
        monkeypatch.setattr(
            "baselines.diffused_heads.stage.bound_term",
            lambda *a: terms.append(bound_term(*a)) or terms[-1],
        )
        torch.manual_seed(1)
        found[name] = made.loss(given)["bound"]
    assert terms[0].shape == (steps, 1)
    torch.testing.assert_close(found["sum"], terms[0].sum())
    torch.testing.assert_close(found["mean"], terms[0].sum() / steps)


def test_the_variance_s_share_of_the_gradient_is_the_released_one_or_1000_times_it():
    """Paper scale's weight; the gradient of L_simple to the predicted noise for comparison."""
    pulls, word = {}, config.load("diffused_heads", ["scale=paper"]).stages["frame"].model
    for name in ("mean", "sum", word["bound"]):
        made = stage(w_lip=0, w_bound=word["w_bound"], bound=name)
        torch.manual_seed(1)
        made.loss(batch())["loss"].backward()
        noise, variance = made.net.unet.head.bias.grad.split(3)
        pulls[name] = (noise.norm(), variance.norm())
    torch.testing.assert_close(pulls["mean"][0], pulls["sum"][0])
    torch.testing.assert_close(1000 * pulls["mean"][1], pulls["sum"][1], rtol=1e-3, atol=0)
    assert 0 < pulls[word["bound"]][1] < 1e-3 * pulls[word["bound"]][0]
    tiny = config.load("diffused_heads", ["scale=tiny"]).stages["frame"].model
    steps = tiny["net"]["process"]["steps"] if tiny["bound"] == "sum" else 1
    assert tiny["w_bound"] * steps == pytest.approx(1e-2)  # as it was tuned
    with pytest.raises(UserError, match="bound must be mean or sum, not 'median'"):
        stage(bound="median")


def test_the_loss_is_the_same_in_half_precision():
    made = stage()
    spread(made.net)
    losses = []
    for half in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses.append(made.loss(batch()))
    for name, value in losses[0].items():
        assert losses[1][name].dtype == torch.float32
        torch.testing.assert_close(losses[1][name], value, rtol=0.1, atol=0.0)


def test_a_lip_weight_of_0_is_no_lip_loss_and_lips_that_are_not_seen_do_not_count():
    torch.manual_seed(1)
    without = stage(w_lip=0).loss(batch())
    assert "lip" not in without
    torch.manual_seed(1)
    unseen = stage().loss(batch(valid=False))
    assert unseen["lip"] == 0
    torch.testing.assert_close(unseen["loss"], without["loss"])
    assert stage().loss(batch())["lip"] > 0


def test_lips_are_looked_for_in_the_frame_that_is_made():
    made, data = stage(), batch()
    middle = data.frames.shape[1] // 2

    def lip(moved):
        landmarks = data.landmarks.clone()
        landmarks[:, moved] = landmarks[:, moved] * 0.5 + 0.1
        torch.manual_seed(3)
        return made.loss(replace(data, landmarks=landmarks))["lip"]

    still = lip([])
    torch.testing.assert_close(lip([i for i in range(data.frames.shape[1]) if i != middle]), still)
    assert abs(lip([middle]) - still) > 1e-3


def test_the_loss_reaches_every_parameter():
    made = stage()
    optimizer = torch.optim.Adam(made.net.parameters(), 1e-3)
    for k in range(4):  # what starts at zero holds back the gradient of what lies behind it
        optimizer.zero_grad()
        made.loss(batch(seed=k))["loss"].backward()
        optimizer.step()
    missing = [n for n, p in made.net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not missing


def test_with_the_shortcut_a_new_network_predicts_the_portrait():
    torch.manual_seed(0)
    options = {**SMALL, "process": {"prediction": "x0"}}
    made = FrameNet(AUDIO, SIZE, FrameNetConfig(shortcut=True, **options))
    noisy, portrait = torch.randn(2, 2, 3, SIZE, SIZE)
    rest = (made.portrait_features(portrait), torch.randn(2, 32))
    t = torch.tensor([5, 900])
    output = made(noisy, t, portrait, *rest)
    torch.testing.assert_close(output[:, :3], portrait * (1 - 1 / (1 + math.exp(3))))
    assert not output[:, 3:].any()
    assert output.shape[1] == 6
    # What is masked out leaves no trace, however bright.
    spread(made)
    torch.nn.init.constant_(made.unet.head.bias[-1:], 50.0)
    one, other = (made(noisy, t, still, *rest)[:, :3] for still in (portrait, 9 * portrait))
    torch.testing.assert_close(one, other)
    plain = FrameNet(AUDIO, SIZE, FrameNetConfig(**options))
    assert not plain(noisy, torch.tensor([5, 900]), portrait, *rest).any()


def test_samples_show_portrait_frame_and_what_is_made():
    shown = stage().samples(batch())["generated"]
    given = batch()
    assert shown.shape == (1, 3, SIZE, 3 * SIZE)
    torch.testing.assert_close(shown[0, :, :, :SIZE], to_unit(given.source[0]))
    torch.testing.assert_close(shown[0, :, :, SIZE : 2 * SIZE], to_unit(given.video[0, 3]))
    assert 0 <= shown.min() <= shown.max() <= 1


# Learning


def talking(n=8):
    """A clip whose dark mouth opens with the loudness, on a ground that does not move."""
    torch.manual_seed(5)
    loudness = (torch.sin(torch.arange(n) * 1.9) + 1) / 2
    ground = F.interpolate(torch.rand(1, 3, 4, 4), SIZE, mode="bilinear")[0]
    video = ground.repeat(n, 1, 1, 1)
    for frame, open_ in zip(video, loudness, strict=True):
        frame[:, 9:14, 5:11] = 1 - open_
    return (video * 255).round().to(torch.uint8), loudness[:, None].repeat(1, AUDIO) * 2 - 1


def draw_from(video, audio, seed, b=8, around=2):
    drawn = batch([0] * b, around=around, n_clip=51)
    torch.manual_seed(seed)  # and not the stand-in's, or every step would see the same noise
    middle, source = torch.randint(0, len(video), (2, b))
    frames = (middle[:, None] + torch.arange(-around, around + 1)).clamp(0, len(video) - 1)
    drawn.video, drawn.audio, drawn.frames = video[frames], audio[frames], frames
    drawn.source = video[source]
    drawn.landmarks[..., list(LIPS), :2] = torch.tensor([0.5, 0.7])
    drawn.landmarks[..., LIPS[0], :2] = torch.tensor([0.31, 0.56])
    drawn.landmarks[..., LIPS[1], :2] = torch.tensor([0.69, 0.88])
    return drawn


def test_it_learns_a_clip_by_heart_and_says_it_from_the_sound():
    """Made frame after frame from its own motion frames, not from those filmed."""
    video, audio = talking()
    options = {**SMALL, "dim": 16, "mults": (1,), "patch": 2}
    options["process"] = {"prediction": "x0", "steps": 100}  # learned sooner than the noise
    torch.manual_seed(0)
    context = StageContext(SIZE, AUDIO, OptimConfig("adam", 4e-3, [0.9, 0.99]))
    made = FrameStage(context, net=options).train()
    optimizer = build_optimizer(made.net.parameters(), context.optim)["optimizer"]
    for k in range(100):
        given = draw_from(video, audio, k)
        optimizer.zero_grad()
        made.loss(given)["loss"].backward()
        optimizer.step()
    sampler = SamplerConfig(steps=10, threshold=0)
    strategy = DiffusedHeads({"frame": made.net}, context, {"name": "ar", "motion": 2}, sampler)
    asked = ask(len(video))
    asked.source, asked.audio = video[2], audio
    mouth = (slice(None), slice(None), slice(9, 14), slice(5, 11))
    wanted, spoken = to_unit(video), to_unit(frames_of(strategy, asked))
    error = (spoken - wanted)[mouth].square().mean()
    still = (wanted[2:3] - wanted)[mouth].square().mean()
    assert error < 0.15 * still
    assert (spoken - wanted).square().mean() < 0.01
    asked.audio = audio.flip(0)  # another sound, another clip
    backwards = to_unit(frames_of(strategy, asked))
    assert (backwards - wanted.flip(0))[mouth].square().mean() < 0.15 * still


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_a_true_prediction_makes_the_true_frames(prediction):
    """Ancestral steps over pixels from -1 to 1, with a variance beside the prediction."""
    made = strategy(steps=20, process={"prediction": prediction})
    video, process = talking(3)[0], made.net.process
    clean = 2 * to_unit(video) - 1

    class Knowing(FrameDenoiser):
        def denoise(self, noisy, t, frames, conditions, context):
            wanted = clean[frames[0].clamp(min=0)].transpose(0, 1)[None]
            noise = process.noise_between(wanted, noisy, t)
            return torch.cat([process.target(wanted, noise, t), torch.zeros_like(noisy)], dim=1)

    (sweep,) = made.passes(ask(3))
    knowing = replace(sweep, denoisers={"main": Knowing(made.net)})
    made.passes = lambda request: [knowing]
    assert (frames_of(made, ask(3)).int() - video.int()).abs().max() <= 1
