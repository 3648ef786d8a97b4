from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import HDTF
from thbench.core.errors import UserError
from thbench.core.types import N_LANDMARKS
from thbench.data import manifest
from thbench.data.face.crop import Square, choose_square, crop_square
from thbench.data.media import audio, video
from thbench.data.prepare.prepare import Report, SourceVideo, prepare, read_report
from thbench.data.prepare.segments import split
from thbench.data.synthetic.perform import perform
from thbench.data.synthetic.render import render


def test_square_shows_the_head_and_stays_inside() -> None:
    boxes = np.array([[300, 200, 400, 320], [320, 210, 420, 330]], float)
    square = choose_square(boxes, 720, 1280)
    assert square is not None
    assert square.side == pytest.approx(1.8 * 120, abs=2)
    assert square.x < 300
    assert square.x + square.side > 420
    near_edge = choose_square(boxes - (290, 190, 290, 190), 720, 1280)
    assert near_edge is not None
    assert (near_edge.x, near_edge.y) == (0, 0)
    filling = choose_square(np.array([[20, 10, 200, 220]], float), 224, 224)
    assert filling is not None
    assert filling.side >= 1.15 * 209
    jumping = np.array([[0, 0, 50, 50]] * 5 + [[600, 0, 650, 50]] * 5, float)
    assert choose_square(jumping, 720, 1280) is None


def test_cut_repeats_the_edge() -> None:
    frames = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8).expand(2, 3, 8, 8)
    assert torch.equal(crop_square(frames, Square(2, 1, 4), 4), frames[:, :, 1:5, 2:6])
    beyond = crop_square(frames, Square(-2, -2, 12), 12)
    assert torch.equal(beyond[:, :, 2:10, 2:10], frames)
    assert (beyond[:, :, :3, :3] == 0).all()
    assert (beyond[:, :, 9:, 9:] == 63).all()


def test_split_covers_everything() -> None:
    assert split(7, 100, None) == [(7, 100)]
    parts = split(7, 110, 1.0)
    assert [start for start, _ in parts[1:]] == [stop for _, stop in parts[:-1]]
    assert (parts[0][0], parts[-1][1]) == (7, 110)
    assert max(stop - start for start, stop in parts) <= 25


@pytest.fixture(params=["rendered", pytest.param("real", marks=pytest.mark.real)])
def talking(request: pytest.FixtureRequest) -> tuple[torch.Tensor, np.ndarray]:
    """60 frames (3, 256, 256) of a talking face, and its sound at 16 kHz."""
    if request.param == "rendered":
        played = perform(0, 1, 0, 60)
        return render(played.who, played.state, 256), played.speech.waveform
    path = request.getfixturevalue("clips") / HDTF
    return video.read(path, slice(0, 60))[:, :, ::2, ::2], audio.load(path)


def test_good_videos_are_cut_and_bad_ones_listed(
    talking: tuple[torch.Tensor, np.ndarray], tmp_path: Path
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    frames, sound = talking
    wide = torch.nn.functional.pad(frames, (80, 120))
    with video.VideoWriter(raw / "good.mp4", 256, 456, waveform=sound) as writer:
        writer.write(wide)
    with video.VideoWriter(raw / "mute.mp4", 256, 256) as writer:
        writer.write(frames)
    with video.VideoWriter(raw / "nobody.mp4", 64, 64, waveform=sound) as writer:
        writer.write(torch.zeros(40, 3, 64, 64, dtype=torch.uint8))
    (raw / "text.mp4").write_text("nothing")
    (raw / "truth.txt").write_text("planted")
    extra = {"truth": raw / "truth.txt", "label": 3}
    names = ["good", "mute", "nobody", "text"]
    sources = [SourceVideo(raw / f"{n}.mp4", n, n, "train", extra) for n in names]

    def run(size: int = 64, **options: object) -> Report:
        return prepare(sources, out, size=size, progress=False, max_seconds=1.2, **options)

    report = run()
    assert [clip.id for clip in report.clips] == ["good~000", "good~001"]
    assert {entry.id: entry.reason.split(" (")[0] for entry in report.refused} == {
        "mute": "no audio",
        "nobody": "no face",
        "text": f"{raw / 'text.mp4'} is no video or audio file, or it is cut short.",
    }
    assert read_report(out) == report.entries
    clips = manifest.read(out)
    assert clips == report.clips
    for clip in clips:
        info = video.probe(out / clip.video)
        assert (info.width, info.height, info.n_frames) == (64, 64, 30)
        track = np.load(out / clip.track)
        assert track["landmarks"].shape == (30, N_LANDMARKS, 3)
        assert track["valid"].all()
        assert 0.4 < track["pose"][:, 3].mean() < 0.8
        assert np.abs(track["pose"][:, 4:]).max() < 0.2
        assert np.load(out / "audio" / "logmel" / f"{clip.id}.npy").shape == (30, 320)
        assert clip.extra["label"] == 3
        assert (out / clip.extra["truth"]).read_text() == "planted"
    assert clips[1].extra["start"] == 30
    second = audio.load(out / clips[1].video)[: 30 * 640]
    original = audio.load(raw / "good.mp4")[30 * 640 :][: len(second)]
    assert np.corrcoef(second, original)[0, 1] > 0.95

    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.mp4")}
    assert run().new == 0
    (out / "audio" / "logmel" / "good~001.npy").unlink()
    (out / ".prepare" / "mute.json").unlink()
    again = run()
    assert again.new == 2
    assert again.clips == report.clips
    assert (out / "audio" / "logmel" / "good~001.npy").is_file()
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.mp4")} == before
    with pytest.raises(UserError, match="size=64"):
        run(size=128)
    assert not [p for p in out.rglob("*") if p.name.endswith(".tmp")]


def test_wrong_input_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no videos"):
        prepare([], tmp_path, size=64)
    twice = [SourceVideo(tmp_path / n, "a", "a", "train") for n in ("a.mp4", "a.mov")]
    with pytest.raises(UserError, match=r"a\.mp4 and .*a\.mov"):
        prepare(twice, tmp_path, size=64)
    with pytest.raises(UserError, match="even number"):
        prepare(twice[:1], tmp_path, size=63)
    with pytest.raises(UserError, match="None of the 1 videos"):
        prepare(twice[:1], tmp_path / "out", size=64)
    assert not (tmp_path / "out" / "manifest.jsonl").exists()
