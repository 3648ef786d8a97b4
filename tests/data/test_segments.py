"""Which frames become clips, from what a first pass has seen."""

from __future__ import annotations

import numpy as np
import pytest

from thbench.core.types import SAMPLES_PER_FRAME
from thbench.data.face.crop import LOCATE_EVERY, Face, Square
from thbench.data.media.audio import DecodedAudio
from thbench.data.prepare.job import Segment, Settings
from thbench.data.prepare.scan import Scan
from thbench.data.prepare.segments import mouth_audio_score, plan_segments
from thbench.data.synthetic.perform import perform

N = 200
RNG = np.random.default_rng(0)
PEOPLE = [RNG.normal(128, 40, (32, 32)).astype(np.float32) for _ in range(3)]


def face(who: int = 0, x: float = 100, y: float = 60, size: float = 100, mouth: float = 0) -> Face:
    return Face(np.array([x, y, x + size, y + size]), mouth, PEOPLE[who])


def seen(n: int = N, **other: object) -> Scan:
    """A face that stays in its place."""
    detections = [(t, [face()]) for t in range(0, n, LOCATE_EVERY)]
    away = np.zeros(n, np.float32)
    return Scan(**{"height": 240, "width": 320, "damaged": np.zeros(n, bool), "away": away,
                   "detections": detections, **other})  # fmt: skip


def sound(
    n: int = N, gaps: tuple[tuple[float, float], ...] = (), loud: float = 0.1
) -> DecodedAudio:
    wave = np.random.default_rng(1).normal(0, loud, n * SAMPLES_PER_FRAME).astype(np.float32)
    for a, b in gaps:
        wave[round(a * 16_000) : round(b * 16_000)] = 0
    return DecodedAudio(wave, (), gaps)


def cut(scan: Scan, heard: DecodedAudio | None = None, **settings: object) -> list[Segment]:
    found = plan_segments("talk", scan, heard or sound(len(scan)), Settings(128, **settings))
    # Every frame is in one segment, and none in two.
    assert [s.start for s in found] == [0, *(s.stop for s in found[:-1])]
    assert found[-1].stop == len(scan)
    assert all(bool(s.id) != bool(s.reason) for s in found)
    return found


def ranges(found: list[Segment]) -> list[tuple[str, int, int]]:
    return [(s.id or s.reason.split(" (")[0], s.start, s.stop) for s in found]


def test_a_whole_video_is_one_clip() -> None:
    (clip,) = cut(seen())
    assert (clip.id, clip.start, clip.stop, clip.notes) == ("talk", 0, N, ())
    assert clip.preview is not None
    assert clip.preview.boxes == ((100, 60, 200, 160),)
    assert clip.preview.square is not None
    assert clip.preview.square.side == 180


def test_damaged_and_standing_pictures_are_cut_out() -> None:
    damaged = np.zeros(N, bool)
    damaged[60:70] = True
    away = np.zeros(N, np.float32)
    away[120:130] = 0.2
    away[131] = 0.05  # a frame that came a little late
    found = cut(seen(damaged=damaged, away=away))
    assert [s.notes for s in found if s.id] == [
        (), (), ("1 frames show one of up to 0.05 s before or after",)
    ]  # fmt: skip
    assert ranges(found) == [
        ("talk~000", 0, 60),
        ("damaged frame", 60, 70),
        ("talk~001", 70, 120),
        ("the video stands still", 120, 130),
        ("talk~002", 130, N),
    ]


def test_only_frames_with_sound_are_taken() -> None:
    gaps = ((0.0, 0.5), (3.0, 3.1), (5.0, 6.0))
    found = cut(seen(), sound(190, gaps))
    assert ranges(found) == [
        ("no audio", 0, 13),
        ("talk~000", 13, 125),
        ("no audio", 125, 150),
        ("talk~001", 150, 190),
        ("no audio", 190, N),
    ]
    first, second = (s for s in found if s.id)
    assert first.notes == ("0.100 s from 3.00 s on without audio are filled with silence",)
    assert second.notes == ()
    near_end = cut(seen(), sound(N - 4))  # shorter than a hole that counts
    assert ranges(near_end) == [("talk", 0, N)]


def test_what_is_near_silence_is_dropped_with_its_level() -> None:
    (found,) = cut(seen(), sound(loud=2e-4))
    assert found.reason == "the audio is near silence (-74 dBFS)"
    wave = sound().waveform.copy()
    wave[: 100 * SAMPLES_PER_FRAME] *= 1e-4
    half = cut(seen(shots=[100]), DecodedAudio(wave, (), ()))
    assert ranges(half) == [("the audio is near silence", 0, 100), ("talk", 100, N)]


def two_shots(second: int, middle: list[Face] | None = None) -> Scan:
    """A face, a second of something else from frame 96 on, and the face of ``second``."""
    detections = [
        (t, [face(0 if t < 96 else second)] if not 96 <= t < 121 else middle or [])
        for t in range(0, N, LOCATE_EVERY)
    ]
    return seen(detections=detections, shots=[96, 121])


