"""Folders for caches and embeddings of a prepared data set.

Caches are in ``<root>/cache``, embeddings in ``<root>/audio/<encoder>``. A cache folder elsewhere
is named by ``data.cache`` or ``$THBENCH_CACHE``, or chosen where the data set cannot be written; in
it each data set has a folder of its own. Files that are already beside the data are used there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from thbench.config import content_hash
from thbench.data import manifest

VARIABLE = "THBENCH_CACHE"


def user_cache(kind: str) -> Path:
    """The user's cache folder, ``~/.cache/thbench/<kind>``."""
    return Path.home() / ".cache" / "thbench" / kind


def named() -> str | None:
    """The value of ``$THBENCH_CACHE``; None where it is empty or not set."""
    return os.environ.get(VARIABLE) or None


def caches(root: Path, given: str | None) -> Path:
    """The folder for new caches of a data set.

    Args:
        root: the data set.
        given: ``data.cache``.
    """
    beside = root / "cache"
    if not given and not named() and writable(beside):
        return beside
    return elsewhere(root, given) / "cache"


def elsewhere(root: Path, given: str | None) -> Path:
    """The data set's own folder in a cache folder that is not beside the data.

    It is named after the data set's content and path: a copy that was prepared differently
    must not find the other's measurements.
    """
    variable = named()
    base = Path(given) if given else Path(variable) / "data" if variable else user_cache("data")
    return base.expanduser() / content_hash([manifest.digest(root), str(root.resolve())])


def writable(folder: Path) -> bool:
    """Whether files can be created in a folder, which is created where it is missing.

    This is tried: permissions do not tell of disks that are mounted read-only. A full disk
    counts as writable; the error then comes with the first write.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time into the block; the lock ends with its process."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    # The file stays: removing it would let a third process lock another one of that name.
