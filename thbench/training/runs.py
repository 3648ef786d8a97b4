"""Training runs of stages: their order, folders, checkpoints and trained networks.

A stage's result is determined by its class, model, draw, optimiser, global batch size, averaging,
clipping, precision, frame size, seed, data, the stages that it builds on and, where it uses
audio, the audio encoder. The hash of these names its folder ``<runs>/<stage>-<hash>``, so
strategies that share a stage share its training, and a run that is started again, on other devices
or by a requeued job, resumes.

Where a stage is not trained here, ``locate`` finds the weights of its hash that are shipped with
thbench (``thbench.training.zoo``), which training itself uses with ``weights=zoo`` alone.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thbench.config import Config, StageConfig, content_hash, flatten, to_yaml
from thbench.core.errors import UserError, did_you_mean
from thbench.core.files import write_atomic
from thbench.core.registry import resolve
from thbench.core.seeding import derive_seed
from thbench.core.signatures import check_keys
from thbench.data.datamodule import read_digest
from thbench.data.embedding.encoders import ENCODERS
from thbench.training import zoo
from thbench.training.sources import content_of, remember
from thbench.training.stage import Stage, StageContext

META = zoo.KEY
"""Key of a checkpoint that holds its metadata."""
NEAR = 3
"""A run that differs in at most so many settings is named where the requested one is missing."""


@dataclass(frozen=True)
class StageRun:
    """The run folder of a stage's training.

    Attributes:
        name: of the stage.
        hash: of ``fingerprint``.
        folder: ``<runs>/<name>-<hash>``.
        fingerprint: everything that the result depends on.
        shipped: the zoo's weights of this hash, where these are used in place of the folder's.
    """

    name: str
    hash: str
    folder: Path
    fingerprint: Mapping[str, Any]
    shipped: zoo.Shipped | None = None

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "last.ckpt"

    @property
    def best(self) -> Path:
        """The checkpoint with the least validation loss."""
        return self.folder / "best.ckpt"

    @property
    def is_trained(self) -> bool:
        """Whether there are weights, to whatever step they were trained."""
        return self.shipped is not None or self.last.is_file()

    @property
    def steps(self) -> int:
        """Optimiser steps in the newest checkpoint or the shipped weights; 0 without any."""
        if self.shipped:
            return int(self.shipped.meta["steps"])
        return int(read_meta(self)["steps"]) if self.last.is_file() else 0

    def parent(self, name: str) -> StageRun:
        """The run of a stage that this one needs: of shipped weights, the shipped ones.

        Raises:
            UserError: it is neither among the runs nor shipped.
        """
        digest = self.fingerprint["needs"][name]
        folder = self.folder.parent / f"{name}-{digest}"
        if not self.shipped and (folder / "stage.json").is_file():
            return _read_run(folder)
        found = zoo.find(name, digest)
        if not found:
            where = zoo.path_of(name, digest) if self.shipped else folder
            raise UserError(
                f"Stage '{self.name}' was trained on '{name}' in {where}, which is gone."
            )
        return _from_zoo(found, self.folder.parent)

    def update_record(self, **entries: Any) -> None:
        """Merge entries, such as status, steps and seconds, into ``stage.json``."""
        path = self.folder / "stage.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        known.update(stage=self.name, hash=self.hash, **entries, fingerprint=self.fingerprint)
        write_atomic(path, json.dumps(known, indent=2, ensure_ascii=False) + "\n")


def order(config: Config, only: str | None = None) -> list[str]:
    """Names of the stages that roles need, each after those that it builds on.

    A strategy without roles needs all of its stages; with ``only``, it is that stage and what that
    one needs.

    Raises:
        UserError: an unknown stage, or a circle.
    """
    done: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise UserError(
                f"Stages build on each other in a circle: {' -> '.join([*path, name])}."
            )
        for parent in parents(_stage(config, name)):
            visit(parent, (*path, name))
        if name not in done:
            done.append(name)

    played = set(config.nets.values()) or set(config.stages)
    for name in [only] if only else [name for name in config.stages if name in played]:
        visit(name, ())
    return done


def parents(stage: StageConfig) -> list[str]:
    """The stages that must be trained before this one."""
    return [*stage.needs, *([stage.init_from] if stage.init_from else [])]


def training_order(
    config: Config, only: str | None = None
) -> tuple[list[str], dict[str, StageRun]]:
    """What ``fit`` trains, and what it takes as it is shipped.

    Args:
        config: with ``weights`` of ``zoo`` stages are taken that are shipped for the same hash and
            have no run of their own; then what these alone are built on is not needed.
        only: this stage, with those that it builds on.

    Returns:
        Names of the stages to be trained, or trained already, in order; runs of those to be taken.

    Raises:
        UserError: as ``order``; or with ``weights=zoo`` there is nothing to take.
    """
    names = order(config, only)
    if config.weights != "zoo":
        return names, {}
    own = replace(config, weights="auto")
    found = {name: locate(own, name) for name in names}
    taken = {
        name: run
        for name, run in found.items()
        if run.shipped and run.steps >= config.stages[name].max_steps
    }
    if not taken and not any(run.is_trained for run in found.values()):
        alike = ", ".join(name for name in names if shipped_alike(config, name))
        other = f" The shipped {alike} with these settings saw other data." if alike else ""
        raise UserError(
            f"weights=zoo: no stage of '{config.strategy}' is shipped for these settings and this"
            f" data set (`thbench zoo list`).{other} Without weights=zoo, all are trained."
        )
    goals = {only} if only else set(config.nets.values()) & set(names) or set(names)
    for name in reversed(names):
        if name in goals and name not in taken:
            goals.update(parents(config.stages[name]))
    needed = [name for name in names if name in goals]
    return (
        [name for name in needed if name not in taken],
        {name: taken[name] for name in needed if name in taken},
    )


def stage_run(config: Config, name: str) -> StageRun:
    """The run folder of a stage. The data set must be there: its content is part of the hash."""
    order(config, name)
    fingerprint = _fingerprint(config, name, read_digest(config.data.root))
    digest = content_hash(fingerprint)
    return StageRun(name, digest, Path(config.runs) / f"{name}-{digest}", fingerprint)


def locate(config: Config, name: str) -> StageRun:
    """Where a stage's weights are: the run folder, or the zoo, as ``config.weights`` says.

    Without the data set at hand, the one run that agrees in everything else is used, or else the
    one in the zoo. A run of the user's own comes first, however far it is trained.

    Raises:
        UserError: without the data set, or in the zoo alone, there is none or more than one.
    """
    order(config, name)
    if config.weights == "zoo":
        return _locate_shipped(config, name)
    if not (Path(config.data.root) / "manifest.jsonl").is_file():
        return _locate_without_data(config, name)
    run = stage_run(config, name)
    if run.is_trained or config.weights == "runs":
        return run
    return replace(run, shipped=zoo.find(name, run.hash))


def _locate_shipped(config: Config, name: str) -> StageRun:
    if found := shipped_alike(config, name):
        return _from_zoo(found[0], Path(config.runs))  # `zoo add` takes no second one
    raise UserError(
        f"weights=zoo: no weights of stage '{name}' with these settings are shipped"
        f" (`thbench zoo list`).{_shipped_hint(config, name)} Without weights=zoo, your own runs"
        " are taken."
    )


def _locate_without_data(config: Config, name: str) -> StageRun:
    wanted, runs = _own(_fingerprint(config, name, "")), Path(config.runs)
    found = [run for run in _runs_of(name, runs) if _own(run.fingerprint) == wanted]
    candidates = [run for run in found if run.is_trained]
    if not candidates and config.weights == "auto":
        candidates = [_from_zoo(shipped, runs) for shipped in shipped_alike(config, name)]
    candidates = candidates or found
    if len(candidates) == 1:
        return candidates[0]
    several = f"{len(candidates)} runs" if candidates else "no run"
    raise UserError(
        f"There is no data set at '{config.data.root}', and {several} of stage '{name}' in"
        f" {config.runs} with these settings: point data.root at the data set it was trained on."
        f"{_shipped_hint(config, name)}"
    )


def shipped_alike(config: Config, name: str) -> list[zoo.Shipped]:
    """The zoo's weights of a stage that agree with a configuration in all but the data set."""
    candidates = list(zoo.entries(name))
    wanted = settings_hash(config, name) if candidates else ""
    return [shipped for shipped in candidates if shipped.meta["settings"] == wanted]


