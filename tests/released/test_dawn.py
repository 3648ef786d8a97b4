"""DAWN's published weights: every tensor has its place, and networks compute what the authors' do.

``dawn.json`` holds the names and shapes of their tensors at the paper's sizes and at tiny ones, and
some numbers that their networks at tiny sizes gave for the weights and inputs of ``weights.py``.
"""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.released.weights import clip, draw, images, motion_inputs
from tests.tiny import TINY
from thbench import config as configs
from thbench.cli.parser import main
from thbench.core.errors import UserError
from thbench.dawn import released
from thbench.dawn.a2v_net import A2VNet, A2VNetConfig, FlowDenoiser
from thbench.dawn.lfg import LatentFlowGenerator, LatentFlowGeneratorConfig, SourceFeatures
from thbench.dawn.pbnet import PBNet
from thbench.nn.warp import identity_grid
from thbench.training.released import check_fits
from thbench.training.runs import load_net

KNOWN = json.loads(Path(__file__).with_name("dawn.json").read_text())
PAPER = {name: shapes[0] for name, shapes in KNOWN["tensors"].items()}
SMALL = {name: shapes[1] for name, shapes in KNOWN["tensors"].items() if shapes[1] is not None}
NET = (
    "{dim: 8, mults: [1, 2], heads: 1, head_dim: 32, stem: 7, patch: 1, normalize: none,"
    " modulate: false, process: {prediction: epsilon}}"
)
WORDS = (
    *TINY,
    "options=released",
    "stages.lfg.model.net={regions: 3, expansion: 4, max_features: 16, down: 2, bottleneck: 1,"
    " region_net: [4, 8, 2], background_net: [4, 8, 2], flow_net: [4, 8, 2], kernel: 7,"
    " refinement: null, own_gate: false, sees_flow: false}",
    "stages.pbnet.model.net={latent: 8, widths: [8, 8, 8], dim: 8, hidden: 16}",
    f"stages.a2v1.model.net={NET}",
    f"stages.a2v2.model.net={NET}",
)
FRAMES = 4


@pytest.fixture(scope="module")
def config():
    return configs.load("dawn", WORDS)


@pytest.fixture(scope="module")
def tensors():
    return draw(SMALL)


@pytest.fixture(scope="module")
def states(tensors, config):
    return released.convert(tensors, config)


def lfg(config):
    return LatentFlowGenerator(LatentFlowGeneratorConfig(**config.stages["lfg"].model["net"]))


def a2v(config, audio, features, size):
    net = A2VNetConfig(**config.stages["a2v2"].model["net"])
    return A2VNet(audio, features, size, net)


def pbnet(config, audio):
    return PBNet(audio, **config.stages["pbnet"].model["net"])


def test_every_tensor_of_the_published_sizes_has_its_place():
    config = configs.load("dawn", released.WORDS)
    with torch.device("meta"):
        nets = {
            "lfg": lfg(config),
            "a2v2": a2v(config, 1024, 256, 32),
            "pbnet": pbnet(config, 1024),
        }
    fixed = {name: shape for name, shape in PAPER.items() if name.endswith("freqs")}
    motion = {name: shape for name, shape in PAPER.items() if name.startswith(released.PBNET)}
    given = {name: torch.empty(shape, device="meta") for name, shape in PAPER.items()}
    given |= draw({**fixed, **motion})
    made = released.convert(given, config)
    assert made.keys() == nets.keys()
    for name, net in nets.items():
        check_fits(net.state_dict(), made[name], name)


def test_the_generator_computes_what_the_authors_does(states, config):
    net = lfg(config).eval()
    net.load_state_dict(states["lfg"])
    with torch.no_grad():
        motion = net.motion(*images())
        made = net(*images())
    grid = motion.flow + identity_grid(16, 16).movedim(-1, 0)
    assert some(grid) == pytest.approx(KNOWN["outputs"]["grid"], abs=1e-4)
    assert some(made) == pytest.approx(KNOWN["outputs"]["image"], abs=1e-4)


