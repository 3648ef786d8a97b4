"""FD2Talk: what its nets are, what they are shown, what they learn, and its switches."""

import math
from dataclasses import replace

import pytest
import torch

from baselines.autoencoder import Autoencoder
from baselines.fd2talk.autoencoder import ReferenceAutoencoder, ReferenceAutoencoderStage
from baselines.fd2talk.frame import FrameNet, FrameNetConfig, FrameStage
from baselines.fd2talk.lip import EPSILON, LipExpert, LipStage, contrast, p_sync
from baselines.fd2talk.morphable import MorphableStage, coefficients
from baselines.fd2talk.motion import MotionStage
from baselines.fd2talk.motion_net import DiT, DiTConfig, MotionNet, MotionNetConfig
from baselines.fd2talk.strategy import FD2Talk, FrameConditions
from baselines.fd2talk.unet import Block, Conditioned, CrossAttention
from tests.data.test_morphable import bfm, planted
from tests.data.test_morphable import model as found_model
from tests.toys import request
from thbench import config
from thbench.config import DrawConfig, OptimConfig, SamplerConfig
from thbench.core.errors import UserError
from thbench.core.types import Batch
from thbench.data.face.morphable import pose_coefficients, to_pose
from thbench.generation import plans
from thbench.generation.runner import generate
from thbench.nn.attention import local_attention_mask
from thbench.nn.perceptual import pixel_features, pyramid_l1
from thbench.nn.regions import box_mask
from thbench.nn.zero_init import zero_init
from thbench.training.runs import build_stage
from thbench.training.stage import StageContext

SIZE, AUDIO, FRAMES = 16, 5, 12
DIT = {"dim": 16, "depth": 2, "heads": 2}
UNET = {"dim": 8, "mults": (1, 2), "blocks": 1, "head_dim": 4, "groups": 4, "width": 8}
AUTO = {"latent_dim": 2, "channels": (4, 8), "layers": 1, "groups": 2, "patch": 2}
PLAN = {"name": "sar", "segment": 8, "overlap": 3}


def spread(module):
    """Weights that start at zero hide what goes through them."""
    for p in module.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    return module


def batch(b=2, n=FRAMES, seed=0, valid=True):
    torch.manual_seed(seed)
    landmarks, pose, _ = planted(seed=seed, people=b, frames=n + 1)
    return Batch(
        video=torch.randint(0, 256, (b, n, 3, SIZE, SIZE), dtype=torch.uint8),
        source=torch.randint(0, 256, (b, 3, SIZE, SIZE), dtype=torch.uint8),
        audio=torch.randn(b, n, AUDIO),
        pose=pose[:, 1:],
        eyes=torch.zeros(b, n, 2),
        landmarks=landmarks[:, 1:],
        valid=torch.full((b, n), valid),
        source_pose=pose[:, 0],
        source_eyes=torch.zeros(b, 2),
        source_landmarks=landmarks[:, 0],
        frames=torch.arange(n).expand(b, n) + 5,
        source_frame=torch.zeros(b, dtype=torch.int64),
        ids=tuple("abcdef"[:b]),
    )


def context(**needs):
    return StageContext(SIZE, AUDIO, OptimConfig(lr=1e-2), needs=needs)


@pytest.fixture(scope="module")
def face():
    return found_model()


def expert(face):
    torch.manual_seed(0)
    return LipExpert(len(face.mouth), AUDIO, width=8, dim=8)


def motion_stage(face, **options):
    torch.manual_seed(0)
    net = {**DIT, **options.pop("net", {})}
    needs = {"morphable": face, "lip": expert(face)}
    return MotionStage(context(**needs), plan=PLAN, net=net, **options)


def strategy(face, *, plan=None, **options):
    torch.manual_seed(0)
    auto = spread(ReferenceAutoencoder(**AUTO))
    nets = {
        "morphable": face,
        "motion": spread(MotionNet(face.n_expression, AUDIO, MotionNetConfig(**DIT))),
        "autoencoder": auto,
        "frame": spread(
            FrameNet(
                auto.latent_dim, SIZE // auto.factor, face.n_expression, FrameNetConfig(**UNET)
            )
        ),
    }
    sampler = SamplerConfig(steps=2)
    return FD2Talk(nets, StageContext(SIZE, AUDIO), plan or PLAN, sampler, **options)


def ask(n, **changes):
    landmarks, pose, _ = planted(people=1, frames=1)
    made = request(n, size=SIZE, audio_dim=AUDIO)
    audio = torch.randn(n, AUDIO, generator=torch.Generator().manual_seed(n))
    return replace(
        made, audio=audio, source_pose=pose[0, 0], source_landmarks=landmarks[0, 0], **changes
    )


