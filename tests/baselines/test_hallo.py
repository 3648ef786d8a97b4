"""Hallo: its parts, its masks and weights, guidance, training stages, and the traps."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, MotionAdapter, UNet2DConditionModel

from baselines.autoencoder import Autoencoder
from baselines.hallo import face as faces
from baselines.hallo.audio import AudioTokens, HierarchicalAttention
from baselines.hallo.masks import boxes_around, enlarge_boxes, region_masks
from baselines.hallo.net import ConditionMask, HalloNet, HalloNetConfig
from baselines.hallo.stage import ImageStage, VideoStage
from baselines.hallo.strategy import Hallo, HalloConditions, HalloDenoiser
from baselines.hallo.temporal import in_order
from baselines.hallo.unet_forward import (
    UNetConfig,
    build_unet,
    has_transformer,
    transformers,
    unet_forward,
)
from metrics.weights import WeightsMissing
from tests.baselines.test_diffused_heads import spread
from tests.toys import request
from thbench import config
from thbench.config import DrawConfig, SamplerConfig
from thbench.core.errors import UserError
from thbench.core.types import Batch
from thbench.diffusion import ddim
from thbench.generation import plans
from thbench.generation.plans import SOURCE
from thbench.generation.runner import generate
from thbench.nn.regions import FACE, LIPS, box_mask
from thbench.nn.zero_init import zero_init
from thbench.training.stage import StageContext

SIZE, AUDIO, LATENT = 16, 4, 3
UNET = {"channels": (8, 16), "attends": (True, True), "layers": 1, "heads": 2, "groups": 4,
        "token_dim": 8}  # fmt: skip
SMALL = {**UNET, "face": "encoder", "face_channels": (8,), "face_tokens": 2, "audio_hidden": 8,
         "audio_tokens": 3, "masks": "disjoint", "motion_heads": 2}  # fmt: skip


def autoencoder():
    torch.manual_seed(1)
    net = Autoencoder(channels=(8, 8), layers=1, latent_dim=LATENT, groups=4, scale=1.0)
    return net.eval().requires_grad_(False)


def net(**options):
    torch.manual_seed(0)
    made = HalloNet(AUDIO, LATENT, SIZE // 2, HalloNetConfig(**{**SMALL, **options}))
    spread(made)
    return made.eval()


def stage(kind=VideoStage, *, options=None, **switches):
    torch.manual_seed(0)
    context = StageContext(SIZE, AUDIO, needs={"autoencoder": autoencoder()})
    if kind is VideoStage:
        switches = {"segment": 4, **switches}
    return kind(context, net={**SMALL, **(options or {})}, **switches)


def landmarks(*shape):
    """A face in the middle of the frame: an oval, and lips in its lower half."""
    points = torch.full((478, 3), 0.5)
    points[list(FACE), 0] = torch.linspace(0.26, 0.74, len(FACE))
    points[list(FACE), 1] = torch.linspace(0.21, 0.79, len(FACE))
    points[list(LIPS), 0] = torch.linspace(0.405, 0.595, len(LIPS))
    points[list(LIPS), 1] = torch.linspace(0.63, 0.695, len(LIPS))
    return points.expand(*shape, 478, 3)


def boxes():
    return boxes_around(landmarks(1, 1))


def batch(b=2, n=6, around=2, seed=0):
    torch.manual_seed(seed)
    whole = n + 2 * around
    return Batch(
        video=torch.randint(0, 256, (b, whole, 3, SIZE, SIZE), dtype=torch.uint8),
        source=torch.randint(0, 256, (b, 3, SIZE, SIZE), dtype=torch.uint8),
        audio=torch.randn(b, whole, AUDIO),
        pose=torch.zeros(b, whole, 6),
        eyes=torch.zeros(b, whole, 2),
        landmarks=landmarks(b, whole),
        valid=torch.ones(b, whole, dtype=torch.bool),
        source_pose=torch.zeros(b, 6),
        source_eyes=torch.zeros(b, 2),
        source_landmarks=landmarks(b),
        frames=torch.arange(whole).expand(b, whole),
        source_frame=torch.zeros(b, dtype=torch.int64),
        ids=tuple("abcd"[:b]),
        extent=landmarks(b)[:, None, :, :2].repeat(1, 2, 1, 1),
    )


def ask(n, **options):
    asked = request(n, size=SIZE, audio_dim=AUDIO, **options)
    asked.audio = torch.randn(n, AUDIO, generator=torch.Generator().manual_seed(7))
    asked.source_landmarks = landmarks()
    return asked


def strategy(*, made=None, plan=None, steps=2, **options):
    nets = {"autoencoder": autoencoder(), "denoiser": made or net()}
    plan = plan or {"name": "sar", "segment": 4, "overlap": 2}
    sampled = SamplerConfig(steps=steps, eta=0, spacing="trailing")
    return Hallo(nets, StageContext(SIZE, AUDIO), plan, sampled, **{"guidance": 1.0, **options})


def frames_of(made, asked):
    return torch.cat(list(generate(made, asked).chunks))


@contextmanager
def counting(owner, name):
    """The batch sizes with which a method is called."""
    real, calls = getattr(owner, name), []

    def call(first, *args, **kwargs):
        calls.append(len(first))
        return real(first, *args, **kwargs)

    owner.__dict__[name] = call
    try:
        yield calls
    finally:
        del owner.__dict__[name]


# The walk through diffusers' network


class Through:
    def key_values(self, transformer, x):
        return x

    def post_block(self, place, transformer, x):
        return x


@pytest.mark.parametrize("attends", [(True, True), (False, True), (True, False)])
def test_the_walk_is_the_network_s_own_forward_pass(attends):
    torch.manual_seed(0)
    unet = build_unet(LATENT, UNetConfig(**{**UNET, "attends": attends})).eval()
    x, tokens = torch.randn(2, LATENT, 6, 6), torch.randn(2, 5, 8)
    time = torch.tensor([3, 700])
    expected = unet(x, time, encoder_hidden_states=tokens).sample
    torch.testing.assert_close(unet_forward(unet, x, time, tokens, Through()), expected)


def test_places_and_modules_of_the_walk_fit_each_other():
    made = net()
    assert len(in_order(made.temporal)) == len(has_transformer(made.unet))
    assert (
        len(made.audio_attention) == len(transformers(made.unet)) == sum(has_transformer(made.unet))
    )
    with torch.device("meta"):
        unet = build_unet(4, UNetConfig())
    # Two per level on the way down, the middle, three per level up; the deepest has none.
    assert has_transformer(unet) == [True] * 6 + [False] * 2 + [True] + [False] * 3 + [True] * 9


# Masks


def test_masks_of_the_regions_cover_them_at_every_level():
    for size in (4, 8, 32, 64):
        lip, expression, pose = region_masks(
            boxes(), size, ("lip", "expression", "pose"), "disjoint"
        )[0].bool()
        assert torch.equal(
            (lip.int() + expression.int() + pose.int()), torch.ones(size, size).int()
        )
        for ring, mask in ((LIPS, lip), (FACE, lip | expression)):
            for x, y, _ in landmarks()[list(ring)].tolist():
                assert mask[int(y * size), int(x * size)]
        corner = pose[0, 0] & pose[-1, -1]
        assert corner


def test_masks_follow_equations_7_to_10():
    lip, expression, pose, full = region_masks(
        boxes(), 40, ("lip", "expression", "pose", "full"), "paper"
    )[0].bool()
    rows, columns = (lip.any(d).nonzero().flatten() for d in (1, 0))
    assert (rows[0], rows[-1]) == (25, 27)  # .63 to .695 in cells of .025
    assert (columns[0], columns[-1]) == (16, 23)
    assert torch.equal(pose, ~expression)
    assert (lip & pose).sum() == lip.sum()  # eq. 10: what is no expression is pose, lips too
    assert not (lip & expression).any()
    assert full.all()


def moving(n=20, reach=0.15):
    """A clip whose face goes to and fro: landmarks (n, 478, 3) and what they reach (2, 478, 2)."""
    clip = landmarks(n).clone()
    clip[:, :, 0] += reach * torch.linspace(-torch.pi, torch.pi, n).sin()[:, None]
    clip[:, list(LIPS), 1] += torch.linspace(0, reach / 2, n)[:, None]
    return clip, torch.stack([clip.amin(0), clip.amax(0)])[..., :2]


def outside(masks, clip, members):
    """Share of points of all frames that lie outside the one mask (s, s)."""
    at = (clip[:, list(members), :2] * masks.shape[-1]).long()
    return 1 - masks[at[..., 1], at[..., 0]].float().mean()


def regions_of(made, clip, extent=None, **options):
    """Masks by name on 64 x 64 cells, for the portrait in the clip's first frame."""
    found = made.boxes_of(clip[:1], None if extent is None else extent[None], **options)
    soft = made.boxes == "released" and extent is None
    names = ("lip", "expression", "pose")
    masks = region_masks(found, 64, names, "disjoint", blurred=soft)[0]
    return dict(zip(names, masks, strict=True))


