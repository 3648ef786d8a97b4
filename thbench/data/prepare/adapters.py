"""Adapters: from a data set's own folders to source videos with identities and splits."""

from __future__ import annotations

import tempfile
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from thbench.core.errors import UserError, did_you_mean
from thbench.core.types import Clip
from thbench.data.listing import check_name
from thbench.data.prepare.corpora import celebvhq, cremad, hdtf, lrw, mead, vfhq, voxceleb
from thbench.data.prepare.identity import count_people, doubtful_identities, people_of
from thbench.data.prepare.job import SourceVideo
from thbench.data.prepare.sources import (
    FRACTIONS,
    Sources,
    assign_splits,
    find_videos,
    gather,
    source_id,
)


def folder(
    root: str | Path,
    *,
    seed: int = 0,
    fractions: Mapping[str, float] | None = None,
    identity: str | None = None,
) -> Sources:
    """Any folder of videos. A person is a folder at the top, or a file that lies there.

    People are assigned to splits at random in exactly the wanted shares, as far as whole
    people allow; every split gets one if there are enough.

    Args:
        root: the folder.
        seed: of the splits.
        fractions: share of the people by split; None for 80/10/10.
        identity: what identifies a person, where it is not the first folder: a level of folders
            (``2`` is the second below ``root``, ``-1`` the one that the file lies in), ``file``
            (its name), or a regular expression with one group, searched in the path from ``root``
            on. The same name at two places is the same person.

    Raises:
        UserError: there is no such folder, no video in it, ``identity`` cannot be understood, or
            a file has no such level or does not match.
    """
    root, shares = Path(root), fractions or FRACTIONS
    listing = find_videos(root)
    people, source = people_of(listing.videos, root, identity)
    splits = assign_splits(sorted(set(people.values())), seed, shares)
    found = [
        SourceVideo(path, source_id(path, root), people[path], splits[people[path]])
        for path in listing.videos
    ]
    lines = [count_people(people.values(), source) + "; --identity names another level"]
    if identity is None:
        lines += doubtful_identities(listing.videos, root)
    return gather(found, lines, listing, shares)


ADAPTERS: dict[str, Callable[..., Sources]] = {
    "folder": folder,
    "cremad": cremad,
    "hdtf": hdtf,
    "voxceleb": voxceleb,
    "lrw": lrw,
    "mead": mead,
    "celebvhq": celebvhq,
    "vfhq": vfhq,
}


def adapter(name: str) -> Callable[..., Sources]:
    """The adapter called ``name``.

    Raises:
        UserError: there is none, with the nearest name.
    """
    if name not in ADAPTERS:
        raise UserError(f"No data set kind '{name}'.{did_you_mean(name, ADAPTERS)}")
    return ADAPTERS[name]


def check_out(sources: Sources, root: Path, out: Path) -> None:
    """Check that a data set can be written to ``out`` without touching its sources.

    Raises:
        UserError: ``out`` is the source, holds some of its videos, or is itself the source of
            ``root``; two ids would take each other's files there.
    """
    check_name(out)
    source, place = root.resolve(), out.resolve()
    if place == source:
        raise UserError(f"--out is the folder of the videos, {root}: choose another.")
    if source.is_relative_to(place / "clips"):
        raise UserError(f"{root} holds clips that were prepared in {out}: name the raw videos.")
    for video in sources.videos:
        if video.path.resolve().is_relative_to(place):
            raise UserError(f"--out {out} holds {video.path}, which is to be prepared: choose a"
                            " folder without videos.")  # fmt: skip
    _check_ids([video.id for video in sources.videos], out)


def reassigned(before: Mapping[str, tuple[str, str]], clips: Sequence[Clip]) -> list[str]:
    """Lines on clips whose identity or split a run has changed; their pixels stay.

    Args:
        before: identity and split by id, before the run.
        clips: after the run.
    """
    there = [clip for clip in clips if clip.id in before]
    changed = [clip for clip in there if before[clip.id] != (clip.identity, clip.split)]
    if not changed:
        return []
    clip = changed[0]
    was, now = before[clip.id], (clip.identity, clip.split)
    return [
        f"{len(changed)} of {len(there)} clips that were here have another identity or split than"
        f" before ({clip.id}: {' in '.join(was)}, now {' in '.join(now)}), by --identity, --seed or"
        " what else lies there: networks trained before may have seen this test split"
    ]


_MADE = {".mp4", ".npz", ".npy", ".json"}


def _check_ids(ids: Sequence[str], out: Path) -> None:
    """Check that the files of no two ids lie at the same place, or one inside another."""
    known = set(ids)
    for name in ids:
        for folder in Path(name).parents:
            if folder.suffix in _MADE and folder.with_suffix("").as_posix() in known:
                raise UserError(f"The folder {folder} is named as what is made of the video beside"
                                " it: rename one.")  # fmt: skip
    twins: dict[str, str] = {}
    for name in ids:
        other = twins.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name and _merges_names(out):
            raise UserError(f"'{other}' and '{name}' are the same name on the disk of {out}: rename"
                            " one, or choose another disk.")  # fmt: skip


def _merges_names(out: Path) -> bool:
    """Whether the disk takes names that differ in case or composition for the same one."""
    place = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    with suppress(OSError), tempfile.TemporaryDirectory(dir=place) as folder:
        (Path(folder) / "\u00e9").touch()
        return any((Path(folder) / name).exists() for name in ("\u00c9", "e\u0301"))
    return False  # whoever writes there says what is wrong
