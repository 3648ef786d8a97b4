"""DAWN's released weights: which of the authors' tensors is which of ours.

The authors publish the latent flow generator (keys ``generator``, ``region_predictor`` and
``bg_predictor``), the diffusion model (key ``diffusion``), and PBNet as a network for poses and one
for eyes, in files of their own. With ``options=released`` our networks compute what theirs do, so
that each tensor has its place. It is moved there as it is, but for these:

- a 1 x k x k convolution over (frame, row, column) is one over (row, column);
- two layers side by side are one here, or one is two;
- channels stand in another order where inputs are joined in another order, and in rotary position
  encoding, which turns neighbouring channels there and the two halves of a head here;
- offsets that a layer of ours has and theirs has not are zero;
- PBNet's first and last layers take its motions from and to our units.

The embedding of the face mask is not in the published files: it was neither trained nor kept. Its
weights are drawn here, from the configuration's seed, unless a file has them (``face_loc_emb``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from thbench.config import Config
from thbench.core.errors import UserError, few
from thbench.core.seeding import derive_seed
from thbench.core.types import EYES_DIM, POSE_DIM
from thbench.dawn.a2v_net import FLOW_DIM, A2VNetConfig, box_encoder
from thbench.diffusion.gaussian import GaussianDiffusion
from thbench.nn.normalize import RunningStats

STRATEGY = "dawn"
WORDS = ("options=released", "scale=paper")

Tensors = dict[str, Tensor]
LFG = ("generator", "region_predictor", "bg_predictor")
A2V = ("diffusion", "face_loc_emb")
PBNET = ("pose", "eyes")
"""First words of PBNet's tensors, which ``named`` puts before those of its two files."""
NOT_WEIGHTS = ("optimizer", "optimizer_diff", "epoch", "example", "rec_loss")
"""First words of names that are the authors' trainers' own."""
KINDS = {"aud": "audio", "pose": "pose", "eye": "eyes"}
MLPS = {"audio": "audio", "pose": "pose", "eye": "eyes"}
ROPE_BASE = 10_000.0
UNITS = ("encoder.{}.motion", "encoder.{}.source", "decoder.{}.source", "decoder.{}.head")
"""PBNet's layers that see motions, and the one that makes them."""
POSE_RANGE = (
    (-90.0, -90.0, -90.0, 0.0, 0.0, 0.0),
    (90.0, 90.0, 90.0, 1.0, 720.0, 1080.0),
    (0.0, 0.0, 0.0, 0.0, 60.0, 60.0),
)
"""Least and greatest poses of the released PBNet in the authors' units, and there our zero."""
TOLERANCE = 1e-4
"""Of fixed tensors of theirs, which are computed here."""


def named(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors of one file; PBNet's, whose two files have the same names, with a first word."""
    head = tensors.get("decoder.finallayer.bias")
    if head is None:
        return tensors
    kinds = {POSE_DIM: "pose", EYES_DIM: "eyes"}
    if len(head) not in kinds:
        raise UserError(
            f"A PBNet of {len(head)} values a frame is neither the released one of poses"
            f" ({POSE_DIM}) nor that of eyes ({EYES_DIM})."
        )
    return {f"{kinds[len(head)]}.{name}": x for name, x in tensors.items()}


def convert(tensors: Mapping[str, Tensor], config: Config) -> dict[str, Tensors]:
    """The state dicts of our stages' networks, by stage, from the authors' tensors.

    Args:
        tensors: of one or more of the files, flat, as ``thbench.training.released`` reads them and
            ``named`` names them.
        config: with ``options=released``.

    Returns:
        Of the stages that play ``lfg``, ``a2v`` and ``pbnet``, those whose tensors there are.

    Raises:
        UserError: a name that belongs to none of them, or one that is missing.
    """
    weights = {name: x for name, x in tensors.items() if name.split(".")[0] not in NOT_WEIGHTS}
    unknown = [name for name in weights if name.split(".")[0] not in (*LFG, *A2V, *PBNET)]
    if unknown:
        raise UserError(
            f"{few(unknown)}: no tensor of DAWN's latent flow generator, PBNet or diffusion model,"
            f" whose names begin with {', '.join((*LFG, *A2V[:1]))}, or are PBNet's own."
        )
    try:
        made = _converted(weights, config)
    except KeyError as error:
        raise UserError(f"The files lack a tensor that {error} is made of.") from error
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"The files have tensors of other shapes than DAWN's: {reason}") from error
    if not made:
        raise UserError("There is no tensor of DAWN's networks in these files.")
    return made