def settings_hash(config: Config, name: str) -> str:
    """A hash of all that a stage's result depends on but the data, parents' settings included."""
    return content_hash(_fingerprint(config, name, ""))


def samples_seen(config: Config, run: StageRun) -> dict[str, int]:
    """Training samples by the hashes of a stage and of all that it builds on or started from.

    Args:
        config: the strategy.
        run: where the stage was trained. What is no longer there counts nothing.
    """
    if run.shipped:
        return dict(run.shipped.meta["samples"])
    stage, runs = _stage(config, run.name), run.folder.parent
    found = {run.hash: run.steps * stage.batch_size}
    before = {**run.fingerprint["needs"]}
    if stage.init_from:
        before[stage.init_from] = run.fingerprint["init_from"]
    for name, digest in before.items():
        folder = runs / f"{name}-{digest}"
        if (folder / "stage.json").is_file():
            found |= samples_seen(config, _read_run(folder))
        elif shipped := zoo.find(name, digest):
            found |= samples_seen(config, _from_zoo(shipped, runs))
    return found


def build_stage(config: Config, name: str, needs: Mapping[str, nn.Module], audio_dim: int) -> Stage:
    """Build a stage, with its initial weights for the configuration's seed.

    Raises:
        UserError: ``model:`` has a key or value that the class does not take, or lacks one.
    """
    stage = _stage(config, name)
    kind: type[Stage] = resolve(stage.target, Stage)  # type: ignore[type-abstract]
    check_keys(kind, stage.model, f"stages.{name}.model", leading=1)
    context = StageContext(config.size, audio_dim, stage.optim, config.seed, needs, stage.clip)
    torch.manual_seed(derive_seed(config.seed, "weights"))
    try:
        return kind(context, **stage.model)
    except (TypeError, ValueError) as error:  # from the networks, deeper inside
        reason = " ".join(str(error).split()) or type(error).__name__
        hint = _nearest_keyword(error)
        raise UserError(f"stages.{name}.model: {kind.__name__} says: {reason}.{hint}") from error


