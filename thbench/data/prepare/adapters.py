"""Adapters: from a data set's own folders to source videos with identities and splits.

Names are put in an order drawn by hash from the seed and cut at the wanted shares: the same
folder and seed give the same splits on every machine.
"""

from __future__ import annotations

import hashlib
import tempfile
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from thbench.core.errors import UserError, did_you_mean
from thbench.core.types import Clip
from thbench.data.listing import (
    VIDEO_SUFFIXES,
    LeftOut,
    Listing,
    check_name,
    is_prepared,
    list_videos,
    summary,
)
from thbench.data.prepare.identity import count_people, doubtful_identities, people_of
from thbench.data.prepare.job import SourceVideo

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
HDTF_FRACTIONS = {"train": 0.9, "test": 0.1}
# Test identities that Diffused Heads published, as places in the list of CREMA-D's 91 actors,
# 1001 being s1.
CREMAD_TEST = (15, 20, 21, 30, 33, 52, 62, 81, 82, 89)
CREMAD_ACTORS = range(1001, 1092)


@dataclass(frozen=True)
class Sources:
    """The videos below a folder, and what the user should know before they are prepared.

    Attributes:
        videos: with identities and splits, in order of paths.
        lines: what identifies a person, empty splits, and counts of what was left out, each a
            line for the user.
        left_out: every file and folder that was left out, with its reason.
    """

    videos: list[SourceVideo]
    lines: list[str]
    left_out: list[LeftOut]


def folder(
    root: str | Path,
    *,
    seed: int = 0,
    fractions: Mapping[str, float] = FRACTIONS,
    identity: str | None = None,
) -> Sources:
    """Any folder of videos. A person is a folder at the top, or a file that lies there.

    People are assigned to splits at random in exactly the wanted shares, as far as whole
    people allow; every split gets one if there are enough.

    Args:
        root: the folder.
        seed: of the splits.
        fractions: share of the people by split.
        identity: what identifies a person, where it is not the first folder: a level of folders
            (``2`` is the second below ``root``, ``-1`` the one that the file lies in), ``file``
            (its name), or a regular expression with one group, searched in the path from ``root``
            on. The same name at two places is the same person.

    Raises:
        UserError: there is no such folder, no video in it, ``identity`` cannot be understood, or
            a file has no such level or does not match.
    """
    root = Path(root)
    listing = _videos(root)
    people, source = people_of(listing.videos, root, identity)
    splits = assign_splits(sorted(set(people.values())), seed, fractions)
    found = [_source(path, root, people[path], splits[people[path]]) for path in listing.videos]
    lines = [count_people(people.values(), source) + "; --identity names another level"]
    if identity is None:
        lines += doubtful_identities(listing.videos, root)
    return _sources(found, lines, listing, fractions)


def cremad(root: str | Path, *, seed: int = 0, identity: str | None = None) -> Sources:
    """CREMA-D (Cao et al. 2014): ``1015_DFA_ANG_XX.flv``, the actor first.

    The published test actors are the test split; a tenth of the others validate.

    Raises:
        UserError: no such folder or video, a file's name does not begin with an actor, or an
            ``identity`` is asked for.
    """
    if identity is not None:
        raise UserError(_REFUSED.format("cremad", "its published test actors stand in the names"))
    root = Path(root)
    listing = _videos(root)
    found = []
    test = {f"{CREMAD_ACTORS[0] + index - 1}" for index in CREMAD_TEST}
    others = [str(actor) for actor in CREMAD_ACTORS if str(actor) not in test]
    splits = {
        **assign_splits(others, seed, {"train": 0.9, "val": 0.1}),
        **dict.fromkeys(test, "test"),
    }
    for path in listing.videos:
        actor, _, rest = path.stem.partition("_")
        if actor not in splits:
            raise UserError(
                f"{path} is not named as CREMA-D names its videos (1001_DFA_ANG_XX): rename it, or"
                " prepare the folder as kind `folder`."
            )
        labels = dict(zip(("sentence", "emotion", "level"), rest.split("_"), strict=False))
        source = _source(path, root, f"s{int(actor) - CREMAD_ACTORS[0] + 1}", splits[actor])
        found.append(SourceVideo(source.path, source.id, source.identity, source.split, labels))
    lines = [count_people([s.identity for s in found], "the actor in the file's name")]
    return _sources(found, lines, listing, FRACTIONS)


def hdtf(
    root: str | Path,
    *,
    seed: int = 0,
    fractions: Mapping[str, float] = HDTF_FRACTIONS,
    identity: str | None = None,
) -> Sources:
    """HDTF (Zhang et al. 2021): one video per clip, ``WDA_KatieHill_000.mp4``.

    Videos are assigned at random, 9:1 by default as in DAWN; FD2Talk takes
    ``{"train": .7, "val": .1, "test": .2}``. The identity is the name without the clip's number;
    as in those papers, one person's videos may be in several splits.

    Raises:
        UserError: there is no such folder, no video in it, or an ``identity`` is asked for.
    """
    if identity is not None:
        raise UserError(_REFUSED.format("hdtf", "it is split by video, whoever is seen"))
    root = Path(root)
    listing = _videos(root)
    ids = {path: _id(path, root) for path in listing.videos}
    splits = assign_splits(list(ids.values()), seed, fractions)
    found = [_source(path, root, _speaker(path), splits[name]) for path, name in ids.items()]
    line = count_people([s.identity for s in found], "the speaker in the file's name")
    return _sources(found, [f"{line}; split by video, as in the papers"], listing, fractions)


