"""Hallo's options that only the released code has: each does what it says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.training_utils import compute_snr
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from baselines.hallo import face as faces
from baselines.hallo import vocals
from baselines.hallo.audio import AudioTransformer
from baselines.hallo.masks import enlarge_boxes
from baselines.hallo.net import ConditionMask
from baselines.hallo.stage import ImageStage, VideoStage
from baselines.hallo.strategy import HalloConditions, HalloDenoiser
from baselines.hallo.temporal import build_temporal, in_order, over_time
from tests.baselines.test_diffused_heads import spread
from tests.baselines.test_hallo import (
    LATENT,
    SIZE,
    ask,
    batch,
    boxes,
    frames_of,
    given,
    net,
    stage,
    strategy,
)
from thbench.core.errors import UserError
from thbench.core.plugins import Plugin
from thbench.data.embedding import encoders
from thbench.data.media import audio
from thbench.diffusion.gaussian import GaussianDiffusion
from thbench.diffusion.losses import min_snr_weight
from thbench.nn.regions import fill_box

RELEASED = {"audio_block": "transformer", "locator": (4, 6), "hidden_face": "unknown",
            "motion_features": "attention", "temporal_norm": "frame",
            "boxes": "released"}  # fmt: skip
DEEP = {"attends": (True, False), "motion_mid": True}

# Training


def snr_of(process):
    """Signal-to-noise ratios of a schedule's levels 1 to ``steps``, by diffusers."""
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        rescale_betas_zero_snr=process.zero_snr,
    )  # fmt: skip
    return compute_snr(scheduler, torch.arange(1000))


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("kind", ["epsilon", "v", "x0", "v, shifted"])
def test_min_snr_weights_follow_hang_et_al(kind, gamma):
    prediction = kind.split(",")[0]
    process = GaussianDiffusion(
        "scaled_linear", prediction=prediction, beta_start=0.00085, beta_end=0.012
    )
    t = torch.arange(1001)[None]
    found = min_snr_weight(process, t, torch.zeros(1, 2, 1001), gamma, shifted="," in kind)
    assert found.shape == (1, 1, 1001)
    assert found[0, 0, 0] == 0
    snr = snr_of(process)
    expected = {
        "epsilon": snr.clamp(max=gamma) / snr,
        "v": snr.clamp(max=gamma) / (snr + 1),
        "x0": snr.clamp(max=gamma),
        "v, shifted": (snr + 1).clamp(max=gamma) / (snr + 1),
    }[kind]
    torch.testing.assert_close(found[0, 0, 1:], expected, rtol=1e-3, atol=1e-6)


def test_one_weight_of_the_clean_value_s_error_whatever_is_predicted():
    """An error d of the clean value is d sqrt(SNR) of the noise and d sqrt(SNR + 1) of v."""
    torch.manual_seed(0)
    clean, off, noise = torch.randn(3, 1, 2, 7)
    t = torch.tensor([[5, 40, 300, 500, 800, 990, 999]])
    losses = []
    for prediction in ("x0", "epsilon", "v"):
        process = GaussianDiffusion("scaled_linear", prediction=prediction)
        noisy = process.add_noise(clean, noise, t)
        made = process.from_clean(clean + 0.1 * off, noisy, t)
        error = (made - process.target(clean, noise, t)).square()
        losses.append(error * min_snr_weight(process, t, error, 5.0))
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0], rtol=0.02, atol=1e-5)


def test_pure_noise_weighs_nothing_by_the_paper_and_1_by_the_released_code():
    process = GaussianDiffusion("scaled_linear", prediction="v", zero_snr=True)
    t, like = torch.tensor([[1000]]), torch.zeros(1, 1, 1)
    assert min_snr_weight(process, t, like, 5.0) == 0
    assert min_snr_weight(process, t, like, 5.0, shifted=True) == 1


