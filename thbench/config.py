"""Configuration: a typed schema, YAML files with bases, ``key=value`` overrides, content hashes.

A strategy's YAML is merged over this schema's defaults in this order: its ``base:`` files, the
file itself, the block of ``scales:`` that ``scale=`` names, those of ``switches:`` that are on, the
data set that ``data=`` names, and the ``key=value`` overrides. ``thbench.layers`` says how. No
torch is imported here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from thbench import layers as layering
from thbench.core.errors import UserError, did_you_mean

SCALES = ("paper", "tiny")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
"""What networks can generate in."""
DECODERS = ("pyav", "decord")
"""What frames of prepared clips can be read with at random; both give the same pixels."""


class _Loader(yaml.SafeLoader):
    """Plain words as in YAML 1.2: ``off`` and ``no`` are text, ``1e-3`` is a number."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [entry for entry in entries if entry[0] != "tag:yaml.org,2002:bool"]
        for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass
class OptimConfig:
    """An optimiser and its learning rate over time.

    ``schedule`` is ``constant`` or ``cosine``: after ``warmup`` steps the rate falls along half a
    cosine to ``floor`` times ``lr`` at ``decay_steps`` and stays there. ``decay_steps`` belongs to
    the recipe, not to how long one trains, so training longer continues the same run.
    """

    name: str = "adam"
    lr: float = 2e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: int = 0
    decay_steps: int | None = None
    floor: float = 0.0


@dataclass
class DrawConfig:
    """How a stage draws training samples from clips.

    ``frames`` is the number of consecutive frames, or ``[least, most]``, drawn once per batch.
    ``source`` is where the portrait comes from: ``first`` of those frames, a ``random`` frame of
    the clip, or any ``other`` than those frames. ``jitter`` is colour jitter (brightness, contrast,
    saturation, hue), one draw per sample, the same for all its frames. With ``video: false`` no
    frame is decoded: the batch has pose, eyes, landmarks and audio only. ``context`` frames are
    shown on either side as well; beyond the clip's ends its first or last frame is shown again, and
    ``Batch.frames`` says so.

    A clip needs all ``frames`` unless ``least`` says how few will do. Shorter clips are then shown
    whole: clips of like length share a batch, whose frames are as many as its shortest clip has.
    """

    frames: Any = 1
    source: str = "random"
    jitter: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])
    video: bool = True
    context: int = 0
    least: int | None = None


