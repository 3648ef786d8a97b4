"""The released Hallo: tensors of its one file under the names of our network.

The file holds the state of five networks side by side: ``reference_unet`` and ``denoising_unet``
(the latter with the attentions to the audio and along time inside its blocks), ``face_locator``,
``imageproj`` and ``audioproj``. Its autoencoder is Stable Diffusion's, published apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from baselines.hallo.net import HalloNet, HalloNetConfig
from baselines.hallo.unet_forward import has_transformer
from thbench.config import Config
from thbench.core.errors import UserError, few

STRATEGY = "hallo"
WORDS = ("scale=paper", "options=released")

REGIONS = {"lip": ("2", "lip"), "expression": ("1", "face"), "pose": ("0", "full")}
"""By our names: the number of a region's cross-attention and the name of its convolution there."""

AUDIO_LAYERS = (
    ("transformer_blocks.0.attn1.", "self_attention."),
    ("transformer_blocks.0.norm1.", "norms.0."),
    ("transformer_blocks.0.norm2.", "norms.1."),
    ("transformer_blocks.0.norm3.", "norms.2."),
    ("transformer_blocks.0.ff.", "feed_forward."),
)
TEMPORAL_LAYERS = (
    (".norms.0.", ".norm1."),
    (".norms.1.", ".norm2."),
    (".ff_norm.", ".norm3."),
    (".attention_blocks.0.pos_encoder.", ".pos_embed."),
    (".attention_blocks.0.", ".attn1."),
    (".attention_blocks.1.", ".attn2."),
)
SECOND_PLACES = ".attention_blocks.1.pos_encoder."
"""A second copy of a block's positions, of which ours has one."""

PROJECTIONS = {
    "imageproj.proj.": "face.project.",
    "imageproj.norm.": "face.norm.",
    "audioproj.proj1.": "audio_tokens.layers.0.",
    "audioproj.proj2.": "audio_tokens.layers.2.",
    "audioproj.proj3.": "audio_tokens.layers.4.",
    "audioproj.norm.": "audio_tokens.norm.",
}


def convert(tensors: Mapping[str, Tensor], config: Config) -> dict[str, dict[str, Tensor]]:
    """State dicts of the ``image`` and the ``video`` stage, which share one network.

    The released code does not normalise embeddings of audio, so the statistics that ours does it
    by are set to a mean of 0 and a deviation of 1, and count as found. Its ReferenceNet ends after
    the last block; ours has the layers behind it, and never runs them: they get zeros, and ones for
    the norm's weight.

    Args:
        tensors: of the file, names joined by dots.
        config: of strategy ``hallo`` with ``options=released``.

    Returns:
        ``{"image": .., "video": ..}``, the same tensors under the names of ``HalloNet``.

    Raises:
        UserError: a name that is unknown, missing or of another shape; the first few are named.
    """
    net = _empty(tensors, HalloNetConfig(**config.stages["video"].model["net"]))
    wanted = net.state_dict()
    places = _places(net.unet)
    state: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in tensors.items():
        ours = _renamed(name, places, net.regions)
        if ours not in wanted:
            unknown.append(name)
        elif SECOND_PLACES in name:
            _check_same(name, tensor, tensors)
        else:
            state[ours] = tensor
    _refuse("holds unknown tensors", unknown)
    state |= _filled(wanted)
    _refuse("lacks what becomes", [name for name in wanted if name not in state])
    shapes = [name for name, tensor in state.items() if tensor.shape != wanted[name].shape]
    _refuse("has other sizes than the configuration for", shapes)
    return {"image": state, "video": state}


