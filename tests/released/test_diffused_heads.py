"""Diffused Heads' published weights: each tensor has its place, and ours computes what theirs does.

``diffused_heads.json`` holds the names and shapes of their network's tensors at the paper's sizes
and at tiny ones, those of SDA's sound encoder, and some numbers that both gave for the weights of
``weights.py`` and the inputs drawn here.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from baselines.diffused_heads import released, sda
from baselines.diffused_heads.net import FrameNet, FrameNetConfig
from baselines.diffused_heads.stage import FrameStage
from baselines.diffused_heads.unet import high_sinusoid
from metrics import weights
from tests.released.weights import draw
from thbench import config as configs
from thbench.cli.parser import main
from thbench.config import OptimConfig
from thbench.core.errors import UserError
from thbench.training.optim import build_optimizer
from thbench.training.released import check_fits
from thbench.training.runs import load_net
from thbench.training.stage import StageContext

KNOWN = json.loads(Path(__file__).with_name("diffused_heads.json").read_text())
SIZE, AUDIO = 16, 32
SMALL = "{dim: 32, mults: [1, 2], blocks: 1, heads: 2, head_dim: 32, attention: [8]}"
WORDS = ("scale=paper", "options=released", f"size={SIZE}", f"stages.frame.model.net={SMALL}")


@pytest.fixture(scope="module")
def config():
    return configs.load("diffused_heads", WORDS)


@pytest.fixture(scope="module")
def tensors():
    return draw(KNOWN["tiny"])


def network(config, audio=AUDIO):
    return FrameNet(audio, config.size, FrameNetConfig(**config.stages["frame"].model["net"]))


def inputs():
    """Noisy frame, portrait, motion frames and sound, then a waveform, as the numbers are of."""
    generator = torch.Generator().manual_seed(3)
    shapes = ((1, 3, SIZE, SIZE), (1, 3, SIZE, SIZE), (1, 2, 3, SIZE, SIZE), (1, 5, AUDIO))
    drawn = [torch.randn(shape, generator=generator) for shape in shapes]
    return *drawn, torch.randn(640 * 3, generator=generator) / 3


def some(values):
    """Twelve of them, as ``diffused_heads.json`` has them."""
    return values.flatten()[:: values.numel() // 11][:12].tolist()


def test_every_tensor_of_the_published_sizes_has_its_place():
    config = configs.load("diffused_heads", released.WORDS)
    given = {name: torch.empty(shape, device="meta") for name, shape in KNOWN["paper"].items()}
    with torch.device("meta"):
        net = network(config, 256)
    made = released.convert(given, config)
    assert made.keys() == {"frame"}
    check_fits(net.state_dict(), made["frame"], "the network")
    assert net.stem_motion.in_channels == 6
    assert (net.unet.attention.heads, net.mix[0].in_features) == (12, 5 * 256)


def test_the_network_computes_what_the_authors_does(tensors, config):
    net = network(config).eval()
    net.load_state_dict(released.convert(tensors, config)["frame"])
    noisy, portrait, before, audio, _ = inputs()
    with torch.no_grad():
        given = net.conditions(portrait, audio)
        static = given.static + net.motion_features(before.transpose(1, 2))
        made = net(noisy, torch.tensor([500]), portrait, static, given.audio[:, 2])
    assert some(made) == pytest.approx(KNOWN["outputs"]["frame"], abs=1e-4)


@pytest.mark.parametrize("motion", [0, 1, 2])
def test_grey_motion_frames_of_any_number_have_their_place(tensors, motion):
    net = "stages.frame.model.net"
    words = (*WORDS, f"{net}.grey=true", f"{net}.motion={motion}")
    given = dict(tensors)
    channels = torch.arange(6.0 + motion)[:, None, None]
    given["input_blocks.0.0.weight"] = channels.expand(32, -1, 3, 3)
    config = configs.load("diffused_heads", words)
    made = released.convert(given, config)["frame"]
    check_fits(network(config).state_dict(), made, "the network")
    parts = ("unet.stem", *["stem_motion"] * bool(motion), "stem_portrait")
    joined = torch.cat([made[f"{part}.weight"][0, :, 0, 0] for part in parts])
    assert joined.tolist() == list(range(6 + motion))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("out.2.weight"), "lacks out.2 of Diffused Heads"),
        (lambda t: t.pop("input_blocks.0.0.weight"), "lacks input_blocks.0.0"),
        (lambda t: t.pop("output_blocks.1.0.in_layers.2.bias"), r"lack unet.up.1.block.conv1.bias"),
        (lambda t: t.update({"extra.weight": torch.ones(1)}), "extra.weight: no tensor of"),
        (lambda t: t.update({"out.2.scale": torch.ones(1)}), "out.2.scale: no tensor of"),
        (
            lambda t: t.update({"middle_block.0.x_emb_layers.1.weight": torch.ones(1)}),
            "middle_block.0.x_emb_layers.1.weight: no tensor",
        ),
        (lambda t: t.update({"out.2.bias": torch.ones(3)}), r"\(3,\) for \(6,\)"),
        (
            lambda t: t.update({"middle_block.1.qkv.bias": torch.ones(3 * 33)}),
            "33 channels in the file, which 2 heads do not divide",
        ),
        (lambda t: t.clear(), "lacks audio_embed.0, audio_embed.2, "),
    ],
)
def test_other_files_are_refused(tensors, config, change, message):
    given = dict(tensors)
    change(given)
    with pytest.raises(UserError, match=message):
        check_fits(network(config).state_dict(), released.convert(given, config)["frame"], "it")


def test_imported_weights_generate(bench, files, sound_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("THBENCH_WEIGHTS", str(tmp_path))
    sound_file.rename(tmp_path / "audio_encoder.pt")
    given = draw({**KNOWN["tiny"], "audio_embed.0.weight": [4 * 32, 5 * 256]})
    published = tmp_path / "crema_script.pt"
    torch.save(given, published)
    words = (
        *(*WORDS, f"data={bench.data}", f"runs={tmp_path / 'runs'}"),
        *("data.audio=sda", "sampler.steps=2"),
    )
    assert main(["weights", "import", "diffused_heads", str(published), *words]) == 0
    assert "frame: " in capsys.readouterr().out
    net, meta = load_net(configs.load("diffused_heads", words), "frame")
    assert torch.equal(net.unet.head.weight, given["out.2.weight"])
    assert [source["file"] for source in meta["imported"]] == ["crema_script.pt"]
    out = tmp_path / "out.mp4"
    portrait, sound = str(files / "me.png"), str(files / "me.wav")
    command = ["generate", "diffused_heads", "--image", portrait, "--audio", sound, "-o", str(out)]
    assert main([*command, *words]) == 0
    assert out.stat().st_size


# The options


def test_high_rates_are_powers_from_one_to_the_fourth_root():
    made = high_sinusoid(torch.tensor([0, 3]), 8)
    rates = torch.tensor([10_000 ** (-k / 16) for k in range(4)])
    torch.testing.assert_close(made[0], torch.tensor([0.0] * 4 + [1.0] * 4))
    torch.testing.assert_close(made[1], torch.cat([(3 * rates).sin(), (3 * rates).cos()]))


def test_embeddings_are_taken_as_they_are(config):
    net = network(config)
    audio = torch.randn(1, 7, AUDIO)
    (made,) = net.audio_features(audio, torch.tensor([3]))
    torch.testing.assert_close(made[0], net.mix(audio[0, 1:6].flatten()))
    assert not any(name.startswith(("embed", "scale_audio")) for name in net.state_dict())


def stage(**model):
    optim = {key: model.pop(key) for key in ("schedule", "decay_steps") if key in model}
    context = StageContext(SIZE, AUDIO, OptimConfig(lr=5e-5, **optim))
    net = {"dim": 8, "mults": [1], "blocks": 1, "heads": 1, "head_dim": 4, "groups": 4}
    return FrameStage(context, net=net, **model)


def test_the_learning_rate_falls_in_steps():
    made = stage(lr_steps=3, lr_gamma=0.5, decay_steps=7)
    scheduler = made.configure_optimizers()["lr_scheduler"]["scheduler"]
    assert [made.rate_scale(n) for n in range(9)] == [1, 1, 0.5, 0.5, 0.25, 0.25, *[0.125] * 3]
    rates = []
    for _ in range(5):
        rates.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([5e-5, 5e-5, 2.5e-5, 2.5e-5, 1.25e-5])
    released_rate = configs.load("diffused_heads", released.WORDS).stages["frame"]
    made = stage(lr_steps=released_rate.model["lr_steps"], decay_steps=400_000)
    assert made.rate_scale(399_999) == pytest.approx(0.8**18)


def test_without_steps_the_learning_rate_is_the_optimiser_s():
    made, plain = stage(), build_optimizer([torch.nn.Parameter(torch.ones(1))], OptimConfig())
    found = made.configure_optimizers()["lr_scheduler"]["scheduler"]
    assert type(found) is type(plain["lr_scheduler"]["scheduler"])
    assert [made.rate_scale(n) for n in (0, 10**6)] == [1, 1]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"lr_steps": -1}, "lr_steps must be a whole number, 0 or more, not -1"),
        ({"lr_steps": 2.5}, "lr_steps must be a whole number"),
        ({"lr_gamma": 0.0}, "lr_gamma must be more than 0 and at most 1"),
        ({"lr_steps": 18}, "lr_steps=18 needs optim.decay_steps"),
        ({"lr_steps": 18, "decay_steps": 17}, "18 or more"),
        (
            {"lr_steps": 18, "decay_steps": 100, "schedule": "cosine"},
            "lr_steps takes optim.schedule=constant, not cosine",
        ),
    ],
)
def test_a_learning_rate_that_cannot_be_is_refused(model, message):
    with pytest.raises(UserError, match=message):
        stage(**model)


# SDA's sound encoder


@pytest.fixture
def sound_file(tmp_path):
    """A file of SDA, which holds other networks too, and settings."""
    path = tmp_path / "lrw.dat"
    encoder = draw(KNOWN["sda"])
    torch.save({"encoder": encoder, "generator": {"a": torch.ones(1)}, "audio_rate": 16000}, path)
    return path


def test_sound_is_encoded_as_the_authors_do(sound_file):
    made = sda.SpeechDriven(str(sound_file))
    sound = inputs()[-1].numpy()
    found = made(sound, 3)
    assert found.shape == (3, 256)
    assert found.dtype == np.float32
    assert some(torch.from_numpy(found)) == pytest.approx(KNOWN["outputs"]["sound"], abs=1e-4)
    assert (made.dim, made.source, len(made.weights)) == (256, str(sound_file), 16)


def test_a_long_sound_is_convolved_in_parts(sound_file, monkeypatch):
    made, sound = sda.SpeechDriven(str(sound_file)), inputs()[-1].numpy()
    whole = made(sound, 3)
    monkeypatch.setattr(sda, "AT_ONCE", 2)
    np.testing.assert_allclose(made(sound, 3), whole, atol=1e-6)


def test_a_frame_hears_its_fifth_of_a_second_and_what_came_before(sound_file):
    made, sound = sda.SpeechDriven(str(sound_file)), np.zeros(640 * 10, np.float32)
    silent = made(sound, 10)
    sound[640 * 5 + 320] = 1
    changed = np.abs(made(sound, 10) - silent).max(1) > 1e-7
    assert changed.tolist() == [False] * 3 + [True] * 7


def test_its_weights_lie_in_the_folder_of_weights(sound_file, monkeypatch):
    monkeypatch.setenv("THBENCH_WEIGHTS", str(sound_file.parent))
    with pytest.raises(UserError, match=r"audio_encoder\.pt: put SDA's encoder there"):
        sda.SpeechDriven()
    sound_file.rename(weights.folder() / "audio_encoder.pt")
    assert sda.SpeechDriven().source == "audio_encoder.pt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("rnn.weight_ih_l0"), "it has 0 rnn.weight_ih_l0"),
        (lambda t: t.pop("encoder.cl.5.bias"), "lack code.bias"),
        (lambda t: t.update({"encoder.cl.6.bias": torch.ones(1)}), "no place for convs.6.0.bias"),
        (lambda t: t.update({"rnn.more": torch.ones(1)}), "no place for rnn.more"),
        (lambda t: t.update({"encoder.cl.0.bias": torch.ones(3)}), r"\(3,\) for \(16,\)"),
    ],
)
def test_other_sound_encoders_are_refused(change, message):
    given = draw(KNOWN["sda"])
    change(given)
    with pytest.raises(UserError, match=message):
        sda.load(given)


def test_old_files_count_no_batches():
    given = {k: x for k, x in draw(KNOWN["sda"]).items() if not k.endswith("tracked")}
    assert not sda.load(given).training
