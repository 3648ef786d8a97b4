"""Diffused Heads' released weights: which of the authors' tensors is which of ours.

The authors publish their network for CREMA-D as a TorchScript archive. With ``options=released``
ours computes what theirs does, so that each tensor has its place. It is moved there as it is, but
for these:

- the first convolution's inputs are the noisy frame, the motion frames and the portrait; here each
  of the three has a convolution of its own;
- cosines of the noise level come before its sines there, and after them here;
- channels of queries, keys and values stand head by head there, and here all queries come first;
- attention is over a row of pixels there, and over an image here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from baselines.diffused_heads.net import RGB, FrameNetConfig
from thbench.config import Config
from thbench.core.errors import UserError, few

STRATEGY = "diffused_heads"
WORDS = ("options=released", "scale=paper")

Tensors = dict[str, Tensor]
ROLE = "frame"
STEM = "input_blocks.0.0"
LAYERS = {
    STEM: "unet.stem",
    "time_embed.fc.0": "unet.time.0",
    "time_embed.fc.2": "unet.time.2",
    "audio_embed.0": "mix.0",
    "audio_embed.2": "mix.2",
    "out.0": "unet.norm",
    "out.2": "unet.head",
}
"""Layers outside of blocks and attentions."""
BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "t_emb_layers.1": "time",
    "audio_emb_layers.1": "audio",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "skip",
}
ATTENTION = {"norm": "norm", "qkv": "to_qkv", "proj_out": "to_out"}
INSIDE = re.compile(r"(input_blocks\.\d+\.\d+|middle_block\.\d+|output_blocks\.\d+\.\d+)\.(.+)")


def convert(tensors: Mapping[str, Tensor], config: Config) -> dict[str, Tensors]:
    """The state dict of our network, by stage, from the authors' tensors.

    Args:
        tensors: of their network, flat, as ``thbench.training.released`` reads them.
        config: with ``options=released``.

    Returns:
        Of the stage that plays ``frame``.

    Raises:
        UserError: a name that is none of theirs, one that is missing, or attention whose channels
            the configured heads do not divide.
    """
    if ROLE not in config.nets:
        raise UserError(f"No stage plays '{ROLE}' in this configuration.")
    stage = config.nets[ROLE]
    heads = FrameNetConfig(**config.stages[stage].model.get("net", {})).heads
    layers = {**LAYERS, **_inside(tensors)}
    made, unknown = {}, []
    for name, x in tensors.items():
        layer, _, kind = name.rpartition(".")
        if layer in layers and kind in ("weight", "bias"):
            made[f"{layers[layer]}.{kind}"] = x
        else:
            unknown.append(name)
    if unknown:
        raise UserError(f"{few(unknown)}: no tensor of Diffused Heads' network.")
    if missing := [name for name in LAYERS if f"{LAYERS[name]}.weight" not in made]:
        raise UserError(f"The file lacks {few(missing)} of Diffused Heads' network.")
    made |= _stems(made.pop("unet.stem.weight"))
    made["unet.time.0.weight"] = torch.cat(made["unet.time.0.weight"].chunk(2, dim=1)[::-1], dim=1)
    for name in made:
        if re.search(r"attention\.to_qkv\.", name):
            made[name] = _by_kind(made[name], heads)
        if re.search(r"attention\.to_\w+\.weight", name):
            made[name] = made[name].unsqueeze(-1)
    return {stage: made}


def _inside(names: Collection[str]) -> dict[str, str]:
    """Our names for the layers of their blocks and attentions, by theirs.

    On the way up, a block that doubles the size stands beside the one before it there, and has a
    place of its own here.
    """
    parts: dict[str, set[str]] = {}
    for name in names:
        if found := INSIDE.fullmatch(name):
            parts.setdefault(found[1], set()).add(found[2])
    made: dict[str, str] = {}
    up = -1
    for part in sorted(parts, key=_place):
        attends = any(name.startswith("qkv.") for name in parts[part])
        kind, first, *_ = part.split(".")
        if part == STEM:
            continue
        if kind == "input_blocks":
            ours = f"unet.down.{int(first) - 1}"
        elif kind == "middle_block":
            ours = "unet" if attends else f"unet.middle.{int(first) // 2}"
        else:
            up += not attends
            ours = f"unet.up.{up}"
        own = "attention" if attends else "block"
        for theirs, name in (ATTENTION if attends else BLOCK).items():
            made[f"{part}.{theirs}"] = f"{ours}.{own}.{name}"
    return made


def _place(part: str) -> tuple[str, tuple[int, ...]]:
    kind, *places = part.split(".")
    return kind, tuple(map(int, places))


def _stems(weight: Tensor) -> Tensors:
    """The first convolution's parts, from (dim, 3 + motion channels + 3, 3, 3)."""
    noisy, motion, portrait = weight.tensor_split([RGB, weight.shape[1] - RGB], dim=1)
    made = {"unet.stem.weight": noisy, "stem_portrait.weight": portrait}
    return {**made, "stem_motion.weight": motion} if motion.shape[1] else made


def _by_kind(values: Tensor, heads: int) -> Tensor:
    """(heads x 3 x channels, ...) as (3 x heads x channels, ...)."""
    if values.shape[0] % (3 * heads):
        raise UserError(
            f"Attention has {values.shape[0] // 3} channels in the file, which {heads} heads do not"
            " divide: set net.heads to theirs."
        )
    return values.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
