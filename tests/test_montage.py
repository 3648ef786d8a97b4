"""Videos beside each other: every tile in its place, in step, with the first one's sound."""

import numpy as np
import pytest
import torch

from thbench.cli.parser import main
from thbench.core.errors import UserError
from thbench.data.media import audio, video
from thbench.generation.montage import montage


def film(path, grey, n, size=(32, 32), sound=None):
    """A video whose frames grow brighter from ``grey`` by 4 each."""
    with video.VideoWriter(path, *size, waveform=sound) as writer:
        for i in range(n):
            writer.write(torch.full((1, 3, *size), grey + 4 * i, dtype=torch.uint8))
    return path


@pytest.fixture
def films(tmp_path):
    rng = np.random.default_rng(0)
    sound = 0.1 * rng.standard_normal(8 * 640).astype(np.float32)
    return {
        "one": film(tmp_path / "a.mp4", 20, 8, sound=sound),
        "two": film(tmp_path / "b.mp4", 120, 8, size=(32, 64)),
        "three": film(tmp_path / "c.mp4", 180, 8),
    }


def test_every_tile_shows_its_frame_in_its_place(films, tmp_path):
    out = tmp_path / "out.mp4"
    assert montage(films, out, height=32, columns=2) == 8
    made = video.read(out).float()
    high, wide = made.shape[-2] // 2, made.shape[-1]
    assert wide == 32 + 64
    strip = high - 32
    for i in (0, 7):
        for grey, top, left, width in ((20, 0, 0, 32), (120, 0, 32, 64), (180, high, 0, 32)):
            tile = made[i, :, top + strip : top + high, left : left + width]
            assert abs(float(tile[:, 8:-8, 8:-8].mean()) - grey - 4 * i) < 4, (i, grey)
        assert float(made[i, :, high + 4 :, 40:].min()) > 240  # nothing stands there
        assert float(made[i, :, :strip, :32].min()) < 120  # the title


def test_sound_is_the_first_ones(films, tmp_path):
    out = tmp_path / "out.mp4"
    montage(films, out)
    heard, wanted = audio.load(out), audio.load(films["one"])
    n = min(len(heard), len(wanted))
    assert np.corrcoef(heard[:n], wanted[:n])[0, 1] > 0.9
    films.pop("one")
    montage(films, tmp_path / "mute.mp4")
    with pytest.raises(audio.NoAudioError):
        audio.load(tmp_path / "mute.mp4")


def test_the_shortest_ends_it_and_that_is_said(films, tmp_path, capsys):
    films["short"] = film(tmp_path / "d.mp4", 60, 5)
    assert montage(films, tmp_path / "out.mp4") == 5
    assert "ends with the shortest" in capsys.readouterr().out
    assert len(video.read(tmp_path / "out.mp4")) == 5


def test_a_note_stands_below(films, tmp_path):
    for name, note in (("plain", ""), ("noted", "AI-generated")):
        montage(films, tmp_path / f"{name}.mp4", height=32, columns=2, note=note)
    plain, noted = (video.read(tmp_path / f"{name}.mp4") for name in ("plain", "noted"))
    high = plain.shape[-2]
    assert noted.shape[-2] > high
    assert (noted[..., :high, :].float() - plain).abs().mean() < 3
    assert float(noted[..., high + 2 :, :].min()) < 120


def test_long_films_are_read_in_step(tmp_path, monkeypatch):
    monkeypatch.setattr("thbench.generation.montage.CHUNK", 4)
    films = {name: film(tmp_path / f"{name}.mp4", grey, 10) for name, grey in (("a", 9), ("b", 90))}
    assert montage(films, tmp_path / "out.mp4", height=32) == 10
    made = video.read(tmp_path / "out.mp4").float()[..., -24:-8, :].mean((1, 2))
    apart = made[:, 40:56].mean(1) - made[:, 8:24].mean(1)
    assert torch.allclose(apart, torch.tensor(81.0), atol=5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"height": 33}, "even number"),
        ({"height": 8}, "even number"),
        ({"columns": 0}, "1 or more"),
    ],
)
def test_sizes_that_cannot_be(films, tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        montage(films, tmp_path / "out.mp4", **options)
    assert not (tmp_path / "out.mp4").exists()


def test_command(films, tmp_path, capsys):
    a, b, out = str(films["one"]), str(films["two"]), str(tmp_path / "out.mp4")
    assert main(["montage", f"DAWN (NAR)={a}", b, "-o", out]) == 0
    assert "8 frames of 2 videos" in capsys.readouterr().out
    assert video.read_metadata(out)["shows"] == "DAWN (NAR); b"
    for words, said in (
        ([a, b, "-o", out], "exists"),
        ([a, b, "-o", str(tmp_path / "x.avi")], "must end in .mp4"),
        ([a, a, "-o", str(tmp_path / "x.mp4")], "Two videos are called 'a'"),
        ([a, b, "-o", a, "--force"], "is one of the videos"),
        ([f"x={tmp_path}/none.mp4", "-o", str(tmp_path / "x.mp4")], "none.mp4"),
    ):
        capsys.readouterr()
        assert main(["montage", *words]) == 2
        assert said in capsys.readouterr().err
    assert len(video.read(a)) == 8