def test_the_denoiser_computes_what_the_authors_does(states, config):
    noisy, features, face, audio, pose, eyes = clip(320, 16)
    net = a2v(config, 320, 16, 16).eval()
    net.load_state_dict(states["a2v2"])
    net.mask_encoder = nn.Sequential(Constant(face))
    source = SourceFeatures(torch.zeros(1, 3, 64, 64), (features,))
    pose = pose / torch.tensor(net.raw_pose)
    with torch.no_grad():
        given = net.conditions(source, torch.rand(1, 478, 3), audio, pose, eyes)
        made = FlowDenoiser(net, guidance=2.5).denoise(
            noisy,
            torch.full((1, FRAMES), 454),
            torch.arange(FRAMES)[None],
            SimpleNamespace(flow=given),
            None,
        )
    assert some(made) == pytest.approx(KNOWN["outputs"]["noise"], abs=1e-4)


def test_pbnet_computes_what_the_authors_does(states, config):
    net = pbnet(config, 320).eval()
    net.load_state_dict(states["pbnet"])
    audio, pose, eyes, drawn = motion_inputs(320, 8)
    units = torch.tensor(config.stages["a2v2"].model["net"]["raw_pose"])
    least, most, origin = (torch.tensor(row) for row in released.POSE_RANGE)
    ours = (pose[:, 0] * (most - least) + least - origin) / units
    with torch.no_grad():
        source = net.source(ours, eyes[:, 0])
        made_pose, made_eyes = net.decode(drawn, net.normalize("audio", audio), source)
    scaled = made_pose * units / (most - least)
    assert some(scaled) == pytest.approx(KNOWN["outputs"]["pose"], abs=1e-4)
    assert some(made_eyes) == pytest.approx(KNOWN["outputs"]["eyes"], abs=1e-4)


class Constant(nn.Module):
    """An embedding that is known, whatever the face."""

    def __init__(self, made):
        super().__init__()
        self.made = made

    def forward(self, mask):
        return self.made


