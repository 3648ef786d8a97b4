import math

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader

from thbench.config import DrawConfig, OptimConfig
from thbench.core.errors import UserError
from thbench.core.types import Batch
from thbench.dawn.pbnet import Discriminator, PBNet, PBNetStage, kl_divergence
from thbench.training.stage import StageContext

AUDIO = 4
SMALL = {"latent": 8, "widths": (8, 8, 16), "dim": 16, "heads": 2, "hidden": 32}


def batch(b=4, n=32, seed=0):
    """Yaw follows the first channel of the sound, eyes the second, smoothly."""
    g = torch.Generator().manual_seed(seed)
    audio = torch.randn(b, n, AUDIO, generator=g).cumsum(1) / 3
    pose = torch.zeros(b, n, 6)
    pose[..., 0] = 0.2 * audio[..., 0]
    eyes = 0.3 + 0.05 * audio[..., 1:2].expand(-1, -1, 2)
    return Batch(
        video=torch.zeros(b, n, 3, 1, 1, dtype=torch.uint8),
        source=torch.zeros(b, 3, 1, 1, dtype=torch.uint8),
        audio=audio,
        pose=pose,
        eyes=eyes,
        landmarks=torch.zeros(b, n, 1, 3),
        valid=torch.ones(b, n, dtype=torch.bool),
        source_pose=torch.full((b, 6), 0.5) * torch.randn(b, 1, generator=g),
        source_eyes=0.3 + 0.05 * torch.randn(b, 2, generator=g),
        source_landmarks=torch.zeros(b, 1, 3),
        frames=torch.arange(n).expand(b, n),
        source_frame=torch.zeros(b, dtype=torch.int64),
        ids=tuple(map(str, range(b))),
    )


def stage(clip=1.0, lr=3e-3, schedule="constant", **options):
    torch.manual_seed(0)
    optim = OptimConfig(name="adamw", lr=lr, schedule=schedule, decay_steps=100)
    context = StageContext(size=8, audio_dim=AUDIO, optim=optim, clip=clip)
    return PBNetStage(context, net=SMALL, **options)


def fit(module, steps, **options):
    data = [batch(seed=i) for i in range(steps)]
    trainer = L.Trainer(
        max_steps=2 * steps, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        **options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, batch_size=None))
    return trainer


def test_paper_scale_has_the_published_sizes():
    with torch.device("meta"):
        net = PBNet(1024)
    sizes = [sum(p.numel() for p in part.parameters()) for part in (net.encoder, net.decoder)]
    assert sizes[0] == pytest.approx(1.84e6, rel=0.02)
    assert sizes[1] == pytest.approx(0.50e6, rel=0.02)
    assert net.window == 400


@pytest.mark.parametrize("n", [1, 7, 30, 500])
def test_any_length_is_made_in_one_pass(n):
    net = PBNet(AUDIO, **SMALL, window=20).eval()
    pose, eyes = net.sample(torch.randn(n, AUDIO), torch.zeros(6), torch.zeros(2))
    assert pose.shape == (n, 6)
    assert eyes.shape == (n, 2)


def test_the_generator_decides_and_the_network_is_left_in_peace():
    net = PBNet(AUDIO, **SMALL).eval()
    audio = torch.randn(30, AUDIO)

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return net.sample(audio, torch.zeros(6), torch.zeros(2), generator)[0]

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@torch.no_grad()
def test_the_temperature_is_the_deviation_of_what_is_decoded(monkeypatch):
    net, seen = PBNet(AUDIO, **SMALL).eval(), []
    decode = net.decode
    monkeypatch.setattr(
        net, "decode", lambda drawn, *rest: seen.append(drawn) or decode(drawn, *rest)
    )
    for temperature in (1.0, 0.0, 1.5):
        generator = torch.Generator().manual_seed(0)
        still = torch.randn(40, AUDIO), torch.zeros(6), torch.zeros(2)
        net.sample(*still, generator, temperature)
    assert seen[0].std() == pytest.approx(1, abs=0.1)
    assert torch.equal(seen[1], 0 * seen[0])
    torch.testing.assert_close(seen[2], 1.5 * seen[0])


