"""``thbench data prepare`` on recordings as cameras, browsers and disks produce them."""

from __future__ import annotations

from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.recordings import Track, begin_later, clicks, damage, forget_rate, heard, record, talk
from thbench.cli.parser import main
from thbench.core.types import Clip
from thbench.data import manifest
from thbench.data.face.crop import crop_square
from thbench.data.media import audio, video
from thbench.data.prepare.job import Entry
from thbench.data.prepare.prepare import read_report

N = 50
HALF = N // 2


@dataclass(frozen=True)
class Prepared:
    """What one run of the command made of a folder of recordings."""

    raw: Path
    out: Path
    text: str
    clips: dict[str, Clip]
    entries: list[Entry]

    def of(self, name: str) -> list[tuple[str, str, int | None, int | None]]:
        """(id, outcome, start, stop) of a recording's entries."""
        here = [e for e in self.entries if Path(e.path).stem == name]
        return [(e.id, e.outcome, e.start, e.stop) for e in here]

    def entry(self, name: str) -> Entry:
        return next(e for e in self.entries if e.id == name)

    def sound(self, name: str) -> np.ndarray:
        return audio.load(self.out / self.clips[name].video)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("recordings")
    raw, out = folder / "raw", folder / "out"
    anna, bert = talk(N, 128, 1), talk(N, 128, 3)
    speech = anna.sound
    marked = clicks([0.3, 0.7, 1.6], 2.0)
    noise = np.random.default_rng(0).normal(0, 0.003, marked.shape).astype(np.float32)
    # Blocks of 21 ms: what was recorded from .85 s to 1.25 s is missing, what follows is in time.
    record(raw / "hole.mkv", anna.frames,
           Track(marked + noise, at=lambda t: None if 0.84 < t < 1.25 else t))  # fmt: skip
    record(raw / "late.mkv", anna.frames, Track(speech, 16_000, "pcm_s16le", at=lambda t: t + 0.4))
    record(raw / "browser.webm", anna.frames, Track(speech, 16_000, "libopus", block=320), fps=20,
           codec="libvpx", options={"crf": "10", "b": "2M"},
           container_options={"live": "1"})  # fmt: skip
    forget_rate(raw / "browser.webm")
    record(raw / "inverted.mp4", anna.frames,
           Track(np.stack([speech, -speech]), 16_000, layout="stereo"))  # fmt: skip
    centre = np.zeros((6, len(speech)), np.float32)
    centre[2] = speech
    centre[:2] = 0.1 * speech[::-1]  # a room, which is not to drown
    record(raw / "surround.mkv", anna.frames,
           Track(centre, 16_000, layout="5.1"), Track(0 * speech, 16_000))  # fmt: skip
    record(raw / "edited.mp4", anna.frames, Track(marked + noise))
    begin_later(raw / "edited.mp4", 0.4)
    record(raw / "quiet.mp4", anna.frames, Track(speech * 1e-4, 16_000))
    record(raw / "damaged.mp4", talk(100, 128, 1).frames, Track(talk(100, 128, 1).sound, 16_000))
    damage(raw / "damaged.mp4", 4, seed=3, spare=40)
    both = torch.cat([anna.frames, bert.frames[:30]])
    record(raw / "cut.mp4", both, Track(np.tile(speech, 2), 16_000))
    record(raw / "two.mp4", torch.cat([anna.frames, bert.frames], 3), Track(speech, 16_000))
    record(raw / "two_000.mp4", anna.frames, Track(speech, 16_000))
    words = ["data", "prepare", "folder", raw, "--out", out, "--size", "64", "--workers", "1",
             "--min-seconds", ".6", "--max-seconds", "1.2", "--sheet"]  # fmt: skip
    text = StringIO()
    with redirect_stdout(text):
        assert main([*map(str, words)]) == 0
    clips = {clip.id: clip for clip in manifest.read(out)}
    return Prepared(raw, out, text.getvalue(), clips, read_report(out))


def test_a_hole_in_the_sound_is_cut_out_and_what_follows_is_in_time(prepared: Prepared) -> None:
    (first, hole, second) = prepared.of("hole")
    assert (first[:2], first[2]) == (("hole~000", "cut"), 0)
    assert hole[1] == "dropped"
    assert prepared.entry("hole").reason == "no audio"
    assert 21 <= (hole[2] or 0) <= 22
    assert 31 <= (hole[3] or 0) <= 32
    early, late = (prepared.sound(name) for name in ("hole~000", "hole~001"))
    assert heard(early)[:2] == pytest.approx([0.3, 0.7], abs=0.002)
    assert heard(late) == pytest.approx([1.6 - (second[2] or 0) / 25], abs=0.002)


