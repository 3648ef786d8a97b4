"""Networks of libraries against written values, with weights that no random number made.

The values were the same with the lowest versions and with the locked ones, to five digits. What
a network computes is summed up by its mean, its deviation, and its first, middle and last number.
"""

import numpy as np
import pytest
import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torchvision.models import alexnet
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from baselines.autoencoder import Autoencoder
from baselines.hallo.temporal import build_temporal
from baselines.hallo.unet_forward import UNetConfig, build_unet
from metrics.extractors.synthetic import SyntheticFace
from metrics.perceptual import build, lpips_distance
from thbench.data.embedding.encoders import encoder
from thbench.data.face.landmarks import track
from thbench.data.synthetic.identity import draw
from thbench.data.synthetic.render import State, render
from thbench.diffusion.gaussian import GaussianDiffusion

pytestmark = pytest.mark.numbers

SMALL = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "conv_dim": (8,) * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip


def near(expected, tolerance):
    return pytest.approx(expected, abs=tolerance)


def wave(*shape):
    return torch.sin(0.37 * torch.arange(np.prod(shape), dtype=torch.float64)).view(shape).float()


@torch.no_grad()
def planted(net):
    """The network with a sine in each parameter, about 1 where it scales."""
    for name, values in net.state_dict().items():
        if values.is_floating_point():
            at = torch.arange(values.numel(), dtype=torch.float64).view(values.shape)
            sine = torch.sin(1.7 * at + len(name))
            if values.ndim > 1:
                values.copy_(sine / values[0].numel() ** 0.5)
            else:
                values.copy_(float(name.endswith("weight")) + 0.1 * sine)
    return net.eval().requires_grad_(False)


def summary(values):
    flat = torch.as_tensor(values).double().flatten()
    return [float(v) for v in (flat.mean(), flat.std(), flat[0], flat[len(flat) // 2], flat[-1])]


STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}
STATES = {
    "plain": [0.043927, 1.020722, -0.35378, -0.57801, 0.562986],
    "stable": [-0.019752, 0.799957, -0.722088, -0.527926, 1.299936],
}


@pytest.mark.parametrize(
    ("name", "model", "config"),
    [("wav2vec2", Wav2Vec2Model, Wav2Vec2Config), ("hubert", HubertModel, HubertConfig)],
)
@pytest.mark.parametrize("kind", STATES)
def test_states_of_sound(tmp_path, name, model, config, kind):
    """Both compute the same, given the same weights; the large models are of the stable kind."""
    net = planted(model(config(**SMALL, **(STABLE if kind == "stable" else {}))))
    net.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    states = encoder(f"{name}={tmp_path}")(wave(6400).numpy(), 10)
    assert summary(states) == near(STATES[kind], 1e-3)


def test_hallo_s_networks():
    sizes = UNetConfig(
        channels=(8, 16), attends=(True, False), layers=1, heads=2, groups=4, token_dim=8
    )
    unet = build_unet(4, sizes)
    noise = planted(unet)(wave(2, 4, 8, 8), torch.tensor([3, 700]), wave(2, 5, 8)).sample
    assert summary(noise) == near([-0.008468, 0.315026, -0.226878, -0.046152, -0.20596], 1e-3)
    adapter = planted(build_temporal((8, 16), 1, heads=2, groups=4, longest=16, mid=False))
    moved = adapter.down_blocks[0].motion_modules[0](wave(6, 8, 4, 4), num_frames=6)
    assert summary(moved) == near([0.074877, 0.747274, 0.279378, -0.287697, 1.277514], 1e-3)


def test_autoencoder_and_places():
    net = planted(Autoencoder(channels=(8, 16), layers=1, latent_dim=4, groups=4))
    latents = net.encode((wave(2, 3, 16, 16) + 1) / 2)
    assert summary(latents) == near([-0.009916, 0.008867, -0.015846, -0.016715, 0.003183], 1e-4)
    frames = net.decode(latents)
    assert summary(frames) == near([0.513219, 0.27509, 0.618584, 0.622946, 0.85988], 1e-3)
    places = get_2d_sincos_pos_embed(16, 4, output_type="pt")
    assert summary(places) == near([0.437873, 0.556306, 0, 0, 0.999928], 1e-5)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.9999, 0.52408537, 0.07858724, 4.03583068e-05]),
        ("cosine", [0.99995872, 0.84701216, 0.49384359, 2.42873551e-09]),
        ("scaled_linear", [0.9999, 0.82152135, 0.33318778, 7.33411930e-04]),
    ],
)
def test_noise_levels(schedule, expected):
    levels = GaussianDiffusion(schedule, 1000).alpha_bar[[1, 250, 500, 1000]]
    assert levels.tolist() == pytest.approx(expected, rel=1e-5)


def test_lpips():
    trunk = torch.nn.ModuleDict({"features": alexnet(weights=None).features})
    net = build(planted(trunk).state_dict())
    frames = ((wave(2, 3, 64, 64) + 1) * 127).to(torch.uint8)
    assert lpips_distance(net, frames, frames.flip(-1)).tolist() == near([0.03817, 0.03987], 2e-4)


@pytest.fixture(scope="module")
def faces():
    """Ahead, turned right, turned left and leaning, looking up."""
    turns = {"yaw": [0, 0.3, -0.3, 0], "pitch": [0, 0, 0, 0.2], "roll": [0, 0, 0.2, 0]}
    state = State.neutral(4, **{name: torch.tensor(t).float() for name, t in turns.items()})
    return render(draw(0, 3), state, 192)


def test_rendered_faces(faces):
    means = [[153.379, 133.175, 133.827], [152.851, 133.070, 133.774],
             [152.974, 133.059, 134.069], [155.283, 133.799, 133.764]]  # fmt: skip
    assert faces.float().mean((2, 3)).numpy() == near(np.array(means), 0.05)


def test_face_mesh_on_rendered_faces(faces):
    found = track(faces)
    pose = [[-0.065, -0.107, 0.007, 0.668, 0.000, -0.097],
            [0.305, -0.103, -0.017, 0.669, 0.093, -0.098],
            [-0.337, -0.107, 0.187, 0.675, -0.015, -0.101],
            [-0.031, 0.097, 0.039, 0.663, 0.004, -0.151]]  # fmt: skip
    assert found.valid.all()
    assert found.pose == near(np.array(pose), 0.02)
    eyes = [[0.407, 0.411], [0.330, 0.443], [0.486, 0.381], [0.408, 0.449]]
    assert found.eyes == near(np.array(eyes), 0.02)


def test_the_expert_of_rendered_faces(faces):
    read = [[0.002, 0.148, 0.010, -0.800, -0.354, 1.009],
            [1.346, 0.048, 0.100, -0.849, -0.361, 1.243],
            [-1.191, 0.127, 1.370, -0.781, -0.369, 0.356],
            [-0.100, 1.292, 0.021, -0.882, -0.297, 0.463]]  # fmt: skip
    assert SyntheticFace().read(faces).numpy() == near(np.array(read), 0.01)
