"""The released Hallo's names and shapes, and their way into our network."""

import gzip
from pathlib import Path

import pytest
import torch

from baselines.hallo.net import HalloNet, HalloNetConfig
from baselines.hallo.released import STRATEGY, WORDS, convert
from thbench import config
from thbench.core.errors import UserError

NAMES = Path(__file__).with_name("hallo.txt.gz")
"""A line for each tensor of the authors' file: its name and its shape."""

SMALL = {"channels": [8, 16, 32, 32], "heads": 2, "groups": 4, "token_dim": 24,
         "audio_hidden": 16, "audio_tokens": 4}  # fmt: skip
SHRUNK = {768: 24, 3072: 96, 24576: 96, 46080: 40}


def shapes():
    for line in gzip.decompress(NAMES.read_bytes()).decode().splitlines():
        name, shape = line.split(" ")
        yield name, tuple(int(n) for n in shape.split("x"))


def shrunk(name, n):
    """A size of the network with a fortieth of the channels."""
    if n == 512:
        return n if name.startswith("imageproj") else 16
    return SHRUNK.get(n, n // 40 if n % 320 == 0 else n)


def small():
    """A file of the same naming, with random tensors."""
    torch.manual_seed(0)
    made = {name: torch.randn([shrunk(name, n) for n in shape]) for name, shape in shapes()}
    for name in made:
        if ".attention_blocks.1.pos_encoder." in name:
            made[name] = made[name.replace("blocks.1.pos", "blocks.0.pos")]
    return made


def chosen(**sizes):
    return config.load(STRATEGY, [*WORDS, *(f"stages.image.model.net.{k}={v}"
                                            for k, v in sizes.items())])  # fmt: skip


@pytest.fixture(scope="module")
def tensors():
    return small()


def test_all_tensors_of_the_released_file_have_a_place_of_their_shape():
    given = {name: torch.empty(shape, device="meta") for name, shape in shapes()}
    positions = {name for name in given if name.endswith("pos_encoder.pe")}
    given |= {name: torch.zeros(given[name].shape) for name in positions}
    made = convert(given, chosen())
    assert set(made) == {"image", "video"}
    assert made["image"].keys() == made["video"].keys()
    # Two copies of each block's positions become one. Statistics of the audio and ReferenceNet's
    # last two layers are added, four tensors each.
    assert len(made["video"]) == len(given) - len(positions) // 2 + 4 + 4


def test_a_small_file_of_the_same_naming_is_loaded_strictly(tensors):
    chosen_config = chosen(**SMALL)
    state = convert(tensors, chosen_config)["video"]
    net = HalloNet(8, 4, 16, HalloNetConfig(**chosen_config.stages["video"].model["net"]))
    net.load_state_dict(state)
    first = "denoising_unet.down_blocks.0.audio_modules.0.transformer_blocks.0"
    block = net.audio_attention[0]
    for i, (attention, conv) in enumerate([("2", "lip"), ("1", "face"), ("0", "full")]):
        assert net.regions[i] == ("lip", "expression", "pose")[i]
        theirs = tensors[f"{first}.attn2_{attention}.to_k.weight"]
        assert torch.equal(block.attentions[i].to_k.weight, theirs)
        assert torch.equal(block.convs[i].bias, tensors[f"{first}.zero_conv_{conv}.bias"])
    middle = "denoising_unet.mid_block.audio_modules.0.proj_in.weight"
    assert torch.equal(net.audio_attention[6].proj_in.weight, tensors[middle])
    audio = torch.randn(2, 3, 8)
    assert torch.equal(net.statistics["audio"](audio), audio)
    net.train().statistics["audio"].update(audio.flatten(0, 1) + 5)
    assert torch.equal(net.statistics["audio"](audio), audio), "found once and for all"


def changed(tensors, kind):
    given = dict(tensors)
    if kind == "unknown":
        given["denoising_unet.conv_im.weight"] = given.pop("denoising_unet.conv_out.weight")
    elif kind == "missing":
        del given["reference_unet.conv_in.bias"]
    elif kind == "shape":
        given["imageproj.norm.bias"] = torch.zeros(3)
    elif kind == "positions":
        name = next(name for name in given if ".attention_blocks.1.pos_encoder." in name)
        given[name] = given[name] + 1
    else:
        given = {"state_dict": torch.zeros(1)}
    return given


@pytest.mark.parametrize(
    ("kind", "words"),
    [("unknown", "unknown tensors denoising_unet.conv_im.weight"),
     ("missing", "lacks what becomes reference.conv_in.bias"),
     ("shape", "other sizes than the configuration for face.norm.bias"),
     ("positions", "other positions"),
     ("other", "lacks audioproj.proj1.weight")],
)  # fmt: skip
def test_other_files_are_refused(tensors, kind, words):
    with pytest.raises(UserError, match=words):
        convert(changed(tensors, kind), chosen(**SMALL))


def test_a_configuration_without_the_released_options_has_no_place_for_the_tensors(tensors):
    plain = config.load(STRATEGY, ["scale=paper", *(f"stages.image.model.net.{k}={v}"
                                                    for k, v in SMALL.items())])  # fmt: skip
    with pytest.raises(UserError, match="holds unknown tensors"):
        convert(tensors, plain)
