"""What a hash takes of files from outside: their content, wherever they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from thbench.core.errors import UserError
from thbench.core.files import sha256, write_atomic

RECORD = "sources.json"
"""In the runs folder: contents by the path as it was given, for machines without the files."""
COUNTED = (".json", ".safetensors", ".bin", ".pt", ".pth", ".mat")
"""Suffixes of the files of a folder that determine a network: configurations and weights."""


def content_of(source: str, runs: Path) -> str:
    """A name for the content of a file or of a folder of weights.

    Args:
        source: a path, or anything else, such as the name of a model on a hub.
        runs: whose record says what lay at a path where nothing lies now, and spares reading
            gigabytes whose sizes and times of change are known.

    Returns:
        ``sha256:...``, the same at any path; ``source`` itself where it is no path to something
        that is here, or was when this folder's stages were trained.
    """
    known = _read(runs).get(source)
    files = list(_files(Path(source)))
    if not files:
        return known["content"] if known else source
    if known and known["stamp"] == _stamp(files):
        return known["content"]
    return _digest(tuple(files), _stamp(files))


@cache
def _digest(files: Sequence[tuple[str, Path]], stamp: str) -> str:
    """Read once per process, since many hashes hold it; ``stamp`` tells when files change."""
    rows = [[name, sha256(path)] for name, path in files]
    return f"sha256:{hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]}"


def remember(source: str, runs: Path) -> None:
    """Write down what lies at a path, for when it no longer does; names of a hub are left out."""
    files = list(_files(Path(source)))
    if not files:
        return
    record = _read(runs)
    record[source] = {"content": content_of(source, runs), "stamp": _stamp(files)}
    write_atomic(runs / RECORD, json.dumps(record, indent=1, sort_keys=True) + "\n")


def _read(runs: Path) -> dict[str, dict[str, str]]:
    path = runs / RECORD
    try:
        found: dict[str, dict[str, str]] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} cannot be read: delete it.") from error
    return found


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """Files by their names within ``path``, in order; a file's own name does not count."""
    if path.is_file():
        yield "", path
    elif path.is_dir():
        for inside in sorted(p for p in path.rglob("*") if p.suffix in COUNTED and p.is_file()):
            yield inside.relative_to(path).as_posix(), inside


def _stamp(files: list[tuple[str, Path]]) -> str:
    rows = [[name, path.stat().st_size, path.stat().st_mtime_ns] for name, path in files]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