def some(values):
    """Twelve of them, as ``dawn.json`` has them."""
    return values.flatten()[:: max(1, values.numel() // 12)][:12].tolist()


def test_imported_weights_generate(bench, files, tensors, tmp_path, capsys):
    generator, denoiser = tmp_path / "LFG_64.pth", tmp_path / "DAWN_64.pth"
    nested = {part: of(tensors, part) for part in released.LFG}
    torch.save(
        {**nested, "epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}, generator
    )
    torch.save({"diffusion": of(tensors, "diffusion")}, denoiser)
    motion = [tmp_path / "pose.pth.tar", tmp_path / "blink.pth.tar"]
    for kind, path in zip(released.PBNET, motion, strict=True):
        torch.save(of(tensors, kind), path)
    words = (*WORDS, f"data={bench.data}", f"runs={tmp_path / 'runs'}")
    given = [*map(str, (generator, denoiser, *motion)), *words]
    assert main(["weights", "import", "dawn", *given]) == 0
    said = capsys.readouterr().out
    assert "lfg: " in said
    assert "a2v2: " in said
    assert "pbnet: " in said
    assert "Not in these files" not in said
    net, meta = load_net(configs.load("dawn", words), "lfg")
    assert torch.equal(net.encoder.stem[0].weight, tensors["generator.first.conv.weight"])
    assert [source["file"] for source in meta["imported"]] == [
        *("LFG_64.pth", "DAWN_64.pth", "pose.pth.tar", "blink.pth.tar")
    ]
    out = tmp_path / "out.mp4"
    portrait, sound = str(files / "me.png"), str(files / "me.wav")
    command = ["generate", "dawn", "--image", portrait, "--audio", sound, "-o", str(out), *words]
    assert main(command) == 0
    assert out.stat().st_size
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("last.ckpt")}
    assert main(["weights", "import", "dawn", *given]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    torch.save({**nested, "bg_predictor": twice(nested["bg_predictor"])}, generator)
    assert main(["weights", "import", "dawn", *given]) == 2
    assert "with other weights" in capsys.readouterr().err


@pytest.mark.slow
def test_networks_with_these_options_train_and_generate(bench, files, tmp_path):
    words = (*WORDS, f"data={bench.data}", f"runs={tmp_path / 'runs'}")
    assert main(["fit", "dawn", *words]) == 0
    out = tmp_path / "out.mp4"
    portrait, sound = str(files / "me.png"), str(files / "me.wav")
    given = ["--image", portrait, "--audio", sound, "-o", str(out), "options.guidance=2"]
    assert main(["generate", "dawn", *given, *words]) == 0
    assert out.stat().st_size


def twice(tensors):
    return {name: 2 * x for name, x in tensors.items()}


def of(tensors, part):
    first = f"{part}."
    return {k.removeprefix(first): x for k, x in tensors.items() if k.startswith(first)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("generator.final.weight"), "lack decoder.last.weight"),
        (lambda t: t.update({"generator.more.weight": torch.ones(1)}), "generator.more.weight"),
        (lambda t: t.update({"extra": torch.ones(1)}), "extra: no tensor of DAWN's"),
        (lambda t: t.update({"generator.final.bias": torch.ones(4)}), r"\(4,\) for \(3,\)"),
        (
            lambda t: t.pop("generator.pixelwise_flow_predictor.occlusion.weight"),
            "flow_predictor.head.occlusion.weight",
        ),
        (lambda t: t.pop("diffusion.denoise_fn.init_conv.weight"), "lack .* 'stem.both'"),
        (lambda t: t.update({"diffusion.more": torch.ones(1)}), "diffusion.more: no tensor"),
        (lambda t: t.update({"diffusion.betas": torch.ones(50)}), "50 steps"),
        (lambda t: t.pop("pose.decoder.finallayer.weight"), "lack .* 'decoder.pose.head.weight'"),
        (
            lambda t: t.update({"pose.decoder.finallayer.weight": torch.ones(5, 8)}),
            "other shapes than DAWN's",
        ),
        (
            lambda t: t.update(
                {
                    "diffusion.denoise_fn.init_temporal_attn.fn.fn.fn.rotary_emb.freqs": torch.ones(
                        16
                    )
                }
            ),
            "other rates",
        ),
        (
            lambda t: [t.pop(k) for k in list(t) if k.startswith("eyes.")],
            "the file of its eyes is missing",
        ),
        (lambda t: t.clear(), "no tensor of DAWN's networks"),
    ],
)
def test_other_files_are_refused(tensors, config, change, message):
    given = dict(tensors)
    change(given)
    with pytest.raises(UserError, match=message):
        take(given, config)


def take(given, config):
    made = released.convert(given, config)
    check_fits(lfg(config).state_dict(), made["lfg"], "stage 'lfg'")


def test_weights_of_another_scale_are_refused(tensors, config, bench, tmp_path, capsys):
    path = tmp_path / "LFG.pth"
    torch.save({part: of(tensors, part) for part in released.LFG}, path)
    words = [*WORDS, f"data={bench.data}", f"runs={tmp_path}", "stages.lfg.model.net.regions=4"]
    assert main(["weights", "import", "dawn", str(path), *words]) == 2
    assert re.search("other shapes.*at this scale", capsys.readouterr().err)
    assert not list(tmp_path.glob("lfg-*"))


def test_the_face_mask_is_given_or_drawn_from_the_seed(tensors, config):
    names = [f"mask_encoder.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")]
    drawn = [released.convert(tensors, config)["a2v2"] for _ in range(2)]
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in names)
    face = {
        f"face_loc_emb.conv{i}.{kind}": torch.full_like(drawn[0][f"mask_encoder.{j}.{kind}"], 0.5)
        for i, j in ((1, 0), (2, 2))
        for kind in ("weight", "bias")
    }
    given = released.convert({**tensors, **face}, config)["a2v2"]
    assert all((given[name] == 0.5).all() for name in names)