@torch.no_grad()
def test_motion_starts_from_the_portraits():
    net = PBNet(AUDIO, **SMALL).eval()
    args = torch.randn(2, 10, 8), torch.randn(2, 10, AUDIO)
    one = net.decode(*args, (torch.zeros(2, 6), torch.zeros(2, 2)))[0]
    other = net.decode(*args, (torch.ones(2, 6), torch.zeros(2, 2)))[0]
    assert (one - other).abs().max() > 1e-4
    net.decoder.pose.head.weight.zero_()
    net.decoder.pose.head.bias.zero_()
    pose, _ = net.sample(torch.randn(5, AUDIO), torch.arange(6.0), torch.zeros(2))
    torch.testing.assert_close(pose, torch.arange(6.0).expand(5, 6))


@torch.no_grad()
def test_a_frame_reaches_as_far_as_the_window_in_each_layer():
    torch.manual_seed(0)
    net = PBNet(AUDIO, **SMALL, window=6, depth=1).eval()
    source = torch.zeros(1, 6), torch.zeros(1, 2)
    audio, latent = torch.randn(1, 60, AUDIO), torch.randn(1, 60, 8)
    other = latent.clone()
    other[:, 30] = torch.randn(8)
    pose, changed = (net.decode(x, audio, source)[0][0] for x in (latent, other))
    moved = ((pose - changed).abs().amax(-1) > 1e-6).nonzero().flatten().tolist()
    assert moved == list(range(27, 34))


@torch.no_grad()
@pytest.mark.parametrize("frames", [20, 23])
def test_held_latents_are_one_every_few_frames_and_move_smoothly_between(frames):
    torch.manual_seed(0)
    net = PBNet(AUDIO, **SMALL, hold=5).eval()
    source = torch.zeros(1, 6), torch.zeros(1, 2)
    pose, eyes, audio = (torch.randn(1, frames, width) for width in (6, 2, AUDIO))
    mean, log_variance = net.encode(pose, eyes, audio, source)
    assert mean.shape == log_variance.shape == (1, math.ceil(frames / 5), 8)
    seen = []
    net.decoder.forward = lambda latent, *_: seen.append(latent) or (pose, eyes)
    net.decode(mean, audio, source)
    assert seen[0].shape == (1, frames, 8)
    # The third of five frames stands where the latent is.
    torch.testing.assert_close(seen[0][0, 2:18:5], mean[0, :4])
    torch.testing.assert_close(seen[0][0, 3], torch.lerp(mean[0, 0], mean[0, 1], 0.2))


def test_held_latents_make_clips_of_any_length():
    net = PBNet(AUDIO, **SMALL, hold=5).eval()
    for n in (1, 4, 5, 13):
        pose, eyes = net.sample(torch.randn(n, AUDIO), torch.zeros(6), torch.zeros(2))
        assert (pose.shape, eyes.shape) == ((n, 6), (n, 2))
    with pytest.raises(UserError, match="hold must be 1"):
        PBNet(AUDIO, **SMALL, hold=0)


def test_the_eyes_weigh_as_told():
    torch.manual_seed(0)
    data, found = batch(), []
    for weight in (0.0, 1.0, 3.0):
        module = stage(w_eyes=weight)
        torch.manual_seed(1)
        found.append(module.loss(data)["rec"])
    torch.testing.assert_close(found[2] - found[0], 3 * (found[1] - found[0]))
    assert found[1] > found[0]


def test_kl_divergence_is_torchs():
    mean, log_variance = torch.randn(2, 3, 4)
    ours = kl_divergence(mean, log_variance)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(posterior, prior).mean()
    torch.testing.assert_close(ours, expected)


def test_kl_is_off_for_a_quarter_then_ramps():
    module = stage(steps=400)
    weights = []
    for seen in (0, 99, 100, 250, 400, 10_000):
        module.batches_seen.fill_(seen)
        weights.append(module.kl_weight())
    assert weights == pytest.approx([0, 0, 0, 0.005, 0.01, 0.01])