# The transformers


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_alignment_mask_admits_exactly_k_frames_to_either_side(k):
    band = local_attention_mask(torch.arange(20)[None] + 7, 2 * k)
    n = 20
    seen = torch.zeros(n, n, dtype=torch.bool)
    net = spread(DiT(4, AUDIO, DiTConfig(dim=8, depth=1, heads=2, align=k))).eval()
    # Frames do not see each other here, so what reaches frame i came through the mask.
    net.layers[0].attend[0].to_out.weight.data.zero_()
    x, t = torch.randn(1, n, 4), torch.full((1, n), 3)
    frames, audio = torch.arange(n)[None] + 7, torch.randn(1, n, AUDIO)
    before = net(x, t, frames, audio)
    for j in range(n):
        changed = audio.clone()
        changed[:, j] += 1
        seen[:, j] = (net(x, t, frames, changed) - before).abs().amax(-1)[0] > 0
    distance = (torch.arange(n)[:, None] - torch.arange(n)).abs()
    assert torch.equal(seen, distance <= k)
    if band.half is None:
        assert torch.equal(band.allowed[0, 0], distance <= k)


def test_the_mask_counts_true_frames_and_without_it_all_is_heard():
    places = torch.tensor([[0, 1, 8, 9]])
    x, t = torch.randn(1, 4, 4), torch.full((1, 4), 3)
    audio = torch.randn(1, 4, AUDIO)
    for align, heard in ((3, [True, True, False, False]), (None, [True] * 4)):
        net = spread(DiT(4, AUDIO, DiTConfig(dim=8, depth=1, heads=2, align=align))).eval()
        net.layers[0].attend[0].to_out.weight.data.zero_()
        changed = audio.clone()
        changed[:, 0] += 1
        moved = (net(x, t, places, changed) - net(x, t, places, audio)).abs().amax(-1)[0] > 0
        assert moved.tolist() == heard


@pytest.mark.parametrize("single", [False, True])
def test_expression_and_pose_are_made_apart_unless_one_transformer_makes_both(single):
    net = spread(MotionNet(3, AUDIO, MotionNetConfig(single=single, **DIT))).eval()
    assert len(net.transformers) == 2 - single
    noisy, frames = torch.randn(1, 9, 6), torch.arange(6)[None]
    t, audio = torch.full((1, 6), 50), torch.randn(1, 6, AUDIO)
    other = noisy.clone()
    other[:, 3:] += 1
    a, b = (net(x, t, frames, audio) for x in (noisy, other))
    assert bool((a[:, :3] != b[:, :3]).any()) == single
    assert bool((a[:, 3:] != b[:, 3:]).any())


def test_the_paper_s_sizes():
    loaded = config.load("fd2talk", ["scale=paper"])
    nets = {}
    with torch.device("meta"):
        for name in ("morphable", "lip", "motion", "autoencoder", "frame"):
            needs = {need: nets[need] for need in loaded.stages[name].needs}
            nets[name] = build_stage(loaded, name, needs, 768).net
    motion, frame, auto = nets["motion"], nets["frame"], nets["autoencoder"]
    assert [len(dit.layers) for dit in motion.transformers] == [6, 6]
    assert [dit.align for dit in motion.transformers] == [3, 3]
    assert motion.channels == 64 + 6
    assert motion.process.prediction == frame.process.prediction == "x0"
    assert motion.process.steps == frame.process.steps == 1000
    assert (loaded.size, auto.factor, frame.shape) == (256, 4, (3, 64, 64))
    assert auto.vae.decoder.conv_in.in_channels == 2 * auto.latent_dim
    assert (loaded.sampler.steps, loaded.plan["segment"]) == (50, 25)
    count = {k: sum(p.numel() for p in net.parameters()) for k, net in nets.items()}
    assert count == COUNTS


COUNTS = {
    "morphable": 203_581,
    "lip": 3_866_112,
    "motion": 51_834_950,
    "autoencoder": 55_325_887,
    "frame": 198_535_011,
}


# The lip expert


def test_p_sync_is_a_cosine_that_never_gives_an_infinite_loss():
    a = torch.tensor([[1.0, 0], [1, 1], [0, 0], [2, 0]])
    b = torch.tensor([[0, 1.0], [1, 1], [1, 0], [5, 0]])
    made = p_sync(a, b)
    torch.testing.assert_close(made, torch.tensor([EPSILON, 1.0, EPSILON, 1.0]))
    assert (-made.log()).isfinite().all()


def test_embeddings_are_nowhere_negative(face):
    net = expert(face)
    vertices, audio = torch.randn(2, 6, len(face.mouth), 3), torch.randn(2, 6, AUDIO)
    assert (net.lips(vertices) >= 0).all()
    assert (net.audio(audio) >= 0).all()
    assert net(vertices, audio).shape == (2, 6)


