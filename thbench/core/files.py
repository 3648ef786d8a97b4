"""Writing files atomically: they are either complete or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from thbench.core.errors import UserError

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
_SHORT = 200  # bytes of a file's name that its temporary one begins with


def check_file(path: str | Path) -> None:
    """Check that a file can be read.

    Raises:
        UserError: the file is missing or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    if not path.stat().st_size:
        raise UserError(f"{path} is empty.")


class DiskError(UserError):
    """The system refused to write."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it when the block ends without an error.

    Otherwise nothing is left of it, and an older file at ``path`` stays.

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
    """Write a text file atomically: complete or not at all.

    Raises:
        DiskError: it cannot be written (disk full, no permission).
    """
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")


def remove_leftovers(folder: Path) -> None:
    """Delete what ``replacing`` left in a folder when its process was killed.

    No other process may be writing there. Files that cannot be deleted stay.
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
    short = os.fsencode(path.name)[:_SHORT].decode(errors="ignore")  # of 255 bytes in all
    handle, name = tempfile.mkstemp(".tmp", f".{short}.", path.parent)
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


def check_writable(path: Path) -> None:
    """Check that a file can be written, before the work whose result it is to hold.

    Nothing is written yet.

    Raises:
        UserError: its folder is a file, or may not be written to.
    """
    there = next(p for p in path.absolute().parents if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"{path} cannot be written: {there} is no folder that you may write to.")


def check_video(out: Path, overwrite: bool) -> None:
    """Check that a video can be written, before the work whose result it is to hold.

    Raises:
        UserError: another ending than mp4, it exists, or the folder cannot be written to.
    """
    if out.suffix.lower() != ".mp4":
        raise UserError(f"{out} must end in .mp4.")
    if out.is_dir() or (out.exists() and not overwrite):
        raise UserError(
            f"{out} exists: name another file, or add --force (in Python: overwrite=True)."
        )
    check_writable(out)