def test_the_loss_is_the_weighted_sum_of_its_terms_at_any_time():
    module = stage(reconstruction=2.0, adversarial=3.0, kl=5.0, steps=100)
    for seen, kl in ((0, 0.0), (100, 5.0)):
        module.batches_seen.fill_(seen)
        losses = module.loss(batch())
        expected = 2 * losses["rec"] + 3 * losses["gan"] + kl * losses["kl"]
        torch.testing.assert_close(losses["loss"], expected)


def test_latents_are_drawn_from_what_the_encoder_says():
    module, drawn = stage(), []
    real = module.net.decode
    module.net.encode = lambda *_: (torch.full((4, 32, 8), 3.0), torch.full((4, 32, 8), 4.0).log())
    module.net.decode = lambda latent, *given: drawn.append(latent) or real(latent, *given)
    module.loss(batch())
    assert drawn[0].mean() == pytest.approx(3, abs=0.3)
    assert drawn[0].std() == pytest.approx(2, abs=0.3)  # the root of the variance


def test_the_discriminator_sees_patches():
    """Each score sees 70 frames, as the patches of Isola et al. are of 70 pixels, 8 apart."""
    torch.manual_seed(0)
    judge, motion = Discriminator(), torch.randn(2, 200, 8, requires_grad=True)
    scores = judge(motion)
    assert scores.shape == (2, 23)
    for k in range(23):
        (slope,) = torch.autograd.grad(scores[0, k], motion, retain_graph=True)
        seen = slope[0].abs().amax(-1).nonzero().flatten().tolist()
        # The paddings of the five layers, in frames: 1 + 2 + 4 + 8 + 8 before the first.
        assert seen == list(range(max(0, 8 * k - 23), min(200, 8 * k - 23 + 70)))
        assert not slope[1].any()
        assert slope[0].abs().amax(0).all()  # every kind of motion counts
    assert judge(torch.randn(2, 24, 8)).shape == (2, 1)


def test_the_generator_wants_its_motion_to_be_taken_for_real():
    module, losses = stage().eval(), []
    for logit in (-5.0, 5.0):
        torch.manual_seed(0)
        module.discriminator.forward = lambda motion, logit=logit: torch.full((4, 1), logit)
        losses.append(module.loss(batch()))
    fooled, caught = losses[1]["gan"], losses[0]["gan"]
    assert fooled < 0.01 < 5 < caught
    torch.testing.assert_close(losses[0]["loss"] - losses[1]["loss"], 0.6 * (caught - fooled))


def test_the_discriminator_learns_to_tell_made_motion_from_real():
    module = stage()
    real_optimizer_step = module._optimizer_step

    def judge_alone(loss, optimizer):
        if optimizer.param_groups[0]["params"][0] is module.discriminator[0].weight:
            real_optimizer_step(loss, optimizer)

    module._optimizer_step = judge_alone
    fit(module, 20)
    with torch.no_grad():
        _, real, made = module.generator_losses(batch(seed=999))
        assert module.discriminator(real).mean() > 0.5 > -0.5 > module.discriminator(made).mean()


def test_the_two_networks_learn_in_turn_and_only_their_own():
    module = stage()
    before = [p.clone() for p in (*module.net.parameters(), *module.discriminator.parameters())]
    seen = []
    real = module._optimizer_step

    def spy(loss, optimizer):
        mine = [id(p) for group in optimizer.param_groups for p in group["params"]]
        real(loss, optimizer)
        others = [p for p in module.parameters() if id(p) not in mine]
        seen.append((len(mine), all(not p.requires_grad for p in others)))

    module._optimizer_step = spy
    trainer = fit(module, 2)
    sizes = [len(list(m.parameters())) for m in (module.net, module.discriminator)]
    assert [count for count, _ in seen] == sizes * 2
    assert all(frozen for _, frozen in seen)
    after = [*module.net.parameters(), *module.discriminator.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.requires_grad for p in after)
    assert trainer.global_step == 4  # it counts both optimisers
    assert module.batches_seen == 2


def test_gradients_are_clipped_and_rates_fall():
    module = stage(clip=1e-3, schedule="cosine")
    norms = []
    real = module._optimizer_step

    def spy(loss, optimizer):
        real(loss, optimizer)
        grads = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        norms.append(torch.stack([g.norm() for g in grads]).norm().item())

    module._optimizer_step = spy
    trainer = fit(module, 3)
    assert max(norms) < 1.01e-3
    assert all(o.param_groups[0]["lr"] < 3e-3 for o in trainer.optimizers)


