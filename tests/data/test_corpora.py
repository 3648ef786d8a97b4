"""Folders laid out as the published data sets are, with their papers' counts."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from tests.data.test_adapters import touch
from thbench.cli.parser import main
from thbench.core.errors import UserError
from thbench.data.prepare import adapters
from thbench.data.prepare.published import CREMAD_TEST, HDTF_TEST
from thbench.data.prepare.sources import FD2TALK_FRACTIONS, Sources, read_fractions

SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
LEVELS = ("LO", "MD", "HI")
EMOTIONS = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")


def cremad_names() -> list[str]:
    """Of 91 actors a clip of each sentence and emotion, three of IEO: 7,462, and 20 are lacking."""
    names = [
        f"{actor}_{sentence}_{emotion}_{level}.flv"
        for actor in range(1001, 1092)
        for sentence, emotion in product(SENTENCES, EMOTIONS)
        for level in (LEVELS if sentence == "IEO" and emotion != "NEU" else ("XX",))
    ]
    lacking = [name for name in names if name.startswith("1064_")][:20]
    return [name for name in names if name not in lacking]


def splits_of(found: Sources) -> dict[str, set[str]]:
    """Identities by split."""
    splits: dict[str, set[str]] = {}
    for video in found.videos:
        splits.setdefault(video.split, set()).add(video.identity)
    return splits


def counts(found: Sources) -> Counter[str]:
    return Counter(video.split for video in found.videos)


# --split


@pytest.mark.parametrize(
    ("text", "shares"),
    [("70/10/20", (0.7, 0.1, 0.2)), ("100/0/0", (1, 0, 0)), ("62.5/12.5/25", (0.625, 0.125, 0.25))],
)
def test_shares_are_read(text: str, shares: tuple[float, ...]) -> None:
    assert tuple(read_fractions(text).values()) == pytest.approx(shares)
    assert list(read_fractions(text)) == ["train", "val", "test"]


@pytest.mark.parametrize(
    ("text", "says"),
    [("70/30", "give train/val/test"), ("a/b/c", "as 70/10/20"), ("", "give train/val/test"),
     ("-10/10/100", "give train"), ("nan/0/100", "give train"), ("8/1/1", "adds up to 10: it must"),
     ("70/10/20/0", "give train"), ("70/20/20", "adds up to 110")],
)  # fmt: skip
def test_shares_that_cannot_be(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_fractions(text)


def test_a_split_of_ones_own_keeps_people_apart_and_is_the_same_again(tmp_path: Path) -> None:
    layouts = {
        "folder": [f"p{i}/{k}.mp4" for i in range(20) for k in range(3)],
        "cremad": [f"{1001 + i}_DFA_{e}_XX.flv" for i in range(20) for e in EMOTIONS],
        "hdtf": [f"WDA_{'ABCDEFGHIJKLMNOPQRST'[i]}{k}_000.mp4" for i in range(20) for k in (0, 1)],
        "voxceleb": [f"{'dev' if i % 2 else 'test'}/mp4/id{i}/v/{k}.mp4"
                     for i in range(20) for k in (0, 1)],
        "mead": [f"M{i:03d}/video/front/sad/level_1/{k:03d}.mp4"
                 for i in range(20) for k in (1, 2)],
        "celebvhq": [f"{i:011d}_{k}.mp4" for i in range(20) for k in (0, 1)],
        "vfhq": [f"Clip+{i:011d}+P{p}+C0+F0-90.mp4" for i in range(20) for p in (0, 1)],
    }  # fmt: skip
    for kind, names in layouts.items():
        root = touch(tmp_path / kind, *names)
        read = adapters.adapter(kind)
        found = read(root, seed=3, fractions=read_fractions("70/10/20"))
        per = len(names) // 20
        assert counts(found) == {"train": 14 * per, "val": 2 * per, "test": 4 * per}, kind
        people = splits_of(found)
        if kind == "hdtf":  # one person's recordings are numbered
            people = {s: {who.rstrip("01") for who in found} for s, found in people.items()}
        assert not people["train"] & people["test"] | people["val"] & people["test"], kind
        again = read(root, seed=3, fractions=read_fractions("70/10/20"))
        assert again.videos == found.videos
        other = read(root, seed=4, fractions=read_fractions("70/10/20"))
        assert other.videos != found.videos, kind


def test_what_a_split_takes_the_place_of_is_said(tmp_path: Path) -> None:
    shares = read_fractions("70/10/20")
    cremad = touch(tmp_path / "a", *(f"{a}_DFA_ANG_XX.flv" for a in range(1001, 1092)))
    assert adapters.cremad(cremad, fractions=shares).lines[0].endswith("published test actors")
    parts = touch(tmp_path / "b", *(f"dev/id{i}/v/0.mp4" for i in range(10)), "test/id99/v/0.mp4")
    assert adapters.voxceleb(parts, fractions=shares).lines[0].endswith("published parts")
    hdtf = touch(tmp_path / "c", *(f"{name}.mp4" for name in HDTF_TEST))
    assert adapters.hdtf(hdtf, fractions=shares).lines[1] == (
        "split by person; --split takes the place of the released test videos"
    )


def test_the_command_takes_a_split(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = touch(tmp_path / "raw", *(f"p{i}/0.mp4" for i in range(10)))
    words = ["data", "prepare", "folder", str(root), "--out", str(tmp_path / "out")]
    words += ["--workers", "1"]
    assert main([*words, "--split", "50/20"]) == 2
    assert "--split 50/20 cannot be: give train/val/test in per cent" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*words, "--split", "100/0/0"]) == 2  # its videos are empty
    said = capfd.readouterr()
    assert "None of the 10 videos can be used" in said.err
    assert "no video is in" not in said.out  # none was wanted there


# CREMA-D


def test_cremad_has_the_published_test_actors(tmp_path: Path) -> None:
    found = adapters.cremad(touch(tmp_path, *cremad_names()))
    assert len(found.videos) == 7442  # DAWN, 4.1
    people = splits_of(found)
    assert {split: len(who) for split, who in people.items()} == {"train": 73, "val": 8, "test": 10}
    assert people["test"] == {f"s{actor - 1000}" for actor in CREMAD_TEST}
    assert people["test"] >= {"s15", "s20", "s21", "s30", "s33", "s52", "s62", "s81", "s82", "s89"}
    assert counts(found)["test"] == 10 * 82
    first = next(s for s in found.videos if s.identity == "s15" and s.extra["sentence"] == "DFA")
    assert first.path.name == "1015_DFA_ANG_XX.flv"
    assert first.extra == {"sentence": "DFA", "emotion": "ANG", "level": "XX"}
    with pytest.raises(UserError, match="CREMA-D"):
        adapters.cremad(touch(tmp_path, "x.mp4"))


# HDTF


def test_hdtf_has_the_released_test_videos(tmp_path: Path) -> None:
    others = [f"WRA_Person{i}_000.mp4" for i in range(368)]
    names = [f"{name}.mp4" for name in HDTF_TEST]
    found = adapters.hdtf(touch(tmp_path, *names, *others, "WDA_AmyKlobuchar1_000.mp4"))
    # DAWN, 4.1: 410 videos, 9:1
    assert counts(found) == {"train": 369, "test": 41}
    assert {s.path.stem for s in found.videos if s.split == "test"} == set(HDTF_TEST)
    both = splits_of(found)["train"] & splits_of(found)["test"]
    assert both == {"WDA_AmyKlobuchar1"}
    assert found.lines[1] == (
        "split by video, as DAWN's authors released it: 41 of 41 test videos are here; a speaker"
        " may be in both"
    )
    assert len(found.lines) == 2
    assert adapters.hdtf(tmp_path, seed=1).videos == found.videos


def test_hdtf_says_which_test_videos_are_missing(tmp_path: Path) -> None:
    touch(tmp_path, "WDA_KatieHill_000.mp4", "WRA_X_000.mp4", "_videos_raw/WDA_KatieHill.mp4")
    found = adapters.hdtf(tmp_path)
    assert {s.id: s.split for s in found.videos} == {
        "WDA_KatieHill_000": "test",
        "WRA_X_000": "train",
    }
    assert found.lines[1].startswith("split by video, as DAWN's authors released it: 1 of 41 test")
    assert found.lines[2].startswith("missing of the test videos: 40 (RD_Radio14_000, RD_Radio30_")
    assert found.lines[3].endswith("WDA_KatieHill.mp4: a whole recording (in _videos_raw)")
    assert found.left_out[0].reason == "a whole recording (in _videos_raw)"
    with pytest.raises(UserError, match=r"none of HDTF's 41 released test videos.*--split"):
        adapters.hdtf(touch(tmp_path / "b", "WRA_X_000.mp4"))


def test_hdtf_as_fd2talk_splits_it(tmp_path: Path) -> None:
    touch(tmp_path, *(f"RD_Radio{i}_000.mp4" for i in range(362)))  # FD2Talk, 4.1
    found = adapters.hdtf(tmp_path, fractions=FD2TALK_FRACTIONS)
    assert counts(found) == {"train": 253, "val": 37, "test": 72}
    assert len(splits_of(found)["train"]) == 253  # radio speakers are called by number


# LRW, MEAD, CelebV-HQ, VFHQ


def test_lrw_has_its_own_parts(tmp_path: Path) -> None:
    """Each word's clips are numbered afresh in each part."""
    parts = {"train": 10, "val": 2, "test": 2}
    names = [
        f"lipread_mp4/{word}/{part}/{word}_{k:05d}.{suffix}"
        for word, (part, n), suffix in product(("ABOUT", "YOUNG"), parts.items(), ("mp4", "txt"))
        for k in range(1, n + 1)
    ]
    found = adapters.lrw(touch(tmp_path, *names))
    assert counts(found) == {"train": 20, "val": 4, "test": 4}
    assert found.videos[0].id == "lipread_mp4/ABOUT/test/ABOUT_00001"
    assert found.videos[0].extra == {"word": "ABOUT"}
    assert len({s.identity for s in found.videos}) == 28
    assert "not published; each of 28 clips stands for itself" in found.lines[0]
    assert found.lines[1] == (
        "not examined: 28 files with other suffixes than videos have (.txt 28)"
    )
    assert adapters.lrw(tmp_path / "lipread_mp4").videos[0].id == "ABOUT/test/ABOUT_00001"
    anew = adapters.lrw(tmp_path, fractions=read_fractions("50/25/25"))
    assert counts(anew) == {"train": 14, "val": 7, "test": 7}
    assert anew.lines[0].endswith("--split takes the place of the own parts")