def test_true_pairs_are_the_diagonal_and_neighbours_are_neither():
    eye = torch.eye(6).reshape(1, 6, 6)
    frames, valid = torch.arange(6)[None], torch.ones(1, 6, dtype=torch.bool)
    perfect = contrast(eye, eye, frames, valid, near=1)
    assert perfect["loss"] < 1e-3
    # A sound that is late by one frame has no true pair, and neighbours do not count as false.
    late = contrast(eye, eye.roll(1, 1), frames, valid, near=1)
    assert late["true"] == pytest.approx(EPSILON, rel=0.1)
    assert late["false"] < 0.11  # the wrap-around alone
    unseen = contrast(eye, eye.roll(1, 1), frames, ~valid, near=1)
    assert unseen["loss"] == 0


def test_the_sound_of_the_same_moment_in_another_clip_is_a_false_one():
    eyes = torch.eye(6).expand(2, 6, 6)
    frames, valid = torch.arange(6).expand(2, 6), torch.ones(2, 6, dtype=torch.bool)
    # Of 12 x 12 pairs 2 x 16 lie within a frame of each other in a clip; 12 others agree.
    assert contrast(eyes, eyes, frames, valid, near=1)["false"] == pytest.approx(12 / 112, rel=1e-3)


def test_a_batch_of_groups_is_the_mean_of_its_parts(face):
    """Whatever devices and accumulation make of it, as long as no group is divided."""
    torch.manual_seed(0)
    stage = LipStage(context(morphable=face), net={"width": 8, "dim": 8}, group=2).eval()
    shown = batch(b=4)
    shown.valid[0, :9] = False  # parts differ in how much of them counts
    losses, whole = lip_gradient(stage, shown)
    parts = [lip_gradient(stage, shown.map(lambda x, k=k: x[k : k + 2])) for k in (0, 2)]
    for name, value in losses.items():
        torch.testing.assert_close(value, (parts[0][0][name] + parts[1][0][name]) / 2)
    torch.testing.assert_close(whole, (parts[0][1] + parts[1][1]) / 2)
    stage.group = 4  # one group is not the mean of its halves
    assert not torch.allclose(lip_gradient(stage, shown)[1], whole, rtol=1e-2)


def lip_gradient(stage, shown):
    stage.zero_grad()
    losses = stage.loss(shown)
    losses["loss"].backward()
    return losses, torch.cat([p.grad.flatten() for p in stage.net.parameters()])


def test_a_group_of_clips_is_not_divided(face):
    stage = LipStage(context(morphable=face), group=4)
    stage.check_part(8)
    with pytest.raises(UserError, match=r"groups of 4 .*part of its batch has 6.*accumulate"):
        stage.check_part(6)
    for group in (0, 1.5, True):
        with pytest.raises(UserError, match="group must be a whole number"):
            LipStage(context(morphable=face), group=group)


@pytest.mark.parametrize("scale", config.scales("fd2talk"))
def test_shipped_batches_hold_whole_groups(scale):
    lip = config.load("fd2talk", [f"scale={scale}"]).stages["lip"]
    assert lip.batch_size % lip.model["group"] == 0


def test_the_expert_learns_to_tell_sounds_apart(face):
    torch.manual_seed(0)
    stage = LipStage(context(morphable=face), net={"width": 32, "dim": 16}, near=0)
    shown = batch(b=2)
    spoken = coefficients(face, shown).motion[..., :2]
    shown.audio = torch.cat([spoken, -spoken, spoken.abs()], -1)[..., :AUDIO]
    optimizer = torch.optim.Adam(stage.net.parameters(), 1e-2)
    for _ in range(80):
        losses = stage.loss(shown)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert losses["true"] > 0.65 > 0.45 > losses["false"]


# Coefficients and the morphable stage


def test_a_clip_keeps_the_portrait_s_identity(face):
    shown = batch()
    made = coefficients(face, shown)
    who, still = face.fit(shown.source_landmarks, shown.source_pose)
    torch.testing.assert_close(made.identity, who)
    torch.testing.assert_close(made.source[:, :2], still)
    assert not made.source[:, 5:].any()  # the portrait's shift and growth relative to itself
    torch.testing.assert_close(
        made.motion[..., 2:], pose_coefficients(shown.pose, shown.source_pose[:, None])
    )


