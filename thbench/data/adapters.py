"""From the folders that data sets come in to source videos with identities and splits.

Names are put in an order drawn by hash from the seed and cut at the wanted shares: the same
folder and seed give the same splits on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from thbench.data.files import VIDEO_SUFFIXES, list_videos
from thbench.data.prepare import SourceVideo
from thbench.errors import UserError, did_you_mean

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
HDTF_FRACTIONS = {"train": 0.9, "test": 0.1}
# Test identities that Diffused Heads published, as places in the list of CREMA-D's 91 actors,
# 1001 being s1.
CREMAD_TEST = (15, 20, 21, 30, 33, 52, 62, 81, 82, 89)
CREMAD_ACTORS = range(1001, 1092)


def folder(
    root: str | Path, *, seed: int = 0, fractions: Mapping[str, float] = FRACTIONS
) -> list[SourceVideo]:
    """Any folder of videos. A person is a subfolder, or a file that lies at the top.

    Whole people are dealt to splits at random in exactly the wanted shares, as far as whole
    people allow; every split gets one if there are enough.

    Raises:
        UserError: there is no such folder, or no video in it.
    """
    root = Path(root)
    paths = _videos(root)
    people = {path: _person(path, root) for path in paths}
    splits = deal(sorted(set(people.values())), seed, fractions)
    return [_source(path, root, people[path], splits[people[path]]) for path in paths]


def cremad(root: str | Path, *, seed: int = 0) -> list[SourceVideo]:
    """CREMA-D (Cao et al. 2014): ``1015_DFA_ANG_XX.flv``, the actor first.

    The published test actors are the test split; a tenth of the others validate.

    Raises:
        UserError: no such folder or video, or a file's name does not begin with an actor.
    """
    root = Path(root)
    found = []
    test = {f"{CREMAD_ACTORS[0] + index - 1}" for index in CREMAD_TEST}
    others = [str(actor) for actor in CREMAD_ACTORS if str(actor) not in test]
    splits = {**deal(others, seed, {"train": 0.9, "val": 0.1}), **dict.fromkeys(test, "test")}
    for path in _videos(root):
        actor, _, rest = path.stem.partition("_")
        if actor not in splits:
            raise UserError(f"{path} is not named as CREMA-D names its videos (1001_DFA_ANG_XX).")
        labels = dict(zip(("sentence", "emotion", "level"), rest.split("_"), strict=False))
        source = _source(path, root, f"s{int(actor) - CREMAD_ACTORS[0] + 1}", splits[actor])
        found.append(SourceVideo(source.path, source.id, source.identity, source.split, labels))
    return found


def hdtf(
    root: str | Path, *, seed: int = 0, fractions: Mapping[str, float] = HDTF_FRACTIONS
) -> list[SourceVideo]:
    """HDTF (Zhang et al. 2021): one video per clip, ``WDA_KatieHill_000.mp4``.

    Videos are dealt at random, 9:1 by default as in DAWN; FD2Talk takes
    ``{"train": .7, "val": .1, "test": .2}``. The identity is the name without the clip's number;
    as in those papers, one person's videos may be in several splits.

    Raises:
        UserError: there is no such folder, or no video in it.
    """
    root = Path(root)
    paths = _videos(root)
    splits = deal([_id(path, root) for path in paths], seed, fractions)
    return [_source(path, root, _speaker(path), splits[_id(path, root)]) for path in paths]


def voxceleb(
    root: str | Path, *, seed: int = 0, fractions: Mapping[str, float] = FRACTIONS
) -> list[SourceVideo]:
    """VoxCeleb2 (Chung et al. 2018): ``[dev|test/[mp4/]]<person>/[<video>/]<clip>.mp4``.

    The published ``test`` part is the test split, and people of ``dev`` train or validate; where
    the folder has no such parts, people are dealt by ``fractions``.

    Raises:
        UserError: no such folder or video, or a video outside a person's folder.
    """
    root = Path(root)
    paths = _videos(root)
    people: dict[Path, str] = {}
    for path in paths:
        parts = [part for part in path.relative_to(root).parts[:-1] if part not in _PARTS]
        if not parts:
            raise UserError(f"{path} is in no person's folder: VoxCeleb has <person>/<clip>.mp4.")
        people[path] = parts[0]
    fixed = {person for path, person in people.items() if _part(path, root) == "test"}
    free = sorted(set(people.values()) - fixed)
    published = any(_part(path, root) for path in paths)
    splits = deal(free, seed, {"train": 0.95, "val": 0.05} if published else fractions)
    splits |= dict.fromkeys(fixed, "test")
    return [_source(path, root, people[path], splits[people[path]]) for path in paths]


ADAPTERS: dict[str, Callable[..., list[SourceVideo]]] = {
    "folder": folder,
    "cremad": cremad,
    "hdtf": hdtf,
    "voxceleb": voxceleb,
}


def adapter(name: str) -> Callable[..., list[SourceVideo]]:
    """The adapter called ``name``.

    Raises:
        UserError: there is none, with the nearest name.
    """
    if name not in ADAPTERS:
        raise UserError(f"No data set kind '{name}'.{did_you_mean(name, ADAPTERS)}")
    return ADAPTERS[name]


def deal(names: Sequence[str], seed: int, fractions: Mapping[str, float]) -> dict[str, str]:
    """Name to split: names in an order drawn by hash, cut at the cumulative fractions.

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


def _videos(root: Path) -> list[Path]:
    found = list_videos(root)
    if not found:
        raise UserError(f"There is no video in {root} ({', '.join(sorted(VIDEO_SUFFIXES))}).")
    return found


def _source(path: Path, root: Path, identity: str, split: str) -> SourceVideo:
    return SourceVideo(path, _id(path, root), identity, split)


def _id(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _person(path: Path, root: Path) -> str:
    return path.stem if path.parent == root else path.parent.relative_to(root).as_posix()


def _speaker(path: Path) -> str:
    name, _, number = path.stem.rpartition("_")
    return name if name and number.isdigit() else path.stem


def _part(path: Path, root: Path) -> str:
    first = path.relative_to(root).parts[0]
    return first if first in ("dev", "test") else ""
