"""Weights that authors published, imported into runs as if these had been trained here.

A system's map (``thbench/dawn/released.py`` and its like) says which of their tensors is which of
ours; here files are read and runs are written. No code of a file is run: a pickle is read for its
tensors alone, and so is a TorchScript archive.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from thbench.config import Config
from thbench.core.errors import UserError, few
from thbench.core.files import check_file, sha256
from thbench.core.provenance import provenance
from thbench.data.embedding.encoders import ENCODERS
from thbench.training.checkpoints import AtomicCheckpointIO
from thbench.training.runs import (
    META,
    StageRun,
    build_stage,
    describe,
    load_net,
    load_nets,
    remember_sources,
    stage_run,
    write_config,
)

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
"""Data types of an archive's storages, by the classes that it names."""


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU, by their names; nested names are joined by dots.

    Args:
        path: what ``torch.save`` wrote, a safetensors file, or a TorchScript archive.

    Raises:
        UserError: there is no such file, it cannot be read, or it holds no tensor.
    """
    path = Path(path)
    check_file(path)
    if path.suffix == ".safetensors":
        found = _read_safetensors(path)
    elif _is_script(path):
        found = dict(flat(_read_script(path)))
    else:
        found = dict(flat(_read_saved(path)))
    if not found:
        raise UserError(f"{path} holds no tensors.")
    return found


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested mappings and lists, with their dotted names."""
    if isinstance(value, Tensor):
        yield name, value.detach()
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        yield from flat(dict(enumerate(value)), name)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise _unreadable(path, error) from error


def _read_saved(path: Path) -> Any:
    try:
        # Files from before PyTorch 1.6 are no archives, and cannot be mapped into memory.
        return torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error


def _is_script(path: Path) -> bool:
    """Whether this is a TorchScript archive: one with constants and code beside the data."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"{path} cannot be read as weights: {reason}")


class _Node(dict[str, Any]):
    """An object of a TorchScript archive, of whatever class: its attributes."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            self.update(state)


class _ScriptUnpickler(pickle.Unpickler):
    """Reads an archive's objects without their classes: all that is let in rebuilds tensors."""

    def __init__(self, data: bytes, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(data))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Node
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch.jit._pickle":
            return _plain
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, _ = pid
        data = bytearray(self.archive.read(f"{self.root}/data/{key}"))
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _rebuild(
    storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any
) -> Tensor:
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


def _plain(value: Any, *_: Any) -> Any:
    return value


def _read_script(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
            return _ScriptUnpickler(archive.read(name), archive, name.rpartition("/")[0]).load()
    except (
        *(StopIteration, KeyError, zipfile.BadZipFile, pickle.UnpicklingError, EOFError),
        *(RuntimeError, ValueError, TypeError, AttributeError, IndexError),
    ) as error:
        raise _unreadable(path, error) from error


def import_run(
    config: Config, stage: str, state: Mapping[str, Tensor], sources: Sequence[str | Path]
) -> StageRun:
    """Write a stage's run with a network's published weights, as if it were trained to its end.

    Args:
        config: the configuration that ``thbench generate`` will be given; its data set must be
            there, since its content is part of the run's name.
        stage: of the strategy; the stages that it needs must be imported or trained.
        state: state dict of ``Stage.net``.
        sources: the files that the weights are from.

    Returns:
        The run; one that has these weights already is left as it is.

    Raises:
        UserError: the run is there with other weights, a needed stage is not, or names or shapes
            differ from the network's.
    """
    run, settings = stage_run(config, stage), config.stages[stage]
    if run.last.is_file():
        if _has(load_net(config, stage, run=run)[0].state_dict(), state):
            return run
        raise UserError(
            f"There is a run of stage '{stage}' with other weights at {run.folder}: delete it, or"
            " say another runs=."
        )
    needs = load_nets(config, settings.needs)[0] if settings.needs else {}
    audio_dim = _audio_dim(config) if "audio" in run.fingerprint else 0
    built = build_stage(config, stage, needs, audio_dim)
    check_fits(built.net.state_dict(), state, f"stage '{stage}'")
    built.net.load_state_dict(dict(state))
    note = [{"file": Path(path).name, "sha256": sha256(path)} for path in sources]
    meta = {
        **describe(config, run, audio_dim),
        "trained_for": built.trained_for(),
        "imported": note,
        "steps": settings.max_steps,
        "best": None,
    }
    run.folder.mkdir(parents=True, exist_ok=True)
    remember_sources(config, stage)
    write_config(config, run)
    content = {"state_dict": built.state_dict(), META: meta}
    AtomicCheckpointIO().save_checkpoint(content, run.last)
    run.update_record(
        title=config.title,
        strategy=config.strategy,
        status="done",
        error=None,
        steps=settings.max_steps,
        max_steps=settings.max_steps,
        seconds=0.0,
        imported=note,
        **provenance(),
    )
    return run


def _has(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> bool:
    return own.keys() == given.keys() and all(torch.equal(own[k], given[k]) for k in own)


def check_fits(own: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str) -> None:
    """Check that two state dicts have the same names and shapes.

    Args:
        own: the network's.
        given: what is to be loaded.
        what: the network, for messages.

    Raises:
        UserError: they differ; the message names the first few that do.
    """
    if missing := sorted(own.keys() - given.keys()):
        _refuse(what, "the files lack", missing)
    if unexpected := sorted(given.keys() - own.keys()):
        _refuse(what, "it has no place for", unexpected)
    shapes = {k: (tuple(given[k].shape), tuple(own[k].shape)) for k in own}
    if other := [f"{k} {a} for {b}" for k, (a, b) in sorted(shapes.items()) if a != b]:
        _refuse(what, "other shapes in the files than in the network:", other)


def _refuse(what: str, why: str, names: Sequence[str]) -> NoReturn:
    raise UserError(
        f"These weights do not fit {what}: {why} {few(names)}. Is this the file of this network, at"
        " this scale?"
    )


def _audio_dim(config: Config) -> int:
    """Channels of the audio encoder, as its default weights have them."""
    kind, _, source = config.data.audio.partition("=")
    if kind not in ENCODERS or source:
        raise UserError(
            f"data.audio={config.data.audio}: published weights need a published encoder, named"
            " without a path."
        )
    return int(ENCODERS.load(kind).default_dim)