def test_of_several_shots_the_longest_is_taken() -> None:
    assert ranges(cut(two_shots(1))) == [
        ("talk", 0, 96), ("no face", 96, 121), ("another shot", 121, N)
    ]  # fmt: skip
    assert ranges(cut(two_shots(1), shots="all")) == [
        ("talk~000", 0, 96), ("no face", 96, 121), ("talk~001", 121, N)
    ]  # fmt: skip


def test_a_second_of_something_else_costs_that_second() -> None:
    """The same face, in its place, before and after."""
    assert ranges(cut(two_shots(0))) == [
        ("talk~000", 0, 96), ("no face", 96, 121), ("talk~001", 121, N)
    ]  # fmt: skip
    other = cut(two_shots(0, [face(2)]))
    assert [s.id for s in other if s.id] == ["talk~000", "talk~001"]


def test_frames_without_the_face_are_cut_out_where_they_are_many() -> None:
    lost = [(t, [] if 64 <= t < 96 or t == 136 else [face()]) for t in range(0, N, LOCATE_EVERY)]
    assert ranges(cut(seen(detections=lost))) == [
        ("talk~000", 0, 57), ("no face", 57, 96), ("talk~001", 96, N)
    ]  # fmt: skip
    rare = [(t, [face()] if t % 16 else []) for t in range(0, N, LOCATE_EVERY)]
    (found,) = cut(seen(detections=rare))
    assert found.reason == "no face in too many frames (seen in 48%)"


def test_a_face_that_jumps_is_another_face() -> None:
    detections = [(t, [face(x=20 if t < 80 else 200)]) for t in range(0, N, LOCATE_EVERY)]
    found = cut(seen(detections=detections))
    assert ranges(found) == [("no face", 0, 80), ("talk", 80, N)]


def test_short_segments_are_dropped_and_long_ones_split() -> None:
    damaged = np.zeros(N, bool)
    damaged[20] = True
    assert ranges(cut(seen(damaged=damaged))) == [
        ("too short", 0, 20), ("damaged frame", 20, 21), ("talk", 21, N)
    ]  # fmt: skip
    found = cut(seen(damaged=damaged), max_seconds=3)
    assert [(s.id, s.stop - s.start) for s in found if s.id] == [
        ("talk~000", 60), ("talk~001", 59), ("talk~002", 60)
    ]  # fmt: skip


def two_faces(n: int = N, mouths: tuple[np.ndarray, np.ndarray] | None = None) -> Scan:
    """A large face on the left, a smaller one on the right."""
    left, right = mouths or (np.zeros(n), np.zeros(n))
    detections = [
        (t, [face(0, 20, mouth=left[t]), face(1, 200, size=80, mouth=right[t])]) for t in range(n)
    ]
    return seen(n, detections=detections)


def test_more_than_one_face_is_said() -> None:
    (found,) = cut(two_faces())
    assert found.notes == ("2 faces, the largest one is taken",)
    assert found.preview is not None
    assert found.preview.boxes == ((20, 60, 120, 160), (200, 60, 280, 140))
    (found,) = cut(two_faces(), face="only")
    assert found.reason == "more than one face (2)"
    small = [(t, [face(), face(1, 230, size=20)]) for t in range(0, N, LOCATE_EVERY)]
    assert ranges(cut(seen(detections=small), face="only")) == [("talk", 0, N)]
    (briefly,) = cut(
        seen(detections=[(0, [face(), face(1, 230)]), *seen().detections[1:]]), face="only"
    )
    assert briefly.notes == ()


@pytest.mark.parametrize("speaker", [0, 1])
def test_the_face_that_speaks_is_the_one_whose_mouth_follows_the_sound(speaker: int) -> None:
    played = [perform(0, who, 0, N) for who in (1, 3)]
    mouths = tuple(p.truth()["mouth"] for p in played)
    heard = DecodedAudio(played[speaker].speech.waveform, (), ())
    (found,) = cut(two_faces(mouths=mouths), heard, face="speaking")
    assert found.preview is not None
    assert found.preview.square is not None
    assert (found.preview.square.x > 100) == bool(speaker)
    own = [mouth_audio_score(mouth, heard.waveform) for mouth in mouths]
    assert own[speaker] > 0.8 > 0.5 > own[1 - speaker]


def test_nobody_is_taken_where_nobody_clearly_speaks() -> None:
    (found,) = cut(two_faces(), face="speaking")
    assert found.reason == "several faces, and no one clearly speaks (0.00 and 0.00)"


def test_the_square_frame_is_taken_as_it_is_without_crop() -> None:
    (found,) = cut(seen(detections=[]), crop="none")
    assert found.preview is not None
    assert found.preview.square == Square(40, 0, 240)


def test_an_end_that_cannot_be_read_is_said() -> None:
    scan = seen(error="talk.mp4 is cut short")
    found = plan_segments("talk", scan, sound(), Settings(128))
    assert ranges(found) == [("talk", 0, N), ("talk.mp4 is cut short", N, N)]


def test_a_small_face_is_enlarged_and_that_is_said() -> None:
    detections = [(t, [face(size=50)]) for t in range(0, N, LOCATE_EVERY)]
    (found,) = cut(seen(detections=detections))
    assert found.notes == ("enlarged 1.4 times",)