def voxceleb(
    root: str | Path,
    *,
    seed: int = 0,
    fractions: Mapping[str, float] = FRACTIONS,
    identity: str | None = None,
) -> Sources:
    """VoxCeleb2 (Chung et al. 2018): ``[dev|test/[mp4/]]<person>/[<video>/]<clip>.mp4``.

    The published ``test`` part is the test split, and people of ``dev`` train or validate; where
    the folder has no such parts, people are assigned by ``fractions``.

    Raises:
        UserError: no such folder or video, a video outside a person's folder, or an ``identity``
            is asked for.
    """
    if identity is not None:
        raise UserError(
            _REFUSED.format("voxceleb", "its published parts go by the person's folder")
        )
    root = Path(root)
    listing = _videos(root)
    paths = listing.videos
    people: dict[Path, str] = {}
    for path in paths:
        parts = [part for part in path.relative_to(root).parts[:-1] if part not in _PARTS]
        if not parts:
            raise UserError(f"{path} is in no person's folder: VoxCeleb has <person>/<clip>.mp4.")
        people[path] = parts[0]
    fixed = {person for path, person in people.items() if _part(path, root) == "test"}
    free = sorted(set(people.values()) - fixed)
    published = any(_part(path, root) for path in paths)
    splits = assign_splits(free, seed, {"train": 0.95, "val": 0.05} if published else fractions)
    splits |= dict.fromkeys(fixed, "test")
    found = [_source(path, root, people[path], splits[people[path]]) for path in paths]
    lines = [count_people(people.values(), "the person's folder")]
    return _sources(found, lines, listing, fractions)


ADAPTERS: dict[str, Callable[..., Sources]] = {
    "folder": folder,
    "cremad": cremad,
    "hdtf": hdtf,
    "voxceleb": voxceleb,
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


def assign_splits(
    names: Sequence[str], seed: int, fractions: Mapping[str, float]
) -> dict[str, str]:
    """Assign names to splits: in an order drawn by hash, cut at the cumulative fractions.

    Every split with a positive fraction gets a name if there are enough of them.

    Raises:
        UserError: a fraction is negative, or all are zero.
    """
    wanted = {split: share for split, share in fractions.items() if share}
    if not wanted or min(wanted.values()) < 0:
        raise UserError(f"Shares of splits must be positive, not {dict(fractions)}.")
    order = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    counts = _counts(len(order), wanted)
    splits = [split for split, count in counts.items() for _ in range(count)]
    return dict(zip(order, splits, strict=True))


_PARTS = {"dev", "test", "train", "mp4"}
_MADE = {".mp4", ".npz", ".npy", ".json"}
_REFUSED = "{} takes no --identity ({}): use kind `folder`, which keeps people apart by any level."


def _counts(n: int, shares: Mapping[str, float]) -> dict[str, int]:
    total, counts, given, reached = sum(shares.values()), {}, 0, 0.0
    for split, share in shares.items():
        reached += share
        counts[split] = round(n * reached / total) - given
        given += counts[split]
    for split in [split for split, count in counts.items() if not count]:
        richest = max(counts, key=lambda other: counts[other])
        if counts[richest] > 1:
            counts[richest] -= 1
            counts[split] += 1
    return counts


def _videos(root: Path) -> Listing:
    listing = list_videos(root)
    if is_prepared(root):
        raise UserError(f"{root} holds a prepared data set: name the folder of the raw videos.")
    if not listing.videos:
        why = f" {summary(listing.left_out)[0]}." if listing.left_out else ""
        raise UserError(f"There is no video in {root} ({', '.join(sorted(VIDEO_SUFFIXES))}).{why}")
    return listing


def _sources(
    found: list[SourceVideo], lines: list[str], listing: Listing, fractions: Mapping[str, float]
) -> Sources:
    """The videos with the lines on them for the user."""
    given = {video.split for video in found}
    if empty := [split for split, share in fractions.items() if share and split not in given]:
        count = len({video.identity for video in found})
        people = "one identity" if count == 1 else f"{count} identities"
        lines.append(f"no video is in {' or '.join(empty)}: {len(found)} videos show {people}")
    lines += summary(listing.left_out)
    if listing.others:
        count = sum(listing.others.values())
        kinds = ", ".join(f"{suffix or 'none'} {n}" for suffix, n in listing.others.items())
        lines.append(f"not examined: {count} files with other suffixes than videos have ({kinds})")
    return Sources(found, lines, listing.left_out)


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


def _source(path: Path, root: Path, identity: str, split: str) -> SourceVideo:
    return SourceVideo(path, _id(path, root), identity, split)


def _id(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _speaker(path: Path) -> str:
    name, _, number = path.stem.rpartition("_")
    return name if name and number.isdigit() else path.stem


def _part(path: Path, root: Path) -> str:
    first = path.relative_to(root).parts[0]
    return first if first in ("dev", "test") else ""