def test_lips_and_face_stay_in_their_regions():
    """In training always; at generation all but a few, where the portrait's boxes lose many."""
    clip, extent = moving()
    own = regions_of(net(boxes="portrait"), clip, extent)
    union, guess = regions_of(net(), clip, extent), regions_of(net(), clip)
    assert outside(own["lip"], clip, LIPS) > 0.35
    assert outside(own["lip"] + own["expression"], clip, FACE) > 0.1
    assert outside(union["lip"], clip, LIPS) == 0
    assert outside(union["lip"] + union["expression"], clip, FACE) == 0
    assert outside(guess["lip"], clip, LIPS) < outside(own["lip"], clip, LIPS) / 2
    wide = regions_of(net(), clip, enlarged={"lip": 4, "face": 2})
    assert outside(wide["lip"], clip, LIPS) < 0.05
    assert outside(wide["lip"] + wide["expression"], clip, FACE) == 0


def test_enlarged_boxes_keep_their_centres_and_may_leave_the_picture():
    grown = enlarge_boxes(boxes(), {"lip": 2, "face": 1.2})
    torch.testing.assert_close(grown.mean(2), boxes().mean(2))
    sides = (grown[0, :, 1] - grown[0, :, 0]) / (boxes()[0, :, 1] - boxes()[0, :, 0])
    torch.testing.assert_close(sides, torch.tensor([[2.0, 2.0], [1.2, 1.2]]))
    for moved, left in ((0.0, True), (0.5, True), (0.7, False), (5.0, False)):
        there = boxes_around(landmarks(1, 1) + torch.tensor([moved, 0, 0]))
        for blurred in (False, True):
            names = ("lip", "expression", "pose")
            lip, *others = region_masks(there, 16, names, "disjoint", blurred=blurred)[0]
            assert bool(lip.any()) == left
            torch.testing.assert_close(lip + sum(others), torch.ones(16, 16))