@pytest.mark.parametrize("name", ["test/ABOUT_00001.mp4", "ABOUT/dev/ABOUT_00001.mp4", "x.mp4",
                                  "ABOUT/test/ABSENT_00001.mp4"])  # fmt: skip
def test_what_is_not_laid_out_as_lrw(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="does not lie as LRW's"):
        adapters.lrw(touch(tmp_path, name))


def test_mead_has_its_sound_apart(tmp_path: Path) -> None:
    people = [f"{'MW'[i % 2]}{i:03d}" for i in range(10)]
    kinds = (("angry", 1), ("angry", 3), ("neutral", 1))
    videos = [
        f"{person}/video/{view}/{emotion}/level_{level}/001.mp4"
        for person, view, (emotion, level) in product(people, ("front", "left_60"), kinds)
    ]
    sounds = [
        f"{p}/audio/{emotion}/level_{n}/001.m4a" for p, (emotion, n) in product(people, kinds)
    ]
    found = adapters.mead(touch(tmp_path, *videos, *sounds[:-1]))
    assert len(found.videos) == 30
    assert {split: len(who) for split, who in splits_of(found).items()} == {
        "train": 8, "val": 1, "test": 1,
    }  # fmt: skip
    first = found.videos[0]
    assert (first.id, first.identity) == ("M000/video/front/angry/level_1/001", "M000")
    assert first.extra == {"emotion": "angry", "level": "1"}
    assert first.sound == tmp_path / "M000/audio/angry/level_1/001.m4a"
    assert found.videos[-1].sound is None
    assert found.lines[1].startswith("sound: 29 of 30 videos have it in a file of its own")
    assert len(found.left_out) == 30
    assert "30 x another view than front, such as" in found.lines[2]
    below = adapters.mead(touch(tmp_path / "b", f"Part0/{videos[0]}"))
    assert below.videos[0].identity == "M000"
    with pytest.raises(UserError, match="does not lie as MEAD's"):
        adapters.mead(touch(tmp_path / "c", "M003/front/angry/level_1/001.mp4"))
    with pytest.raises(UserError, match="no video of the front view"):
        adapters.mead(touch(tmp_path / "d", videos[3]))