def _nearest_keyword(error: Exception) -> str:
    """The nearest known keyword to one that a network inside does not know."""
    found = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    kind = trace.tb_frame.f_globals.get(found[1]) if found and trace else None
    if not found or not isinstance(kind, type):
        return ""
    known = [p for p in inspect.signature(kind).parameters if p != found[2]]
    return did_you_mean(found[2], known)


def load_net(
    config: Config,
    name: str,
    needs: Mapping[str, nn.Module] | None = None,
    run: StageRun | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """The trained network of a stage, with averaged weights where the stage has them.

    Args:
        config: a strategy.
        name: one of its stages.
        needs: networks already loaded; others that the stage needs are loaded here.
        run: where it was trained, if that is known.

    Returns:
        The network on the CPU in eval mode, and the checkpoint's metadata: stage, class, hash,
        steps, needs, trained_for, size, audio and audio_dim, where the last two are None and 0 of a
        stage that uses no audio. Of shipped weights it also holds what ``zoo.Shipped`` names, and
        ``shipped`` is True.

    Raises:
        UserError: it is not trained, was trained as something else, or the stages it needs have
            been trained further since.
    """
    run = run or locate(config, name)
    if not run.is_trained:
        run = _first_untrained(config, run)
        raise _untrained(run, run.last, _shipped_hint(config, run.name))
    checkpoint = read_checkpoint(run)
    meta: dict[str, Any] = {**checkpoint[META], "shipped": run.shipped is not None}
    check_needs(run, meta)
    nets = dict(needs or {})
    for need in _stage(config, name).needs:
        if need not in nets:
            nets[need] = load_net(config, need, run=run.parent(need))[0]
    net = build_stage(
        config, name, {n: nets[n] for n in _stage(config, name).needs}, meta["audio_dim"]
    ).net
    load_weights(net, checkpoint, f"stage '{name}'")
    return net.eval().requires_grad_(False), meta


def load_nets(
    config: Config, names: Sequence[str] | None = None
) -> tuple[dict[str, nn.Module], dict[str, dict[str, Any]]]:
    """Networks and metadata of several stages (all by default), each loaded once.

    Raises:
        UserError: as ``load_net``; or a stage was trained on another one than that which is loaded,
            as where own runs and shipped weights come together.
    """
    nets: dict[str, nn.Module] = {}
    metas: dict[str, dict[str, Any]] = {}
    for name in names or order(config):
        nets[name], metas[name] = load_net(config, name, nets)
    for meta in metas.values():
        for need in meta["needs"].keys() & metas.keys():
            _check_same(config, meta, metas[need])
    return nets, metas


def _check_same(config: Config, meta: Mapping[str, Any], parent: Mapping[str, Any]) -> None:
    """Check that a stage was trained on the very weights of a parent that are loaded beside it."""
    before = meta["needs"][parent["stage"]]
    if (before["hash"], before["steps"]) == (parent["hash"], parent["steps"]):
        return
    both = f"{describe_weights(config, meta)} was trained on {parent['stage']} {before['hash']}"
    raise UserError(
        f"{both} at {before['steps']} steps, but found is {describe_weights(config, parent)}: train"
        " both (`thbench fit`), or take both from the zoo (weights=zoo)."
    )


def describe_weights(config: Config, meta: Mapping[str, Any]) -> str:
    """A stage's weights in a few words, from ``load_net``'s metadata."""
    stage, digest, steps = meta["stage"], meta["hash"], f"{meta['steps']} steps"
    if meta.get("shipped"):
        return f"{stage} {digest} (shipped, {meta['dtype']}, {steps})"
    return f"{stage} ({Path(config.runs) / f'{stage}-{digest}'}, {steps})"


def load_weights(net: nn.Module, checkpoint: Mapping[str, Any], what: str) -> None:
    """Load the weights of ``Stage.net`` from a checkpoint, averaged ones where it has them.

    Raises:
        UserError: they belong to another network.
    """
    state = checkpoint["state_dict"]
    own = {k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")}
    try:
        net.load_state_dict(own)
    except RuntimeError as error:
        reason = " ".join(str(error).split(":", 1)[-1].split())
        raise UserError(
            f"The weights of stage '{checkpoint[META]['stage']}' do not fit {what} ({reason}):"
            " give both the same model, or train anew."
        ) from error


def _first_untrained(config: Config, missing: StageRun) -> StageRun:
    """Of a run without a checkpoint and those that it builds on, the first one to be trained.

    A setting of that one alone gives all that follow other hashes, which would explain nothing.
    """
    runs = [locate(config, each) for each in order(config, missing.name)]
    return next((run for run in runs if not run.is_trained), missing)


def _untrained(run: StageRun, path: Path, hint: str = "") -> UserError:
    return UserError(
        f"Stage '{run.name}' is not trained: no {path}. Run `thbench fit` first."
        f"{_nearest_run(run)}{hint}"
    )


def read_checkpoint(run: StageRun, path: Path | None = None) -> dict[str, Any]:
    """A checkpoint of a run, the newest by default, or its shipped weights.

    Tensors of a checkpoint are read when they are used.

    Raises:
        UserError: it is missing, damaged, or of another stage or program.
    """
    if run.shipped and path is None:
        return zoo.read(run.shipped)
    path = path or run.last
    if not path.is_file():
        raise _untrained(run, path)
    checkpoint = _load(path)
    _check_belongs(run, path, checkpoint[META])
    return checkpoint


def read_meta(run: StageRun) -> dict[str, Any]:
    """The metadata of a run's newest checkpoint. A file that stays the same is read once.

    Raises:
        UserError: as ``read_checkpoint``.
    """
    try:
        state = run.last.stat()
    except OSError as error:
        raise _untrained(run, run.last) from error
    meta = _meta_of(run.last, state.st_ino, state.st_mtime_ns, state.st_size)
    _check_belongs(run, run.last, meta)
    return copy.deepcopy(meta)


@functools.lru_cache(maxsize=256)
def _meta_of(path: Path, *_: int) -> dict[str, Any]:
    return dict(_load(path)[META])


def _load(path: Path) -> dict[str, Any]:
    """A checkpoint of ours; tensors are read when they are used."""
    try:
        checkpoint = torch.load(path, "cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path} cannot be read ({reason}): delete it to train anew, or"
            f" put another checkpoint of this stage in its place."
        ) from error
    if not isinstance(checkpoint, dict) or checkpoint.get(META) is None:
        raise UserError(f"{path} was not written by thbench: delete it.")
    return checkpoint


def _check_belongs(run: StageRun, path: Path, meta: Mapping[str, Any]) -> None:
    if meta["hash"] != run.hash:
        raise UserError(
            f"{path} is a checkpoint of stage '{meta['stage']}' ({meta['class']}, hash"
            f" {meta['hash']}), not of '{run.name}' ({run.fingerprint['class']['name']}, hash"
            f" {run.hash}):"
            " put each checkpoint in its own folder, or delete this one to train anew."
        )


def describe(config: Config, run: StageRun, audio_dim: int) -> dict[str, Any]:
    """The metadata of this run's checkpoints, without the steps done."""
    uses_audio = "audio" in run.fingerprint
    return {
        "stage": run.name,
        "class": run.fingerprint["class"]["name"],
        "hash": run.hash,
        "strategy": config.strategy,
        "size": config.size,
        "audio": config.data.audio if uses_audio else None,
        "audio_dim": audio_dim if uses_audio else 0,
        "needs": _needs(run),
    }


def check_needs(run: StageRun, meta: Mapping[str, Any]) -> None:
    """Check that the frozen stages are still those that this run was trained on.

    Raises:
        UserError: one of them has been trained further since.
    """
    now = _needs(run)
    for name, before in meta["needs"].items():
        if now[name]["steps"] == before["steps"]:
            continue
        if run.shipped:
            raise UserError(
                f"The shipped stages '{run.name}' and '{name}' do not fit each other"
                f" ({before['steps']} and {now[name]['steps']} steps): install thbench again."
            )
        raise UserError(
            f"Stage '{run.name}' was trained on '{name}' at {before['steps']} steps, which is"
            f" now at {now[name]['steps']}: delete {run.folder} and train it again."
        )


def write_config(config: Config, run: StageRun) -> None:
    """Keep the whole configuration in the run folder."""
    write_atomic(run.folder / "config.yaml", to_yaml(config))


def _stage(config: Config, name: str) -> StageConfig:
    if name not in config.stages:
        known = did_you_mean(name, config.stages)
        raise UserError(f"Strategy '{config.strategy}' has no stage '{name}'.{known}")
    return config.stages[name]


def _needs(run: StageRun) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for need in run.fingerprint["needs"]:
        parent = run.parent(need)
        found[need] = {"hash": parent.hash, "steps": parent.steps}
        if parent.shipped and not run.shipped:
            found[need]["shipped"] = parent.shipped.meta["dtype"]
    return found


def _read_run(folder: Path) -> StageRun:
    note = json.loads((folder / "stage.json").read_text())
    return StageRun(note["stage"], note["hash"], folder, note["fingerprint"])


def _runs_of(name: str, runs: Path) -> Iterator[StageRun]:
    """All runs of a stage that were named as runs are today; older ones have no fingerprint."""
    for path in sorted(runs.glob(f"{name}-*/stage.json")):
        with contextlib.suppress(KeyError, ValueError):
            yield _read_run(path.parent)


def _nearest_run(run: StageRun) -> str:
    """A line on the trained run of the same stage whose settings differ least."""
    found: list[tuple[int, str]] = []
    own = flatten(run.fingerprint)
    for trained in _runs_of(run.name, run.folder.parent):
        if not trained.last.is_file():
            continue
        other = flatten(trained.fingerprint)
        keys = [k for k in sorted({*own, *other}) if own.get(k) != other.get(k)]
        listed = ", ".join(f"{k}={other.get(k)} (here {own.get(k)})" for k in keys)
        found.append((len(keys), f" {trained.folder} is trained with {listed}."))
    if not found or min(found)[0] > NEAR:
        return ""
    return min(found)[1]


def _shipped_hint(config: Config, name: str) -> str:
    """A line on the zoo's weights of a stage that were asked for or differ least."""
    if alike := shipped_alike(config, name):
        data, digest = alike[0].meta["data"]["name"], alike[0].meta["fingerprint"]["data"]
        return (
            f" Weights with these settings are shipped, trained on '{data}' (digest"
            f" {str(digest)[:8]}): weights=zoo takes them."
        )
    own = flatten(_own(_fingerprint(config, name, "")))
    found: list[tuple[int, str]] = []
    for shipped in zoo.entries(name):
        other = flatten(_own(shipped.meta["fingerprint"]))
        keys = [k for k in sorted({*own, *other}) if own.get(k) != other.get(k)]
        listed = ", ".join(f"{k}={other.get(k)} (here {own.get(k)})" for k in keys)
        listed = listed or "the settings of the stages that it builds on"
        found.append((len(keys), f" The shipped {name} {shipped.hash} differs in {listed}."))
    return min(found)[1] if found and min(found)[0] <= NEAR else ""


def _from_zoo(shipped: zoo.Shipped, runs: Path) -> StageRun:
    folder = runs / f"{shipped.stage}-{shipped.hash}"
    return StageRun(shipped.stage, shipped.hash, folder, shipped.meta["fingerprint"], shipped)


def _own(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a fingerprint that does not depend on the data."""
    own = {k: v for k, v in fingerprint.items() if k not in ("data", "needs", "init_from")}
    return {**own, "needs": sorted(fingerprint["needs"])}


def stage_kind(config: Config, name: str) -> type[Stage]:
    """The class of a stage.

    Raises:
        UserError: the configuration has no such stage, or names no such class.
    """
    return resolve(_stage(config, name).target, Stage)  # type: ignore[type-abstract]


def _fingerprint(config: Config, name: str, data: str) -> dict[str, Any]:
    stage = _stage(config, name)
    own = asdict(stage)
    for key in ("target", "max_steps", "needs", "init_from"):
        del own[key]
    kind: type[Stage] = resolve(stage.target, Stage)  # type: ignore[type-abstract]
    own["class"] = kind.fingerprint()
    for key in kind.neutral:
        own["model"].pop(key, None)
    for key in kind.sources:
        if given := own["model"].get(key):
            own["model"][key] = content_of(str(given), Path(config.runs))
    own |= {"audio": _audio_encoder(config)} if kind.uses_audio else {}
    own["precision"] = stage.precision or config.trainer.precision
    return {
        **own,
        "size": config.size,
        "seed": config.seed,
        "data": data,
        "needs": {n: content_hash(_fingerprint(config, n, data)) for n in stage.needs},
        "init_from": stage.init_from and content_hash(_fingerprint(config, stage.init_from, data)),
    }


def _audio_encoder(config: Config) -> dict[str, str]:
    """The audio encoder and its version, with the content of its weights in place of their path."""
    kind, _, source = config.data.audio.partition("=")
    found = {"encoder": kind}
    if source:
        found["weights"] = content_of(source, Path(config.runs))
    if kind in ENCODERS:  # others are embeddings that somebody put beside the data
        found["version"] = ENCODERS.load(kind).version
    return found


def remember_sources(config: Config, name: str) -> None:
    """Write down the contents of what a stage takes from outside, for machines without it."""
    stage = _stage(config, name)
    kind: type[Stage] = resolve(stage.target, Stage)  # type: ignore[type-abstract]
    found = [stage.model.get(key) for key in kind.sources]
    found += [config.data.audio.partition("=")[2]] if kind.uses_audio else []
    for source in filter(None, found):
        remember(str(source), Path(config.runs))