def test_scaled_gradients_are_clipped_at_their_true_size():
    """In 16-mixed precision; a norm of scaled gradients would leave next to nothing of them."""
    module, norms = stage(clip=1e-3), []
    real = module.clip_gradients

    def spy(optimizer, *how):
        grads = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        norms.append(torch.stack([g.norm() for g in grads]).norm().item())
        real(optimizer, *how)

    module.clip_gradients = spy
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    fit(module, 2, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    assert len(norms) == 4
    assert max(norms) < 100


def test_it_learns_motion_that_follows_the_sound():
    module = stage(adversarial=0.05, kl=0.05, steps=60).train()
    optimizer = torch.optim.AdamW(module.net.parameters(), 5e-3)
    for step in range(60):
        optimizer.zero_grad()
        module.loss(batch(seed=step))["loss"].backward()
        optimizer.step()
        module.batches_seen += 1
    module.eval()
    fresh = batch(4, 48, seed=12345)
    wanted, made = [], []
    for i in range(4):
        generator = torch.Generator().manual_seed(i)
        args = fresh.audio[i], fresh.source_pose[i], fresh.source_eyes[i]
        pose, eyes = module.net.sample(*args, generator)
        made.append(torch.stack([pose[:, 0], eyes[:, 0]]))
        wanted.append(torch.stack([fresh.pose[i, :, 0], fresh.eyes[i, :, 0]]))
    for a, b in zip(torch.stack(made, 1), torch.stack(wanted, 1), strict=True):
        r = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(a, b, strict=True)]
        assert torch.stack(r).mean() > 0.5


def test_statistics_are_saved_with_the_network():
    module = stage()
    fit(module, 2)
    assert module.net.statistics["pose"].count == 2
    other = PBNet(AUDIO, **SMALL)
    other.load_state_dict(module.net.state_dict())
    generator = [torch.Generator().manual_seed(0) for _ in range(2)]
    args = torch.randn(9, AUDIO), torch.zeros(6), torch.zeros(2)
    a = module.net.eval().sample(*args, generator[0])
    b = other.eval().sample(*args, generator[1])
    torch.testing.assert_close(a[0], b[0])


def test_frames_without_a_face_do_not_count():
    module, given = stage().eval(), batch()
    given.valid = given.valid.clone()
    given.valid[:, 5:] = False
    module.net.decode = lambda latent, audio, source: (
        torch.zeros(4, 32, 6),
        torch.zeros(4, 32, 2),
    )
    expected = torch.cat(
        [given.pose - given.source_pose[:, None], given.eyes - given.source_eyes[:, None]], -1
    )
    torch.testing.assert_close(module.loss(given)["rec"], expected[:, :5].square().mean())


def test_errors():
    with pytest.raises(UserError, match="24 or more"):
        stage().check_draw(DrawConfig(16))
    with pytest.raises(UserError, match="24 or more"):
        stage().check_draw(DrawConfig(200, least=10))
    with pytest.raises(UserError, match="decay_steps"):
        PBNetStage(StageContext(size=8, audio_dim=AUDIO))


def test_a_batch_has_the_gradients_of_its_clips_one_by_one(monkeypatch):
    """Of any length, and whatever frames of a clip show no face."""
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    trained, data = stage().eval(), batch(3, 41)
    data.valid[0, 5:30], data.valid[2] = False, False

    def gradient(some):
        trained.zero_grad()
        trained.loss(some)["loss"].backward()
        return torch.cat([p.grad.flatten() for p in trained.net.parameters()])

    whole = gradient(data)
    single = [gradient(data.map(lambda x, i=i: x[i : i + 1])) for i in range(3)]
    torch.testing.assert_close(whole, torch.stack(single).mean(0), rtol=1e-4, atol=1e-6)


def test_statistics_are_of_frames_with_a_face():
    trained, data = stage().train(), batch(2, 30)
    data.pose[0, :10], data.valid[0, :10] = 1e3, False
    trained.generator_losses(data)
    assert trained.net.statistics["pose"].mean.abs().max() < 10