def test_celebvhq_goes_by_the_youtube_video(tmp_path: Path) -> None:
    ids = [f"-_{i:09d}" for i in range(100)]
    found = adapters.celebvhq(touch(tmp_path, *(f"{v}_{k}.mp4" for v in ids for k in (0, 12))))
    assert counts(found) == {"train": 160, "val": 20, "test": 20}
    assert {s.identity for s in found.videos} == set(ids)
    assert found.lines[0].endswith("one person may be in several videos")
    with pytest.raises(UserError, match="not of the raw videos"):
        adapters.celebvhq(touch(tmp_path, "raw/M2Ohb0FAaJU.mp4"))


def test_vfhq_is_split_as_fd2talk_splits_it(tmp_path: Path) -> None:
    names = [
        f"Clip+{video:011d}+P{person}+C{clip}+F{100 * clip}-{100 * clip + 90}.mp4"
        for video, person, clip in product(range(1000), (0, 1), range(8))
    ]
    assert len(names) == 16000  # FD2Talk, 4.1: over 16000
    found = adapters.vfhq(touch(tmp_path, *names))
    assert counts(found) == {"train": 11200, "val": 1600, "test": 3200}
    assert len({s.identity for s in found.videos}) == 2000
    assert found.videos[0].identity == "00000000000+P0"
    videos = {split: {who[:11] for who in people} for split, people in splits_of(found).items()}
    assert not videos["train"] & videos["test"]
    with pytest.raises(UserError, match="is not named as VFHQ"):
        adapters.vfhq(touch(tmp_path / "b", "a.mp4"))


def test_vfhq_as_it_is_released_is_to_be_joined(tmp_path: Path) -> None:
    touch(tmp_path, "Clip+-2wL-XN0P4s+P0+C1+F1537-1685/00000000.png")
    with pytest.raises(UserError, match=r"no video.*join each to <folder>\.mp4 at the FPS"):
        adapters.vfhq(tmp_path)
