"""Listing the videos below a folder, and what is left out and why.

Links are followed. Hidden files and folders, and prepared data sets, are left out; whatever is left
out is named.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from thbench.core.errors import UserError

VIDEO_SUFFIXES = {
    *(".mp4", ".m4v", ".f4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".ogv"),
    *(".avi", ".wmv", ".asf", ".flv", ".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts"),
}
LONGEST_NAME = 230
"""Bytes of a name without suffix: file systems take 255, and pieces and measurements add some."""
_UNFIT = {"Cc": "a control character", "Zl": "a line break", "Zp": "a line break"}
_ROW = {"id", "identity", "split", "video", "track"}


class LeftOut(NamedTuple):
    """A file or folder that is not among the videos: its printable path, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """The videos below a folder.

    Attributes:
        videos: their paths below the folder as it was named, sorted.
        left_out: what could have been among them and is not. Reasons of one kind begin alike;
            details stand in brackets.
        others: the number of files of other suffixes, by suffix ("" for none).
    """

    videos: list[Path]
    left_out: list[LeftOut]
    others: Mapping[str, int] = field(default_factory=dict)


def list_videos(folder: Path, repeats: bool = False) -> Listing:
    """The videos below a folder, whose links are followed.

    A folder or file that is reached twice, through links, counts once: at its place
    without links, else at the first. Hidden files do not count, nor prepared data sets inside.

    Args:
        folder: to look in; it may itself be hidden, linked or prepared.
        repeats: names are what counts, so a file stays under each name that it is reached by; of
            folders only those are left out that lie in themselves.

    Raises:
        UserError: there is no such folder, it cannot be read, or its name is not UTF-8.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {printable(folder)}.")
    check_name(folder)
    return _Search(folder, repeats).listing()


def check_name(path: Path) -> None:
    """Check that a path that the user gave can be written into lines of text.

    Raises:
        UserError: it holds a control character, a line break, or bytes that are not UTF-8.
    """
    if fault := unfit(str(path)):
        raise UserError(f"{printable(path)} cannot be used: it holds {fault}. Rename it.")


def unfit(name: str) -> str:
    """What makes a name unfit for an id or a line of text; "" where it is fit."""
    for character in name:
        kind = unicodedata.category(character)
        if kind == "Cs":
            return "bytes that are not UTF-8"
        if kind in _UNFIT:
            return "a line break" if character in "\n\r" else _UNFIT[kind]
    return ""


def printable(path: str | Path) -> str:
    """A path as text of one line: what cannot be printed is escaped."""
    return "".join(_escaped(character) for character in str(path))


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds a prepared data set, finished or begun."""
    if (folder / ".prepare").is_dir() or (folder / "prepare.json").is_file():
        return True
    try:
        with open(folder / "manifest.jsonl", encoding="utf-8") as file:
            row: Any = json.loads(file.readline(1 << 16))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(row, dict) and set(row) >= _ROW


def summary(left_out: Iterable[LeftOut]) -> list[str]:
    """One line per kind of reason, with an example."""
    kinds: dict[str, list[LeftOut]] = defaultdict(list)
    for one in left_out:
        kinds[one.reason.partition(" (")[0]].append(one)
    lines = []
    for kind, found in kinds.items():
        first = found[0]
        if len(found) == 1:
            lines.append(f"left out: {first.path}: {first.reason}")
        else:
            lines.append(f"left out: {len(found)} x {kind}, such as {first.path}")
    return lines