def test_the_morphable_stage_solves_before_it_is_saved_and_no_gradient_moves_it():
    stage = MorphableStage(context(), identity=3, expression=2)
    optimizer = stage.configure_optimizers()["optimizer"]
    for step in range(3):
        stage.batches_seen += 1
        losses = stage.loss(batch(b=4, seed=step))
        losses["loss"].backward()
        before = stage.net.expression.clone()
        optimizer.step()
        assert torch.equal(before, stage.net.expression)
    assert stage.net.expression.any()
    checkpoint = {"state_dict": {}}
    stage.on_save_checkpoint(checkpoint)
    saved = checkpoint["state_dict"]["net.expression"]
    fresh = stage.moments.solve(3, 2, stage.net.corners, stage.net.rigid).expression
    torch.testing.assert_close(saved, fresh)
    assert not torch.equal(saved, before)  # the third batch came after the last solution
    stage.eval()
    assert stage.loss(batch(b=4, seed=9))["loss"] < losses["loss"] + 0.01


def test_a_bfm_is_taken_over_and_landmarks_do_not_change_it(tmp_path):
    path = tmp_path / "BFM_model_front.mat"
    bfm(path)
    stage = MorphableStage(context(), identity=4, expression=3, bfm=str(path))
    stage.start()
    before = stage.net.expression.clone()
    assert before.any()
    assert stage.loss(batch())["loss"] > 0
    stage.solve()
    assert torch.equal(before, stage.net.expression)
    with pytest.raises(UserError, match="set identity and expression"):
        MorphableStage(context(), identity=5, expression=3, bfm=str(path)).start()


# Training of motion


def by_hand(face, stage, shown, noisy, t, made):
    """L_exp, L_pose and L_sync (eq. 8 to 11) of what the network was shown and what it made.

    Over each clip's frames that are to be made and show a face, then over clips.
    """
    truth, n = coefficients(face, shown), t.shape[1]
    wanted = stage.net.to_latent(truth.motion[:, -n:])
    counted = (t > 0) & shown.valid[:, -n:]
    error = (made - wanted).square().transpose(1, 2)
    expression = stage.net.from_latent(made)[..., :2]
    lips = face(truth.identity[:, None], expression)[:, :, face.mouth]
    expert = stage.frozen["lip"].module
    v, a = expert.lips(lips), expert.audio(shown.audio[:, -n:])
    p = (v * a).sum(-1) / (v.norm(dim=-1) * a.norm(dim=-1)).clamp(min=EPSILON)
    sync = -p.clamp(min=EPSILON).log()

    def mean(values):
        return torch.stack([v[c].mean() for v, c in zip(values, counted, strict=True)]).mean()

    return {"exp": mean(error[..., :2]), "pose": mean(error[..., 2:]), "sync": mean(sync)}


def test_losses_are_the_three_of_eq_12_with_their_weights(face):
    stage, shown, lengths = motion_stage(face, w_exp=2, w_pose=3, w_sync=5), batch(), set()
    shown.valid[0, 5:7] = False
    calls, real = [], stage.net.forward
    stage.net.forward = lambda noisy, t, *rest: (
        calls.append((noisy, t, real(noisy, t, *rest))) or calls[-1][-1]
    )
    for seed in range(6):
        torch.manual_seed(seed)
        losses = stage.loss(shown)
        expected = by_hand(face, stage, shown, *calls[-1])
        for name, value in expected.items():
            torch.testing.assert_close(losses[name], value, msg=lambda m, name=name: f"{name}: {m}")
        total = 2 * expected["exp"] + 3 * expected["pose"] + 5 * expected["sync"]
        torch.testing.assert_close(losses["loss"], total)
        lengths.add(calls[-1][1].shape[1])
    assert lengths == {FRAMES, FRAMES - 3}  # first and later segments
    assert set(motion_stage(face, w_sync=0).loss(batch())) == {"loss", "exp", "pose"}


def test_l_sync_is_minus_log_p_sync_and_reaches_the_exp_transformer_alone(face):
    stage = motion_stage(face)
    shown = batch()
    made = coefficients(face, shown)
    truth = stage.sync_loss(made.motion, made.identity, shown.audio)
    lips = face(made.identity[:, None], made.motion[..., :2])[:, :, face.mouth]
    wanted = -stage.frozen["lip"].module(lips, shown.audio).log()
    torch.testing.assert_close(truth, wanted)
    torch.manual_seed(1)
    stage.loss(shown)["sync"].backward()
    exp, pose = stage.net.transformers
    assert any(p.grad is not None and p.grad.any() for p in exp.parameters())
    assert not any(p.grad is not None and p.grad.any() for p in pose.parameters())


def test_later_segments_see_clean_frames_that_do_not_count(face):
    stage, seen = motion_stage(face), []
    real = stage.net.forward

    def look(noisy, t, frames, audio):
        seen.append((noisy, t, frames))
        return real(noisy, t, frames, audio)

    stage.net.forward = look
    shown = batch()
    clean = None
    for seed in range(12):
        torch.manual_seed(seed)
        stage.loss(shown)
        clean = stage.net.to_latent(coefficients(face, shown).motion)
    kinds = {frames.shape[1] for _, _, frames in seen}
    assert kinds == {FRAMES, FRAMES - 3}
    noisy, t, _ = next(s for s in reversed(seen) if s[2].shape[1] == FRAMES)
    assert not t[:, :3].any()
    assert (t[:, 3:] > 0).all()
    torch.testing.assert_close(noisy[:, :, :3], clean[:, :, :3], atol=0.2, rtol=0.2)
    first = next(s for s in seen if s[2].shape[1] == FRAMES - 3)
    assert (first[1] > 0).all()
    assert first[2][0, 0] == 8  # from the fourth frame shown