@dataclass
class StageConfig:
    """One thing that is trained.

    ``batch_size`` is the global one, over all devices and accumulation. ``clip`` is the gradient
    norm, 0 for none. ``ema`` is the decay of the averaged weights, 0 for none.
    """

    target: str = ""
    needs: list[str] = field(default_factory=list)
    init_from: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    draw: DrawConfig = field(default_factory=DrawConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    batch_size: int = 8
    max_steps: int = 1000
    clip: float = 0.0
    ema: float = 0.0
    precision: str | None = None


@dataclass
class DataConfig:
    """A prepared data set. ``root`` holds manifest.jsonl; ``audio`` names the audio encoder.

    Decoded frames of a split are kept where they fit in ``cache_gb`` gigabytes; a larger split is
    decoded on demand. They and other caches lie in the folder ``cache``, else in that of
    ``$THBENCH_CACHE``, else in ``<root>/cache``, or in ``~/.cache/thbench/data`` where ``root``
    cannot be written. ``decoder`` is what decodes on demand, ``pyav`` or ``decord``; the pixels are
    the same, so it is no part of what names a run.
    """

    name: str = ""
    root: str = ""
    audio: str = "logmel"
    cache_gb: float = 8.0
    cache: str | None = None
    decoder: str = "pyav"


@dataclass
class TrainerConfig:
    """How training and generation run. ``precision`` is training's, and the only key that changes
    what is learned, so only it is hashed; generation's own is ``sampler.precision``.

    ``threads`` are torch's on the CPU, null for its own choice. A tiny net's step took
    as long with two as with one, and loader workers want a core too. ``frames_per_call`` is the
    memory that generation may take, counted in frames of one network call: windows of a round that
    are more go in several calls, with the same result; a window is never split.
    """

    accelerator: str = "auto"
    devices: Any = "auto"
    nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    accumulate: int = 1
    workers: int = 2
    threads: int | None = None
    frames_per_call: int | None = 512
    checkpoint_every: int = 200
    validate_every: int = 400
    validate_batches: int = 8
    log_every: int = 20
    sample_every: int = 400
    progress: bool = True
    compile: bool = False


@dataclass
class SamplerConfig:
    """The sampler: step count from pure noise to clean, DDIM's eta, spacing, thresholding.

    ``threshold`` is the percentile of dynamic thresholding (Imagen) of the predicted clean value,
    per window, 0 for a plain clamp, or null; ``bound`` is the value below which a threshold never
    falls. ``precision`` is that of the networks while they generate, whatever they were trained in.
    """

    steps: int = 20
    eta: float = 1.0
    spacing: str = "linspace"
    threshold: float | None = None
    bound: float = 1.0
    precision: str = "32-true"


@dataclass
class TrackingConfig:
    """Loggers. CSV is always on. ``wandb`` is ``auto`` (online with a key, else off), ``online``,
    ``offline`` or ``off``.
    """

    wandb: str = "auto"
    project: str = "thbench"
    group: str | None = None


@dataclass
class EvalConfig:
    """What ``thbench eval`` generates; how it is scored stands in the protocol.

    Without a ``protocol``, synthetic data is scored by ``synthetic``, recordings by the strategy's
    own.
    ``data`` is a prepared data set other than the one trained on; without a root, that one.
    ``timing: false`` leaves out the protocol's measurement of time and memory.
    """

    data: DataConfig = field(default_factory=DataConfig)
    protocol: str | None = None
    split: str = "test"
    limit: int | None = None
    frames: int | None = None
    watermark: bool = False
    timing: bool = True


@dataclass
class Config:
    """A strategy, whole.

    ``nets`` maps the roles of the strategy's networks to the stages that train them, null for a
    role that nobody plays; ``options`` are the strategy's own switches; ``protocol`` is that of its
    paper.
    """

    strategy: str = ""
    title: str = ""
    paper: str = ""
    scale: str = "tiny"
    target: str = ""
    size: int = 128
    seed: int = 0
    runs: str = "runs"
    results: str = "leaderboards/results"
    stages: dict[str, StageConfig] = field(default_factory=dict)
    nets: dict[str, str] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=lambda: {"name": "nar"})
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    options: dict[str, Any] = field(default_factory=dict)
    protocol: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    @property
    def tested(self) -> DataConfig:
        """The data set that is generated and scored, with the audio encoder of the trained nets."""
        chosen = self.eval.data
        if not chosen.root:
            return self.data
        return replace(chosen, audio=self.data.audio, cache=chosen.cache or self.data.cache)


def configs_root() -> Path:
    """The folder of YAML files: beside the packages in a clone, inside the package in a wheel."""
    here = Path(__file__).resolve().parent
    beside = here.parent / "configs"
    return beside if (beside / "strategy").is_dir() else here / "_configs"


def names(kind: str) -> list[str]:
    """Names of the YAML files of one kind: ``strategy``, ``data``, ``protocol``, ``table``."""
    return sorted(p.stem for p in (configs_root() / kind).glob("*.yaml") if p.stem[0] != "_")


def find(kind: str, name: str) -> Path:
    """The YAML file of that kind and name; a path to a YAML file is taken as it is.

    Raises:
        UserError: there is none.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"There is no file {name}.")
        return path
    path = configs_root() / kind / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"No {kind} '{name}'.{did_you_mean(name, names(kind))}")
    return path


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping with its ``base:`` files (relative to the configs root) merged below it."""
    try:
        content = yaml.load(path.read_text(), _Loader) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping.")
    bases = [read_yaml(configs_root() / base) for base in content.pop("base", [])]
    return layering.stack([*bases, content])