@dataclass
class _Search:
    root: Path
    repeats: bool
    videos: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        # A folder comes with its real path, and with those of the folders that it lies in.
        self._folders: list[tuple[Path, str, tuple[str, ...]]] = []
        self._links: deque[tuple[Path, str, tuple[str, ...]]] = deque()
        self._seen: dict[str | tuple[int, int], Path] = {}

    def listing(self) -> Listing:
        self._folders.append((self.root, os.path.realpath(self.root), ()))
        while self._folders or self._links:
            # Links come last: a place without them is the better name.
            if self._folders:
                self._folder(*self._folders.pop())
            else:
                self._link(*self._links.popleft())
        order = sorted(self.left_out)
        return Listing(sorted(self.videos), order, dict(self.others.most_common()))

    def _folder(self, path: Path, real: str, above: tuple[str, ...]) -> None:
        if real in above or (not self.repeats and real in self._seen):
            self._leave(path, f"the same folder as another ({self._name(self._seen[real])})")
            return
        self._seen.setdefault(real, path)
        if path != self.root and is_prepared(path):
            self._leave(path, "a prepared data set")
            return
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            if path == self.root:
                raise UserError(f"{path} cannot be read ({error.strerror}).") from error
            self._leave(path, f"it cannot be read ({error.strerror})")
            return
        hidden = 0
        for entry in entries:
            if entry.name.startswith("."):
                hidden += _count(entry)
            else:
                self._entry(entry, real, (*above, real))
        if hidden:
            self._leave(path, f"hidden videos ({hidden} in files or folders that begin with a dot)")

    def _entry(self, entry: os.DirEntry[str], real: str, above: tuple[str, ...]) -> None:
        path, is_video = Path(entry.path), _is_video(entry.name)
        is_link = entry.is_symlink()
        is_folder = _asks(entry.is_dir)
        if not (is_video or is_folder or is_link):
            self.others[path.suffix.lower()] += 1
        elif fault := self._fault(path, is_folder):
            self._leave(path, fault)
        elif is_link:
            self._links.append((path, os.path.realpath(path), above))
        elif is_folder:
            self._folders.append((path, os.path.join(real, entry.name), above))
        else:
            self._file(path, os.path.join(real, entry.name))

    def _link(self, path: Path, real: str, above: tuple[str, ...]) -> None:
        if os.path.isdir(real):
            self._folder(path, real, above)
        elif _is_video(path.name):
            self._file(path, real)
        elif os.path.exists(real):
            self.others[path.suffix.lower()] += 1
        elif not path.suffix:  # it may have been a folder
            self._leave(path, "a broken link")

    def _file(self, path: Path, real: str) -> None:
        try:
            stat = os.stat(path)
        except OSError as error:
            broken = path.is_symlink()
            self._leave(path, "a broken link" if broken else f"it is gone ({error.strerror})")
            return
        if not os.path.isfile(real):
            self._leave(path, "no plain file")
            return
        # Hard links are the same file under real names that differ.
        key = (stat.st_dev, stat.st_ino) if stat.st_nlink > 1 else real
        first = self._seen.setdefault(key, path)
        if first is not path and not self.repeats:
            self._leave(path, f"the same file as another ({self._name(first)})")
        else:
            self.videos.append(path)

    def _fault(self, path: Path, is_folder: bool) -> str:
        """Why a name cannot become part of an id."""
        if fault := unfit(path.name):
            return f"its name cannot be used (it holds {fault}: rename it)"
        stem = path.name if is_folder else path.stem
        if len(stem.encode()) > LONGEST_NAME:
            return f"its name is too long (over {LONGEST_NAME} bytes: rename it)"
        return ""

    def _leave(self, path: Path, reason: str) -> None:
        self.left_out.append(LeftOut(printable(path), reason))

    def _name(self, path: Path) -> str:
        return printable(path.relative_to(self.root))


def _is_video(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def _asks(question: Any) -> bool:
    """Ask a directory entry for its kind; False where the system cannot tell."""
    try:
        return bool(question())
    except OSError:  # a link to itself, for one
        return False


def _count(entry: os.DirEntry[str]) -> int:
    """The videos in a hidden file or folder; links are not followed."""
    if not entry.is_dir(follow_symlinks=False):
        return int(_is_video(entry.name))
    walk = os.walk(entry.path)
    return sum(_is_video(name) for _, _, names in walk for name in names)


def _escaped(character: str) -> str:
    if unfit(character):
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")
    return character
