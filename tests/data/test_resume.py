"""What becomes of ``prepare`` when things go wrong on the way."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from thbench.core.errors import UserError
from thbench.core.files import DiskError, remove_leftovers, replacing
from thbench.data import manifest
from thbench.data.media import video
from thbench.data.prepare import process
from thbench.data.prepare.job import Preview, read_entry
from thbench.data.prepare.prepare import Report, SourceVideo, prepare
from thbench.data.prepare.process import FrameReader

# pictures without a face go through whole with these
OPTIONS = {
    "size": 32, "crop": "none", "max_missing": 1.0, "max_seconds": 0.4, "min_seconds": 0.2,
    "progress": False,
}  # fmt: skip
KILLED = """
import json, sys
from pathlib import Path
from thbench.data.prepare.prepare import SourceVideo, prepare
if __name__ == "__main__":
    raw, out, options, workers = sys.argv[1:]
    sources = [SourceVideo(p, p.stem, p.stem, "train") for p in sorted(Path(raw).glob("*.mp4"))]
    prepare(sources, out, workers=int(workers), **json.loads(options))
"""


def make_raw(folder: Path, names: str, n: int = 30) -> list[SourceVideo]:
    sources = []
    for seed, name in enumerate(names):
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.randint(256, (n, 3, 4, 4), generator=generator, dtype=torch.uint8)
        sound = 0.5 * np.sin(np.arange(n * 640) * (seed + 1) / 20).astype(np.float32)
        with video.VideoWriter(folder / f"{name}.mp4", 32, 32, waveform=sound) as writer:
            writer.write(coarse.repeat_interleave(8, 2).repeat_interleave(8, 3))
        sources.append(SourceVideo(folder / f"{name}.mp4", name, name, "train"))
    return sources


def run(sources: list[SourceVideo], out: Path, **options: object) -> Report:
    return prepare(sources, out, **{**OPTIONS, **options})


def contents(out: Path) -> dict[str, bytes]:
    files = (p for p in out.rglob("*") if p.is_file() and p.name != ".lock")
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[SourceVideo], Path, Report]:
    """Three videos of three segments each, prepared without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    sources = make_raw(folder / "raw", "abc")
    return sources, folder / "out", run(sources, folder / "out")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_run_ends_as_if_it_had_not_been(
    tmp_path: Path, whole: tuple[list[SourceVideo], Path, Report], workers: int
) -> None:
    sources, expected, report = whole
    assert len(report.clips) == 9
    out = tmp_path / "out"
    (tmp_path / "killed.py").write_text(KILLED)
    raw = str(sources[0].path.parent)
    command = [sys.executable, "killed.py", raw, str(out), json.dumps(OPTIONS), str(workers)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not any(_finished(out)) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        # The workers hold the other end of this pipe: it closes when they are gone as well.
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (out / manifest.NAME).exists()
    finished = {out / "clips" / f"{name}.mp4" for name in _finished(out)}
    before = {path: path.stat().st_mtime_ns for path in finished}
    assert 0 < len(before) < 9
    again = run(sources, out)
    assert again.clips == report.clips
    assert contents(out) == contents(expected)
    assert {path: path.stat().st_mtime_ns for path in finished} == before


def _finished(out: Path) -> list[str]:
    records = [json.loads(path.read_text()) for path in (out / ".prepare").glob("*.json")]
    return [clip["id"] for record in records for clip in record["clips"]]


def test_leftovers_of_killed_runs_are_removed(tmp_path: Path) -> None:
    sources = make_raw(tmp_path / "raw", "a")
    out = tmp_path / "out"
    run(sources, out)
    whole = contents(out)
    places = (
        out,
        out / "clips",
        out / "clips" / "deep",
        out / "audio" / "logmel",
        out / ".prepare",
    )
    for place in places:
        place.mkdir(exist_ok=True)
        (place / ".a.mp4.x7_qz01b.tmp").write_text("half")
        (place / ".mine.tmp").write_text("not ours")
    report = run(sources, out)
    assert report.new == 0
    ours = {f"{p.relative_to(out).as_posix()}/.mine.tmp".removeprefix("./") for p in places}
    assert contents(out) == whole | dict.fromkeys(ours, b"not ours")


def test_the_names_that_are_removed_are_those_that_are_given(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.mp4") as temporary:
        temporary.write_text("half")
        remove_leftovers(tmp_path)
        assert not temporary.exists()
        temporary.write_text("whole")
    assert (tmp_path / "a.mp4").read_text() == "whole"


def test_two_runs_do_not_fill_one_folder(tmp_path: Path) -> None:
    sources = make_raw(tmp_path / "raw", "a")
    run(sources, tmp_path / "out")
    with open(tmp_path / "out" / ".prepare" / ".lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="Another run is filling"):
            run(sources, tmp_path / "out")


def test_a_changed_video_is_made_again(tmp_path: Path) -> None:
    sources = make_raw(tmp_path / "raw", "ab")
    out = tmp_path / "out"
    old = run(sources, out)
    sources[0].path.write_bytes(sources[1].path.read_bytes())
    new = run(sources, out)
    assert new.new == 1
    assert new.clips[0].sha256 == old.clips[3].sha256 != old.clips[0].sha256
    sound = [np.load(out / "audio" / "logmel" / f"{name}.npy") for name in ("a~000", "b~000")]
    assert np.array_equal(*sound)


def test_an_unexpected_error_rejects_one_video_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = make_raw(tmp_path / "raw", "ab")
    probe, cut = video.probe, process.crop_square

    def failing_probe(path: Path) -> video.VideoInfo:
        if path.stem == "a":
            raise ZeroDivisionError("by\nzero")
        return probe(path)

    def failing_cut(*_: object) -> torch.Tensor:
        raise RuntimeError("a segment")

    with monkeypatch.context() as patch:
        patch.setattr(video, "probe", failing_probe)
        report = run(sources, tmp_path / "out")
    assert [clip.id for clip in report.clips] == ["b~000", "b~001", "b~002"]
    assert [(e.id, e.reason) for e in report.refused] == [("a", "ZeroDivisionError: by zero")]
    (tmp_path / "out" / report.clips[1].video).unlink()
    with monkeypatch.context() as patch:
        calls = iter([cut, failing_cut, cut])  # a's segments, small as they are, are one chunk each
        patch.setattr(process, "crop_square", lambda *args: next(calls, cut)(*args))
        report = run(sources, tmp_path / "out")
    lost = [(e.id, e.outcome, e.reason) for e in report.entries if not e.is_clip]
    assert lost == [("a~001", "dropped", "RuntimeError: a segment")]
    assert len(report.clips) == 5
    report = run(sources, tmp_path / "out")
    assert (len(report.clips), report.refused, report.new) == (6, [], 1)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), DiskError("full"), KeyboardInterrupt()]
)
def test_what_concerns_all_videos_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def failing(*_: object) -> None:
        raise error

    sources = make_raw(tmp_path / "raw", "ab")
    monkeypatch.setattr(process, "track", failing)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else DiskError
    with pytest.raises(expected):
        run(sources, tmp_path / "out")
    assert not (tmp_path / "out" / manifest.NAME).exists()


