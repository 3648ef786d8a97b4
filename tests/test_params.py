"""What `thbench ls strategies --params` counts."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from thbench import config
from thbench.cli.parser import main
from thbench.training import params

SD15 = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_eps": 1e-5,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
}
"""unet/config.json of Stable Diffusion 1.5, as published."""


def test_parts_add_up_and_own_parameters_count():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert params.count_parts(net) == {"0": 9, "2": 4, "total": 13}
    net.register_parameter("scale", nn.Parameter(torch.zeros(5)))
    assert params.count_parts(net) == {"0": 9, "2": 4, "(own)": 5, "total": 18}


@pytest.fixture(scope="module")
def rows():
    head, *body = params.table()
    assert head == ("strategy", "role", "part", *config.SCALES)
    return {row[:3]: row[3:] for row in body}


def test_every_role_of_every_strategy_is_counted(rows):
    for name in config.names("strategy"):
        for role in config.load(name).nets:
            at = (name, role, "total")
            for column, total in enumerate(rows[at]):
                parts = [r[column] for k, r in rows.items() if k[:2] == at[:2] and k[2] != "total"]
                numbers = [int(n.replace(",", "")) for n in parts if n != "-"]
                if config.SCALES[column] not in config.scales(name):
                    assert (total, numbers) == ("-", [])
                    continue
                assert sum(numbers) == int(total.replace(",", "")) > 0


def test_published_sizes(rows):
    def paper(*key):
        return int(rows[key][0].replace(",", ""))

    assert paper("dawn", "lfg", "region_predictor") == pytest.approx(14.1e6, rel=0.01)
    assert paper("dawn", "a2v", "total") == pytest.approx(49.9e6, rel=0.02)
    # Stable Diffusion 1.5's U-Net and autoencoder, and AnimateDiff's second motion module.
    assert paper("hallo", "denoiser", "unet") == 859_520_964
    assert paper("hallo", "denoiser", "reference") == 859_520_964
    assert paper("hallo", "autoencoder", "total") == 83_653_863
    assert paper("hallo", "denoiser", "temporal") == 453_209_280
    # Section 3.2: 46080 to 512 to 512 to 32 x 768, and a layer norm.
    layers = 46080 * 512 + 512 + 512 * 512 + 512 + 512 * 32 * 768 + 32 * 768
    assert paper("hallo", "denoiser", "audio_tokens") == layers + 2 * 768
    # FD2Talk hears wav2vec 2.0; log-mel is embedded in as many channels as SDA's encoder has.
    assert paper("diffused_heads", "frame", "embed") == 320 * 256 + 256


def test_fd2talk_s_motion_hears_wav2vec_2():
    net = params.build("fd2talk", "paper")["motion"]
    assert {b.shape[0] for b in net.scale_audio.buffers() if b.ndim} == {768}


def test_hallo_s_denoiser_has_the_names_and_shapes_of_stable_diffusion_1_5():
    net = params.build("hallo", "paper")["video"]
    with torch.device("meta"):
        published = UNet2DConditionModel.from_config(SD15)
    state = published.state_dict()
    shape = state["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape
    assert shape == (320, 768)
    for part in (net.unet, net.reference):
        own = part.state_dict()
        assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in state.items()}
        found = part.load_state_dict(state)
        assert not found.missing_keys
        assert not found.unexpected_keys


@pytest.mark.slow
def test_the_command_prints_them_and_refuses_other_kinds(capsys):
    assert main(["ls", "strategies", "--params"]) == 0
    printed = capsys.readouterr().out
    assert "859,520,964" in printed
    assert main(["ls", "plans", "--params"]) == 2
    assert "thbench ls strategies --params" in capsys.readouterr().err
