from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from thbench.core.errors import UserError
from thbench.core.types import Clip
from thbench.data.prepare import adapters


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_folder_keeps_people_apart(tmp_path: Path) -> None:
    names = [f"p{i}/{k}.mp4" for i in range(20) for k in range(3)]
    touch(tmp_path, *names, "alone.MOV", "notes.txt", ".hidden/a.mp4")
    found = adapters.folder(tmp_path).videos
    assert len(found) == 61
    people = {(s.identity, s.split) for s in found}
    assert len(people) == 21
    assert Counter(split for _, split in people) == {"train": 17, "val": 2, "test": 2}
    assert adapters.folder(tmp_path).videos == found
    assert {s.id: s.split for s in adapters.folder(tmp_path, seed=1).videos} != {
        s.id: s.split for s in found
    }
    assert {s.id for s in found} >= {"p0/2", "alone"}


def test_every_split_gets_a_name() -> None:
    assert set(adapters.assign_splits(["a", "b", "c"], 0, adapters.FRACTIONS).values()) == {
        "train",
        "val",
        "test",
    }
    assert set(adapters.assign_splits(["a"], 0, adapters.FRACTIONS).values()) == {"train"}


def test_voxceleb_with_and_without_parts(tmp_path: Path) -> None:
    parts = touch(
        tmp_path / "a", "dev/mp4/id1/v/0.mp4", "dev/mp4/id2/v/0.mp4", "test/mp4/id3/v/0.mp4"
    )
    found = {s.identity: s.split for s in adapters.voxceleb(parts).videos}
    assert found["id3"] == "test"
    assert set(found) == {"id1", "id2", "id3"}
    assert "test" not in {found["id1"], found["id2"]}
    plain = touch(tmp_path / "b", *(f"ID{i}/{k}.mp4" for i in range(14) for k in range(2)))
    splits = {s.identity: s.split for s in adapters.voxceleb(plain).videos}
    assert Counter(splits.values()) == {"train": 11, "val": 2, "test": 1}
    with pytest.raises(UserError, match="no person's folder"):
        adapters.voxceleb(touch(tmp_path / "c", "0.mp4"))