def load(strategy: str, overrides: Iterable[str] = ()) -> Config:
    """The resolved configuration of a strategy.

    Args:
        strategy: a name in configs/strategy, or a path to a YAML file.
        overrides: ``key=value`` words; ``scale=``, ``data=``, ``eval.data=`` and the file's
            switches choose blocks and files.

    Raises:
        UserError: an unknown name, key or value, with the nearest one.
    """
    path = find("strategy", strategy)
    content = read_yaml(path)
    words = _parse(overrides)
    scales = content.pop("scales", {})
    scale = words.pop("scale", content.get("scale", Config.scale))
    if scale not in SCALES:
        raise UserError(f"There is no scale '{scale}'.{did_you_mean(str(scale), SCALES)}")
    content.setdefault("strategy", path.stem)
    content["scale"] = scale
    switches = content.pop("switches", {})
    layers = [content, scales.get(scale, {}), *layering.take_switches(switches, words)]
    layers += list(_data_layers(layers, words))
    if isinstance(words.get("eval.data"), str):
        layers.append({"eval": {"data": read_data(words.pop("eval.data"))}})
    layers += layering.take_plan(words)
    merged: Any = OmegaConf.structured(Config)
    try:
        raw = layering.without_nulls(layering.stack(layers))
        raw["stages"] = layering.complete_stages(raw.get("stages", {}))
        merged = OmegaConf.merge(merged, raw)
        for key, value in words.items():
            _set(merged, key, value)
        return _checked(OmegaConf.to_object(merged))  # type: ignore[arg-type]
    except (ConfigKeyError, ValidationError) as error:
        raise UserError(_explain(error, merged)) from error
    except OmegaConfBaseException as error:
        raise UserError(f"{path.name}: {str(error).splitlines()[0]}") from error


