"""Puts trained stages into the zoo, for developers: ``thbench zoo add``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thbench import config as configs
from thbench.config import Config
from thbench.core.errors import UserError, did_you_mean
from thbench.core.tensors import tensors_digest
from thbench.training import zoo
from thbench.training.runs import (
    StageRun,
    load_net,
    locate,
    order,
    samples_seen,
    settings_hash,
    stage_run,
)

BUDGET = 40_000_000
"""Bytes of all files of the zoo together."""
LICENCE = "Apache-2.0"
"""The project's own, which its weights are under as well."""
LOCAL = ("runs", "results", "weights", "trainer.", "tracking.", "eval.", "data.cache", "data.root")
"""Beginnings of words that change nothing in what is learned, or name places on one machine."""

Meta = dict[str, Any]


def add(config: Config, words: Sequence[str], dtype: str, only: str | None = None) -> list[str]:
    """Write the trained stages that a strategy generates with into the zoo.

    Args:
        config: a strategy, trained to its stages' ``max_steps``.
        words: the ``key=value`` words that it was configured by.
        dtype: of parameters, ``float16`` or ``float32``; buffers keep theirs.
        only: add this stage alone.

    Returns:
        Names of the files, in order of training; those of stages that were taken from the zoo are
        left as they are.

    Raises:
        UserError: a stage is not trained, its weights do not fit into ``dtype``, or what the zoo
            would then hold does not fit together.
    """
    if dtype not in zoo.DTYPES:
        raise UserError(
            f"--dtype {dtype}: use float16 or float32.{did_you_mean(dtype, zoo.DTYPES)}"
        )
    config = replace(config, weights="runs")
    contents: dict[str, bytes] = {}
    metas: dict[str, Meta] = {}
    for name in [only] if only else used_stages(config):
        run = stage_run(config, name)
        if not run.is_trained and zoo.find(name, run.hash):
            continue  # what the others were trained on (`fit` with weights=zoo)
        tensors, meta = _stage(config, name, words, dtype)
        key = f"{name}-{meta['hash']}"
        contents[key], metas[key] = zoo.encode(tensors, meta), meta
        if _is_shipped(name, meta["hash"], tensors):
            shipped = zoo.path_of(name, meta["hash"])
            contents[key], metas[key] = shipped.read_bytes(), dict(zoo.entry(shipped).meta)
    _check_whole(contents, metas)
    for key, content in contents.items():
        zoo.write(content, metas[key]["stage"], metas[key]["hash"])
    return list(contents)


def used_stages(config: Config) -> list[str]:
    """Stages that play a role and those that they need, in order of training.

    Those that they only started from are left out.
    """
    used: set[str] = set()

    def visit(name: str) -> None:
        used.add(name)
        for need in config.stages[name].needs:
            visit(need)

    for name in config.nets.values():
        visit(name)
    return [name for name in order(config) if name in used]


def _stage(
    config: Config, name: str, words: Iterable[str], dtype: str
) -> tuple[dict[str, Tensor], Meta]:
    """A stage's tensors as they are stored, and what is said of them."""
    run = locate(config, name)
    net, meta = load_net(config, name, run=run)
    limit = config.stages[name].max_steps
    if meta["steps"] < limit:
        raise UserError(
            f"Stage '{name}' is trained to {meta['steps']} of {limit} steps: run `thbench fit"
            f" {config.strategy}` first, or say stages.{name}.max_steps={meta['steps']}."
        )
    del meta["shipped"]
    samples = samples_seen(config, run)
    return _stored(net, dtype, name), {
        **meta,
        **_origin(run),
        "fingerprint": dict(run.fingerprint),
        "settings": settings_hash(config, name),
        "dtype": dtype,
        "parameters": sum(p.numel() for p in net.parameters()),
        "samples": samples,
        "samples_seen": samples[run.hash],
        "frames_seen": zoo.frames_seen(samples[run.hash], run.fingerprint["draw"]),
        "command": " ".join(["thbench fit", config.strategy, *_shared(words)]),
        "licence": LICENCE,
    }


def _is_shipped(name: str, digest: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the zoo has these very tensors, with the words of the strategy that added them."""
    found = zoo.find(name, digest)
    return found is not None and found.meta["sha256"] == tensors_digest(tensors)


def _stored(net: nn.Module, dtype: str, name: str) -> dict[str, Tensor]:
    """The network's tensors, its float32 parameters as ``dtype``."""
    parameters = {key for key, _ in net.named_parameters()}
    stored = {}
    for key, tensor in net.state_dict().items():
        halved = dtype == "float16" and key in parameters and tensor.dtype == torch.float32
        stored[key] = tensor.half() if halved else tensor
        if tensor.is_floating_point() and not stored[key].isfinite().all():
            raise UserError(
                f"Stage '{name}': {key} has values that {dtype} cannot hold: take --dtype float32"
                f" with stage={name}."
            )
    return stored


def _origin(run: StageRun) -> Meta:
    """What the run folder says of the data set and of the program that trained it."""
    record = json.loads((run.folder / "stage.json").read_text())
    data = configs.read_yaml(run.folder / "config.yaml")["data"]["name"]
    return {
        "data": {"name": data},
        "git": record.get("git"),
        "packages": record.get("packages", {}),
    }


def _shared(words: Iterable[str]) -> list[str]:
    """The words that others need as well; a data set by its name, wherever it lies here."""
    kept = [word for word in words if not word.startswith(LOCAL)]
    return [f"data={Path(w[5:]).name}" if w.startswith("data=") else w for w in kept]


def _check_whole(contents: Mapping[str, bytes], added: Mapping[str, Meta]) -> None:
    """Check what the zoo will hold: each stage with those that it needs, none twice, not too much.

    Args:
        contents: files to be written, by name.
        added: their metadata.

    Raises:
        UserError: something is missing, there twice, or all is too large.
    """
    before = {entry.path.stem: entry for entry in zoo.entries()}
    metas: dict[str, Mapping[str, Any]] = {key: entry.meta for key, entry in before.items()}
    metas |= added
    for key in metas:
        _check_needs(key, metas)
    _check_unique(metas, added)
    sizes = {key: entry.bytes for key, entry in before.items()}
    sizes |= {key: len(content) for key, content in contents.items()}
    if (total := sum(sizes.values())) > BUDGET:
        raise UserError(
            f"The zoo would hold {total / 1e6:.1f} MB, more than {BUDGET / 1e6:.0f}: take --dtype"
            " float16, or delete what no strategy uses (`thbench zoo list`)."
        )


def _check_needs(key: str, metas: Mapping[str, Mapping[str, Any]]) -> None:
    for need, wanted in metas[key]["needs"].items():
        there = metas.get(f"{need}-{wanted['hash']}")
        if there is None or there["steps"] != wanted["steps"]:
            found = f"has {there['steps']} steps there" if there else "is not in the zoo"
            raise UserError(
                f"{key} was trained on {need}-{wanted['hash']} at {wanted['steps']} steps, which"
                f" {found}: add the strategy's stages together, or delete {key} from the zoo."
            )


def _check_unique(metas: Mapping[str, Mapping[str, Any]], added: Mapping[str, Meta]) -> None:
    """No two stages may have the same settings: without a data set neither would be found."""
    seen: dict[tuple[str, str], str] = {}
    for key in sorted(metas, key=lambda key: key in added):  # the older first
        older = seen.setdefault((metas[key]["stage"], metas[key]["settings"]), key)
        if older != key:
            raise UserError(
                f"{key} has the settings of {older}, which is in the zoo already, and other data:"
                f" delete {zoo.FOLDER / older}{zoo.SUFFIX} first."
            )