def _converted(weights: Tensors, config: Config) -> dict[str, Tensors]:
    """As ``convert``; what is missing is a KeyError, what does not fit together a RuntimeError."""
    made = {}
    if generator := _of(weights, LFG):
        made[_stage(config, "lfg")] = _generator(generator)
    if diffusion := _of(weights, A2V):
        name = _stage(config, "a2v")
        made[name] = _denoiser(diffusion, config.stages[name].model.get("net", {}), config.seed)
    if motion := _of(weights, PBNET):
        made[_stage(config, "pbnet")] = _pbnet(motion, _pose_units(config))
    return made


def _generator(given: Tensors) -> Tensors:
    """The latent flow generator's."""
    # The blur before a reduction of size is a fixed kernel.
    given = {name: x for name, x in given.items() if not name.endswith(".down.weight")}
    made = _renamed(given, GENERATOR)
    head = "flow_predictor.head"
    for kind in ("weight", "bias"):
        parts = [made.pop(f"{head}.{part}.{kind}") for part in ("mask", "occlusion")]
        made[f"{head}.{kind}"] = torch.cat(parts)
    # Per motion, theirs have the heat map and three colours; ours have all colours, then all maps.
    first = "flow_predictor.hourglass.contract.blocks.0.0.weight"
    kernel = made.pop(first)
    channels = torch.arange(kernel.shape[1]).view(-1, 4)
    order = torch.cat([channels[:, 1:].flatten(), channels[:, 0]])
    made[first] = kernel[:, order]
    weight = made[f"{head}.weight"]
    before = weight.shape[1] - len(order)
    # The hourglass's input is joined to its output.
    made[f"{head}.weight"] = torch.cat([weight[:, :before], weight[:, before:][:, order]], dim=1)
    return made


def _denoiser(given: Tensors, net: Mapping[str, Any], seed: int) -> Tensors:
    """The diffusion model's."""
    sizes = A2VNetConfig(**net)
    faces = {k: x for k, x in given.items() if k.startswith("face_loc_emb.")}
    _check_steps(given["diffusion.betas"], GaussianDiffusion(**(sizes.process or {})))
    # The schedule's numbers follow from its betas; any other name is left for the rules to refuse.
    schedule = re.compile(r"diffusion\.(?!denoise_fn\.)\w*(betas|alphas|posterior)\w*")
    given = {
        k.removeprefix("diffusion.denoise_fn."): x
        for k, x in given.items()
        if k not in faces and not schedule.fullmatch(k)
    }
    for name in [name for name in given if name.endswith("rotary_emb.freqs")]:
        _check_rates(name, given.pop(name))
    # Blocks without conditions have attentions all the same, which are never asked.
    unused = re.compile(r"(final_conv|occlusion_map)\.0\.cross_attn_")
    made = _renamed({k: x for k, x in given.items() if not unused.match(k)}, DENOISER)
    bias = made.pop("bias")
    stem = made.pop("stem.both")
    made["stem.weight"], made["stem_static.weight"] = stem[:, :FLOW_DIM], stem[:, FLOW_DIM:]
    for name in [name for name in made if name.endswith(".query_gain")]:
        both = [made.pop(name), made.pop(name.replace(".query_gain", ".key_gain"))]
        made[name.replace(".query_gain", "")] = torch.stack(both)
    # Their eyes are the left one, then the right one.
    for name in [name for name in made if name.endswith("embed.eyes.1.weight")]:
        made[name] = made[name].flip(1)
    for name in [name for name in made if re.search(r"time\.to_qkv\.weight$", name)]:
        made[name] = _halved(made[name], sizes.heads, sizes.head_dim)
        place = name.removesuffix("to_qkv.weight")
        made[f"{place}bias.weight"] = bias
        made[f"{place}norm.bias"] = torch.zeros_like(made[f"{place}norm.weight"])
    if "middle.space.to_out.weight" in made:
        made["middle.space.to_out.bias"] = made["middle.space.to_out.weight"].new_zeros(
            len(made["middle.space.to_out.weight"])
        )
    made = {f"unet.{name}": x for name, x in made.items()}
    return {**made, **_face_mask(faces, sizes.mask_dim, seed)}


