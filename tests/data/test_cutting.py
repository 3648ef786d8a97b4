"""Pieces of one video: each has the sound of its own frames, to the sample."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from thbench.core.types import SAMPLE_RATE, SAMPLES_PER_FRAME
from thbench.data.face.crop import Square, choose_square, crop_square
from thbench.data.media import audio, video
from thbench.data.prepare.prepare import SourceVideo, prepare

SECONDS = 3
CLICKS = (3000, 6000, 9000)
"""Where in its own second each second's click is, in samples."""


def clicks() -> np.ndarray:
    wave = np.zeros(SECONDS * SAMPLE_RATE, np.float32)
    for second, at in enumerate(CLICKS):
        start = second * SAMPLE_RATE + at
        wave[start : start + 160] = 0.8 * np.hanning(160) * np.sin(np.arange(160))
    return wave


def loudest(wave: np.ndarray) -> int:
    """The middle of a click."""
    return int(np.convolve(np.abs(wave), np.ones(160), "same").argmax())


def test_a_segment_has_the_sound_of_its_own_frames(tmp_path: Path) -> None:
    raw, out = tmp_path / "talk.mp4", tmp_path / "out"
    with video.VideoWriter(raw, 32, 32, waveform=clicks()) as writer:
        writer.write(torch.zeros(SECONDS * 25, 3, 32, 32, dtype=torch.uint8))
    source = SourceVideo(raw, "talk", "someone", "train")
    options = {"crop": "none", "max_missing": 1.0, "max_seconds": 1.0, "progress": False}
    report = prepare([source], out, size=32, **options)
    assert [clip.extra.get("start", 0) for clip in report.clips] == [0, 25, 50]
    for clip, at in zip(report.clips, CLICKS, strict=True):
        heard = audio.fit_length(audio.load(out / clip.video), clip.n_frames)
        assert abs(loudest(heard) - (at + 80)) < 40
        # The embedding is of the same moment: louder bands in the frame of the click.
        features = np.load(out / "audio" / "logmel" / f"{clip.id}.npy")
        own = features.reshape(clip.n_frames, 8, 40)[:, 2:6].mean((1, 2))
        assert own.argmax() == at // SAMPLES_PER_FRAME


def write_shifted(path: Path, picture: float, sound: float) -> None:
    """A second of picture and sound that begin at such times in seconds; a click in mid-sound."""
    wave = np.zeros(SAMPLE_RATE, np.float32)
    wave[8000:8160] = 0.8 * np.sin(np.arange(160))
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=25)
        pictures.width = pictures.height = 32
        sounds = container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        made = av.AudioFrame.from_ndarray((wave * 32767).astype("<i2")[None], "s16", "mono")
        made.sample_rate, made.time_base = SAMPLE_RATE, Fraction(1, SAMPLE_RATE)
        made.pts = round(sound * SAMPLE_RATE)
        container.mux(sounds.encode(made))
        container.mux(sounds.encode())
        for i in range(25):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 9 * i, np.uint8), "rgb24")
            frame.pts, frame.time_base = i + round(picture * 25), Fraction(1, 25)
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())


@pytest.mark.parametrize(
    ("picture", "sound"), [(0.0, 0.0), (0.4, 0.0), (0.0, 0.2), (0.2, 0.4)], ids=str
)
def test_sample_0_falls_on_the_first_frame(picture: float, sound: float, tmp_path: Path) -> None:
    """Sound before the picture is cut, and silence precedes sound that comes later."""
    write_shifted(tmp_path / "a.mkv", picture, sound)
    heard = audio.load(tmp_path / "a.mkv")
    assert abs(loudest(heard) - (8080 + (sound - picture) * SAMPLE_RATE)) < 40
    assert abs(len(heard) - (1 + sound - picture) * SAMPLE_RATE) < 40


def test_fine_patterns_become_grey_in_a_cut() -> None:
    """Two black columns around two white ones, reduced to a quarter."""
    line = torch.tensor([0, 255, 255, 0], dtype=torch.uint8).repeat(16)
    small = crop_square(line.expand(1, 3, 64, 64), Square(0, 0, 64), 16)
    assert (small[..., 1:-1].float() - 127.5).abs().max() < 20


def test_a_square_leaves_more_room_above_the_face_than_below() -> None:
    square = choose_square(np.array([[300, 300, 400, 400]], float), 720, 1280)
    assert square is not None
    above, below = 300 - square.y, square.y + square.side - 400
    assert below + 10 < above
