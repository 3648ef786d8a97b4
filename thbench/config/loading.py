"""From YAML files with bases and ``key=value`` overrides to a configuration.

A strategy's YAML is merged over the schema's defaults in this order: its ``base:`` files, the
file itself, the block of ``scales:`` that ``scale=`` names, the block ``released:`` where
``options=released`` is said, those of ``switches:`` that are on, the data set that ``data=`` names,
and the ``key=value`` overrides. ``thbench.config.merge`` says how.
No torch is imported here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from thbench.config import merge as layering
from thbench.config import search
from thbench.config.schema import DECODERS, PRECISIONS, SCALES, WEIGHTS, Config
from thbench.core.errors import UserError, did_you_mean

MADE_BY = "made_by"
"""Key of a file in configs/data: the command that makes the data set."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
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


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping with its ``base:`` files merged below it, which are found as names are.

    Raises:
        UserError: a file is not valid YAML or no mapping, or a base is missing.
    """
    return _read_yaml(path, ())


def _read_yaml(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(), _Loader) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping.")
    files, bases = (*above, path.resolve()), content.pop("base", [])
    if not isinstance(bases, list):
        raise UserError(f"{path}: base is a list of files, such as [strategy/dawn.yaml].")
    try:
        found = [search.find_base(base, files) for base in bases]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return layering.stack([*(_read_yaml(base, files) for base in found), content])


def load(strategy: str, overrides: Iterable[str] = ()) -> Config:
    """The resolved configuration of a strategy.

    Args:
        strategy: a name in configs/strategy, or a path to a YAML file.
        overrides: ``key=value`` words; ``scale=``, ``options=released``, ``data=``, ``eval.data=``
            and the file's switches choose blocks and files.

    Raises:
        UserError: an unknown name, key or value, with the nearest one.
    """
    path = search.find("strategy", strategy)
    content = read_yaml(path)
    words = _parse(overrides)
    blocks = content.pop("scales", {})
    scale = words.pop("scale", content.get("scale", Config.scale))
    content.setdefault("strategy", path.stem)
    _check_scale(scale, _scales_of(blocks), content["strategy"])
    content["scale"] = scale
    switches = content.pop("switches", {})
    block: Any = blocks.get(scale) or {}
    released = layering.take_released(content, words)
    layers = [content, block, *released, *layering.take_switches(switches, words)]
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


def scales(strategy: str) -> tuple[str, ...]:
    """The scales that a strategy has, in the order of ``SCALES``.

    Args:
        strategy: a name in configs/strategy, or a path to a YAML file.

    Raises:
        UserError: there is no such strategy, or its file is not valid.
    """
    return _scales_of(read_yaml(search.find("strategy", strategy)).get("scales", {}))


def _scales_of(blocks: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of ``scales:``, where the paper's, which the file itself has, needs no block.

    A file without ``scales:`` has one size, which is asked for as the paper's or as tiny.
    """
    named = {scale for scale in blocks if blocks[scale] is not None} if blocks else {"tiny"}
    return tuple(scale for scale in SCALES if scale == "paper" or scale in named)


def _check_scale(scale: Any, known: tuple[str, ...], strategy: str) -> None:
    if scale not in SCALES:
        raise UserError(f"There is no scale '{scale}'.{did_you_mean(str(scale), SCALES)}")
    if scale not in known:
        raise UserError(
            f"Strategy '{strategy}' has no scale '{scale}'. It has: {', '.join(known)}."
        )


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
    if name in search.names("data"):
        return {k: v for k, v in _data_file(name).items() if k != MADE_BY}
    for folder in (Path(name), Path("data") / name):
        if (folder / "manifest.jsonl").is_file():
            return {"name": folder.name, "root": str(folder)}
    hint = did_you_mean(name, search.names("data"))
    raise UserError(
        f"No data set '{name}': it is neither in configs/data nor a folder with a manifest.jsonl,"
        f" such as `thbench data prepare` writes.{hint}"
    )


def made_by(root: str) -> str:
    """The command that makes the data set at ``root``, as configs/data says; "" where none does."""
    files = (_data_file(name) for name in search.names("data"))
    return next((str(f.get(MADE_BY, "")) for f in files if f.get("root") == root), "")


def _data_file(name: str) -> dict[str, Any]:
    return read_yaml(search.find("data", name))


def _checked(config: Config) -> Config:
    if config.size < 16 or config.size % 2:
        raise UserError(f"size={config.size}: frames need an even number of pixels, 16 or more.")
    if config.sampler.precision not in PRECISIONS:
        hint = did_you_mean(config.sampler.precision, PRECISIONS)
        raise UserError(
            f"sampler.precision={config.sampler.precision}: use {', '.join(PRECISIONS)}.{hint}"
        )
    if config.weights not in WEIGHTS:
        hint = did_you_mean(config.weights, WEIGHTS)
        raise UserError(f"weights={config.weights}: use {', '.join(WEIGHTS)}.{hint}")
    _check_seeds(config.eval.seeds)
    for key, data in (("data", config.data), ("eval.data", config.eval.data)):
        if data.decoder not in DECODERS:
            hint = did_you_mean(data.decoder, DECODERS)
            raise UserError(f"{key}.decoder={data.decoder}: use {' or '.join(DECODERS)}.{hint}")
    return config


def _check_seeds(seeds: Any) -> None:
    if seeds is None:
        return
    known = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not known or not seeds or len(set(seeds)) < len(seeds):
        raise UserError(
            f"eval.seeds={seeds}: write a list of different whole numbers from 0 on, such as"
            " [0,1,2], or null for the protocol's."
        )


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

    New keys may lie at any depth of a free mapping; null takes out as the layers' does.
    """
    *path, leaf = key.split(".")
    parent = _block(config, path, key)
    there = _child(parent, leaf)
    if isinstance(value, Mapping) and value and (OmegaConf.is_dict(there) or _is_free(path)):
        if there is not None and not OmegaConf.is_dict(there):
            parent[leaf] = {}  # a mapping in place of a plain value
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