def _pbnet(given: Tensors, pose_units: Tensor) -> Tensors:
    """PBNet's: two autoencoders, whose motions are in units of their own."""
    for kind in PBNET:
        if not any(name.startswith(f"{kind}.") for name in given):
            raise UserError(f"PBNet's two networks go together: the file of its {kind} is missing.")
    for name in [name for name in given if name.endswith("rotary_emb.freqs")]:
        _check_rates(name, given.pop(name))
    # Positions are fixed, and their queries are a linear layer's output for nothing.
    unused = re.compile(r".*(\.pe|\.init_proj\.weight)")
    made = _renamed({k: x for k, x in given.items() if not unused.fullmatch(k)}, MOTION)
    for kind in PBNET:
        for part in ("weight", "bias"):
            names = [f"encoder.{kind}.head.{half}.{part}" for half in ("mu", "sigma")]
            made[f"encoder.{kind}.head.{part}"] = torch.cat([made.pop(name) for name in names])
        made[f"decoder.{kind}.norm.bias"] = torch.zeros_like(made[f"decoder.{kind}.norm.weight"])
    for name in [name for name in made if name.endswith("to_qkv.all")]:
        parts = made.pop(name).chunk(3)
        made |= {f"{name.removesuffix('all')}{i}.weight": part for i, part in enumerate(parts)}
    heads = {k: made[f"decoder.{k}.biases.0.weight"].shape[1] for k in PBNET}
    for name in [name for name in made if re.search(r"to_qkv\.[01]\.weight$", name)]:
        made[name] = _halved_first(made[name], heads[name.split(".")[1]])
    _take_units(made, "pose", *_pose_scale(pose_units))
    # Their eyes are the left one, then the right one.
    *seen, head = (name.format("eyes") for name in UNITS)
    for name in seen:
        made[f"{name}.weight"] = made[f"{name}.weight"].flip(1)
    for part in ("weight", "bias"):
        made[f"{head}.{part}"] = made[f"{head}.{part}"].flip(0)
    audio = made["decoder.pose.audio.weight"].shape[1]
    sizes = {"pose": POSE_DIM, "eyes": EYES_DIM, "audio": audio}
    sizes |= {"source_pose": POSE_DIM, "source_eyes": EYES_DIM}
    for kind, size in sizes.items():
        stats = {"mean": torch.zeros(size), "variance": torch.ones(size)}
        stats |= {"rows": torch.tensor(1), "count": torch.tensor(RunningStats((1,)).batches)}
        made |= {f"statistics.{kind}.{name}": x for name, x in stats.items()}
    return made


def _pose_units(config: Config) -> Tensor:
    """What our poses are multiplied by to be the authors'."""
    net = config.stages[_stage(config, "a2v")].model.get("net", {})
    units = torch.tensor(net.get("raw_pose") or [], dtype=torch.float32)
    if len(units) != POSE_DIM or not bool((units != 0).all()):
        raise UserError(f"PBNet needs raw_pose of the a2v stage, {POSE_DIM} numbers other than 0.")
    return units


def _pose_scale(units: Tensor) -> tuple[Tensor, Tensor]:
    """Factor and offset from our poses to what the released PBNet sees, its range being 0 to 1."""
    least, most, origin = (torch.tensor(row) for row in POSE_RANGE)
    return units / (most - least), (origin - least) / (most - least)


def _take_units(made: Tensors, kind: str, factor: Tensor, offset: Tensor) -> None:
    """Let the layers that see or make motions have them in units of ours."""
    for part in UNITS[:3]:
        name = part.format(kind)
        if "source" in part:
            made[f"{name}.bias"] = made[f"{name}.bias"] + made[f"{name}.weight"] @ offset
        made[f"{name}.weight"] = made[f"{name}.weight"] * factor
    head = UNITS[3].format(kind)
    made[f"{head}.weight"] = made[f"{head}.weight"] / factor[:, None]
    made[f"{head}.bias"] = made[f"{head}.bias"] / factor


def _halved_first(weight: Tensor, heads: int) -> Tensor:
    """As ``_halved``, of queries or keys whose heads rotate as many channels as there are heads."""
    order = torch.arange(heads).view(-1, 2).T.flatten()
    split = weight.unflatten(0, (heads, -1))
    return torch.cat([split[:, order], split[:, heads:]], dim=1).flatten(0, 1)