@torch.no_grad()
@pytest.mark.parametrize("shifted", [False, True])
def test_the_loss_of_each_clip_is_weighted_by_its_level(shifted):
    drop = {"image": 0, "audio": 0, "motion": 0}
    made = stage(min_snr=5.0, snr_shifted=shifted, drop=drop)
    data = batch()
    torch.manual_seed(3)
    weighted = made.loss(data)["simple"]
    torch.manual_seed(3)
    example = made.prepare(data)
    t = torch.randint(1, 1001, (2, 1)).expand(2, 4)
    noise = torch.randn_like(example.clean)
    noisy = made.net.process.add_noise(example.clean, noise, t)
    prediction = made._predict(example, ConditionMask.all(2, t.device))(noisy, t)
    error = (prediction - made.net.process.target(example.clean, noise, t)).square()
    snr = snr_of(made.net.process)[t[:, 0] - 1]
    above = snr + 1 if shifted else snr
    expected = (error.flatten(1).mean(1) * above.clamp(max=5) / (snr + 1)).mean()
    torch.testing.assert_close(weighted, expected, rtol=1e-3, atol=1e-6)


def test_the_noise_s_offset_is_one_shift_per_clip_and_channel():
    clean = torch.zeros(40, LATENT, 4, 8, 8)
    found = []
    for made in (stage(), stage(noise_offset=0.05)):
        torch.manual_seed(0)
        found.append(made._noise(clean))
    torch.manual_seed(0)
    assert torch.equal(found[0], torch.randn_like(clean))
    shift = found[1] - found[0]
    assert shift.flatten(2).std(2).max() < 1e-6
    means = shift.flatten(2).mean(2)
    assert means.std().item() == pytest.approx(0.05, rel=0.2)
    for name in ("min_snr", "noise_offset"):
        with pytest.raises(UserError, match=name):
            stage(**{name: -1})


@pytest.mark.parametrize("attends", [(True, True), (True, False)])
@pytest.mark.parametrize("kind", [ImageStage, VideoStage])
def test_all_that_is_trained_has_a_gradient(kind, attends):
    for trains in ("temporal", "all") if kind is VideoStage else ("all", "attention"):
        options = {**RELEASED, "attends": attends}
        made = stage(kind, options=options, trains=trains, min_snr=5.0, noise_offset=0.05)
        data = batch() if kind is VideoStage else batch(n=1, around=0)
        made.loss(data)["loss"].backward()
        for name, parameter in made.net.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, (trains, name)


# The network


def test_the_audio_s_transformer_is_the_formula_and_its_weights_are_of_regions():
    torch.manual_seed(0)
    block = AudioTransformer(8, 4, 6, 2, 4, 2)
    spread(block)
    x, tokens, masks = torch.randn(2, 8, 3, 3), torch.randn(2, 5, 6), torch.rand(2, 2, 3, 3)
    y = block.proj_in(block.norm(x)).flatten(2).mT
    assert y.shape[-1] == 4

    def attend(part, q, kv):
        q, k, v = part.to_q(q), part.to_k(kv), part.to_v(kv)
        heads = [z.unflatten(-1, (2, 2)).transpose(1, 2) for z in (q, k, v)]
        seen = (heads[0] @ heads[1].mT / 2**0.5).softmax(-1) @ heads[2]
        return part.to_out[0](seen.transpose(1, 2).flatten(2))

    normed = block.norms[0](y)
    y = y + attend(block.self_attention, normed, normed)
    queries = block.norms[1](y)
    for i, weight in enumerate((1.0, 0.5)):
        seen = attend(block.attentions[i], queries, tokens) * masks[:, i].flatten(1)[..., None]
        conv = block.convs[i]
        y = y + weight * (seen @ conv.weight[:, :, 0, 0].mT + conv.bias)
    first, gate = block.feed_forward.net[0].proj(block.norms[2](y)).chunk(2, -1)
    y = y + block.feed_forward.net[2](first * torch.nn.functional.gelu(gate))
    expected = x + block.proj_out(y.mT.unflatten(-1, (3, 3)))
    torch.testing.assert_close(block(x, tokens, masks, (1.0, 0.5)), expected)