def _empty(tensors: Mapping[str, Tensor], config: HalloNetConfig) -> HalloNet:
    """Our network, without memory for its weights, for as many channels as the tensors have."""
    needed = ("audioproj.proj1.weight", "denoising_unet.conv_in.weight")
    _refuse("lacks", [name for name in needed if name not in tensors])
    heard, latent = (tensors[name].shape[1] for name in needed)
    with torch.device("meta"):
        return HalloNet(heard // (2 * config.audio_context + 1), latent, 64, config)


def _places(unet: nn.Module) -> dict[str, int]:
    """The number of each spatial transformer, by its name in the U-Net."""
    names = [name for name, _ in unet.named_modules() if re.fullmatch(r".+\.attentions\.\d+", name)]
    order = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
    names.sort(key=lambda name: order[name.split(".")[0]])
    if len(names) != sum(has_transformer(unet)):
        raise ValueError("the U-Net's transformers have other names")
    return {name: i for i, name in enumerate(names)}


def _renamed(name: str, places: Mapping[str, int], regions: Sequence[str]) -> str:
    """Our name for one of theirs; an unknown one comes out as no name of ours."""
    part, _, rest = name.partition(".")
    if part == "reference_unet":
        return f"reference.{rest}"
    if part == "face_locator":
        return _locator(rest)
    if part == "denoising_unet":
        if ".audio_modules." in rest:
            return _audio(rest, places, regions)
        if ".motion_modules." in rest:
            return _temporal(rest)
        return f"unet.{rest}"
    for theirs, ours in PROJECTIONS.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return ""


def _locator(name: str) -> str:
    """Convolutions there are numbered without the activations between them."""
    if name.startswith("conv_in."):
        return f"locator.layers.0.{name.removeprefix('conv_in.')}"
    if name.startswith("conv_out."):
        return f"locator.last.{name.removeprefix('conv_out.')}"
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    return f"locator.layers.{2 * int(found[1]) + 2}.{found[2]}" if found else ""


def _audio(name: str, places: Mapping[str, int], regions: Sequence[str]) -> str:
    """Of an attention to the audio, which has the number of the transformer beside it."""
    block, _, rest = name.partition(".audio_modules.")
    number, _, layer = rest.partition(".")
    place = places.get(f"{block}.attentions.{number}")
    if place is None:
        return ""
    for theirs, ours in AUDIO_LAYERS:
        if layer.startswith(theirs):
            return f"audio_attention.{place}.{ours}{layer.removeprefix(theirs)}"
    for i, region in enumerate(regions):
        attention, conv = REGIONS.get(region, ("", ""))
        for theirs, ours in (
            (f"transformer_blocks.0.attn2_{attention}.", f"attentions.{i}."),
            (f"transformer_blocks.0.zero_conv_{conv}.", f"convs.{i}."),
        ):
            if layer.startswith(theirs):
                return f"audio_attention.{place}.{ours}{layer.removeprefix(theirs)}"
    return f"audio_attention.{place}.{layer}"


def _temporal(name: str) -> str:
    """Of a module along time: AnimateDiff's names in place of diffusers'."""
    name = name.replace(".temporal_transformer.", ".").replace(
        SECOND_PLACES, ".attention_blocks.0.pos_encoder."
    )
    for theirs, ours in TEMPORAL_LAYERS:
        name = name.replace(theirs, ours)
    return f"temporal.{name}"


def _check_same(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> None:
    first = tensors.get(name.replace(SECOND_PLACES, ".attention_blocks.0.pos_encoder."))
    if first is None or not torch.equal(first, tensor):
        raise UserError(f"The released file has other positions in {name} than in its first.")


def _filled(wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the released file has no counterpart of; see ``convert``."""
    known = {
        "statistics.audio.mean": 0.0,
        "statistics.audio.variance": 1.0,
        "reference.conv_norm_out.weight": 1.0,
        "reference.conv_norm_out.bias": 0.0,
        "reference.conv_out.weight": 0.0,
        "reference.conv_out.bias": 0.0,
    }
    made = {name: torch.full(wanted[name].shape, value) for name, value in known.items()}
    for name in ("statistics.audio.rows", "statistics.audio.count"):
        made[name] = torch.tensor(2**31 - 1)  # beyond any number of batches: never found anew
    return made


def _refuse(what: str, names: Sequence[str]) -> None:
    if names:
        raise UserError(f"The file of Hallo's weights {what} {few(names)}.")
