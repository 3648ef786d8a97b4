"""Finding files, and writing them so that they are either whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from thbench.errors import UserError

VIDEO_SUFFIXES = {".mp4", ".mov", ".avi", ".mkv", ".webm", ".flv", ".mpg", ".mpeg", ".m4v"}
_REFUSALS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
}

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # as mkstemp names the files of ``replacing``


def check_file(path: str | Path) -> None:
    """See that there is something to read.

    Raises:
        UserError: the file is missing or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    if not path.stat().st_size:
        raise UserError(f"{path} is empty.")


def list_videos(folder: Path) -> list[Path]:
    """The videos below a folder, sorted; what is hidden does not count.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    paths = (p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
    return sorted(p for p in paths if not any(s[0] == "." for s in p.relative_to(folder).parts))


class DiskError(UserError):
    """The system refused to write."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its name when the block ends well.

    When it does not, nothing is left and what stood under ``path`` stays.

    Raises:
        DiskError: the system refused to write (full disk, no permission, no such place).
    """
    path = Path(path)
    try:
        temporary = _claim(path)
    except OSError as error:
        raise _refused(path, error) from error
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        # Other errors in the block may be about other files.
        if error.errno not in _REFUSALS and error.filename2 != str(path):
            raise
        raise _refused(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: str | Path, text: str) -> None:
    """Write a text that is there whole or not at all.

    Raises:
        DiskError: it cannot be written (disk full, no permission).
    """
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")


def remove_leftovers(folder: Path) -> None:
    """Delete what ``replacing`` left in a folder when its process was killed.

    Nobody else may be writing there. What cannot be deleted does no harm and stays.
    """
    for path in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            with suppress(OSError):
                path.unlink()


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _claim(path: Path) -> Path:
    """An empty file beside ``path``, whose folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(".tmp", f".{path.name}.", path.parent)
    os.fchmod(handle, 0o666 & ~_umask())  # mkstemp's files are for their owner only
    os.close(handle)
    return Path(name)


def _refused(path: Path, error: OSError) -> DiskError:
    reason = os.strerror(error.errno or 0)
    return DiskError(f"{path} could not be written ({reason}): make room, or choose another place.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