def test_temporal_norms_see_a_frame_alone_or_the_clip():
    torch.manual_seed(0)
    module = in_order(build_temporal((8, 8), 1, heads=2, groups=4, longest=8, mid=True))[0]
    spread(module)
    x = torch.randn(6, 8, 4, 4)
    torch.testing.assert_close(over_time(module, x, 3), module(x, num_frames=3))
    alone = over_time(module, x, 3, alone=True)
    assert not torch.allclose(alone, module(x, num_frames=3))
    one = x[:1]
    torch.testing.assert_close(over_time(module, one, 1, alone=True), module(one, num_frames=1))
    # If the norm's statistics are the same for all frames, both are.
    same = one.expand(3, -1, -1, -1)
    torch.testing.assert_close(over_time(module, same, 3, alone=True), module(same, num_frames=3))


@torch.no_grad()
def test_the_locator_sees_the_face_s_box_in_pixels_and_a_new_one_changes_nothing():
    made = net(locator=(4, 6, 8))
    asked = batch(b=1)
    latent = torch.randn(1, *made.shape)
    portrait = made.portrait(latent, asked.source, asked.source_landmarks)
    face = enlarge_boxes(boxes(), {"lip": 2.0, "face": 1.2})[:, 1]
    mask = fill_box(face[:, 0], face[:, 1], 4 * SIZE // 2)
    torch.testing.assert_close(portrait.located, made.locator(mask))
    assert portrait.located.shape == (1, 8, SIZE // 2, SIZE // 2)
    noisy, t, _, audio_tokens, motion = given(made)
    keep = ConditionMask.all(1, noisy.device)
    plain = made(noisy, t, portrait, keep, audio_tokens, motion)
    without = made(noisy, t, replace(portrait, located=None), keep, audio_tokens, motion)
    assert not torch.allclose(plain, without)
    hidden = ConditionMask.all(1, noisy.device, image=False)
    torch.testing.assert_close(
        made(noisy, t, portrait, hidden, audio_tokens, motion),
        made(noisy, t, replace(portrait, located=None), hidden, audio_tokens, motion),
    )
    made.locator.last.weight.zero_()
    made.locator.last.bias.zero_()
    assert not made.locator(mask).any()


@torch.no_grad()
def test_no_face_is_an_embedding_of_zeros():
    made = net(hidden_face="unknown")
    noisy, t, portrait, _, _ = given(made)
    made.face.embed = lambda *_: torch.zeros(1, 512)
    blank = made.face(None, None)
    torch.testing.assert_close(made.hidden_tokens(portrait.face), blank)
    keep = ConditionMask.all(1, noisy.device, image=False)
    got = made(noisy[:, :, :1], t[:, :1], portrait, keep)[:, :, 0]
    expected = made.unet(noisy[:, :, 0], t[:, 0] - 1, encoder_hidden_states=blank).sample
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_motion_frames_enter_by_what_self_attention_sees_where_there_is_one():
    made = net(motion_features="attention", **DEEP)
    noisy, t, portrait, audio_tokens, motion = given(made)
    clips = torch.randn(1, LATENT, 2, 8, 8)
    found = made.motion_maps(clips, portrait)
    recorded = made._reference_pass(
        clips[0].transpose(0, 1), portrait.face.expand(2, -1, -1)
    ).features
    torch.testing.assert_close(found[0][0].flatten(2).mT, recorded[0])
    keep = ConditionMask.all(1, noisy.device)
    plain = made(noisy, t, portrait, keep, audio_tokens, motion)
    # The second block has no transformer, so its temporal module is not run.
    for block, used in ((0, True), (1, False)):
        moved = [m + (i == block) for i, m in enumerate(motion)]
        other = made(noisy, t, portrait, keep, audio_tokens, moved)
        assert torch.allclose(other, plain) != used


def test_switches_that_do_not_exist_are_refused():
    for options, words in [
        ({"audio_block": "transformers"}, "net.audio_block must be one of"),
        ({"hidden_face": "none"}, "net.hidden_face"),
        ({"motion_features": "all"}, "net.motion_features"),
        ({"temporal_norm": "video"}, "net.temporal_norm"),
        ({"audio_block": "transformer", "fusion": "addition"}, "drop net.fusion"),
    ]:
        with pytest.raises(UserError, match=words):
            net(**options)


# Generation


def test_the_portrait_may_stand_before_the_first_segment():
    made = net()
    plain = frames_of(strategy(made=made), ask(8))
    started = strategy(made=made, start="portrait")
    conditions = started.encode(ask(8))
    latent = conditions.portrait.latent[:, :, None].expand(-1, -1, 2, -1, -1)
    for found, expected in zip(
        conditions.before.shown, made.motion_maps(latent, conditions.portrait), strict=True
    ):
        torch.testing.assert_close(found, expected)
    assert not torch.equal(frames_of(started, ask(8))[:4], plain[:4])
    for name, value in (("start", "noise"), ("reference_faces", "all")):
        with pytest.raises(UserError, match=f"options.{name}"):
            strategy(**{name: value})
    odd = {"name": "sar", "segment": 4, "overlap": 1}
    with pytest.raises(UserError, match="an even net"):
        strategy(made=net(motion=1), plan=odd, reference_faces="released")


@torch.no_grad()
def test_the_released_guidance_alternates_faces():
    """Frames in the order hidden, shown; tokens in turn: even places have no face."""
    made = net(hidden_face="unknown")
    noisy, t, portrait, _, _ = given(made)
    sound = torch.randn(1, 12, 4)
    seen = torch.randn(1, LATENT, 2, 8, 8)
    without = made.hidden_tokens(portrait.face)
    portrait = replace(portrait, faceless=made.faceless(portrait))
    denoiser = HalloDenoiser(made, 2.0, 2.0, reference_faces="released")
    conditions = HalloConditions(portrait, sound)
    context = denoiser.observe(seen, None, conditions)

    def maps(*tokens):
        return made.motion_maps(seen, portrait, torch.stack(tokens, 1))

    for found, expected in (
        (context.hidden, maps(portrait.face, without)),
        (context.shown, maps(without, portrait.face)),
    ):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)
    keep = ConditionMask.all(1, noisy.device)
    both = made(noisy, t, portrait, keep)
    shown = made(noisy, t, replace(portrait, faceless=None), keep)
    blank = replace(portrait, faceless=None, features=portrait.faceless)
    torch.testing.assert_close(both[:, :, 1::2], shown[:, :, 1::2], atol=1e-5, rtol=1e-4)
    faceless = made(noisy, t, blank, keep)
    torch.testing.assert_close(both[:, :, ::2], faceless[:, :, ::2], atol=1e-5, rtol=1e-4)
    alone = HalloDenoiser(made, 1.0, 1.0, reference_faces="released")
    assert not alone.mixes_faces
    assert frames_of(strategy(made=made, guidance=2.0, reference_faces="released"), ask(9)).any()


# Sound


class Encoder:
    """Each frame's mean, on all channels."""

    def __call__(self, waveform, n_frames):
        means = waveform[: n_frames * 640].reshape(n_frames, 640).mean(1)
        return np.repeat(means[:, None], self.dim, 1).astype(np.float32)


def heard_from(tmp_path, monkeypatch, source, dim=4):
    made = Encoder()
    made.dim = dim
    monkeypatch.setattr(vocals, "encoder", lambda name: made if name == "mean" else None)
    built = strategy(vocals={"source": str(source), "encoder": "mean"})
    asked = ask(3)
    asked.waveform = torch.linspace(-0.5, 0.5, 3 * 640)
    return built.encode(asked).audio, asked


def test_the_voice_comes_from_a_folder_of_separated_audio(tmp_path, monkeypatch):
    audio.write_wav(tmp_path / f"{ask(3).id}.wav", np.full(3 * 640, 0.25))
    found, _ = heard_from(tmp_path, monkeypatch, tmp_path)
    torch.testing.assert_close(found, torch.full((1, 3, 4), 0.25), atol=1e-3, rtol=0)
    with pytest.raises(UserError, match="gives 5 channels"):
        heard_from(tmp_path, monkeypatch, tmp_path, dim=5)
    (tmp_path / f"{ask(3).id}.wav").unlink()
    with pytest.raises(UserError, match="wav"):
        heard_from(tmp_path, monkeypatch, tmp_path)


def half(waveform):
    return waveform / 2


def shorter(waveform):
    return waveform[1:]


def test_the_voice_comes_from_a_separator_that_a_package_offers(tmp_path, monkeypatch):
    offered = {name: (Plugin(name, f"{__name__}:{name}", "other"),) for name in ("half", "shorter")}
    monkeypatch.setattr(vocals.plugins, "plugins", lambda group: offered)
    found, asked = heard_from(tmp_path, monkeypatch, "half")
    expected = asked.waveform.view(3, 640).mean(1) / 2
    torch.testing.assert_close(found[0], expected[:, None].expand(-1, 4))
    with pytest.raises(UserError, match="separator made"):
        heard_from(tmp_path, monkeypatch, "shorter")
    with pytest.raises(UserError, match="Did you mean 'half'"):
        heard_from(tmp_path, monkeypatch, "hal")


def test_a_separator_that_is_not_installed_is_refused_before_anything_is_made():
    with pytest.raises(UserError, match=r"neither a folder 'kim' nor a separator.*install"):
        strategy(vocals={"source": "kim", "encoder": "logmel"})
    with pytest.raises(UserError, match=r"options.vocals must be"):
        strategy(vocals={"source": "kim"})


def test_the_transformer_of_wav2vec_may_see_25_states_a_second(tmp_path, monkeypatch):
    torch.manual_seed(0)
    small = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        conv_dim=(8,) * 7, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    model = Wav2Vec2Model(small).eval()
    model.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    encode = encoders.encoder(f"wav2vec2-25hz={tmp_path}")
    wave = np.random.default_rng(0).normal(0, 0.1, 640 * 30).astype(np.float32)
    with torch.inference_mode():
        normed = torch.from_numpy((wave - wave.mean()) / np.sqrt(wave.var() + 1e-7))
        states = model.feature_extractor(normed[None])[0].numpy()
        places = np.linspace(0, states.shape[1] - 1, 30)
        slow = np.stack([np.interp(places, np.arange(len(row)), row) for row in states])
        hidden, _ = model.feature_projection(torch.from_numpy(slow.T[None]).float())
        inside, every = model.encoder, []
        hidden = inside.layer_norm(hidden + inside.pos_conv_embed(hidden))
        for layer in inside.layers:
            hidden = layer(hidden)[0].view_as(hidden)
            every.append(hidden)
    expected = torch.cat(every, dim=-1)[0].numpy()
    np.testing.assert_allclose(encode(wave, 30), expected, atol=1e-4)
    # What lies further from a chunk than the overlap is not seen.
    monkeypatch.setattr(encoders.Wav2Vec2At25Hz, "chunk", 1)
    monkeypatch.setattr(encoders.Wav2Vec2At25Hz, "overlap", 1)
    assert encode(wave, 30).shape == expected.shape


def test_faces_of_the_released_code_need_its_network(tmp_path, monkeypatch):
    monkeypatch.setenv("THBENCH_WEIGHTS", str(tmp_path))
    faces.extractor.cache_clear()
    with pytest.raises(UserError, match=r"glintr100.onnx of insightface's antelopev2 is not in"):
        strategy(made=net(face="glintr100"))

    class Session:
        def get_inputs(self):
            return [self]

        name = "data"

        def run(self, outputs, given):
            return [given["data"].mean((2, 3)).repeat(171, 1)[:, :512]]

    made = object.__new__(faces.Glintr100)
    made._session = Session()
    pixels = torch.full((2, 3, 112, 112), 255.0)
    assert torch.equal(made.forward(pixels), torch.ones(2, 512)), "not of length 1"


def test_a_video_is_made_with_all_released_options_together():
    made = net(**RELEASED)
    released = {"start": "portrait", "reference_faces": "released", "guidance": 3.5}
    built = strategy(made=made, **released)
    frames = frames_of(built, ask(10))
    assert frames.shape == (10, 3, SIZE, SIZE)
    assert not torch.equal(frames, frames_of(strategy(made=made, guidance=3.5), ask(10)))
    assert torch.equal(frames, frames_of(built, ask(10)))