def test_a_long_video_is_decoded_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To see what to cut, and to cut it, however many clips it gives."""
    sources = make_raw(tmp_path / "raw", "a", 120)
    chunks, decoded = video.chunks, []

    def counted(*args: object) -> object:
        for chunk in chunks(*args):
            decoded.append(len(chunk))
            yield chunk

    monkeypatch.setattr(video, "chunks", counted)
    report = run(sources, tmp_path / "out")
    assert len(report.clips) == 12
    assert sum(decoded) == 240
    raw = video.read(sources[0].path)
    for clip in (report.clips[0], report.clips[7]):
        start = clip.extra.get("start", 0)
        found = video.read(tmp_path / "out" / clip.video).float()
        expected = raw[start : start + clip.n_frames].float()
        assert (found - expected).abs().mean() < 6  # frames of noise: others are 80 away


def test_every_frame_is_handed_out_and_an_error_to_all_who_come_after() -> None:
    chunks = [torch.arange(k, k + 4).reshape(4, 1, 1, 1) for k in (0, 4, 8)]

    def values(reader: FrameReader, start: int, stop: int) -> list[int]:
        return [int(t) for chunk in reader.read(start, stop) for t in chunk]

    reader = FrameReader(iter(chunks))
    assert values(reader, 0, 3) == [0, 1, 2]
    next(reader.read(3, 6))  # given up by who asked for it
    assert values(reader, 6, 10) == [6, 7, 8, 9]
    assert values(reader, 10, 20) == [10, 11]
    assert values(reader, 20, 30) == []

    def damaged() -> object:
        yield chunks[0]
        raise UserError("damaged")

    reader = FrameReader(damaged())
    assert values(reader, 0, 4) == [0, 1, 2, 3]
    for start in (4, 8):
        with pytest.raises(UserError, match="damaged"):
            values(reader, start, start + 4)


BROKEN = (b"{", b"[]", b"\xff", b"{}", b"[" * 100_000)


@pytest.mark.parametrize("content", BROKEN, ids=("half", "list", "latin", "empty", "deep"))
def test_broken_records_are_made_anew_and_broken_settings_explained(
    tmp_path: Path, whole: tuple[list[SourceVideo], Path, Report], content: bytes
) -> None:
    sources, _, report = whole
    out = tmp_path / "out"
    shutil.copytree(report.out, out)
    (out / ".prepare" / "b.json").write_bytes(content)
    again = run(sources, out)
    assert (again.new, again.clips) == (1, report.clips)
    (out / "prepare.json").write_bytes(content)
    with pytest.raises(UserError, match=r"prepare\.json cannot be read|another version"):
        run(sources, out)


def test_a_record_with_the_preview_under_its_older_name_is_read() -> None:
    row = {"id": "a", "path": "a.mp4", "outcome": "kept", "start": 0, "stop": 9, "reason": "",
           "notes": [], "look": {"frame": 3, "boxes": [[0, 0, 4, 4]], "square": None}}  # fmt: skip
    assert read_entry(row).preview == Preview(3, ((0, 0, 4, 4),))
