"""The command ``thbench weights``: which weight files there are; fetching, verifying, importing."""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metrics import download
from metrics.weights import WEIGHTS, Weights, folder, matches
from thbench.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

HERE, ABSENT, DIFFERS = "yes", "no", "differs"


def show(arguments: argparse.Namespace) -> None:
    """List all weight files: what for, whether they are here, from where, on which terms."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "name", "here", "used by", "size", "licence", "hash", "address", box=None, pad_edge=False,
        header_style="bold",
    )  # fmt: skip
    for name, entry in sorted(WEIGHTS.items()):
        table.add_row(
            name, state(entry), entry.used_by, _size(entry), entry.licence, _hash(entry), entry.url
        )
    console = Console()
    # A pipe has no width: lines must not be cut there.
    Console(width=console.width if console.is_terminal else 300).print(table)
    print(f"\nfolder: {folder()}")
    print("HuBERT and wav2vec 2.0 are fetched by transformers, into its own folder.")


def pull(arguments: argparse.Namespace) -> None:
    """Fetch weight files.

    Raises:
        UserError: no such name, or some could not be fetched; the others are.
    """
    if not arguments.names and not arguments.all:
        raise UserError("Say which weights, or --all. See `thbench weights list`.")
    failed = []
    for name in _chosen([] if arguments.all else arguments.names):
        try:
            path = download.pull(WEIGHTS[name], arguments.mirror)
        except download.DownloadError as error:
            failed.append(f"{name}: {error}")
            continue
        print(f"{name}: {path} ({WEIGHTS[name].licence})")
    for line in failed[:-1]:
        print(f"thbench: {line}", file=sys.stderr)
    if failed:
        raise UserError(failed[-1])


def check(arguments: argparse.Namespace) -> None:
    """Verify the hashes of the weight files that are here.

    Raises:
        UserError: a file has another hash than the published one, or a named one is not here.
    """
    wrong = []
    for name in _chosen(arguments.names):
        found = state(WEIGHTS[name])
        text = {HERE: "is the published file", ABSENT: "is not here", DIFFERS: "has another hash"}
        print(f"{name}: {WEIGHTS[name].file} {text[found]}")
        if found == DIFFERS or (found == ABSENT and arguments.names):
            wrong.append(name)
    if wrong:
        raise UserError(f"{len(wrong)} problem(s): run `thbench weights pull {' '.join(wrong)}`.")


def import_released(arguments: argparse.Namespace) -> None:
    """Write runs of a system's stages with the weights that its authors published.

    Raises:
        UserError: no such system, or none whose weights can be imported; a file that cannot be
            read, is of another network or scale, or has what another one has; a run that is there
            already with other weights.
    """
    from thbench import config as configs
    from thbench.training.released import import_run, read_tensors
    from thbench.training.runs import order

    files, words = _files_and_words(arguments.given)
    system = _released(arguments.system)
    # A word of the user's stands in the place of the system's.
    words = list({word.partition("=")[0]: word for word in [*system.WORDS, *words]}.values())
    config = configs.load(arguments.system, words)
    found: dict[str, Tensor] = {}
    for path in files:
        tensors = read_tensors(path)
        if hasattr(system, "named"):
            tensors = system.named(tensors)
        if twice := found.keys() & tensors.keys():
            raise UserError(f"{path} has tensors that another file has, such as {min(twice)}.")
        found |= tensors
    made = system.convert(found, config)
    for stage in [name for name in order(config) if name in made]:
        run = import_run(config, stage, made[stage], files)
        print(f"{stage}: {run.folder}")
    left = sorted(set(config.nets.values()) - made.keys())
    also = f"\nNot in these files: {', '.join(left)}." if left else ""
    print(f"With them: thbench generate {shlex.join([arguments.system, *words])} ...{also}")


def _files_and_words(given: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Files, and the key=value words, which may stand in any order."""
    words = [word for word in given if "=" in word and not Path(word).exists()]
    files = [Path(word) for word in given if word not in words]
    if not files:
        raise UserError("Say which files: thbench weights import SYSTEM FILE... [key=value ...]")
    return files, words


def _released(strategy: str) -> Any:
    """The module ``released`` beside a strategy's class, which knows its authors' tensors."""
    from thbench import config as configs

    package = configs.load(strategy).target.partition(":")[0].rpartition(".")[0]
    name = f"{package}.released"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        module = None
    if module is None or strategy != module.STRATEGY:
        raise UserError(
            f"Weights that the authors of '{strategy}' published cannot be imported."
            " docs/released.md says which can."
        )
    return module


def state(entry: Weights) -> str:
    """``yes`` where the published file is here, ``no``, or ``differs`` where another one is."""
    path = folder() / entry.file
    if not path.is_file():
        return ABSENT
    return HERE if matches(path, entry) else DIFFERS


def _chosen(names: Iterable[str]) -> list[str]:
    """The names, or all of them where there are none."""
    chosen = list(dict.fromkeys(names)) or sorted(WEIGHTS)
    for name in chosen:
        if name not in WEIGHTS:
            raise UserError(f"No weights '{name}'.{did_you_mean(name, WEIGHTS)}")
    return chosen


def _size(entry: Weights) -> str:
    return f"{entry.size / 1e6:.0f} MB" if entry.size else ""


def _hash(entry: Weights) -> str:
    if entry.sha256:
        return f"sha256 {entry.sha256[:12]}"
    return f"git {entry.git_blob[:12]}" if entry.git_blob else ""
