"""Adapters of published data sets: who is seen and which split a video belongs to, by its path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from thbench.core.errors import UserError
from thbench.data.listing import LeftOut, printable
from thbench.data.manifest import SPLITS
from thbench.data.prepare.identity import count_people
from thbench.data.prepare.job import SourceVideo
from thbench.data.prepare.published import CREMAD_ACTORS, CREMAD_TEST, HDTF_TEST
from thbench.data.prepare.sources import (
    FD2TALK_FRACTIONS,
    FRACTIONS,
    Sources,
    assign_splits,
    find_videos,
    gather,
    source_id,
)


def cremad(
    root: str | Path,
    *,
    seed: int = 0,
    fractions: Mapping[str, float] | None = None,
    identity: str | None = None,
) -> Sources:
    """CREMA-D (Cao et al. 2014): ``1015_DFA_ANG_XX.flv``, the actor first.

    The published test actors are the test split; a tenth of the others validate. ``fractions``
    assigns the actors anew instead.

    Raises:
        UserError: no such folder or video, a file's name does not begin with an actor, or an
            ``identity`` is asked for.
    """
    _take_no(identity, "cremad", "its published test actors stand in the names")
    root = Path(root)
    listing = find_videos(root)
    known = {str(actor) for actor in CREMAD_ACTORS}
    actors = {path: path.stem.partition("_")[0] for path in listing.videos}
    for path, actor in actors.items():
        if actor not in known:
            raise UserError(
                f"{path} is not named as CREMA-D names its videos (1001_DFA_ANG_XX): rename it, or"
                " prepare the folder as kind `folder`."
            )
    if fractions is None:
        test = {str(actor) for actor in CREMAD_TEST}
        splits = {
            **assign_splits(sorted(known - test), seed, {"train": 0.9, "val": 0.1}),
            **dict.fromkeys(test, "test"),
        }
        how = ""
    else:
        splits = assign_splits(sorted(set(actors.values())), seed, fractions)
        how = _INSTEAD.format("published test actors")
    found = []
    for path, actor in actors.items():
        words = path.stem.split("_")[1:]
        labels = dict(zip(("sentence", "emotion", "level"), words, strict=False))
        person = f"s{int(actor) - CREMAD_ACTORS[0] + 1}"
        found.append(SourceVideo(path, source_id(path, root), person, splits[actor], labels))
    line = count_people([s.identity for s in found], "the actor in the file's name")
    return gather(found, [line + how], listing, fractions or FRACTIONS)


def hdtf(
    root: str | Path,
    *,
    seed: int = 0,
    fractions: Mapping[str, float] | None = None,
    identity: str | None = None,
) -> Sources:
    """HDTF (Zhang et al. 2021): one video per clip, ``WDA_KatieHill_000.mp4``.

    The 41 test videos that DAWN's authors released are the test split, all others train; one
    person's videos may be in both. ``fractions`` assigns people instead, such as FD2Talk's
    70/10/20. The identity is the name without the clip's number; for ``fractions`` the number that
    tells a person's recordings apart (``WDA_AmyKlobuchar0``, ``1``) does not count either. Whole
    recordings that downloaders leave in ``_videos_raw`` are left out.

    Raises:
        UserError: there is no such folder, no video in it, none of the released test videos
            without ``fractions``, or an ``identity`` is asked for.
    """
    _take_no(identity, "hdtf", "it is split by video, whoever is seen")
    root = Path(root)
    listing = find_videos(root)
    clips, left_out = [], []
    for path in listing.videos:
        if "_videos_raw" in path.relative_to(root).parts[:-1]:
            left_out.append(LeftOut(printable(path), "a whole recording (in _videos_raw)"))
        else:
            clips.append(path)
    if fractions is None:
        splits = {path: "test" if path.stem in HDTF_TEST else "train" for path in clips}
        lines = _of_released_test({path.stem for path in clips}, root)
    else:
        people = {path: _person(path) for path in clips}
        given = assign_splits(sorted(set(people.values())), seed, fractions)
        splits = {path: given[person] for path, person in people.items()}
        lines = [f"split by person{_INSTEAD.format('released test videos')}"]
    found = [SourceVideo(p, source_id(p, root), _speaker(p), splits[p]) for p in clips]
    line = count_people([s.identity for s in found], "the speaker in the file's name")
    wanted = fractions or {"train": 1.0, "test": 1.0}
    return gather(found, [line, *lines], listing, wanted, left_out)


def voxceleb(
    root: str | Path,
    *,
    seed: int = 0,
    fractions: Mapping[str, float] | None = None,
    identity: str | None = None,
) -> Sources:
    """VoxCeleb2 (Chung et al. 2018): ``[dev|test/[mp4/]]<person>/[<video>/]<clip>.mp4``.

    The published ``test`` part is the test split, and people of ``dev`` train or validate; where
    the folder has no such parts, people are assigned 80/10/10. ``fractions`` assigns all people
    instead.

    Raises:
        UserError: no such folder or video, a video outside a person's folder, or an ``identity``
            is asked for.
    """
    _take_no(identity, "voxceleb", "its published parts go by the person's folder")
    root = Path(root)
    listing = find_videos(root)
    paths = listing.videos
    people: dict[Path, str] = {}
    for path in paths:
        parts = [part for part in path.relative_to(root).parts[:-1] if part not in _PARTS]
        if not parts:
            raise UserError(f"{path} is in no person's folder: VoxCeleb has <person>/<clip>.mp4.")
        people[path] = parts[0]
    published = any(_part(path, root) for path in paths)
    how, fixed = "", set()
    if fractions is not None:
        how = _INSTEAD.format("published parts") if published else ""
        shares = fractions
    else:
        fixed = {person for path, person in people.items() if _part(path, root) == "test"}
        shares = {"train": 0.95, "val": 0.05} if published else FRACTIONS
    splits = assign_splits(sorted(set(people.values()) - fixed), seed, shares)
    splits |= dict.fromkeys(fixed, "test")
    found = [SourceVideo(p, source_id(p, root), people[p], splits[people[p]]) for p in paths]
    line = count_people(people.values(), "the person's folder")
    return gather(found, [line + how], listing, fractions or FRACTIONS)


def lrw(
    root: str | Path,
    *,
    seed: int = 0,
    fractions: Mapping[str, float] | None = None,
    identity: str | None = None,
) -> Sources:
    """LRW (Chung and Zisserman 2016): ``[lipread_mp4/]ABOUT/train/ABOUT_00001.mp4``.

    Its own folders ``train``, ``val`` and ``test`` are the splits; ``fractions`` assigns clips
    instead. Who is seen is not published, so each clip is an identity of its own, and a person may
    be in several splits either way.

    Raises:
        UserError: no such folder or video, a video that does not lie and is not named so, or an
            ``identity`` is asked for.
    """
    _take_no(identity, "lrw", "who is seen is not published")
    root = Path(root)
    listing = find_videos(root)
    ids = {path: source_id(path, root) for path in listing.videos}
    anew = {} if fractions is None else assign_splits(list(ids.values()), seed, fractions)
    found = []
    for path, name in ids.items():
        _, word, part, _ = ("", "", "", *path.relative_to(root).parts)[-4:]
        if part not in SPLITS or not re.fullmatch(rf"{re.escape(word)}_\d+", path.stem):
            raise UserError(
                f"{path} does not lie as LRW's videos do (ABOUT/train/ABOUT_00001.mp4): name the"
                " folder of the words, or prepare the folder as kind `folder`."
            )
        found.append(SourceVideo(path, name, name, anew.get(name, part), {"word": word}))
    line = f"identities: not published; each of {len(found)} clips stands for itself, so a person"
    line += " may be in several splits"
    if fractions is not None:
        line += _INSTEAD.format("own parts")
    return gather(found, [line], listing, fractions or FRACTIONS)


def mead(
    root: str | Path,
    *,
    seed: int = 0,
    fractions: Mapping[str, float] | None = None,
    identity: str | None = None,
) -> Sources:
    """MEAD (Wang et al. 2020): ``M003/video/front/angry/level_1/001.mp4``.

    The sound lies apart, in ``M003/audio/angry/level_1/001.m4a``, and begins with the video; where
    that file is missing, the video's own sound is taken, if it has any. The front view alone is
    taken. No split is published: people are assigned, 80/10/10 by default.

    Raises:
        UserError: no such folder or video, a video that does not lie so, or an ``identity`` is
            asked for.
    """
    _take_no(identity, "mead", "the person's folder stands before `video`")
    root = Path(root)
    listing = find_videos(root)
    found, left_out, apart = [], [], 0
    people: dict[Path, str] = {}
    for path in listing.videos:
        match = _MEAD.search(path.relative_to(root).as_posix())
        if not match:
            raise UserError(
                f"{path} does not lie as MEAD's videos do (M003/video/front/angry/level_1/001.mp4):"
                " name the folder of the people, or prepare the folder as kind `folder`."
            )
        if match["view"] != "front":
            left_out.append(LeftOut(printable(path), "another view than front"))
        else:
            people[path] = match["person"]
    splits = assign_splits(sorted(set(people.values())), seed, fractions or FRACTIONS)
    for path, person in people.items():
        emotion, level = path.parts[-3:-1]
        sound = _beside(path.parents[4] / "audio" / emotion / level / path.stem)
        apart += sound is not None
        labels = {"emotion": emotion, "level": level.removeprefix("level_")}
        name = source_id(path, root)
        found.append(SourceVideo(path, name, person, splits[person], labels, sound))
    if not found:
        raise UserError(f"{root} has no video of the front view, which alone is taken.")
    lines = [count_people(people.values(), "the person's folder")]
    lines.append(
        f"sound: {apart} of {len(found)} videos have it in a file of its own, below"
        " <person>/audio; the others are taken with what they hold themselves"
    )
    return gather(found, lines, listing, fractions or FRACTIONS, left_out)


def celebvhq(
    root: str | Path,
    *,
    seed: int = 0,
    fractions: Mapping[str, float] | None = None,
    identity: str | None = None,
) -> Sources:
    """CelebV-HQ (Zhu et al. 2022): ``<YouTube id>_<clip>.mp4``, as its authors' script cuts them.

    Who is seen is not published by name: an identity is a YouTube video, and a celebrity may have
    several. No split is published: videos are assigned, 80/10/10 by default.

    Raises:
        UserError: no such folder or video, a file that is not named so, or an ``identity`` is
            asked for.
    """
    _take_no(identity, "celebvhq", "the YouTube video stands in the names")
    root = Path(root)
    listing = find_videos(root)
    videos: dict[Path, str] = {}
    for path in listing.videos:
        match = _CELEBVHQ.fullmatch(path.stem)
        if not match:
            raise UserError(
                f"{path} is not named as CelebV-HQ names its clips (<11 characters>_0.mp4): name"
                " the folder of the cut clips, not of the raw videos."
            )
        videos[path] = match["video"]
    splits = assign_splits(sorted(set(videos.values())), seed, fractions or FRACTIONS)
    found = [SourceVideo(p, source_id(p, root), videos[p], splits[videos[p]]) for p in videos]
    line = count_people(videos.values(), "the YouTube video in the file's name")
    lines = [f"{line}; one person may be in several videos"]
    return gather(found, lines, listing, fractions or FRACTIONS)


def vfhq(
    root: str | Path,
    *,
    seed: int = 0,
    fractions: Mapping[str, float] | None = None,
    identity: str | None = None,
) -> Sources:
    """VFHQ (Xie et al. 2022): ``Clip+<YouTube id>+P<person>+C<clip>+F<first>-<last>.mp4``.

    An identity is a person of a YouTube video; all people of a video are in one split. No split
    by name is published: videos are assigned, FD2Talk's 70/10/20 by default. The release has no
    sound, and holds frames, which are to be joined to videos before.

    Raises:
        UserError: no such folder or video, a file that is not named so, or an ``identity`` is
            asked for.
    """
    _take_no(identity, "vfhq", "video and person stand in the names")
    root = Path(root)
    listing = find_videos(root, _VFHQ_FRAMES)
    names: dict[Path, re.Match[str]] = {}
    for path in listing.videos:
        match = _VFHQ.fullmatch(path.stem)
        if not match:
            raise UserError(
                f"{path} is not named as VFHQ names its clips (Clip+<video>+P0+C0+F10-200): rename"
                " it, or prepare the folder as kind `folder`."
            )
        names[path] = match
    videos = sorted({match["video"] for match in names.values()})
    splits = assign_splits(videos, seed, fractions or FD2TALK_FRACTIONS)
    found = [
        SourceVideo(
            path, source_id(path, root), f"{match['video']}+{match['person']}",
            splits[match["video"]],
        )
        for path, match in names.items()
    ]  # fmt: skip
    line = count_people([s.identity for s in found], "the video and person in the file's name")
    return gather(found, [line], listing, fractions or FD2TALK_FRACTIONS)


_PARTS = {"dev", "test", "train", "mp4"}
_MEAD = re.compile(
    r"(?:^|/)(?P<person>[^/]+)/video/(?P<view>[^/]+)/(?P<emotion>[^/]+)/level_\d+/[^/]+$"
)
_SOUND_SUFFIXES = (".m4a", ".wav", ".aac", ".mp3", ".flac")
_CELEBVHQ = re.compile(r"(?P<video>[\w-]{11})_\d+")
_VFHQ = re.compile(r"Clip\+(?P<video>.+)\+(?P<person>P\d+)\+C\d+\+F\d+-\d+")
_VFHQ_FRAMES = (
    "VFHQ is released as a folder of frames for each clip: join each to <folder>.mp4 at the FPS in"
    " its meta_info."
)
_INSTEAD = "; --split takes the place of the {}"
_REFUSED = "{} takes no --identity ({}): use kind `folder`, which keeps people apart by any level."


def _take_no(identity: str | None, kind: str, why: str) -> None:
    if identity is not None:
        raise UserError(_REFUSED.format(kind, why))


def _speaker(path: Path) -> str:
    name, _, number = path.stem.rpartition("_")
    return name if name and number.isdigit() else path.stem


def _person(path: Path) -> str:
    """Who is seen in an HDTF clip, whichever recording it is of."""
    name = _speaker(path)
    # RD_Radio14 and RD_Radio30 are other people: there the number is all the name there is.
    return name if name.startswith("RD_") else name.rstrip("0123456789")


def _of_released_test(names: set[str], root: Path) -> list[str]:
    """Lines on the split by released test videos, of which some may be missing."""
    missing = [name for name in HDTF_TEST if name not in names]
    if len(missing) == len(HDTF_TEST):
        raise UserError(
            f"{root} has none of HDTF's {len(HDTF_TEST)} released test videos, such as"
            f" {HDTF_TEST[0]}.mp4: name the clips so, or give a --split of your own (70/10/20)."
        )
    lines = [
        f"split by video, as DAWN's authors released it: {len(HDTF_TEST) - len(missing)} of"
        f" {len(HDTF_TEST)} test videos are here; a speaker may be in both"
    ]
    if missing:
        shown = ", ".join(missing[:2]) + (", …" if len(missing) > 2 else "")
        lines.append(f"missing of the test videos: {len(missing)} ({shown}); results on the others")
        lines[-1] += " do not compare with all of them"
    return lines


def _beside(stem: Path) -> Path | None:
    """The sound file of this name, whatever its suffix; None where there is none."""
    places = [stem.with_name(stem.name + suffix) for suffix in _SOUND_SUFFIXES]
    return next((place for place in places if place.is_file()), None)


def _part(path: Path, root: Path) -> str:
    first = path.relative_to(root).parts[0]
    return first if first in ("dev", "test") else ""
