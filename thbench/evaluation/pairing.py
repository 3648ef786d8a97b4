"""Pairs generated videos with reference clips."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from thbench.config import content_hash
from thbench.core.errors import UserError
from thbench.core.files import sha256
from thbench.data.listing import list_videos, summary
from thbench.evaluation.results import DataRef

_SEED = re.compile(r"seed-(\d+)/(.+)")


@dataclass(frozen=True)
class Reference:
    """The videos that generated ones are scored against.

    Attributes:
        videos: by clip id, in order of id.
        data: their provenance.
        synthetic: they were rendered, not recorded.
        identities: who is seen, by clip id; empty for a plain folder.
    """

    videos: Mapping[str, Path]
    data: DataRef
    synthetic: bool = False
    identities: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """A generated video and the reference of the same id."""

    id: str
    seed: int
    generated: Path
    reference: Path

    @property
    def name(self) -> str:
        return f"seed-{self.seed}/{self.id}"


def find_reference(
    folder: Path, split: str = "test", limit: int | None = None, name: str | None = None
) -> Reference:
    """The reference videos of a prepared data set's split, or of any folder.

    Args:
        folder: of the data set, or of videos.
        split: of a prepared data set.
        limit: only the first so many clips.
        name: what the data is called; by default as its folder.

    Raises:
        UserError: the folder is missing or holds none.
    """
    from thbench.data import manifest

    clips, named = reference_videos(folder, split)
    if named:
        digest = manifest.digest(folder)
    else:
        digest = content_hash({k: sha256(v) for k, v in clips.items()})
    chosen = {k: clips[k] for k in sorted(clips)[:limit]}
    if not chosen:
        raise UserError(f"{folder} holds no clips" + (f" of split '{split}'." if named else "."))
    data = DataRef(name or folder.resolve().name, digest, named, content_hash(list(chosen)))
    people = {clip: who for clip, (who, _) in manifest.people(folder).items() if clip in chosen}
    return Reference(chosen, data, manifest.is_synthetic(folder), people)


def reference_videos(folder: Path, split: str) -> tuple[dict[str, Path], str | None]:
    """The videos of a prepared data set's split, or of any folder, by clip id; none is opened.

    Of a prepared data set clips without sound, from which nothing is generated, do not count.

    Args:
        folder: of the data set, or of videos.
        split: of a prepared data set.

    Returns:
        The videos; the split, or None for a folder without splits.

    Raises:
        UserError: there is no such folder.
    """
    from thbench.data import manifest

    if not (folder / manifest.NAME).is_file():
        return find_videos(folder), None
    found = [clip for clip in manifest.read(folder) if clip.split == split]
    return {c.id: folder / c.video for c in found if not manifest.is_silent(c)}, split


def find_videos(folder: Path) -> dict[str, Path]:
    """The videos below a folder by their path without suffix. What is left out is printed.

    Raises:
        UserError: there is no such folder, or two videos differ in the suffix only.
    """
    found: dict[str, Path] = {}
    listing = list_videos(folder, repeats=True)
    for line in summary(listing.left_out):
        print(line, flush=True)
    for path in listing.videos:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise UserError(f"{found[name]} and {path} are called the same: remove one.")
        found[name] = path
    return found


def pair_up(
    generated: Mapping[str, Path],
    reference: Mapping[str, Path],
    seeds: Collection[int] | None = None,
) -> tuple[list[Pair], list[str], list[str]]:
    """Match videos by name.

    Args:
        generated: videos by name, ``<clip id>`` or ``seed-<n>/<clip id>``.
        reference: videos by clip id.
        seeds: only videos of these, others are passed over; by default of all.

    Returns:
        Pairs in order of id and seed; names of generated videos without a reference; ids of
        reference clips without a generated video.
    """
    pairs, unpaired = [], []
    for name, path in generated.items():
        match = _SEED.fullmatch(name)
        seed, clip = (int(match[1]), match[2]) if match and name not in reference else (0, name)
        if seeds is not None and seed not in seeds:
            continue
        if clip in reference:
            pairs.append(Pair(clip, seed, path, reference[clip]))
        else:
            unpaired.append(name)
    absent = sorted(set(reference) - {pair.id for pair in pairs})
    return sorted(pairs, key=lambda p: (p.id, p.seed)), sorted(unpaired), absent