def test_nothing_to_prepare(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        adapters.folder(tmp_path / "x")
    with pytest.raises(UserError, match="no video"):
        adapters.folder(tmp_path)
    with pytest.raises(UserError, match="Did you mean 'hdtf'"):
        adapters.adapter("hdft")


# Who is seen


MEAD = [
    f"{person}/video/front/{emotion}/level_{level}/{clip:03d}.mp4"
    for person in ("M003", "M005", "W009", "W011", "W014")
    for emotion, level in (("angry", 1), ("angry", 2), ("neutral", 1))
    for clip in (1, 2)
]


def crossing(found: adapters.Sources, names: dict[str, str]) -> set[str]:
    """People, by true names of ids, who are in several splits."""
    splits: dict[str, set[str]] = {}
    for video in found.videos:
        splits.setdefault(names[video.id], set()).add(video.split)
    return {person for person, given in splits.items() if len(given) > 1}


def test_nobody_of_a_nested_tree_is_in_two_splits(tmp_path: Path) -> None:
    """MEAD: person/video/view/emotion/level/clip. The whole path was once taken for a person."""
    found = adapters.folder(touch(tmp_path, *MEAD))
    assert {video.identity for video in found.videos} == {"M003", "M005", "W009", "W011", "W014"}
    assert crossing(found, {video.id: video.id[:4] for video in found.videos}) == set()
    assert {video.split for video in found.videos} == {"train", "val", "test"}
    assert found.lines == [
        "identities: 5 people from the first folder (M003, M005, …); --identity names another level"
    ]


LAYOUTS: dict[str, tuple[list[str], str | None, set[str], str]] = {
    "RAVDESS": (
        ["Actor_01/a.mp4", "Actor_02/a.mp4"],
        None,
        {"Actor_01", "Actor_02"},
        "first folder",
    ),
    "GRID": (["s1/video/a.mpg", "s2/video/a.mpg"], "1", {"s1", "s2"}, "first folder"),
    "LRS3": (["test/p1/0.mp4", "pretrain/p1/1.mp4", "test/p2/0.mp4"], "2", {"p1", "p2"}, "second"),
    "its own folder": (["a/b/p1/0.mp4", "p2/0.mp4"], "-1", {"p1", "p2"}, "folder of the file"),
    "last but one": (["x/p1/v/0.mp4", "p2/v/0.mp4"], "-2", {"p1", "p2"}, "level -2"),
    "files": (["a/p1.mp4", "b/p1.mov", "p2.mp4"], "file", {"p1", "p2"}, "the file's name"),
    "names": (["p1_0.mp4", "p1_1.mp4", "p2_0.mp4"], "^([^_/]+)_", {"p1", "p2"}, "the pattern"),
    "names below": (["x/p1-0.mp4", "y/z/p2-0.mp4"], "([^/]+)-[^/]*$", {"p1", "p2"}, "the pattern"),
    "at the top": (["p1/0.mp4", "p2.mp4"], None, {"p1", "p2"}, "and 1 from the name of a file"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_people_are_told_apart_by_a_level_or_a_pattern(tmp_path: Path, layout: str) -> None:
    names, identity, people, says = LAYOUTS[layout]
    found = adapters.folder(touch(tmp_path, *names), identity=identity)
    assert {video.identity for video in found.videos} == people
    assert f"identities: {len(people)} people from" in found.lines[0]
    assert says in found.lines[0]


@pytest.mark.parametrize(
    ("identity", "says"),
    [("2", r"b/y\.mp4 lies in 1 folders, so --identity 2"), ("-2", r"b/y\.mp4 lies in 1 folders"),
     ("0", "names no folder"), ("x(", "no regular expression"), ("person", "has no groups"),
     ("(a)(b)", "has 2 groups"), ("(a/b)/", "finds nobody in 'b/y.mp4'"),
     ("(z?)", "finds nobody in 'a/b/x.mp4'"), ("[ab]|(z)", "finds nobody in 'a/b/x.mp4'")],
)  # fmt: skip
def test_what_names_no_person(tmp_path: Path, identity: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        adapters.folder(touch(tmp_path, "a/b/x.mp4", "b/y.mp4"), identity=identity)


def test_kinds_whose_people_are_known_take_no_identity(tmp_path: Path) -> None:
    one = {
        "cremad": "1001_DFA_ANG_XX.flv",
        "hdtf": "WDA_KatieHill_000.mp4",
        "voxceleb": "p/0.mp4",
        "lrw": "ABOUT/test/ABOUT_00001.mp4",
        "mead": "M003/video/front/angry/level_1/001.mp4",
        "celebvhq": "M2Ohb0FAaJU_1.mp4",
        "vfhq": "Clip+-2wL-XN0P4s+P0+C1+F1537-1685.mp4",
    }
    assert {"folder", *one} == set(adapters.ADAPTERS)
    for kind, name in one.items():
        root = touch(tmp_path / kind, name)
        (line, *_) = adapters.adapter(kind)(root).lines
        assert line.startswith("identities: " + ("not" if kind == "lrw" else "1 person from the"))
        with pytest.raises(UserError, match=f"{kind} takes no --identity .*kind `folder`"):
            adapters.adapter(kind)(root, identity="1")


def test_folders_of_parts_are_not_taken_for_people_without_a_word(tmp_path: Path) -> None:
    lines = adapters.folder(touch(tmp_path / "a", "dev/p1/0.mp4", "Test/p2/0.mp4")).lines
    assert lines[1] == (
        "Test, dev: a person by this name is unlikely; --identity 2 takes the folders below"
    )
    lines = adapters.folder(touch(tmp_path / "b", "videos/0.mp4", "videos/1.mp4")).lines
    assert lines[1].endswith("--identity file takes each file")
    assert lines[2] == "no video is in val or test: 2 videos show one identity"
    assert len(adapters.folder(touch(tmp_path / "c", "dev/0.mp4", "p/0.mp4", "q/0.mp4")).lines) == 1


def test_numbered_files_are_not_taken_for_people_without_a_word(tmp_path: Path) -> None:
    root = touch(tmp_path / "a", "anna_01.mp4", "anna_02.mp4", "bo-1.mp4", "bo.mp4", "001.mp4")
    (line,) = adapters.folder(root).lines[1:]
    assert line.startswith("2 files at the top are a person each, though their names differ in a")
    assert "(2 begin with anna); --identity '^" in line
    (root / "bo.mp4").unlink()
    (root / "001.mp4").unlink()
    named = line.split("'")[1]
    assert {v.identity for v in adapters.folder(root, identity=named).videos} == {"anna", "bo"}
    quiet = adapters.folder(touch(tmp_path / "b", "001.mp4", "002.mp4", "anna.mp4", "p/x_1.mp4"))
    assert len(quiet.lines) == 1


# Where the data set goes


def test_what_was_left_out_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "p/a.mp4", ".b.mp4", "p/c.txt", "out/.prepare/lock", "out/clips/a.mp4")
    (tmp_path / "p/d.mp4").symlink_to("nowhere")
    found = adapters.folder(tmp_path)
    assert [video.id for video in found.videos] == ["p/a"]
    said = "\n".join(found.lines)
    others = "not examined: 1 files with other suffixes than videos have (.txt 1)"
    for words in ("hidden videos (1", "p/d.mp4: a broken link", "out: a prepared data set", others):
        assert words in said
    assert len(found.left_out) == 3
    touch(tmp_path / "only", ".a.mp4")
    with pytest.raises(UserError, match=r"no video.*hidden videos"):
        adapters.folder(tmp_path / "only")
    with pytest.raises(UserError, match="holds a prepared data set: name the folder of the raw"):
        adapters.folder(tmp_path / "out")


@pytest.mark.parametrize(
    ("out", "says"),
    [(".", "is the folder of the videos"), ("link", "is the folder of the videos"),
     ("p", "holds .*a.mp4, which is to be prepared"), ("..", "holds .*a.mp4"),
     ("o\n", "line break")],
)  # fmt: skip
def test_a_data_set_is_not_made_among_its_videos(tmp_path: Path, out: str, says: str) -> None:
    root = touch(tmp_path / "s", "p/a.mp4")
    (root / "link").symlink_to(".")
    with pytest.raises(UserError, match=says):
        adapters.check_out(adapters.folder(root), root, root / out)


def test_where_a_data_set_can_be_made(tmp_path: Path) -> None:
    root = touch(tmp_path, "raw/p/a.mp4", "clips/x/b.mp4") / "raw"
    adapters.check_out(adapters.folder(root), root, root / "out")
    adapters.check_out(adapters.folder(root), root, tmp_path / "out")
    root = tmp_path / "clips"
    with pytest.raises(UserError, match="prepared in"):
        adapters.check_out(adapters.folder(root), root, tmp_path)


def test_files_of_two_ids_never_share_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = touch(tmp_path / "s", "P/a.mp4", "p/A.mp4", "r\u00e9.mp4", "re\u0301.mp4"), tmp_path
    adapters.check_out(adapters.folder(root), root, out / "new/out")  # as disks of Linux are
    monkeypatch.setattr(adapters, "_merges_names", lambda out: True)
    with pytest.raises(UserError, match="'P/a' and 'p/A' are the same name on the disk"):
        adapters.check_out(adapters.folder(root), root, out / "o")
    (root / "P/a.mp4").unlink()
    with pytest.raises(UserError, match="are the same name on the disk"):
        adapters.check_out(adapters.folder(root), root, out / "o")
    root = touch(tmp_path / "t", "a.mov", "a.mp4/b.mp4")
    with pytest.raises(UserError, match=r"The folder a\.mp4 is named as"):
        adapters.check_out(adapters.folder(root), root, out / "o")


def test_another_split_of_clips_that_are_there_is_said() -> None:
    def clip(name: str, *who: Any) -> Clip:
        return Clip(name, *who, 50, "v", "t", "00")

    before = {"a": ("p", "train"), "b": ("q", "test"), "gone": ("q", "test")}
    assert adapters.reassigned(before, [clip("a", "p", "train"), clip("new", "q", "val")]) == []
    (line,) = adapters.reassigned(before, [clip("a", "p", "train"), clip("b", "q", "train")])
    assert line.startswith("1 of 2 clips that were here have another identity or split")
    assert "(b: q in test, now q in train)" in line