def test_frames_without_a_face_teach_nothing(face):
    assert motion_stage(face).loss(batch(valid=False))["loss"] == 0


def test_the_motion_stage_says_what_it_lacks(face):
    with pytest.raises(UserError, match="stage 'lip'"):
        MotionStage(context(morphable=face), plan=PLAN, net=DIT)
    assert MotionStage(context(morphable=face), plan=PLAN, net=DIT, w_sync=0)
    with pytest.raises(UserError, match="stage 'morphable'"):
        MotionStage(context(), plan=PLAN, net=DIT)
    with pytest.raises(UserError, match="sar or nar"):
        MotionStage(context(morphable=face), plan={"name": "ar"}, net=DIT, w_sync=0)
    with pytest.raises(UserError, match="must exceed"):
        motion_stage(face).check_draw(DrawConfig(3))
    with pytest.raises(UserError, match="must exceed"):
        motion_stage(face).check_draw(DrawConfig(20, least=2))


# Autoencoder and U-Net


def test_the_decoder_sees_the_reference_and_the_factor_is_as_told():
    net = spread(ReferenceAutoencoder(**AUTO))
    pictures, others = torch.rand(2, 3, SIZE, SIZE), torch.rand(2, 3, SIZE, SIZE)
    latent = net.encode(pictures)
    assert latent.shape == (2, 2, SIZE // 4, SIZE // 4)
    made, other = net(pictures, pictures), net(others, pictures)
    assert made.shape == pictures.shape
    assert not torch.equal(made, other)


def test_a_published_autoencoder_decodes_as_before_until_it_is_trained(tmp_path):
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    published = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8), layers_per_block=1, latent_channels=2, norm_num_groups=2,
    )  # fmt: skip
    published.save_pretrained(tmp_path / "sd" / "vae")
    net = {**AUTO, "patch": 1}
    stage = ReferenceAutoencoderStage(
        context(), net=net, init_from=str(tmp_path / "sd"), perceptual="pixel"
    )
    stage.start()
    pictures = torch.rand(2, 3, SIZE, SIZE)
    latent = published.encode(2 * pictures - 1).latent_dist.mode()
    torch.testing.assert_close(stage.net.encode(pictures), latent)
    wanted = (published.decode(latent).sample + 1) / 2
    for reference in (torch.zeros_like(latent), torch.randn_like(latent)):
        torch.testing.assert_close(stage.net.decode(latent, reference), wanted)
    for wrong, says in (({**net, "latent_dim": 3}, "another layout"), (net, "cannot be had")):
        where = str(tmp_path / ("sd" if says == "another layout" else "none"))
        with pytest.raises(UserError, match=says):
            ReferenceAutoencoderStage(
                context(), net=wrong, init_from=where, perceptual="pixel"
            ).start()