def test_the_released_regions_are_the_union_enlarged_and_at_generation_soft():
    clip, extent = moving()
    made = net(boxes="released")
    hard, soft = regions_of(made, clip, extent), regions_of(made, clip)
    union = boxes_around(extent[None])
    expected = region_masks(enlarge_boxes(union, {"lip": 2, "face": 1}), 64, ("lip",), "disjoint")
    assert torch.equal(hard["lip"], expected[0, 0])
    assert set(hard["lip"].unique().tolist()) == {0, 1}
    assert soft["lip"].max() == 1
    assert ((soft["lip"] > 0.1) & (soft["lip"] < 0.9)).any()
    # A Gaussian of 5 cells: half of the box's edge, and a sixth one deviation further.
    wide = torch.tensor([[[[-9.0, -9.0], [0.5, 9.0]]] * 2])
    edge = region_masks(wide, 64, ("lip",), "disjoint", blurred=True)[0, 0, 32]
    assert edge[31:33].mean() == pytest.approx(0.5, abs=0.01)
    assert edge[36:38].mean() == pytest.approx(0.159, abs=0.01)


@torch.no_grad()
def test_training_sees_the_union_and_generation_the_enlarged_portrait():
    extent = moving(n=10)[1]
    made, given = stage(), batch()
    given.extent = extent.expand(2, *extent.shape).clone()
    seen = made.prepare(given).portrait.masks
    union = boxes_around(given.extent)
    for size, masks in seen.items():
        assert torch.equal(masks, region_masks(union, size, made.net.regions, made.net.masks))
    asked = ask(5)
    built = strategy(made=made.net, enlarge={"lip": 3})
    around = enlarge_boxes(
        boxes_around(asked.source_landmarks[None, None]), {"lip": 3, "face": 1.2}
    )
    for size, masks in built.encode(asked).portrait.masks.items():
        assert torch.equal(masks, region_masks(around, size, made.net.regions, made.net.masks))
    given.extent = None
    with pytest.raises(ValueError, match="extent"):
        made.prepare(given)


# Sound


def test_a_frame_s_tokens_see_two_frames_on_either_side_and_no_further():
    torch.manual_seed(0)
    tokens = AudioTokens(AUDIO, hidden=8, tokens=3, dim=8)
    audio, at = torch.randn(1, 20, AUDIO), torch.arange(20)[None]
    plain = tokens(audio, at)
    assert plain.shape == (1, 20, 3, 8)
    audio[0, 10] += 1
    changed = (tokens(audio, at) != plain).flatten(2).any(2)[0]
    assert changed.nonzero().flatten().tolist() == [8, 9, 10, 11, 12]
    alone = tokens(audio, torch.tensor([[10]]))
    torch.testing.assert_close(alone[0, 0], tokens(audio, at)[0, 10])


@pytest.mark.parametrize("fusion", ["zero_conv", "addition", "self_attention"])
def test_a_new_attention_changes_nothing_and_a_trained_one_only_its_region(fusion):
    torch.manual_seed(0)
    module = HierarchicalAttention(8, 8, 2, 3, fusion)
    x, audio_tokens = torch.randn(1, 8, 8, 8), torch.randn(1, 3, 8)
    masks = region_masks(boxes(), 8, ("lip", "expression", "pose"), "disjoint")
    assert torch.equal(module(x, audio_tokens, masks, (1, 1, 1)), x)
    spread(module)
    plain = module(x, audio_tokens, masks, (1, 1, 1))
    assert not torch.equal(plain, x)
    if fusion == "self_attention":  # regions of a location mix there, by design
        return
    without = module(x, audio_tokens, masks, (0, 1, 1))
    changed = (plain != without).any(1)[0]
    assert torch.equal(changed, masks[0, 0].bool())
    torch.testing.assert_close(without * masks[:, :1], x * masks[:, :1])
    double = module(x, audio_tokens, masks, (2, 1, 1))
    torch.testing.assert_close(double - plain, plain - without)


