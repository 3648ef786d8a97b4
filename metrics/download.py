"""Downloads weight files: resumable, checked, atomic.

A file grows as ``<name>.part`` in the weights folder and takes its name only when its hash is
right. An interrupted download goes on where it stopped.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from metrics.weights import Weights, folder, matches

BLOCK = 1 << 18
ATTEMPTS = 3
TIMEOUT = 30.0
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNREACHED = (OSError, http.client.HTTPException, ValueError)


class DownloadError(Exception):
    """A file could not be fetched. One line: why, and what to do."""


class _Unreached(Exception):
    """This address does not give the file; another one may."""


def pull(entry: Weights, mirror: str | None = None, progress: bool = True) -> Path:
    """Fetch a weight file, unless the published one is here already.

    Addresses are tried in order: the mirror, the publisher's, the entry's other ones. An archive
    that already lies in the weights folder is unpacked instead of being fetched.

    Args:
        entry: of ``metrics.weights.WEIGHTS``.
        mirror: address of a folder that holds the files under their own names; by default
            ``$THBENCH_MIRROR``, if that is set.
        progress: show a bar, on terminals only.

    Raises:
        DownloadError: no address answers, the hash differs, or there is no room.
    """
    target = folder() / entry.file
    if target.is_file() and matches(target, entry):
        return target
    with _one_line(entry), _locked(target):
        local = folder() / archive_name(entry)
        if entry.member and local.is_file():
            _unpack(local, entry, target)
            return target
        _pull(entry, addresses(entry, mirror), target, progress)
    return target


@functools.cache
def reachable(url: str, timeout: float = 5.0) -> bool:
    """Whether an address answers now. Checked once per process; nothing is downloaded."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=timeout):
            return True
    except _UNREACHED:
        return False


def addresses(entry: Weights, mirror: str | None = None) -> list[str]:
    """Where to look for what the entry downloads, in the order of trying."""
    mirror = mirror or os.environ.get("THBENCH_MIRROR")
    first = [f"{mirror.rstrip('/')}/{archive_name(entry)}"] if mirror else []
    return [*first, entry.url, *entry.mirrors]


def archive_name(entry: Weights) -> str:
    """The name of what is downloaded: the file's own, or the archive's that it lies in."""
    return Path(urlsplit(entry.url).path).name if entry.member else entry.file


def _pull(entry: Weights, urls: list[str], target: Path, progress: bool) -> None:
    part = target.with_name(f"{archive_name(entry)}.part")
    reasons = []
    for url in urls:
        reason = _pull_from(url, entry, part, target, progress)
        if reason is None:
            return
        reasons.append(f"{url}: {reason}")
    raise DownloadError(f"{'; '.join(reasons)}. {by_hand(entry)}")


def _pull_from(url: str, entry: Weights, part: Path, target: Path, progress: bool) -> str | None:
    """Why it failed, or None. A part left by an earlier run may be the fault: then it is redone."""
    reason = ""
    for went_on in (part.is_file(), False):
        try:
            _fetch(url, part, progress)
            _finish(part, entry, target)
            return None
        except _Unreached as error:
            return str(error)
        except _WrongContent as error:
            part.unlink()
            reason = f"{error}; what was fetched is deleted"
        if not went_on:
            break
    return reason


def by_hand(entry: Weights) -> str:
    """What to do on a machine without the network."""
    then = f" and run this again: it takes {entry.member} out of it" if entry.member else ""
    return (
        f"Without a network, fetch {entry.url} elsewhere and put {archive_name(entry)} into"
        f" {folder()}{then}."
    )


class _WrongContent(Exception):
    """The file arrived whole and is not the published one."""


def _finish(part: Path, entry: Weights, target: Path) -> None:
    if entry.member:
        _unpack(part, entry, target)
        part.unlink()
        return
    if not matches(part, entry):
        raise _WrongContent("its hash differs from the published one")
    part.replace(target)