@pytest.mark.parametrize("kl", [0.0, 1e-3])
def test_the_autoencoder_learns_to_rebuild(kl):
    torch.manual_seed(0)
    net = {**AUTO, "channels": (8, 16)}
    stage = ReferenceAutoencoderStage(context(), net=net, perceptual="pixel", w_kl=kl)
    shown = batch(n=1)
    shown.video = shown.video[..., :1, :1].expand(-1, -1, -1, SIZE, SIZE).contiguous()
    optimizer = torch.optim.Adam(stage.net.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        found = stage.loss(shown)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        losses.append(float(found["loss"].detach()))
    assert losses[-1] < losses[0] / 2
    assert ("kl" in found) == (kl > 0)
    assert stage.samples(shown)["reconstruction"].shape == (1, 3, SIZE, 3 * SIZE)


def frame_net(**options):
    torch.manual_seed(0)
    return spread(FrameNet(2, 4, 3, FrameNetConfig(**{**UNET, **options}))).eval()


def made_by(net, motion, latent, t=10):
    noisy = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    given = net.motion(motion, motion[:1]), net.reference(latent)
    return net(noisy, torch.full((3,), t), *given, latent)


def test_every_block_attends_to_motion_and_then_to_the_reference():
    net = frame_net()
    blocks = [m for m in net.modules() if isinstance(m, Conditioned)]
    assert len(blocks) == 2 + 2 + 4  # down, middle, up
    assert all(len(block.attend) == 2 for block in blocks)
    order = []
    for block in blocks[:1]:
        for k, attend in enumerate(block.attend):
            attend.register_forward_hook(
                lambda module, given, out, k=k: order.append((k, given[1].shape[1]))
            )
    made_by(net, torch.randn(3, 9), torch.randn(1, 2, 4, 4))
    assert order == [(0, 1), (1, 16)]  # a token of motion, then the latent as a sequence


@pytest.mark.parametrize("options", [{}, {"conditions": "concatenated"}, {"tokens": 3}])
def test_a_frame_depends_on_its_motion_and_on_the_reference(options):
    net = frame_net(**options)
    if options.get("conditions"):
        assert {len(m.attend) for m in net.modules() if isinstance(m, Conditioned)} == {1}
    motion, latent = torch.randn(3, 9), torch.randn(1, 2, 4, 4)
    before = made_by(net, motion, latent)
    changed = motion.clone()
    changed[1] += 1
    moved = (made_by(net, changed, latent) - before).abs().amax((1, 2, 3)) > 1e-6
    assert moved.tolist() == [False, True, False]
    assert ((made_by(net, motion, latent + 1) - before).abs().amax((1, 2, 3)) > 1e-6).all()


def test_the_reference_is_a_sequence_whose_places_count():
    """Swapping two of its pixels changes more than the order of the same tokens."""
    net = frame_net()
    latent = torch.randn(1, 2, 4, 4)
    swapped = latent.flatten(2)[..., [1, 0, *range(2, 16)]].unflatten(-1, (4, 4))
    a, b = made_by(net, torch.zeros(3, 9), latent), made_by(net, torch.zeros(3, 9), swapped)
    assert (a - b).abs().max() > 1e-6


def test_with_the_shortcut_a_new_network_answers_noise_with_the_portrait():
    net = frame_net(shortcut=True)
    still, noise = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 4, 4)
    zero_init(net.unet.head)
    given = net.motion(torch.zeros(3, 9), torch.zeros(1, 9)), net.reference(still), still
    last = torch.full((3,), net.process.steps)
    torch.testing.assert_close(
        net(noise, last, *given), still.expand(3, -1, -1, -1), atol=0.05, rtol=0
    )
    first = torch.ones_like(last)
    torch.testing.assert_close(net(noise, first, *given), noise, atol=0.05, rtol=0.05)


def test_the_weight_of_lips_counts_the_cells_around_them_alone(face):
    torch.manual_seed(0)
    auto = spread(ReferenceAutoencoder(**AUTO))
    plain, heavy = (
        FrameStage(context(morphable=face, autoencoder=auto), net=UNET, w_lip=w) for w in (0, 3)
    )
    heavy.net.load_state_dict(plain.net.state_dict())
    shown = batch(b=3, n=2)
    losses = []
    for stage in (plain, heavy):
        torch.manual_seed(1)
        losses.append(stage.loss(shown))
    assert set(losses[0]) == {"loss", "simple"}
    assert 0 < losses[1]["lip"] < losses[1]["simple"]
    torch.testing.assert_close(losses[1]["simple"], losses[0]["loss"])
    torch.testing.assert_close(losses[1]["loss"], losses[1]["simple"] + 3 * losses[1]["lip"])


def test_shared_tokens_are_as_good_as_copies():
    attend = CrossAttention(8, 6, 4)
    x, tokens = torch.randn(3, 10, 8), torch.randn(1, 5, 6)
    torch.testing.assert_close(attend(x, tokens), attend(x, tokens.expand(3, -1, -1)))