def test_fusions_and_regions_that_do_not_exist_are_refused():
    for options, words in [
        ({"fusion": "sum"}, "fusion"),
        ({"regions": ["lips"]}, "Did you mean 'lip'"),
        ({"regions": []}, "one region"),
        ({"masks": "round"}, "masks"),
        ({"boxes": "union"}, "one of clip, portrait, released"),
        ({"face": "clip"}, "No face embedding"),
    ]:
        with pytest.raises(UserError, match=words):
            net(**options)


@pytest.mark.parametrize(
    "regions",
    [["full"], ["full", "lip"], ["full", "expression"], ["full", "pose"],
     ["lip", "expression", "pose"]],
)  # fmt: skip
@pytest.mark.parametrize("fusion", ["zero_conv", "addition", "self_attention"])
def test_every_row_of_tables_4_and_5_learns_and_generates(regions, fusion):
    options = {"regions": regions, "fusion": fusion}
    made = stage(options=options)
    made.loss(batch())["loss"].backward()
    assert all(p.grad is not None for p in made.net.parameters() if p.requires_grad)
    built = strategy(made=net(**options), weights={regions[-1]: 0.5})
    assert built.weights[-1] == 0.5
    assert frames_of(built, ask(5)).shape == (5, 3, SIZE, SIZE)


# The network


def given(made, b=1, n=4, seed=3):
    """Latents, levels, portrait, sound and motion maps of ``b`` clips."""
    asked = batch(b=b)
    torch.manual_seed(seed)
    shape = (b, LATENT, n, SIZE // 2, SIZE // 2)
    portrait = made.portrait(torch.randn(b, *made.shape), asked.source, asked.source_landmarks)
    audio_tokens = made.tokens(torch.randn(b, 12, AUDIO), torch.arange(n).expand(b, n))
    motion = made.motion_maps(torch.randn(b, LATENT, 2, *shape[3:]), portrait)
    return torch.randn(shape), torch.full((b, n), 500), portrait, audio_tokens, motion


@torch.no_grad()
def test_the_output_depends_on_every_condition_and_on_none_that_is_hidden():
    made = net()
    noisy, t, portrait, audio_tokens, motion = given(made)
    other = given(made, seed=4)
    kept = ConditionMask.all(1, noisy.device)
    plain = made(noisy, t, portrait, kept, audio_tokens, motion)
    hidden = {
        "image": ConditionMask(kept.image & False, kept.audio, kept.motion),
        "audio": ConditionMask(kept.image, kept.audio & False, kept.motion),
        "motion": ConditionMask(kept.image, kept.audio, kept.motion & False),
    }
    swapped = {
        "image": (other[2], audio_tokens, motion),
        "audio": (portrait, other[3], motion),
        "motion": (portrait, audio_tokens, other[4]),
    }
    for kind, keep in hidden.items():
        image, audio, before = swapped[kind]
        assert not torch.allclose(made(noisy, t, image, kept, audio, before), plain)
        without = made(noisy, t, portrait, keep, audio_tokens, motion)
        assert not torch.allclose(without, plain)
        torch.testing.assert_close(made(noisy, t, image, keep, audio, before), without)


@torch.no_grad()
def test_hiding_the_portrait_is_self_attention_without_it():
    made = net()
    noisy, t, portrait, _, _ = given(made)
    keep = ConditionMask.all(1, noisy.device, image=False)
    got = made(noisy[:, :, :1], t[:, :1], portrait, keep)[:, :, 0]
    tokens = torch.zeros_like(portrait.face)
    expected = made.unet(noisy[:, :, 0], t[:, 0] - 1, encoder_hidden_states=tokens).sample
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_clips_of_a_batch_do_not_see_each_other():
    made = net()
    noisy, t, portrait, audio_tokens, motion = given(made, b=2)
    both = made(noisy, t, portrait, ConditionMask.all(2, noisy.device), audio_tokens, motion)
    one = type(portrait)(
        portrait.latent[1:],
        [x[1:] for x in portrait.features],
        portrait.face[1:],
        {s: m[1:] for s, m in portrait.masks.items()},
    )
    alone = made(
        noisy[1:],
        t[1:],
        one,
        ConditionMask.all(1, noisy.device),
        audio_tokens[1:],
        [m[1:] for m in motion],
    )
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-4)


def test_latents_and_differences_come_back():
    for shortcut in (False, True):
        made = net(shortcut=shortcut)
        clips, portrait = torch.randn(2, LATENT, 3, 8, 8), torch.randn(2, LATENT, 8, 8)
        change = (clips - portrait[:, :, None]).transpose(1, 2).flatten(0, 1)
        made.train().observe_statistics(change, torch.randn(10, AUDIO))
        latent = made.to_latent(clips, portrait)
        back = made.from_latent(latent[:, :, 1], portrait)
        torch.testing.assert_close(back, clips[:, :, 1], atol=1e-5, rtol=1e-4)
        if shortcut:
            assert latent.std() == pytest.approx(1, abs=0.05)
            torch.testing.assert_close(
                latent * (clips - portrait[:, :, None]).std(),
                clips - portrait[:, :, None],
                atol=0.05,
                rtol=0.05,
            )


