"""Identities of the people in videos, by folder, file name or pattern."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from thbench.core.errors import UserError

_NOBODY = {
    *("train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval"),
    *("pretrain", "trainval", "seen", "unseen", "video", "videos", "clips", "mp4", "raw", "data"),
}
"""Names of folders, in small letters, that hold a part of a data set and not a person."""
NUMBERED = r"^(.*?)[ _.-]*\d+\.[^.]*$"
"""What a file's name begins with, before a number at its end."""
_LEVELS = {1: "first folder", 2: "second folder", 3: "third folder", -1: "folder of the file"}


def people_of(
    paths: Sequence[Path], root: Path, identity: str | None
) -> tuple[dict[Path, str], str]:
    """The identity of each video, and a phrase on what it was taken from.

    Args:
        paths: of the videos.
        root: the folder that they were found in.
        identity: a level of folders below ``root``, ``file``, a regular expression with one group,
            or None for the first folder; then a file at the top is a person of its own.

    Raises:
        UserError: ``identity`` cannot be understood, or does not fit a file.
    """
    parts = {path: path.relative_to(root).parts for path in paths}
    if identity is None:
        top = sum(len(names) == 1 for names in parts.values())
        source = "the first folder" if top < len(paths) else "the file's name"
        if 0 < top < len(paths):
            source += f" (and {top} from the name of a file at the top)"
        return {p: p.stem if len(names) == 1 else names[0] for p, names in parts.items()}, source
    if identity == "file":
        return {path: path.stem for path in paths}, "the file's name"
    if re.fullmatch(r"[+-]?\d{1,3}", identity):
        level = int(identity)
        return {path: _at_level(path, parts[path], level) for path in paths}, (
            f"the {_LEVELS.get(level, f'folder at level {level}')}"
        )
    pattern = _pattern(identity)
    return {path: _match(pattern, path, root) for path in paths}, f"the pattern {identity}"


def _at_level(path: Path, parts: tuple[str, ...], level: int) -> str:
    folders = parts[:-1]
    if not level:
        raise UserError("--identity 0 names no folder: 1 is the first below the source.")
    if abs(level) > len(folders):
        raise UserError(
            f"{path} lies in {len(folders)} folders, so --identity {level} names none: give a level"
            " that all files have, `file`, or a pattern."
        )
    return folders[level - 1 if level > 0 else level]


def _pattern(text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UserError(
            f"--identity '{text}' is no level, not `file`, and no regular expression ({error})."
        ) from error
    if pattern.groups != 1:
        raise UserError(
            f"--identity '{text}' has {pattern.groups or 'no'} groups: put brackets around the one"
            " part of the path that names the person, or give a level (1, 2, -1) or `file`."
        )
    return pattern


def _match(pattern: re.Pattern[str], path: Path, root: Path) -> str:
    name = path.relative_to(root).as_posix()
    found = pattern.search(name)
    if not found or not found[1]:
        raise UserError(f"--identity '{pattern.pattern}' finds nobody in '{name}': widen it.")
    return found[1]


def count_people(people: Iterable[str], source: str) -> str:
    """A line on how many people there are, the first names, and what they were taken from."""
    names = sorted(set(people))
    shown = ", ".join(names[:2]) + (", …" if len(names) > 2 else "")
    count = "1 person" if len(names) == 1 else f"{len(names)} people"
    return f"identities: {count} from {source} ({shown})"


def doubtful_identities(paths: Sequence[Path], root: Path) -> list[str]:
    """Lines on why the first folders, and files at the top, may not be people after all."""
    parts = [path.relative_to(root).parts for path in paths]
    return [*_parts_of_a_set(parts), *_numbered(parts)]


def _parts_of_a_set(parts: Sequence[tuple[str, ...]]) -> Iterator[str]:
    tops = sorted({names[0] for names in parts if len(names) > 1})
    if not tops or not all(name.casefold() in _NOBODY for name in tops):
        return
    deeper = min(len(names) for names in parts) > 2
    other = "--identity 2 takes the folders below" if deeper else "--identity file takes each file"
    yield f"{', '.join(tops)}: a person by this name is unlikely; {other}"


def _numbered(parts: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Files at the top, each taken for a person, whose names differ in a number only."""
    found = [re.search(NUMBERED, names[0]) for names in parts if len(names) == 1]
    stems = Counter(match[1] for match in found if match and match[1])
    count = sum(n for n in stems.values() if n > 1)
    if count:
        name, n = stems.most_common(1)[0]
        yield (
            f"{count} files at the top are a person each, though their names differ in a number"
            f" only ({n} begin with {name}); --identity '{NUMBERED}' takes them for one"
        )