def _face_mask(given: Tensors, dim: int, seed: int) -> Tensors:
    """The embedding of the face mask: as it is given, or drawn."""
    if given:
        return _renamed(given, FACE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "face_loc_emb"))
        drawn = box_encoder(dim).state_dict()
    return {f"mask_encoder.{name}": x for name, x in drawn.items()}


def _halved(weight: Tensor, heads: int, head_dim: int) -> Tensor:
    """Queries' and keys' channels from neighbouring pairs to halves of a head, (3 H D, C)."""
    if weight.shape[0] != 3 * heads * head_dim:
        raise UserError(
            f"Attention in time has {weight.shape[0] // 3} channels in the file, and"
            f" {heads * head_dim} in the configuration."
        )
    q, k, v = weight.unflatten(0, (3, heads, head_dim))
    order = torch.arange(head_dim).view(-1, 2).T.flatten()
    return torch.stack([q[:, order], k[:, order], v]).flatten(0, 2)


def _check_steps(betas: Tensor, process: GaussianDiffusion) -> None:
    if len(betas) != process.steps:
        raise UserError(
            f"The file's noise has {len(betas)} steps, and the configuration's {process.steps}."
        )


def _check_rates(name: str, rates: Tensor) -> None:
    """Rotary rates are fixed numbers, unless somebody trained them."""
    expected = ROPE_BASE ** (-torch.arange(len(rates)) / len(rates))
    if not torch.allclose(rates.float(), expected, atol=TOLERANCE):
        raise UserError(f"{name} holds other rates of rotary position encoding than thbench's.")


def _of(tensors: Mapping[str, Tensor], first: Collection[str]) -> Tensors:
    return {name: x for name, x in tensors.items() if name.split(".")[0] in first}


def _stage(config: Config, role: str) -> str:
    if role not in config.nets:
        raise UserError(f"No stage plays '{role}' in this configuration.")
    return config.nets[role]


Change = Callable[[Tensor], Tensor]
Rules = tuple[tuple[re.Pattern[str], str, Change], ...]


def _renamed(given: Tensors, rules: Rules) -> Tensors:
    """Each tensor under our name for it.

    Raises:
        UserError: names that no rule knows.
    """
    made, unknown = {}, []
    for name, x in given.items():
        for pattern, ours, change in rules:
            if found := pattern.fullmatch(name):
                made[found.expand(ours)] = change(x)
                break
        else:
            unknown.append(name)
    if unknown:
        raise UserError(f"{few(unknown)}: no tensor of DAWN's networks.")
    return made


def _same(x: Tensor) -> Tensor:
    return x


def _flat(x: Tensor) -> Tensor:
    """A gain (1, C, 1, 1, 1) as (C,)."""
    return x.flatten()


def _frame(x: Tensor) -> Tensor:
    """A kernel over (frame, row, column) as one over (row, column)."""
    return x.squeeze(2) if x.ndim == 5 else x


def _pixel(x: Tensor) -> Tensor:
    """A linear layer's weights as a convolution's of one pixel."""
    return x[:, :, None, None]


def _rules(*rows: tuple[str, str] | tuple[str, str, Change]) -> Rules:
    return tuple((re.compile(row[0]), row[1], row[2] if len(row) == 3 else _same) for row in rows)