def test_with_the_shortcut_a_silent_network_estimates_the_portrait_from_noise():
    """At the last level nothing but the portrait is known, whatever the noise."""
    made = net(shortcut=True)
    noisy, t, portrait, audio_tokens, motion = given(made, b=1)
    zero_init(made.unet.conv_out)
    keep = ConditionMask.all(1, noisy.device)
    last = torch.full_like(t, made.process.steps)
    clean = made.process.to_clean(
        made(noisy, last, portrait, keep, audio_tokens, motion), noisy, last
    )
    torch.testing.assert_close(clean, torch.zeros_like(clean))
    first = torch.ones_like(t)
    clean = made.process.to_clean(
        made(noisy, first, portrait, keep, audio_tokens, motion), noisy, first
    )
    torch.testing.assert_close(clean, noisy, atol=0.05, rtol=0.05)


# Noise


def test_the_schedule_is_the_published_one_in_training_and_at_generation():
    """Trap: the released code trains and samples with different betas."""
    trained, made = stage(), strategy()
    (sweep,) = made.passes(ask(3))
    assert sweep.process is made.net.process
    assert torch.equal(trained.net.process.alpha_bar, sweep.process.alpha_bar)
    assert sweep.process.prediction == "v"
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012,
        beta_schedule="scaled_linear", rescale_betas_zero_snr=True, timestep_spacing="trailing",
    )  # fmt: skip
    theirs = torch.cumprod(1 - scheduler.betas.double(), 0)
    torch.testing.assert_close(sweep.process.alpha_bar[1:], theirs)
    assert sweep.process.alpha_bar[-1] == 0
    scheduler.set_timesteps(40)
    published = config.load("hallo", ["scale=paper"]).sampler
    assert published.eta == 0
    assert (ddim.grid(sweep.process, published)[:-1] - 1).tolist() == scheduler.timesteps.tolist()


# Guidance


class Terms(HalloNet):
    """Its prediction is 1 for nothing, +10 with the portrait, +100 with the sound."""

    def forward(self, noisy, t, portrait, keep, audio_tokens=None, motion=None, weights=None):
        self.calls += 1
        level = 1 + 10 * keep.image.float() + 100 * keep.audio.float()
        return level[:, None, None, None, None].expand_as(noisy)


@pytest.mark.parametrize(
    ("image", "audio", "expected", "calls"),
    [(1, 1, 111, 1), (3.5, 3.5, 1 + 3.5 * 110, 2), (3, 1, 1 + 3 * 10 + 100, 3),
     (1, 6, 11 + 6 * 100, 2), (3.5, 6, 1 + 3.5 * 10 + 6 * 100, 3)],
)  # fmt: skip
def test_guidance_joint_and_separate(image, audio, expected, calls):
    made = net()
    made.__class__, made.calls = Terms, 0
    noisy, t, portrait, _, _ = given(net())
    conditions = HalloConditions(portrait, torch.randn(1, 9, AUDIO))
    denoiser = HalloDenoiser(made, image, audio)
    got = denoiser.denoise(noisy, t, torch.arange(4)[None], conditions, None)
    torch.testing.assert_close(got, torch.full_like(got, expected))
    assert made.calls == calls


def test_options_that_make_no_sense_are_refused():
    for options, words in [
        ({"guidance": {"audio": 2}}, "guidance"),
        ({"guidance": "high"}, "guidance"),
        ({"weights": {"lips": 1}}, "Did you mean 'lip'"),
        ({"weights": {"lip": "more"}}, "weights.lip"),
        ({"enlarge": {"lips": 2}}, "Did you mean 'lip'"),
        ({"enlarge": {"lip": 0.5}}, "enlarge.lip"),
        ({"enlarge": {"lip": 2}, "made": net(boxes="portrait")}, "drop options.enlarge"),
        ({"plan": {"name": "nar"}}, "plan"),
        ({"plan": {"name": "sar", "segment": 4, "overlap": 3}}, "plan"),
        ({"plan": {"name": "sar", "segment": 31, "overlap": 2}}, "plan.segment=30"),
    ]:
        with pytest.raises(UserError, match=words):
            strategy(**options)
    assert strategy(guidance={"image": 3.5, "audio": 6}).scales == {"image": 3.5, "audio": 6}


# Generation


def test_the_portrait_and_its_reference_are_encoded_once_and_motion_once_a_segment():
    """Trap: ReferenceNet and the autoencoder run on the portrait again for every segment."""
    made = strategy(steps=3)
    looked = []
    real = made.net._reference_pass
    made.net.__dict__["_reference_pass"] = lambda z, f: (looked.append(len(z)), real(z, f))[1]
    with counting(made.vae, "encode") as encoded:
        frames_of(made, ask(14))
    assert encoded == [1]
    assert looked == [1, 2, 2, 2]  # the portrait, then two motion frames of each later segment


def test_frames_are_decoded_in_batches():
    """Trap: the released code decodes frame by frame."""
    made = strategy()
    with counting(made.vae, "decode") as decoded:
        frames_of(made, ask(10))
    assert decoded == [4, 4, 2]
    made.decode_chunk = 3
    with counting(made.vae, "decode") as decoded:
        frames_of(made, ask(10))
    assert decoded == [3, 1, 3, 1, 2]