def _unpack(archive: Path, entry: Weights, target: Path) -> None:
    """Take the member out of a zip archive; beside its place first, so that it is whole or absent.

    Only this one member is read, and its name in the archive never becomes a path.
    """
    unpacked = target.with_name(f"{entry.file}.unpacked")
    try:
        with (
            zipfile.ZipFile(archive) as file,
            file.open(str(entry.member)) as source,
            unpacked.open("wb") as out,
        ):
            shutil.copyfileobj(source, out, BLOCK)
        if not matches(unpacked, entry):
            raise _WrongContent(f"the hash of its {entry.member} differs from the published one")
        unpacked.replace(target)
    except KeyError as error:
        raise _WrongContent(f"it holds no {entry.member}") from error
    except zipfile.BadZipFile as error:
        raise _WrongContent("it is no whole zip archive") from error
    finally:
        unpacked.unlink(missing_ok=True)


def _fetch(url: str, part: Path, progress: bool) -> None:
    """Bring ``part`` to its full length, going on where it stops, and where connections break.

    Raises:
        _Unreached: the address does not answer, or breaks off again and again without progress.
    """
    failures = 0
    while True:
        before = _length(part)
        try:
            if _fetch_once(url, part, progress):
                return
            reason = "the connection broke off"
        except urllib.error.HTTPError as error:
            reason = f"{error.code} {error.reason}"
            if error.code < 500:
                raise _Unreached(reason) from error
        except _UNREACHED as error:
            if _is_ours(error):
                raise
            reason = str(getattr(error, "reason", None) or error)
            if before == _length(part):
                raise _Unreached(reason) from error
        failures = 0 if _length(part) > before else failures + 1
        if failures >= ATTEMPTS:
            raise _Unreached(reason)


def _fetch_once(url: str, part: Path, progress: bool) -> bool:
    """Whether the file is whole now."""
    have = _length(part)
    request = urllib.request.Request(url, headers={"User-Agent": "thbench"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        if _total(error.headers.get("Content-Range")) == have:
            return True
        part.unlink()  # of another file, since it is longer than this one
        return False
    with answer:
        return _take(answer, part, have, progress)


def _take(answer: http.client.HTTPResponse, part: Path, have: int, progress: bool) -> bool:
    ranged = answer.status == http.client.PARTIAL_CONTENT
    start = have if ranged and _start(answer.headers.get("Content-Range")) == have else 0
    if ranged and start != have:
        part.unlink()  # the server sends another range than the requested one
        return False
    length = answer.headers.get("Content-Length")
    total = start + int(length) if length else None
    _check_room(part, (total or 0) - start)
    with (
        part.open("ab" if start else "wb") as out,
        tqdm(
            desc=part.stem,
            initial=start,
            total=total,
            unit="B",
            unit_scale=True,
            disable=None if progress else True,
        ) as bar,
    ):
        while block := answer.read(BLOCK):
            out.write(block)
            bar.update(len(block))
    return total is None or _length(part) == total


def _is_ours(error: Exception) -> bool:
    """Whether our disk failed, where no other address would help, and not the network."""
    return isinstance(error, OSError) and (error.errno in _FULL or error.filename is not None)


def _check_room(part: Path, wanted: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if wanted > free:
        raise OSError(errno.ENOSPC, f"{wanted / 1e6:.0f} MB are needed, {free / 1e6:.0f} are free")


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _start(content_range: str | None) -> int | None:
    found = re.match(r"bytes (\d+)-", content_range or "")
    return int(found[1]) if found else None


def _total(content_range: str | None) -> int | None:
    found = re.search(r"/(\d+)$", content_range or "")
    return int(found[1]) if found else None


@contextmanager
def _one_line(entry: Weights) -> Iterator[None]:
    """Every failure as a ``DownloadError``."""
    try:
        folder().mkdir(parents=True, exist_ok=True)
        yield
    except _WrongContent as error:
        name = archive_name(entry)
        raise DownloadError(f"{folder() / name}: {error}. Delete it and run this again.") from error
    except OSError as error:
        hint = (
            "make room, then run this again: it goes on where it stopped"
            if error.errno in _FULL
            else "set THBENCH_WEIGHTS to a folder that you may write to"
        )
        raise DownloadError(f"{folder()}: {error.strerror or error}; {hint}.") from error


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Keep a second process from writing the same file."""
    path = target.with_name(f".{target.name}.lock")
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(f"{target.name} is being fetched by another process.") from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
