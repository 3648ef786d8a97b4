"""Recordings without sound: prepared when that is asked for, and kept from what needs sound."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.recordings import Track, record, talk
from tests.tiny import TINY
from thbench.cli.parser import main
from thbench.config import DataConfig, DrawConfig
from thbench.core.errors import UserError
from thbench.data import manifest
from thbench.data.dataset import PreparedDataset
from thbench.data.media import audio, video
from thbench.data.prepare.check import check
from thbench.data.store import Store
from thbench.generation.requests import SplitRequests

N = 36


def say(path: Path, person: int, sound: bool = True) -> np.ndarray:
    """Write a talking face, and return what it says."""
    said = talk(N, 128, person)
    record(path, said.frames, *([Track(said.sound, rate=16000)] if sound else []))
    return said.sound


def prepare(raw: Path, out: Path, *words: str, kind: str = "folder") -> int:
    return main(["data", "prepare", kind, str(raw), "--out", str(out), "--size", "64",
                 "--workers", "1", *words])  # fmt: skip


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people with sound and two without in train, one of each in val and in test."""
    root = tmp_path_factory.mktemp("mixed")
    for person in range(8):
        say(root / f"raw/p{person}/0.mp4", person, sound=person % 2 == 0)
    assert prepare(root / "raw", root / "data", "--allow-silent") == 0
    splits = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    rows = sorted(manifest.read(root / "data"), key=lambda clip: clip.id)
    assert len(rows) == 8
    rows = [replace(clip, split=split) for clip, split in zip(rows, splits, strict=True)]
    manifest.write(root / "data", rows)
    return root / "data"


def test_a_silent_video_is_refused_unless_asked_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    say(tmp_path / "raw/a/0.mp4", 0, sound=False)
    assert prepare(tmp_path / "raw", tmp_path / "out") == 2
    assert "no audio (--allow-silent prepares it for stages that" in capfd.readouterr().err
    assert prepare(tmp_path / "raw", tmp_path / "out", "--allow-silent") == 2
    assert "was prepared with allow_silent=False" in capfd.readouterr().err


def test_folders_from_before_the_setting_go_on(tmp_path: Path) -> None:
    say(tmp_path / "raw/a/0.mp4", 0)
    assert prepare(tmp_path / "raw", tmp_path / "out") == 0
    path = tmp_path / "out/prepare.json"
    settings = json.loads(path.read_text())
    assert settings.pop("allow_silent") is False
    path.write_text(json.dumps(settings))
    assert prepare(tmp_path / "raw", tmp_path / "out") == 0
    assert prepare(tmp_path / "raw", tmp_path / "out", "--allow-silent") == 2


def test_silent_clips_are_marked_and_have_no_sound(mixed: Path) -> None:
    for clip in manifest.read(mixed):
        silent = int(clip.identity[1]) % 2 == 1
        assert manifest.is_silent(clip) == silent
        assert clip.extra == ({manifest.SILENT: True} if silent else {})
        assert video.probe(mixed / clip.video).has_audio != silent
        assert (mixed / f"audio/logmel/{clip.id}.npy").is_file() != silent
        assert clip.n_frames == N
    assert check(mixed, progress=False, faces=False) == []
    entries = [json.loads(line) for line in (mixed / "report.jsonl").read_text().splitlines()]
    assert sum("no sound" in entry["notes"] for entry in entries) == 4


def test_a_mark_that_is_wrong_is_found(mixed: Path, tmp_path: Path) -> None:
    rows = manifest.read(mixed)
    manifest.write(tmp_path, [replace(c, extra={manifest.SILENT: True}) for c in rows[:2]])
    (tmp_path / "clips").symlink_to(mixed / "clips")
    (line,) = check(tmp_path, progress=False, faces=False)
    assert "has audio, the manifest says that it is silent" in line
    manifest.write(tmp_path, [replace(c, extra={}) for c in rows[1:2]])
    assert "has no audio" in "".join(check(tmp_path, progress=False, faces=False))


def test_what_needs_sound_draws_no_silent_clip(mixed: Path) -> None:
    store = Store(mixed, "train", 64, "logmel")
    store.prepare()
    assert store.silent.tolist() == [False, True, False, True]
    hears = PreparedDataset(store, DrawConfig(5), 2)
    assert hears.eligible.tolist() == [0, 2]
    assert hears.left_out == (
        "2 of 4 clips of the split 'train' are left out: 2 have no sound, which this stage needs"
    )
    all_of_them = PreparedDataset(store, DrawConfig(5), 4, needs_sound=False)
    assert all_of_them.left_out is None
    batch = all_of_them.batch(0, range(4))
    silent = torch.tensor([int(name[1]) % 2 == 1 for name in batch.ids])
    assert silent.sum() == 2
    assert batch.audio.shape == (4, 5, store.audio_dim)
    assert (batch.audio[silent] == 0).all()
    assert (batch.audio[~silent] != 0).any()
    both = PreparedDataset(store, DrawConfig(N, least=N), 1)
    assert both.eligible.tolist() == [0, 2]