def _data_layers(
    layers: Iterable[dict[str, Any]], words: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The data set that is named last, by the user or a layer; its name is taken out.

    A layer that has a ``data:`` block without a root says how any data set is used.
    """
    chosen: Any = "synthetic"
    for layer in layers:
        block = layer.get("data")
        if isinstance(block, str):
            chosen = layer.pop("data")
        elif isinstance(block, Mapping) and block.get("root"):
            chosen = None
    chosen = words.pop("data", None) or chosen
    if isinstance(chosen, str):
        yield {"data": read_data(chosen)}
    elif chosen:
        yield {"data": chosen}


def read_data(name: str) -> dict[str, Any]:
    """The data block for ``name``: a file in configs/data, or a prepared folder.

    A folder is looked for as given and below ``data/``.
    """
    if name in names("data"):
        return read_yaml(find("data", name))
    for folder in (Path(name), Path("data") / name):
        if (folder / "manifest.jsonl").is_file():
            return {"name": folder.name, "root": str(folder)}
    hint = did_you_mean(name, names("data"))
    raise UserError(
        f"No data set '{name}': it is neither in configs/data nor a folder with a manifest.jsonl,"
        f" such as `thbench data prepare` writes.{hint}"
    )


def _checked(config: Config) -> Config:
    if config.size < 16 or config.size % 2:
        raise UserError(f"size={config.size}: frames need an even number of pixels, 16 or more.")
    if config.sampler.precision not in PRECISIONS:
        hint = did_you_mean(config.sampler.precision, PRECISIONS)
        raise UserError(
            f"sampler.precision={config.sampler.precision}: use {', '.join(PRECISIONS)}.{hint}"
        )
    for key, data in (("data", config.data), ("eval.data", config.eval.data)):
        if data.decoder not in DECODERS:
            hint = did_you_mean(data.decoder, DECODERS)
            raise UserError(f"{key}.decoder={data.decoder}: use {' or '.join(DECODERS)}.{hint}")
    return config


def content_hash(value: Any, length: int = 12) -> str:
    """Hex digits that change when anything in ``value`` does. Dataclasses count as mappings.

    Numbers count by value: 20 and 20.0 are the same setting.
    """
    text = json.dumps(_by_value(_plain(value)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def to_yaml(config: Any) -> str:
    """A configuration as YAML."""
    return yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)


def read_yaml_text(text: str) -> Config:
    """The inverse of ``to_yaml`` for a whole configuration."""
    merged = OmegaConf.merge(OmegaConf.structured(Config), yaml.load(text, _Loader))
    return OmegaConf.to_object(merged)  # type: ignore[return-value]


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _by_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _by_value(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_by_value(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _parse(overrides: Iterable[str]) -> dict[str, Any]:
    words: dict[str, Any] = {}
    for word in overrides:
        key, sign, text = word.partition("=")
        if not sign or not key:
            raise UserError(f"'{word}' is not of the form key=value.")
        try:
            words[key] = yaml.load(text, _Loader) if text else None
        except yaml.YAMLError as error:
            raise UserError(f"'{word}': the value is not valid YAML.") from error
    return words


def _set(config: DictConfig, key: str, value: Any) -> None:
    """Like a dot-list entry, but a key that the schema fixes must exist.

    New keys may lie at any depth of a free mapping; null takes out as ``thbench.layers`` says.
    """
    *path, leaf = key.split(".")
    parent = _block(config, path, key)
    there = _child(parent, leaf)
    if isinstance(value, Mapping) and value and (OmegaConf.is_dict(there) or _is_free(path)):
        for name, inner in value.items():
            _set(config, f"{key}.{name}", inner)
    elif leaf not in parent and OmegaConf.get_type(parent) is not dict:
        raise UserError(f"There is no key '{key}'.{_nearest(config, key)}")
    elif value is not None:
        OmegaConf.update(config, key, value, merge=True)
    elif path in (["nets"], ["stages"]):
        if leaf not in parent:
            raise UserError(f"There is no key '{key}' to take out.{_nearest(config, key)}")
        del parent[leaf]
    elif OmegaConf.is_dict(there) and _is_free([*path, leaf]):
        # ``options``, ``plan`` and ``model`` themselves are part of the schema.
        parent[leaf] = {}
        if _is_free(path):
            del parent[leaf]
    elif leaf in parent and path[:1] in (["plan"], ["options"]):
        del parent[leaf]
    else:
        OmegaConf.update(config, key, None)


def _block(config: DictConfig, path: list[str], key: str) -> DictConfig:
    """The mapping at ``path``; in a free mapping it is made where there is none."""
    parent = config
    for depth, name in enumerate(path):
        if _child(parent, name) is None and _is_free(path[:depth]):
            parent[name] = {}
        child = _child(parent, name)
        if not isinstance(child, DictConfig):
            raise UserError(f"There is no key '{key}'.{_nearest(config, key)}")
        parent = child
    return parent


def _child(parent: DictConfig, name: str) -> Any:
    """None where there is no such key: a typed block's own ``get`` is an error then."""
    return parent[name] if name in parent else None  # noqa: SIM401


def _is_free(path: list[str]) -> bool:
    """Whether the schema leaves it open what the mapping at ``path`` holds."""
    return path[:1] in (["plan"], ["options"]) or (path[:1], path[2:3]) == (["stages"], ["model"])


def _nearest(config: DictConfig, key: str) -> str:
    return did_you_mean(key, _paths(OmegaConf.to_container(config)))


def _paths(value: Any, prefix: str = "") -> list[str]:
    if not isinstance(value, Mapping):
        return []
    found = []
    for key, child in value.items():
        path = f"{prefix}{key}"
        found += [path, *_paths(child, f"{path}.")]
    return found


def _explain(error: OmegaConfBaseException, config: DictConfig) -> str:
    key = str(error.full_key or error.key or "")
    if isinstance(error, ConfigKeyError):
        return f"There is no key '{key}'.{_nearest(config, key)}"
    return f"{key}: {str(error.msg or error).splitlines()[0]}"