def test_a_long_video_streams_in_constant_memory():
    made, held = strategy(steps=1), []
    generation = generate(made, ask(60))
    with counting(made.net.unet.conv_in, "forward") as shown:
        for chunk in generation.chunks:
            held.append((len(chunk), sum(shown)))
    assert held[0] == (4, 4)  # the first segment is out before the second is begun
    assert [total for _, total in held] == list(range(4, 61, 4))
    assert max(shown) == 4


def test_a_segment_sees_the_two_frames_before_it_and_the_first_sees_none():
    made = strategy()
    (sweep,) = made.passes(ask(10))
    seen = [window.observe for window in plans.windows(sweep.plan)]
    assert seen == [(), (2, 3), (6, 7)]
    assert SOURCE not in sum(seen, ())
    conditions = made.encode(ask(10))
    denoiser = sweep.denoisers["main"]
    noisy = torch.randn(1, *denoiser.latent_shape(conditions)[:1], 6, 8, 8)
    context = denoiser.observe(noisy[:, :, :2], torch.tensor([[2, 3]]), conditions)
    t = torch.tensor([[0, 0, 9, 9, 9, 9]])
    frames = torch.arange(2, 8)[None]
    got = denoiser.denoise(noisy, t, frames, conditions, context)
    assert got.shape == noisy.shape
    assert not got[:, :, :2].any()
    changed = denoiser.observe(noisy[:, :, :2] + 1, frames[:, :2], conditions)
    assert not torch.allclose(denoiser.denoise(noisy, t, frames, conditions, changed), got)


def test_the_last_segment_is_as_long_as_the_others_and_what_is_too_much_is_dropped():
    """Trap: a segment of a frame or two, which training never shows, is burnt."""
    made = strategy()
    (sweep,) = made.passes(ask(9))
    assert [len(window.generate) for window in plans.windows(sweep.plan)] == [4, 4, 4]
    asked = ask(9)
    frames = frames_of(made, asked)
    assert len(frames) == 9
    longer = torch.cat([asked.audio, asked.audio[-1:].expand(3, -1)])
    whole = frames_of(made, replace(asked, audio=longer))
    assert torch.equal(whole[:9], frames)


def test_the_weights_of_the_regions_reach_the_video():
    made = net()
    plain = frames_of(strategy(made=made), ask(5))
    assert torch.equal(frames_of(strategy(made=made, weights={"lip": 1}), ask(5)), plain)
    for region in ("lip", "expression", "pose"):
        assert not torch.equal(frames_of(strategy(made=made, weights={region: 0}), ask(5)), plain)
    zero_init = {"lip": 0, "expression": 0, "pose": 0}
    quiet = frames_of(strategy(made=made, weights=zero_init), ask(5))
    other = ask(5)
    other.audio = -other.audio
    assert torch.equal(frames_of(strategy(made=made, weights=zero_init), other), quiet)
    assert not torch.equal(frames_of(strategy(made=made), other), plain)


# Training


def test_the_first_stage_trains_space_and_the_second_sound_and_time():
    first, second = stage(ImageStage), stage(VideoStage)
    space, time = {"unet", "reference", "face"}, {"audio_tokens", "audio_attention", "temporal"}
    for made, given_batch, parts in [
        (first, batch(n=1, around=0), space),
        (second, batch(), time),
        (stage(VideoStage, trains="all"), batch(), space | time),
    ]:
        made.loss(given_batch)["loss"].backward()
        trained = {k.split(".")[0] for k, p in made.net.named_parameters() if p.requires_grad}
        assert trained == parts
        for name, parameter in made.net.named_parameters():
            # All that is trained has a gradient, or training on several devices would stop.
            assert (parameter.grad is not None) == parameter.requires_grad, name


def test_attention_alone_can_be_trained_as_the_paper_s_text_has_it():
    made = stage(ImageStage, trains="attention")
    names = [k for k, p in made.net.named_parameters() if p.requires_grad]
    spatial = [k for k in names if not k.startswith("face")]
    assert spatial
    assert all(".attn1." in k or ".attn2." in k for k in spatial)
    made.loss(batch(n=1, around=0))["loss"].backward()
    for kind in (ImageStage, VideoStage):
        with pytest.raises(UserError, match="trains"):
            stage(kind, trains="some")


def test_motion_frames_are_noisy_in_training_alone(monkeypatch):
    made, seen = stage(motion_noise=0.5), []
    maps = made.net.motion_maps
    monkeypatch.setattr(
        made.net, "motion_maps", lambda clips, *rest: seen.append(clips) or maps(clips, *rest)
    )
    loud = made.prepare(batch())
    made.eval()
    quiet = made.prepare(batch())
    assert torch.equal(loud.clean, quiet.clean), "what is to be made stays as it is"
    noise = (seen[0] - seen[1]).flatten(1).std(1)
    assert 0 < noise.min() < noise.max() < 0.6
    with pytest.raises(UserError, match="motion_noise"):
        stage(motion_noise=-0.1)


