"""What adapters have in common: the videos that they find, and how people get their splits.

Names are put in an order drawn by hash from the seed and cut at the wanted shares: the same
folder and seed give the same splits on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from thbench.core.errors import UserError
from thbench.data.listing import (
    VIDEO_SUFFIXES,
    LeftOut,
    Listing,
    is_prepared,
    list_videos,
    summary,
)
from thbench.data.manifest import SPLITS
from thbench.data.prepare.job import SourceVideo

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
FD2TALK_FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}
"""Of HDTF and VFHQ (FD2Talk, 4.1)."""


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


def read_fractions(text: str) -> dict[str, float]:
    """Shares of the splits from a word like ``70/10/20``: train, val and test in per cent.

    Raises:
        UserError: it is not three numbers, one is negative, or they do not add up to 100.
    """
    try:
        shares = [float(part) for part in text.split("/")]
    except ValueError:
        shares = []
    if len(shares) != len(SPLITS) or not all(0 <= share <= 100 for share in shares):
        raise UserError(f"--split {text} cannot be: give train/val/test in per cent, as 70/10/20.")
    if abs(sum(shares) - 100) > 1e-6:
        raise UserError(f"--split {text} adds up to {sum(shares):g}: it must be 100.")
    return {split: share / 100 for split, share in zip(SPLITS, shares, strict=True)}


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


def find_videos(root: Path, hint: str = "") -> Listing:
    """The videos below a data set's folder.

    Args:
        root: the folder.
        hint: a sentence for the user where there is no video.

    Raises:
        UserError: there is no such folder, it holds a prepared data set, or no video.
    """
    listing = list_videos(root)
    if is_prepared(root):
        raise UserError(f"{root} holds a prepared data set: name the folder of the raw videos.")
    if not listing.videos:
        why = f" {summary(listing.left_out)[0]}." if listing.left_out else ""
        suffixes = ", ".join(sorted(VIDEO_SUFFIXES))
        raise UserError(f"There is no video in {root} ({suffixes}).{why}{hint and ' ' + hint}")
    return listing


def gather(
    found: list[SourceVideo],
    lines: list[str],
    listing: Listing,
    fractions: Mapping[str, float],
    left_out: Sequence[LeftOut] = (),
) -> Sources:
    """The videos with the lines on them for the user.

    Args:
        found: the videos.
        lines: of the adapter's own; the others come after them.
        listing: that the videos were found in.
        fractions: a line says which of these splits have no video.
        left_out: what the adapter itself does not take.
    """
    given = {video.split for video in found}
    if empty := [split for split, share in fractions.items() if share and split not in given]:
        count = len({video.identity for video in found})
        people = "one identity" if count == 1 else f"{count} identities"
        lines.append(f"no video is in {' or '.join(empty)}: {len(found)} videos show {people}")
    gone = [*listing.left_out, *left_out]
    lines += summary(gone)
    if listing.others:
        count = sum(listing.others.values())
        kinds = ", ".join(f"{suffix or 'none'} {n}" for suffix, n in listing.others.items())
        lines.append(f"not examined: {count} files with other suffixes than videos have ({kinds})")
    return Sources(found, lines, gone)


def source_id(path: Path, root: Path) -> str:
    """The id of a video: its path below ``root`` without suffix."""
    return path.relative_to(root).with_suffix("").as_posix()


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
