from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from thbench.core.errors import UserError
from thbench.core.types import Clip
from thbench.data import manifest

CLIP = Clip("a/1", "a", "train", 50, "clips/a/1.mp4", "clips/a/1.npz", "00", {"truth": "t.npz"})
OTHER = replace(CLIP, id="b/1", identity="b", split="test")


def test_round_trip_is_sorted(tmp_path: Path) -> None:
    manifest.write(tmp_path, [OTHER, CLIP])
    assert manifest.read(tmp_path) == [CLIP, OTHER]
    assert [p.name for p in tmp_path.iterdir()] == [manifest.NAME]


def test_digest_is_of_what_determines_training(tmp_path: Path) -> None:
    def digest(*clips: Clip) -> str:
        lines = "".join(json.dumps(asdict(clip)) + "\n" for clip in clips)
        (tmp_path / manifest.NAME).write_text(lines)
        return manifest.digest(tmp_path)

    assert digest(CLIP, OTHER) == digest(OTHER, replace(CLIP, extra={}, video="x.mp4"))
    for change in ({"split": "val"}, {"sha256": "01"}, {"identity": "c"}, {"n_frames": 51}):
        assert digest(replace(CLIP, **change), OTHER) != digest(CLIP, OTHER)


def test_a_rendered_clip_counts_by_what_it_is_rendered_from(tmp_path: Path) -> None:
    def digest(sha256: str, **extra: str) -> str:
        manifest.write(tmp_path, [OTHER, replace(CLIP, sha256=sha256, extra=extra)])
        return manifest.digest(tmp_path)

    assert digest("01", truth="t.npz", recipe="a") == digest("02", truth="t.npz", recipe="a")
    assert digest("01", truth="t.npz", recipe="a") != digest("01", truth="t.npz", recipe="b")
    assert digest("01", recipe="a") != digest("02", recipe="a"), "a recording's column"


@pytest.mark.parametrize(
    ("change", "message"),
    [({"n_frames": "50"}, "must be int"), ({"n_frames": 0}, "positive"),
     ({"split": "dev"}, "split"),
     ({"colour": 1}, "unknown keys"), ({"video": "/etc/x"}, "inside"), ({"id": "b/1"}, "twice"),
     ({"n_frames": True}, "must be int"), ({"id": "a\nb"}, "'id' holds a line break"),
     ({"identity": "\ud800"}, "'identity' holds bytes that are not UTF-8"),
     ({"video": "a\0.mp4"}, "'video' holds a control character")],
)  # fmt: skip
def test_bad_lines_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    rows = [asdict(OTHER), {**asdict(CLIP), **change}]
    (tmp_path / manifest.NAME).write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=f":2: .*{message}"):
        manifest.read(tmp_path)


def test_what_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no prepared data set"):
        manifest.read(tmp_path)
    (tmp_path / manifest.NAME).write_text("{")
    with pytest.raises(UserError, match=":1: this is not JSON"):
        manifest.read(tmp_path)
    for text in ("[" * 100_000, '{"n_frames": ' + "9" * 5000 + "}"):
        (tmp_path / manifest.NAME).write_text(text)
        with pytest.raises(UserError, match=":1: this is not JSON"):
            manifest.read(tmp_path)
    (tmp_path / manifest.NAME).write_text("{'id': '\u00e9'}", "latin-1")
    with pytest.raises(UserError, match="not UTF-8"):
        manifest.read(tmp_path)
    assert manifest.people(tmp_path) == {}
    with pytest.raises(ValueError, match="unique"):
        manifest.write(tmp_path, [CLIP, CLIP])