def test_a_new_second_stage_predicts_what_the_first_does():
    torch.manual_seed(0)
    made = HalloNet(AUDIO, LATENT, SIZE // 2, HalloNetConfig(**SMALL)).eval()
    noisy, t, portrait, audio_tokens, motion = given(made)
    keep = ConditionMask.all(1, noisy.device)
    with torch.no_grad():
        image, video = (
            made(noisy, t, portrait, keep),
            made(noisy, t, portrait, keep, audio_tokens, motion),
        )
    torch.testing.assert_close(image, video)


@pytest.mark.parametrize("kind", [ImageStage, VideoStage])
def test_the_loss_is_v_prediction_of_the_frames_to_be_made(kind):
    made = stage(kind, w_lip=0.5, drop={"image": 0, "audio": 0, "motion": 0})
    data = batch() if kind is VideoStage else batch(n=1, around=0)
    torch.manual_seed(5)
    losses = made.loss(data)
    torch.manual_seed(5)
    example = made.prepare(data)
    n = example.clean.shape[2]
    assert n == (4 if kind is VideoStage else 1)
    t = torch.randint(1, 1001, (2, 1)).expand(2, n)
    noise = torch.randn_like(example.clean)
    abar = made.net.process.alpha_bar[t].float()[:, None, :, None, None]
    noisy = abar.sqrt() * example.clean + (1 - abar).sqrt() * noise
    keep = ConditionMask.all(2, t.device)
    prediction = made.net(noisy, t, example.portrait, keep, example.audio_tokens, example.motion)
    error = (prediction - (abar.sqrt() * noise - (1 - abar).sqrt() * example.clean)).square()
    torch.testing.assert_close(losses["simple"], error.mean())
    lips = torch.zeros(8, 8)
    lips[5, 3:5] = 1  # .63 to .695 and .405 to .595, in cells of .125
    torch.testing.assert_close(losses["lip"], (error * lips).mean())
    torch.testing.assert_close(losses["loss"], losses["simple"] + 0.5 * losses["lip"])


def test_frames_without_a_face_do_not_count_and_lips_are_looked_for_where_they_are():
    made, data = stage(VideoStage, w_lip=0.5), batch()
    data.landmarks = data.landmarks.clone()
    for k in range(data.landmarks.shape[1]):
        data.landmarks[:, k, :, 1] -= 0.02 * k  # the head rises
    data.valid[0, 4] = data.valid[1, 7] = False  # the first and the last frame to be made
    process, calls = made.net.process, {}
    target, forward = process.target, made.net.forward
    process.target = lambda *args: calls.update(wanted=target(*args)) or calls["wanted"]
    made.net.forward = lambda *args: calls.update(made=forward(*args)) or calls["made"]
    losses = made.loss(data)
    error = (calls["made"] - calls["wanted"]).square().transpose(1, 2)
    shown = data.valid[:, 4:8]
    lips = box_mask(data.landmarks[:, 4:8], "lips", 8, touched=True)
    torch.testing.assert_close(losses["simple"], error[shown].mean())
    torch.testing.assert_close(losses["lip"], (error * lips)[shown].mean())


def test_each_condition_of_each_clip_is_hidden_as_often_as_told_and_apart_from_the_others():
    made, kept = stage(VideoStage, drop={"image": 0.5, "audio": 0.5, "motion": 0.2}), []
    made.net.forward = lambda noisy, t, portrait, keep, *rest: kept.append(keep) or noisy
    torch.manual_seed(0)
    data = batch(b=2)
    for _ in range(60):
        made.loss(data)
    image, audio, motion = (
        torch.cat([getattr(keep, name) for keep in kept]).float()
        for name in ("image", "audio", "motion")
    )
    for hidden, share in ((image, 0.5), (audio, 0.5), (motion, 0.2)):
        assert (1 - hidden.mean()).item() == pytest.approx(share, abs=0.12)
    apart = torch.corrcoef(torch.stack([image, audio, motion])).triu(1).abs()
    assert apart.max() < 0.3


def test_the_second_stage_takes_its_frames_sound_and_motion_from_the_right_blocks():
    made, data = stage(), batch()
    example = made.prepare(data)
    latents = made.vae.encode(data.video[0].float() / 255).transpose(0, 1)
    torch.testing.assert_close(example.clean[0], latents[:, 4:8], atol=1e-4, rtol=1e-3)
    seen = made.net.motion_maps(latents[None, :, 2:4], made.net.portrait(
        made.vae.encode(data.source[:1].float() / 255), data.source[:1], data.source_landmarks[:1]
    ))  # fmt: skip
    torch.testing.assert_close(example.motion[0][:1], seen[0], atol=1e-4, rtol=1e-3)
    tokens = made.net.tokens(data.audio, torch.tensor([[4, 5, 6, 7]] * 2))
    torch.testing.assert_close(example.audio_tokens, tokens)
    made.check_draw(DrawConfig(6, context=2))
    for draw in (DrawConfig(5, context=2), DrawConfig(6), DrawConfig(6, context=2, least=3)):
        with pytest.raises(UserError, match=r"draw.frames=6, draw.context=2 and draw.least=null"):
            made.check_draw(draw)
    assert made.trained_for()["plan"] == {"name": "sar", "segment": 4, "overlap": 2}


@pytest.mark.parametrize("kind", [ImageStage, VideoStage])
def test_samples_for_the_log_show_the_first_clip(kind):
    made = stage(kind)
    data = batch() if kind is VideoStage else batch(n=1, around=0)
    shown = made.samples(data)["generated"]
    n = 4 if kind is VideoStage else 1
    assert shown.shape == (n, 3, SIZE, 2 * SIZE)
    filmed = data.video[0, 4:8] if kind is VideoStage else data.video[0]
    torch.testing.assert_close(shown[..., :SIZE], filmed.float() / 255)


def test_both_stages_learn_what_they_are_shown():
    for kind, data in ((ImageStage, batch(n=1, around=0)), (VideoStage, batch())):
        made = stage(kind, drop={"image": 0, "audio": 0, "motion": 0})
        chosen = [p for p in made.net.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(chosen, lr=1e-2)
        values = []
        for _ in range(15):
            torch.manual_seed(11)
            loss = made.loss(data)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(float(loss.detach()))
        assert values[-1] < 0.85 * values[0], kind


# Faces


def test_the_synthetic_expert_and_the_encoder_give_tokens():
    pictures = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    for source in ("encoder", "synthetic-identity"):
        torch.manual_seed(0)
        tokens = faces.FaceTokens(source, tokens=4, dim=8, channels=(8,))
        tokens.check()
        made = tokens(pictures, landmarks(2))
        assert made.shape == (2, 4, 8)
        assert not torch.allclose(made[0], made[1])
        made.sum().backward()
        assert tokens.project.weight.grad is not None
    embedded = tokens.embed(pictures, landmarks(2))
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(2))


def test_arcface_without_weights_names_the_remedies_before_anything_is_generated(monkeypatch):
    def missing():
        raise WeightsMissing("run `thbench weights pull arcface`")

    faces.extractor.cache_clear()
    monkeypatch.setattr(faces, "ArcFace", missing)
    made = net(face="arcface")  # to build it needs none
    with pytest.raises(UserError, match=r"weights pull arcface.*encoder"):
        strategy(made=made)


def test_arcface_is_asked_for_the_aligned_portrait(monkeypatch):
    class Embeds:
        def extract(self, frames, given):
            assert frames.dtype == torch.uint8
            assert given["landmarks"].shape == (2, 478, 3)
            assert given["valid"].all()
            with torch.inference_mode():
                return torch.nn.functional.one_hot(torch.tensor([3, 5]), 512).float()

    faces.extractor.cache_clear()
    monkeypatch.setattr(faces, "ArcFace", Embeds)
    made = stage(ImageStage, options={"face": "arcface"})
    made.loss(batch(n=1, around=0))["loss"].backward()
    weight = made.net.face.project.weight.grad
    faces.extractor.cache_clear()
    assert weight[:, [3, 5]].any()
    assert not weight[:, [0, 1, 2, 4]].any()


# Published weights


def test_stable_diffusion_fills_denoiser_and_reference_from_a_pipeline_s_folder(tmp_path):
    torch.manual_seed(9)
    build_unet(LATENT, UNetConfig(**UNET)).save_pretrained(tmp_path / "unet")
    theirs = UNet2DConditionModel.from_pretrained(tmp_path / "unet").state_dict()
    made = stage(ImageStage, init_from=str(tmp_path))
    made.start()
    for part in (made.net.unet, made.net.reference):
        for key, value in part.state_dict().items():
            assert torch.equal(value, theirs[key]), key
    with pytest.raises(UserError, match="another layout"):
        stage(ImageStage, options={"channels": (8, 8)}, init_from=str(tmp_path)).start()


def test_motion_modules_fill_the_second_stage_and_random_ones_say_so(tmp_path, capsys):
    torch.manual_seed(9)
    theirs = MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_num_attention_heads=2,
        motion_norm_num_groups=4,
    )  # fmt: skip
    theirs.save_pretrained(tmp_path)
    made = stage(init_from=str(tmp_path))
    assert not any(m.proj_out.weight.any() for m in in_order(made.net.temporal))
    made.start()
    for key, value in made.net.temporal.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key]), key
    assert not capsys.readouterr().out
    for kind in (ImageStage, VideoStage):
        stage(kind).start()
        assert "random weights" in capsys.readouterr().out
    with pytest.raises(UserError, match="cannot be had"):
        stage(init_from=str(tmp_path / "nowhere")).start()


def test_a_motion_module_of_the_first_version_has_no_middle(tmp_path):
    MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_num_attention_heads=2,
        motion_norm_num_groups=4, use_motion_mid_block=False,
    ).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(UserError, match="another layout"):
        stage(init_from=str(tmp_path)).start()
    made = stage(options={"motion_mid": False}, init_from=str(tmp_path))
    made.start()
    made.loss(batch())["loss"].backward()
