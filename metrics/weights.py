"""Official weight files: where they come from, where they lie, whether they are what they claim."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class WeightsMissing(Exception):
    """A weight file is not here, or is not the official one. The message says how to get it."""


@dataclass(frozen=True)
class Weights:
    """A published weight file.

    Attributes:
        file: its name in the weights folder.
        url: where the publisher offers it.
        licence: its terms.
        sha256: hex digits that its SHA-256 begins with, or None where only ``git_blob`` is known.
        git_blob: the SHA-1 that git gives the file, or None.
    """

    file: str
    url: str
    licence: str
    sha256: str | None = None
    git_blob: str | None = None


WEIGHTS = {
    "fid-inception": Weights(
        file="pt_inception-2015-12-05-6726825d.pth",
        url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        licence="Apache-2.0",
        sha256="6726825d",
    ),
}


def folder() -> Path:
    """``$THBENCH_WEIGHTS``, or ``~/.cache/thbench/weights``."""
    given = os.environ.get("THBENCH_WEIGHTS")
    return Path(given) if given else Path.home() / ".cache" / "thbench" / "weights"


def find(name: str) -> Path:
    """The file of that name in ``WEIGHTS``, its hash checked.

    Raises:
        WeightsMissing: it is not in the folder, or has another hash.
    """
    entry = WEIGHTS[name]
    path = folder() / entry.file
    if not path.is_file():
        raise WeightsMissing(
            f"download {entry.url} ({entry.licence}) into ~/.cache/thbench/weights, or set"
            " THBENCH_WEIGHTS to the folder that holds it"
        )
    if not matches(path, entry):
        raise WeightsMissing(
            f"{entry.file} is not the published file (its hash differs): delete it and download"
            f" {entry.url}"
        )
    return path


def matches(path: Path, entry: Weights) -> bool:
    """Whether the file has the published hash. An entry without any hash matches nothing."""
    if entry.sha256:
        return sha256(path).startswith(entry.sha256)
    return entry.git_blob is not None and git_blob(path) == entry.git_blob


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
    return digest.hexdigest()


def git_blob(path: Path) -> str:
    """The SHA-1 under which git stores a file, in hex."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    for block in _blocks(path):
        digest.update(block)
    return digest.hexdigest()


def _blocks(path: Path, size: int = 1 << 20) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(size):
            yield block
