"""The command ``thbench weights``: which weight files there are, fetching and verifying them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from metrics import download
from metrics.weights import WEIGHTS, Weights, folder, matches
from thbench.core.errors import UserError, did_you_mean

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
