from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from thbench.data import adapters
from thbench.errors import UserError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_folder_keeps_people_apart(tmp_path: Path) -> None:
    names = [f"p{i}/{k}.mp4" for i in range(20) for k in range(3)]
    touch(tmp_path, *names, "alone.MOV", "notes.txt", ".hidden/a.mp4")
    found = adapters.folder(tmp_path)
    assert len(found) == 61
    people = {(s.identity, s.split) for s in found}
    assert len(people) == 21
    assert Counter(split for _, split in people) == {"train": 17, "val": 2, "test": 2}
    assert adapters.folder(tmp_path) == found
    assert {s.id: s.split for s in adapters.folder(tmp_path, seed=1)} != {
        s.id: s.split for s in found
    }
    assert {s.id for s in found} >= {"p0/2", "alone"}


def test_every_split_gets_a_name() -> None:
    assert set(adapters.deal(["a", "b", "c"], 0, adapters.FRACTIONS).values()) == {
        "train",
        "val",
        "test",
    }
    assert set(adapters.deal(["a"], 0, adapters.FRACTIONS).values()) == {"train"}


def test_cremad_has_the_published_test_actors(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{actor}_DFA_ANG_XX.flv" for actor in range(1001, 1092)))
    found = adapters.cremad(tmp_path)
    test = {s.identity for s in found if s.split == "test"}
    assert test == {"s15", "s20", "s21", "s30", "s33", "s52", "s62", "s81", "s82", "s89"}
    assert next(s for s in found if s.identity == "s15").path.name.startswith("1015_")
    assert Counter(s.split for s in found) == {"train": 73, "val": 8, "test": 10}
    assert found[0].extra == {"sentence": "DFA", "emotion": "ANG", "level": "XX"}
    with pytest.raises(UserError, match="CREMA-D"):
        adapters.cremad(touch(tmp_path, "x.mp4"))


def test_hdtf_shares(tmp_path: Path) -> None:
    touch(tmp_path, *(f"WDA_P{i}_000.mp4" for i in range(100)))
    assert Counter(s.split for s in adapters.hdtf(tmp_path)) == {"train": 90, "test": 10}
    shares = {"train": 0.7, "val": 0.1, "test": 0.2}
    found = adapters.hdtf(tmp_path, fractions=shares)
    assert Counter(s.split for s in found) == {"train": 70, "val": 10, "test": 20}
    assert found[0].identity == "WDA_P0"


def test_voxceleb_with_and_without_parts(tmp_path: Path) -> None:
    parts = touch(
        tmp_path / "a", "dev/mp4/id1/v/0.mp4", "dev/mp4/id2/v/0.mp4", "test/mp4/id3/v/0.mp4"
    )
    found = {s.identity: s.split for s in adapters.voxceleb(parts)}
    assert found["id3"] == "test"
    assert set(found) == {"id1", "id2", "id3"}
    assert "test" not in {found["id1"], found["id2"]}
    plain = touch(tmp_path / "b", *(f"ID{i}/{k}.mp4" for i in range(14) for k in range(2)))
    splits = {s.identity: s.split for s in adapters.voxceleb(plain)}
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