def _layer(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    """A convolution with a norm behind it."""
    yield rf"{theirs}\.conv\.(\w+)", rf"{ours}.0.\g<{_groups(theirs) + 1}>"
    yield rf"{theirs}\.norm\.(\w+)", rf"{ours}.1.\g<{_groups(theirs) + 1}>"


def _groups(pattern: str) -> int:
    return re.compile(pattern).groups


def _hourglass(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    yield from _layer(rf"{theirs}\.encoder\.down_blocks\.(\d+)", rf"{ours}.contract.blocks.\1")
    yield from _layer(rf"{theirs}\.decoder\.up_blocks\.(\d+)", rf"{ours}.expand.\1")


FLOW = r"generator\.pixelwise_flow_predictor"
GENERATOR = _rules(
    *_layer(r"generator\.first", "encoder.stem"),
    *_layer(r"generator\.down_blocks\.(\d+)", r"encoder.down.\1"),
    *_layer(r"generator\.up_blocks\.(\d+)", r"decoder.up.\1"),
    *(
        (rf"generator\.bottleneck\.r(\d+)\.{part}\.(\w+)", rf"decoder.bottleneck.\1.body.{i}.\2")
        for part, i in (("norm1", 0), ("conv1", 2), ("norm2", 3), ("conv2", 5))
    ),
    (r"generator\.final\.(\w+)", r"decoder.last.\1"),
    *_hourglass(rf"{FLOW}\.hourglass", "flow_predictor.hourglass"),
    (rf"{FLOW}\.(mask|occlusion)\.(\w+)", r"flow_predictor.head.\1.\2"),
    *_hourglass(r"region_predictor\.predictor", "region_predictor.hourglass"),
    (r"region_predictor\.regions\.(\w+)", r"region_predictor.head.\1"),
    *_layer(
        r"bg_predictor\.encoder\.down_blocks\.(\d+)", r"background_predictor.contract.blocks.\1"
    ),
    (r"bg_predictor\.fc\.(\w+)", r"background_predictor.head.\1"),
)


def _block(theirs: str, ours: str) -> Iterator[tuple[str, str] | tuple[str, str, Change]]:
    """A residual block with its cross-attentions."""
    n = _groups(theirs)
    yield rf"{theirs}\.time_mlp\.1\.(\w+)", rf"{ours}.time.1.\g<{n + 1}>"
    for i in (1, 2):
        yield rf"{theirs}\.block{i}\.proj\.(\w+)", rf"{ours}.conv{i}.\g<{n + 1}>", _frame
        yield rf"{theirs}\.block{i}\.norm\.(\w+)", rf"{ours}.norm{i}.\g<{n + 1}>"
    yield rf"{theirs}\.res_conv\.(\w+)", rf"{ours}.skip.\g<{n + 1}>", _frame
    for mlp, kind in MLPS.items():
        yield rf"{theirs}\.{mlp}_mlp\.1\.(\w+)", rf"{ours}.attend.embed.{kind}.1.\g<{n + 1}>"
    for short, kind in KINDS.items():
        attend = rf"{theirs}\.cross_attn_{short}"
        yield rf"{attend}\.norm\.g", f"{ours}.attend.norm.{kind}.weight"
        yield rf"{attend}\.null_kv", f"{ours}.attend.null.{kind}"
        yield rf"{attend}\.(to_q|to_kv)\.weight", rf"{ours}.attend.\g<{n + 1}>.{kind}.weight"
        yield rf"{attend}\.q_scale", f"{ours}.attend.gain.{kind}.query_gain"
        yield rf"{attend}\.k_scale", f"{ours}.attend.gain.{kind}.key_gain"
        yield rf"{attend}\.to_out\.0\.weight", f"{ours}.attend.to_out.{kind}.weight"
        yield rf"{attend}\.to_out\.1\.g", f"{ours}.attend.norm_out.{kind}.weight"


def _time(theirs: str, ours: str) -> Iterator[tuple[str, str] | tuple[str, str, Change]]:
    """Attention in time."""
    yield rf"{theirs}\.fn\.norm\.gamma", f"{ours}.norm.weight", _flat
    yield (
        rf"{theirs}\.fn\.fn\.fn\.(to_qkv|to_out)\.weight",
        rf"{ours}.\g<{_groups(theirs) + 1}>.weight",
    )


def _level(
    theirs: str, ours: str, resize: str
) -> Iterator[tuple[str, str] | tuple[str, str, Change]]:
    """Two blocks, attention in space and in time, and the change of size."""
    here, there = rf"{theirs}\.(\d+)", rf"{ours}.\1"
    for i in (0, 1):
        yield from _block(rf"{here}\.{i}", rf"{there}.blocks.{i}")
    yield rf"{here}\.2\.fn\.norm\.gamma", f"{there}.space.norm.weight", _flat
    yield rf"{here}\.2\.fn\.fn\.(to_qkv|to_out)\.(\w+)", rf"{there}.space.\2.\3"
    yield from _time(rf"{here}\.3", f"{there}.time")
    yield rf"{here}\.4\.(\w+)", rf"{resize}.\1.\2", _frame


DENOISER = _rules(
    (r"time_rel_pos_bias\.relative_attention_bias\.weight", "bias"),
    (r"init_conv\.weight", "stem.both", _frame),
    (r"init_conv\.bias", "stem.bias"),
    *_time("init_temporal_attn", "stem_time"),
    (r"time_mlp\.1\.(\w+)", r"time.0.\1"),
    (r"time_mlp\.3\.(\w+)", r"time.2.\1"),
    *_level("downs", "down", "shrink"),
    *_level("ups", "up", "grow"),
    *_block("mid_block1", "middle.blocks.0"),
    *_block("mid_block2", "middle.blocks.1"),
    (r"mid_spatial_attn\.fn\.norm\.gamma", "middle.space.norm.weight", _flat),
    (
        r"mid_spatial_attn\.fn\.fn\.fn\.(to_qkv|to_out)\.weight",
        r"middle.space.\1.weight",
        _pixel,
    ),
    *_time("mid_temporal_attn", "middle.time"),
    *_block(r"final_conv\.0", "last"),
    (r"final_conv\.1\.(\w+)", r"head.\1", _frame),
    *_block(r"occlusion_map\.0", "more.0.0"),
    (r"occlusion_map\.1\.(\w+)", r"more.0.1.\1", _frame),
)
DECODER = r"(pose|eyes)\.decoder"
LAYERS = rf"{DECODER}\.seqTransDecoder\.decoder_layers\.(\d+)"
MOTION = _rules(
    (r"(pose|eyes)\.encoder\.poseEmbedding\.(\w+)", r"encoder.\1.motion.\2"),
    (r"(pose|eyes)\.(encoder|decoder)\.firstposeEmbedding\.(\w+)", r"\2.\1.source.\3"),
    (r"(pose|eyes)\.(encoder|decoder)\.audioEmbedding\.(\w+)", r"\2.\1.audio.\3"),
    (r"(pose|eyes)\.encoder\.(mu|sigma)_layer\.(\w+)", r"encoder.\1.head.\2.\3"),
    (r"(pose|eyes)\.encoder\.seqTransEncoder\.layers\.(.+)", r"encoder.\1.layers.\2"),
    (rf"{DECODER}\.ztimelinear\.(\w+)", r"decoder.\1.join.\2"),
    (rf"{DECODER}\.init_proj\.bias", r"decoder.\1.query"),
    *(
        (rf"{DECODER}\.time_rel_pos_bias_{short}\..*weight", rf"decoder.\1.biases.{i}.weight")
        for i, short in enumerate(("tgt", "mem"))
    ),
    (rf"{DECODER}\.init_temporal_attn\.fn\.norm\.gamma", r"decoder.\1.norm.weight", _flat),
    (rf"{DECODER}\.init_temporal_attn\.fn\.fn\.to_qkv\.weight", r"decoder.\1.first.to_qkv.all"),
    (rf"{DECODER}\.init_temporal_attn\.fn\.fn\.to_out\.weight", r"decoder.\1.first.to_out.weight"),
    (rf"{LAYERS}\.self_attn\.to_qkv\.weight", r"decoder.\1.layers.\2.attend.0.to_qkv.all"),
    (rf"{LAYERS}\.self_attn\.to_out\.weight", r"decoder.\1.layers.\2.attend.0.to_out.weight"),
    *(
        (
            rf"{LAYERS}\.multihead_attn\.to_{short}\.weight",
            rf"decoder.\1.layers.\2.attend.1.{ours}.weight",
        )
        for short, ours in {
            **{"q": "to_qkv.0", "k": "to_qkv.1", "v": "to_qkv.2"},
            "out": "to_out",
        }.items()
    ),
    (rf"{LAYERS}\.ffn\.linear1\.(\w+)", r"decoder.\1.layers.\2.feed.0.\3"),
    (rf"{LAYERS}\.ffn\.linear2\.(\w+)", r"decoder.\1.layers.\2.feed.3.\3"),
    *(
        (rf"{LAYERS}\.layer_norm{i + 1}\.(\w+)", rf"decoder.\1.layers.\2.norms.{i}.\3")
        for i in range(3)
    ),
    (rf"{DECODER}\.finallayer\.(\w+)", r"decoder.\1.head.\2"),
)
FACE = _rules(
    (r"face_loc_emb\.conv1\.(\w+)", r"mask_encoder.0.\1"),
    (r"face_loc_emb\.conv2\.(\w+)", r"mask_encoder.2.\1"),
)