def test_a_data_set_without_any_sound(mixed: Path, tmp_path: Path) -> None:
    rows = [clip for clip in manifest.read(mixed) if manifest.is_silent(clip)]
    manifest.write(tmp_path, rows)
    (tmp_path / "clips").symlink_to(mixed / "clips")
    assert check(tmp_path, progress=False, faces=False) == []
    store = Store(tmp_path, "train", 64, "logmel")
    store.prepare()
    assert store.audio_dim == 320
    drawn = PreparedDataset(store, DrawConfig(2), 2, needs_sound=False).batch(0, range(2))
    assert drawn.audio.shape == (2, 2, 320)
    with pytest.raises(UserError, match=r"No clip of the split 'train' in .* has sound, which"):
        PreparedDataset(store, DrawConfig(2), 2)
    with pytest.raises(
        UserError, match=r"1 of 1 clips in the split 'test' .* no sound to generate"
    ):
        SplitRequests(DataConfig("x", str(tmp_path), "logmel"), "test", 64)


def test_nothing_is_generated_from_silence(mixed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = SplitRequests(DataConfig("x", str(mixed), "logmel"), "train", 64, others_audio=True)
    assert [found.name(i)[0] for i in range(len(found))] == ["p0/0", "p2/0"]
    assert "2 of 4 clips in the split 'train'" in "".join(capfd.readouterr())
    other = found[0].audio
    assert torch.equal(other, SplitRequests(
        DataConfig("x", str(mixed), "logmel"), "train", 64)[1].audio)  # fmt: skip


@pytest.mark.slow
def test_a_stage_without_sound_trains_on_all_and_others_leave_out(
    mixed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, f"data={mixed}", f"runs={tmp_path / 'runs'}", "trainer.validate_batches=1"]
    words += ["stages.pbnet.draw.frames=24"]
    assert main(["fit", "dawn", "stage=lfg", *words]) == 0
    assert "left out" not in "".join(capfd.readouterr())
    assert main(["fit", "dawn", "stage=pbnet", *words]) == 0
    said = "".join(capfd.readouterr())
    assert "pbnet: 2 of 4 clips of the split 'train' are left out: 2 have no sound" in said
    assert "pbnet: 1 of 2 clips of the split 'val' are left out: 1 have no sound" in said
    assert main(["check", "dawn", *words, "runs=" + str(tmp_path / "new")]) in (0, 2)
    said = "".join(capfd.readouterr())
    assert "2 of 4 clips of 'train' are left out: they have no sound" in said


def test_the_speaking_face_cannot_be_told_without_sound() -> None:
    from thbench.data.face.crop import Face
    from thbench.data.prepare.segments import Span, _choose_face

    face = Face(np.array([0.0, 0, 9, 9]), 0.1, np.zeros((32, 32), np.uint8))
    tracks = [[(0, face)], [(0, face)]]
    found = _choose_face(tracks, Span(0, 9, 0), None, "speaking")
    assert found == "several faces, and no sound to tell who speaks (2)"
    assert _choose_face(tracks, Span(0, 9, 0), None, "largest") is tracks[0]


def test_mead_is_prepared_with_the_sound_that_lies_apart(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    place = "angry/level_1/001"
    said = say(raw / f"M003/video/front/{place}.mp4", 0, sound=False)
    record(raw / f"M003/audio/{place}.m4a", None, Track(said, rate=16000), container="mp4")
    assert prepare(raw, out, kind="mead") == 0
    (clip,) = manifest.read(out)
    assert clip.extra == {"emotion": "angry", "level": "1"}
    heard = audio.load(out / clip.video)[: len(said)]
    assert np.corrcoef(heard, said[: len(heard)])[0, 1] > 0.9
    assert np.load(out / f"audio/logmel/{clip.id}.npy").shape == (N, 320)
    before = (out / clip.video).stat().st_mtime_ns
    assert prepare(raw, out, kind="mead") == 0
    assert (out / clip.video).stat().st_mtime_ns == before
    record(raw / f"M003/audio/{place}.m4a", None, Track(said[::-1].copy(), rate=16000),
           container="mp4")  # fmt: skip
    assert prepare(raw, out, kind="mead") == 0  # another sound, so another clip
    heard = audio.load(out / clip.video)[: len(said)]
    assert np.corrcoef(heard, said[::-1][: len(heard)])[0, 1] > 0.9