@torch.no_grad()
def mean_loss(stage, shown):
    """Over the same levels and noise each time; without advancing the generator's state."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return sum(float(stage.loss(shown)["loss"]) for _ in range(8)) / 8


@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_frames_are_learned_from_their_own_motion_and_portrait_and_lips_count_more(face, jitter):
    torch.manual_seed(0)
    auto = spread(ReferenceAutoencoder(**AUTO))
    needs = context(morphable=face, autoencoder=auto)
    stage = FrameStage(needs, net={**UNET, "portrait_motion": True}, jitter=jitter, w_lip=3.0)
    shown, seen = batch(b=3, n=4), {}
    stage.loss(shown)  # finds statistics
    stage.eval()
    shown.valid[0, 1] = shown.valid[2, 3] = False
    motion, forward = stage.net.motion, stage.net.forward
    stage.net.motion = lambda *args: seen.update(motion=args) or motion(*args)
    stage.net.forward = lambda *args: seen.update(made=forward(*args)) or seen["made"]
    losses, truth = stage.loss(shown), coefficients(face, shown)
    moved = (seen["motion"][0] - truth.motion.flatten(0, 1)) / stage.net.scale_motion.deviation
    assert moved.std().item() == pytest.approx(jitter, abs=0.1)
    torch.testing.assert_close(seen["motion"][1], truth.source.repeat_interleave(4, 0))
    clean = stage.net.to_latent(auto.encode(shown.video.flatten(0, 1) / 255))
    lips = box_mask(shown.landmarks.flatten(0, 1), "lips", clean.shape[-1], touched=True)
    assert 0 < lips.mean() < 1
    # A frame without a face has no coefficients to be learned from.
    error = (seen["made"] - clean).square().mean((1, 2, 3)).unflatten(0, (3, 4))
    inside = ((seen["made"] - clean).square() * lips).mean((1, 2, 3)).unflatten(0, (3, 4))
    simple, lip = (
        torch.stack([e[v].mean() for e, v in zip(errors, shown.valid, strict=True)]).mean()
        for errors in (error, inside)
    )
    torch.testing.assert_close(losses["lip"], lip)
    torch.testing.assert_close(losses["loss"], simple + 3 * lip)


@pytest.mark.parametrize("portrait_input", [False, True])
def test_the_portrait_s_latent_is_an_input_where_asked_for(face, portrait_input):
    torch.manual_seed(0)
    needs = context(morphable=face, autoencoder=spread(ReferenceAutoencoder(**AUTO)))
    net = FrameStage(needs, net={**UNET, "portrait_input": portrait_input}).net
    spread(net)
    noisy, stills = torch.randn(2, *net.shape), torch.randn(2, 1, *net.shape)
    motion, reference = torch.randn(2, 1, net.motion_tokens.out_features), net.reference(stills[0])
    made = [net(noisy, torch.tensor([9, 9]), motion, reference, still) for still in stills]
    assert torch.equal(*made) != portrait_input


def test_with_a_mask_a_new_network_shows_the_portrait_and_what_is_drawn_over_leaves_no_trace(face):
    torch.manual_seed(0)
    needs = context(morphable=face, autoencoder=spread(ReferenceAutoencoder(**AUTO)))
    net = FrameStage(needs, net={**UNET, "shortcut": "mask"}).net
    noisy, stills = torch.randn(2, *net.shape), torch.randn(2, 1, *net.shape)
    motion, reference = torch.randn(2, 1, net.motion_tokens.out_features), net.reference(stills[0])

    def made(still):
        return net(noisy, torch.tensor([9, 9]), motion, reference, still)

    kept = 1 - 1 / (1 + math.exp(3))
    torch.testing.assert_close(made(stills[0]), kept * stills[0].expand(2, -1, -1, -1))
    spread(net)
    torch.nn.init.constant_(net.unet.head.bias[-1:], 50.0)
    torch.testing.assert_close(made(stills[0]), made(stills[1]))


def test_motion_that_modulates_moves_the_prediction(face):
    torch.manual_seed(0)
    needs = context(morphable=face, autoencoder=spread(ReferenceAutoencoder(**AUTO)))
    net = spread(FrameStage(needs, net={**UNET, "modulate": True}).net)
    for block in (*net.unet.down, *net.unet.middle, *net.unet.up):
        if isinstance(block, Block):
            torch.nn.init.zeros_(block.conditioned.exit.weight)  # no attention
            torch.nn.init.zeros_(block.conditioned.exit.bias)
    noisy, still = torch.randn(1, *net.shape), torch.randn(1, *net.shape)
    tokens = torch.randn(2, 1, 1, net.motion_tokens.out_features)
    one, other = (net(noisy, torch.tensor([9]), x, net.reference(still), still) for x in tokens)
    assert (one - other).abs().max() > 1e-4


def test_frames_in_the_latents_of_an_autoencoder_that_does_not_see_the_portrait(face):
    torch.manual_seed(0)
    auto = spread(Autoencoder(**{**AUTO, "scale": 1.0}))
    stage = FrameStage(context(morphable=face, autoencoder=auto), net=UNET)
    shown = batch(b=3, n=2)
    assert stage.loss(shown)["loss"].isfinite()
    assert stage.samples(shown)["generated"].shape == (2, 3, SIZE, 3 * SIZE)


def test_the_autoencoder_is_judged_by_the_second_frame_with_its_weights():
    torch.manual_seed(0)
    weights = {"w_rec": 2.0, "w_perceptual": 3.0, "perceptual": "pixel"}
    stage, shown = ReferenceAutoencoderStage(context(), net=AUTO, **weights), batch(n=2)
    spread(stage.net)
    losses = stage.loss(shown)
    reference, frames = shown.source.repeat_interleave(2, 0) / 255, shown.video.flatten(0, 1) / 255
    made = stage.net(reference, frames)
    rec, per = (made - frames).square().mean(), pyramid_l1(pixel_features, made, frames, scales=1)
    torch.testing.assert_close(losses["rec"], rec)
    torch.testing.assert_close(losses["loss"], 2 * rec + 3 * per)


def test_the_frame_stage_learns_frames_from_their_motion(face):
    torch.manual_seed(0)
    auto = spread(ReferenceAutoencoder(**AUTO))
    net = {**UNET, "portrait_motion": True, "shortcut": True, "tokens": 2}
    stage = FrameStage(context(morphable=face, autoencoder=auto), net=net)
    shown = batch(b=3, n=2)
    stage.loss(shown)  # finds statistics
    before = mean_loss(stage, shown)
    optimizer = torch.optim.Adam(stage.net.parameters(), 5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        stage.loss(shown)["loss"].backward()
        optimizer.step()
    assert mean_loss(stage, shown) < 0.8 * before
    assert stage.samples(shown)["generated"].shape == (2, 3, SIZE, 3 * SIZE)


# The strategy


def test_two_passes_and_all_frames_in_one_round(face):
    made = strategy(face, frame_sampler={"steps": 1})
    first, second = made.passes(ask(20))
    assert (first.space, second.space, made.space) == ("coefficients", "latents", "latents")
    assert first.plan == plans.sar(20, segment=8, overlap=3)
    assert second.plan == plans.frames(20)
    generation = generate(made, ask(20))
    assert sum(len(chunk) for chunk in generation.chunks) == 20
    assert generation.cost.calls == 3 * 2 + 1


def test_each_frame_shows_its_own_motion(face):
    made, seen = strategy(face), []
    conditions = FrameConditions(made.encode(ask(6)), torch.randn(6, face.n_expression + 6))
    real = made.frame.motion
    made.frame.motion = lambda motion, portrait: seen.append(motion) or real(motion, portrait)
    frames = torch.tensor([[2], [0], [5]])
    denoiser = made.passes(ask(6))[1].denoisers["main"]
    noisy = torch.randn(3, *made.frame.shape[:1], 1, *made.frame.shape[1:])
    denoiser.denoise(noisy, torch.full((3, 1), 9), frames, conditions, None)
    torch.testing.assert_close(seen[0], conditions.motion[[2, 0, 5]])


def test_a_given_pose_takes_the_place_of_the_predicted_one(face):
    made = strategy(face)
    asked = ask(9)
    pose = asked.source_pose + 0.1 * torch.rand(9, 6)
    shown = {}
    for name, wanted in (("own", asked), ("given", replace(asked, pose=pose))):
        conditions = made.encode(wanted)
        latents = torch.randn(
            9, made.motion_net.channels, generator=torch.Generator().manual_seed(1)
        )
        shown[name] = made.update_conditions(made.passes(wanted)[0], latents, conditions)
        assert (made.motion(conditions)[0] is None) == (name == "own")
    e = face.n_expression
    followed = to_pose(shown["given"].motion[:, e:], asked.source_pose[None])
    own = to_pose(shown["own"].motion[:, e:], asked.source_pose[None])
    torch.testing.assert_close(followed, pose)
    assert not torch.allclose(own, pose, atol=0.01)
    torch.testing.assert_close(shown["given"].motion[:, :e], shown["own"].motion[:, :e])


def test_other_plans_of_the_motion_pass_run_and_may_observe_the_portrait(face):
    for plan in ({"name": "nar"}, {"name": "ar", "motion": 2}):
        chunks = generate(strategy(face, plan=plan), ask(5)).chunks
        assert sum(len(chunk) for chunk in chunks) == 5


def test_a_misspelt_sampler_key_is_told(face):
    with pytest.raises(UserError, match="no key 'options"):
        strategy(face, frame_sampler={"step": 1})


@pytest.mark.parametrize(
    ("switch", "stage", "differs"),
    [
        ("single_dit", "motion", lambda s: s.model["net"]["single"] is True),
        ("no_mask", "motion", lambda s: s.model["net"]["align"] is None),
        ("no_sync", "motion", lambda s: s.model["w_sync"] == 0 and s.needs == ["morphable"]),
        ("concatenated", "frame", lambda s: s.model["net"]["conditions"] == "concatenated"),
    ],
)
def test_ablations_change_their_stage_alone(switch, stage, differs):
    plain, changed = (config.load("fd2talk", words) for words in ([], [f"{switch}=true"]))
    assert differs(changed.stages[stage])
    for name, block in plain.stages.items():
        assert (changed.stages[name] == block) == (name != stage)


def test_log_of_p_sync_has_a_gradient_at_the_true_pair(face):
    net = expert(face)
    vertices = torch.randn(1, 6, len(face.mouth), 3, requires_grad=True)
    loss = -net(vertices, torch.randn(1, 6, AUDIO)).log().mean()
    assert math.isfinite(float(loss))
    loss.backward()
    assert vertices.grad.any()
