"""The autoencoder stage: its latents, its loss, and published weights."""

import pytest
import torch
from diffusers import AutoencoderKL

from baselines.autoencoder import Autoencoder, AutoencoderStage, BlockCosines, encode_clips
from baselines.fd2talk.autoencoder import ReferenceAutoencoder
from tests.dawn.test_a2v import batch
from thbench.core.errors import UserError
from thbench.core.types import to_unit
from thbench.training.stage import StageContext

SIZE = 16
SMALL = {"channels": (8, 8, 16), "layers": 1, "groups": 4, "latent_dim": 3}


def stage(**options):
    torch.manual_seed(0)
    options = {"perceptual": "pixel", **options}
    return AutoencoderStage(StageContext(SIZE, 4), net=SMALL, **options)


def test_latents_have_their_size_and_scale():
    torch.manual_seed(0)
    net = Autoencoder(**SMALL, scale=0.5).eval()
    frames = torch.rand(2, 3, SIZE, SIZE)
    latents = net.encode(frames)
    assert latents.shape == (2, 3, 4, 4)
    assert net.latent_size(SIZE) == 4
    mode = net.vae.encode(2 * frames - 1).latent_dist.mode()
    assert torch.equal(latents, mode * 0.5)
    raw = (net.vae.decode(mode).sample + 1) / 2
    torch.testing.assert_close(net.decode(latents), raw.clamp(0, 1))
    with pytest.raises(UserError, match="does not divide by 4"):
        net.latent_size(18)


def test_a_patch_is_a_halving_without_a_level_and_keeps_every_pixel_s_place():
    torch.manual_seed(0)
    net = Autoencoder(channels=(8, 8), layers=1, groups=4, latent_dim=3, patch=2).eval()
    assert net.latent_size(SIZE) == 4
    assert net.vae.encoder.conv_in.in_channels == 12
    frames = torch.rand(2, 3, SIZE, SIZE)
    assert net.encode(frames).shape == (2, 3, 4, 4)
    assert net.decode(net.encode(frames)).shape == frames.shape
    cells = []
    net.vae.decode = lambda z: type("Made", (), {"sample": cells[0]})
    net.vae.encode = lambda x: cells.append(x)
    with pytest.raises(AttributeError):  # there is no posterior: only what goes in is looked at
        net.posterior(frames)
    torch.testing.assert_close(net.draw(None), frames)


def test_cosines_of_blocks_are_an_orthonormal_code_of_smooth_pictures():
    code = BlockCosines(4, 12)
    torch.testing.assert_close(code.basis @ code.basis.T, torch.eye(12), atol=1e-6, rtol=0)
    coefficients = torch.randn(2, 12, 3, 5)
    pictures = code.decode(coefficients)
    assert pictures.shape == (2, 3, 12, 20)
    torch.testing.assert_close(code.encode(pictures), coefficients, atol=1e-5, rtol=1e-4)
    grey = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(code.decode(code.encode(grey)), grey)
    ramp = torch.linspace(0, 1, 8).expand(1, 3, 8, 8)
    noise = torch.rand(1, 3, 8, 8)
    lost = [float((code.decode(code.encode(x)) - x).square().mean()) for x in (ramp, noise)]
    assert lost[0] < 0.02 * lost[1]
    whole = BlockCosines(2, 12)
    torch.testing.assert_close(whole.decode(whole.encode(noise)), noise)
    with pytest.raises(UserError, match="12 cosines, not 13"):
        BlockCosines(2, 13)


@pytest.mark.parametrize("kind", [Autoencoder, ReferenceAutoencoder])
def test_with_cosines_an_untrained_network_passes_their_code_through(kind):
    torch.manual_seed(0)
    net = kind(channels=(8, 8), layers=1, groups=4, latent_dim=12, patch=2, cosines=True, scale=0.5)
    frames = torch.rand(2, 3, SIZE, SIZE)
    code = BlockCosines(4, 12)
    torch.testing.assert_close(net.encode(frames), 0.5 * code.encode(2 * frames - 1))
    expected = (code.decode(code.encode(2 * frames - 1)) + 1) / 2
    torch.testing.assert_close(net.decode(net.encode(frames)), expected.clamp(0, 1))
    assert float(net.posterior(frames).std.detach().max()) < 0.1  # what is drawn is nearly the mean
    net.decode(net.encode(frames)).mean().backward()
    assert float(net.vae.decoder.conv_out.weight.grad.abs().max()) > 0  # and it can be trained


def test_clips_are_encoded_in_chunks_of_frames():
    torch.manual_seed(0)
    net = Autoencoder(**SMALL).eval()
    video = torch.randint(0, 256, (2, 3, 3, SIZE, SIZE), dtype=torch.uint8)
    latents = encode_clips(net, video, chunk=4)
    assert latents.shape == (2, 3, 3, 4, 4)
    alone = net.encode(to_unit(video[1, 2])[None])[0]
    torch.testing.assert_close(latents[1, :, 2], alone, atol=1e-5, rtol=1e-4)


def test_it_learns_two_pictures():
    made = stage(w_kl=0.0)
    given = batch(b=2, n=1)
    first = float(made.loss(given)["loss"].detach())
    optimizer = torch.optim.Adam(made.net.parameters(), lr=5e-3)
    for _ in range(30):
        optimizer.zero_grad()
        made.loss(given)["loss"].backward()
        optimizer.step()
    assert float(made.loss(given)["loss"].detach()) < 0.6 * first


def test_samples_for_the_log_show_the_first_clip():
    made, given = stage(), batch(b=2, n=3)
    shown = made.samples(given)["reconstructed"]
    assert shown.shape == (3, 3, SIZE, 2 * SIZE)
    torch.testing.assert_close(shown[..., :SIZE], to_unit(given.video[0]))


def test_the_loss_is_the_sum_of_its_terms():
    made = stage(w_perceptual=0.3, w_kl=0.01)
    losses = made.loss(batch(n=2))
    expected = losses["pixel"] + 0.3 * losses["perceptual"] + 0.01 * losses["kl"]
    torch.testing.assert_close(losses["loss"], expected)


@pytest.mark.parametrize("inside", ["", "vae"])
def test_published_weights_fill_it_from_a_model_s_or_a_pipeline_s_folder(tmp_path, inside):
    other = stage()
    torch.nn.init.constant_(other.net.vae.quant_conv.weight, 0.25)
    other.net.vae.save_pretrained(tmp_path / inside)
    made = stage(init_from=str(tmp_path))
    assert not torch.equal(made.net.vae.quant_conv.weight, other.net.vae.quant_conv.weight)
    made.start()
    for key, value in made.net.vae.state_dict().items():
        assert torch.equal(value, other.net.vae.state_dict()[key]), key


def test_weights_that_are_missing_or_of_another_layout_are_named(tmp_path):
    with pytest.raises(UserError, match="cannot be had from"):
        stage(init_from=str(tmp_path)).start()
    AutoencoderKL(block_out_channels=(8,), norm_num_groups=4).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="another layout"):
        stage(init_from=str(tmp_path)).start()
    with pytest.raises(UserError, match="perceptual"):
        stage(perceptual="lpips")