def test_sound_that_begins_late_is_met_where_it_begins(prepared: Prepared) -> None:
    assert prepared.of("late") == [
        ("late", "dropped", 0, 10), ("late~000", "cut", 10, 30), ("late~001", "cut", 30, N)
    ]  # fmt: skip
    spoken, expected = prepared.sound("late~000"), talk(N, 128, 1).sound
    assert np.corrcoef(spoken[:12_000], expected[:12_000])[0, 1] > 0.95


def test_an_edit_list_is_followed(prepared: Prepared) -> None:
    """The first ten pictures are stored and not shown; the sound is as it was."""
    assert prepared.of("edited") == [("edited~000", "cut", 0, 20), ("edited~001", "cut", 20, 40)]
    assert heard(prepared.sound("edited~000"))[:2] == pytest.approx([0.3, 0.7], abs=0.002)
    shown = prepared.entry("edited~000").preview
    assert shown is not None
    assert shown.square is not None
    first = crop_square(talk(N, 128, 1).frames[10:11], shown.square, 64).float()
    found = video.read(prepared.out / prepared.clips["edited~000"].video, [0]).float()
    assert (found - first).abs().mean() < 6


def test_time_stamps_decide_and_not_the_header(prepared: Prepared) -> None:
    """50 pictures at 20 a second are 2.5 s, whatever a browser writes."""
    parts = prepared.of("browser")
    assert parts[0][2] == 0
    assert parts[-1][3] in (62, 63)
    assert any("retimed from 20 frames" in note for note in prepared.entry(parts[0][0]).notes)


def test_levels_of_speech_survive_the_way_to_one_channel(prepared: Prepared) -> None:
    expected = audio.level(talk(N, 128, 1).sound[: HALF * 640])
    for name, note in (("inverted", "cancel each other"), ("surround", "(5.1) mixed")):
        level = audio.level(prepared.sound(f"{name}~000")[: HALF * 640])
        assert level == pytest.approx(expected, abs=1.0)
        assert any(note in line for line in prepared.entry(f"{name}~000").notes)
    assert any("track 1 of 2" in note for note in prepared.entry("surround~000").notes)


def test_near_silence_is_refused_with_its_level(prepared: Prepared) -> None:
    assert prepared.of("quiet") == [("quiet", "refused", None, None)]
    assert "the audio is near silence (-" in prepared.entry("quiet").reason


def test_damaged_pictures_are_in_no_clip(prepared: Prepared) -> None:
    lost = [e for e in prepared.entries if e.reason == "damaged frame"]
    assert sum((e.stop or 0) - (e.start or 0) for e in lost) >= 4
    whole = talk(100, 128, 1).frames
    assert len([name for name in prepared.clips if name.startswith("damaged")]) >= 1
    for name, clip in prepared.clips.items():
        if name.startswith("damaged"):
            start = clip.extra.get("start", 0)
            square = prepared.entry(name).preview.square
            assert square is not None
            region = whole[start : start + clip.n_frames].float()
            found = video.read(prepared.out / clip.video).float()
            assert (found - crop_square(region.byte(), square, 64).float()).abs().mean(
                (1, 2, 3)
            ).max() < 6


def test_the_longer_of_two_people_s_shots_is_taken(prepared: Prepared) -> None:
    assert prepared.of("cut") == [
        ("cut~000", "cut", 0, HALF), ("cut~001", "cut", HALF, N), ("cut", "dropped", N, N + 30)
    ]  # fmt: skip
    assert prepared.entry("cut").reason == "another shot"


def test_two_faces_are_said_and_ids_do_not_meet(prepared: Prepared) -> None:
    assert prepared.entry("two~000").notes == ("2 faces, the largest one is taken",)
    assert {"two~000", "two~001", "two_000~000", "two_000~001"} <= set(prepared.clips)


def test_all_is_told(prepared: Prepared) -> None:
    """On the terminal with counts, and as pictures."""
    for line in ("refused      1  videos", "x the audio is near silence", "x another shot",
                 "x damaged frame", "x no audio", "report.jsonl"):  # fmt: skip
        assert line in prepared.text
    named = {Path(e.path).name for e in prepared.entries}
    assert named == {path.name for path in prepared.raw.iterdir()}
    sheet = Image.open(prepared.out / "sheet-01.jpg")
    assert sheet.width > 1000
    assert (np.asarray(sheet).reshape(-1, 3).std(0) > 20).all()
