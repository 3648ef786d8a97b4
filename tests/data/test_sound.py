"""Sound of real recordings: it lies where its time stamps say, at the level of who speaks."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from tests import recordings
from tests.recordings import Place, Track, clicks, heard, record, voice
from thbench.core.errors import UserError
from thbench.data.media import audio

FILES = [("mkv", "pcm_s16le"), ("mp4", "aac"), ("webm", "libopus")]
SECONDS = 3.0
AT = (0.5, 1.5, 2.5)


def pictures(path: Path) -> dict[str, object]:
    """What ``record`` is told for 3 seconds of picture in the file."""
    if path.suffix == ".webm":
        return {"codec": "libvpx", "options": {"b": "200k"}}
    return {}


def talking(path: Path, codec: str, at: Place = float, picture: Place = float) -> Path:
    sound = Track(clicks(AT, SECONDS), codec=codec, at=at)
    return record(path, recordings.counting(75, 32, 3), sound, at=picture, **pictures(path))  # type: ignore[arg-type]


def assert_heard(found: np.ndarray, at: list[float], within: float = 0.001) -> None:
    assert heard(found) == pytest.approx(at, abs=within)


@pytest.mark.parametrize(("suffix", "codec"), FILES)
def test_sound_after_a_gap_lies_where_its_time_stamps_say(
    tmp_path: Path, suffix: str, codec: str
) -> None:
    path = talking(tmp_path / f"a.{suffix}", codec, lambda t: t if t < 0.99 else t + 0.8)
    found = audio.read(path)
    assert_heard(found.waveform, [0.5, 2.3, 3.3])
    ((start, stop),) = found.gaps
    assert start == pytest.approx(1.0, abs=0.03)
    assert stop - start == pytest.approx(0.8, abs=0.002)
    assert np.abs(found.waveform[int(start * 16000) + 400 : int(stop * 16000) - 400]).max() == 0
    (line,) = found.gap_notes()
    assert "0.80" in line
    assert "silence" in line
    assert not found.gap_notes(0.0, 0.9)


def test_of_sound_that_overlaps_the_later_counts(tmp_path: Path) -> None:
    path = talking(tmp_path / "a.mkv", "pcm_s16le")
    recordings.restamp(path, 2, lambda t: t if t < 0.99 else t - 0.3)
    found = audio.read(path)
    assert_heard(found.waveform, [0.5, 1.2, 2.2])
    assert not found.gaps
    assert any("0.30" in note and "overlap" in note for note in found.notes)


@pytest.mark.parametrize(("suffix", "codec"), FILES[:2])
@pytest.mark.parametrize(("picture", "sound"), [(0.0, 0.36), (0.36, 0.0)])
def test_a_late_start_is_silence_and_an_early_one_is_cut(
    tmp_path: Path, suffix: str, codec: str, picture: float, sound: float
) -> None:
    late = sound - picture
    path = talking(tmp_path / f"a.{suffix}", codec, lambda t: t + sound, lambda t: t + picture)
    found = audio.read(path)
    assert_heard(found.waveform, [at + late for at in AT])
    assert bool(found.gaps) == (late > 0)
    if late > 0:
        # an encoder's lead-in may come before the first sample that was recorded
        assert found.gaps[0] == pytest.approx((0, late), abs=0.025)
    assert len(found.notes) + len(found.gap_notes()) == 1


@pytest.mark.parametrize("size", [441, 1024])
def test_rounded_time_stamps_make_no_clicks(tmp_path: Path, size: int) -> None:
    """Matroska's milliseconds: a tone comes out as it went in, to the end of the test's scale."""
    t = np.arange(44100) / 44100
    tone = 0.5 * np.sin(2 * np.pi * 440 * t)
    track = Track(tone, 44100, "pcm_s16le", block=size)
    found = audio.read(record(tmp_path / "a.mkv", None, track))
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert np.abs(found.waveform[200:15800] - expected[200:15800]).max() < 0.002
    assert found.notes == ()
    assert found.gaps == ()


@pytest.mark.parametrize("kind", ["jitter", "one off"])
def test_time_stamps_that_come_right_again_move_nothing(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    path = record(tmp_path / "a.mkv", None, Track(clicks(AT, SECONDS), codec="pcm_s16le"))

    def off(t: float) -> float:
        if kind == "jitter":
            return max(0, t + rng.uniform(-0.015, 0.015))
        return t + 0.2 * (1 < t < 1.03)

    recordings.restamp(path, 1, off)
    found = audio.read(path)
    assert_heard(found.waveform, list(AT), within=0.003)
    assert found.gaps == ()


@pytest.mark.parametrize(("suffix", "codec"), FILES)
def test_a_recorder_whose_clock_is_slow_is_stretched(
    tmp_path: Path, suffix: str, codec: str
) -> None:
    """It calls 47.9 kHz 48 kHz; its time stamps know better."""
    true, wanted = 47900 / 48000, [1, 3.2, 6.5]
    wave = clicks([at * true for at in wanted], 7 * true)
    track = Track(wave, codec=codec, at=lambda t: t / true)
    found = audio.read(record(tmp_path / f"a.{suffix}", None, track))
    assert_heard(found.waveform, wanted, within=0.0015)  # type: ignore[arg-type]
    assert any("stretched by +0.2" in note for note in found.notes)
    assert found.gaps == ()


def test_what_was_lost_little_by_little_is_made_up_for(tmp_path: Path) -> None:
    """10 ms are no gap, but all that follows is 10 ms late."""
    track = Track(clicks([0.5, 1.5, 3.5, 5.5], 6), codec="pcm_s16le",
                  at=lambda t: t + 0.01 * (t > 2.5))  # fmt: skip
    found = audio.read(record(tmp_path / "a.mkv", None, track))
    assert_heard(found.waveform, [0.5, 1.5, 3.51, 5.51])
    assert found.gaps == ()


@pytest.mark.parametrize(("picture", "sound"), [(0.0, 0.4), (0.4, 0.0), (0.4, 0.4)])
def test_edit_lists_of_both_tracks_are_applied(
    tmp_path: Path, picture: float, sound: float
) -> None:
    path = talking(tmp_path / "a.mp4", "aac")
    for track, seconds in enumerate((picture, sound)):
        if seconds:
            recordings.begin_later(path, seconds, track)
    assert_heard(audio.load(path), [at - sound for at in AT])


@pytest.mark.parametrize(("jump", "words"), [(-1.9, "backwards"), (7200, "pause")])
def test_several_recordings_in_one_are_refused(tmp_path: Path, jump: float, words: str) -> None:
    path = tmp_path / "a.mkv"
    track = Track(clicks(AT, SECONDS), codec="pcm_s16le",
                  at=lambda t: t + max(0, jump) * (t > 2))  # fmt: skip
    record(path, None, track)
    if jump < 0:
        recordings.restamp(path, 1, lambda t: t + jump * (t > 2))
    with pytest.raises(UserError, match=rf"a\.mkv.*{words}"):
        audio.read(path)


@pytest.mark.parametrize("codec", ["flac", "aac"])
def test_damaged_packets_are_gaps(tmp_path: Path, codec: str) -> None:
    talk = voice(75, 16000)
    whole = record(tmp_path / "a.mkv", None, Track(talk, 16000, codec))
    right = audio.load(whole)
    recordings.damage(whole, 5, kind="audio", spare=3)
    found = audio.read(whole)
    assert any("damaged packets" in note for note in found.notes)
    assert len(found.gaps) >= 3
    assert len(found.waveform) == len(right)
    wrong = np.abs(found.waveform - right) > 0.01
    for start, stop in found.gaps:
        at = slice(int((start - 0.07) * 16000), int((stop + 0.07) * 16000))
        assert not found.waveform[int(start * 16000) + 20 : int(stop * 16000) - 20].any()
        wrong[at] = False
    if codec == "flac":  # one that checks everything
        assert not wrong.any()


LAYOUTS = {
    "mono": ("mono", [1]), "both": ("stereo", [1, 1]), "left": ("stereo", [1, 0]),
    "right": ("stereo", [0, 1]), "inverted": ("stereo", [1, -1]),
    "inverted, weaker": ("stereo", [-0.9, 1]), "centre": ("5.1", [0, 0, 1, 0, 0, 0]),
    "front pair": ("5.1", [1, 1, 0, 0, 0, 0]), "behind": ("5.1", [0, 0, 0, 0, 1, 0]),
    "centre of 7.1": ("7.1", [0, 0, 1, 0, 0, 0, 0, 0]), "centre of 3.0": ("3.0", [0, 0, 1]),
    "quad": ("quad", [1, 1, 0, 0]), "five": ("5.0", [0, 0, 1, 0, 0]),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_speech_keeps_its_level_in_any_channel(tmp_path: Path, name: str) -> None:
    """In other channels there is a room's noise, 45 dB below."""
    layout, shares = LAYOUTS[name]
    said = voice()
    noise = np.random.default_rng(0).normal(0, 10 ** (audio.level(said) / 20 - 45 / 20))
    samples = np.outer(shares, said) + noise * (np.array(shares)[:, None] == 0)
    path = record(tmp_path / "a.mkv", None, Track(samples, 48000, "pcm_s16le", layout))
    found = audio.read(path)
    assert audio.level(found.waveform) == pytest.approx(audio.level(said), abs=0.3)
    assert bool(found.notes) == (name not in ("mono", "both"))


def test_speech_in_the_centre_with_music_around(tmp_path: Path) -> None:
    said = voice()
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 0.01, (6, len(said)))
    samples[2] += said
    samples[3] = 0.5 * np.sin(np.arange(len(said)) / 200)  # LFE
    path = record(tmp_path / "a.m4a", None, Track(samples, 48000, "aac", "5.1"))
    found = audio.load(path)
    own = audio.load(record(tmp_path / "b.m4a", None, Track(said, 48000, "aac")))
    share = float(np.dot(found[: len(own)], own) / np.dot(own, own))
    assert 20 * np.log10(share) == pytest.approx(0, abs=0.3)
    spectrum = np.abs(np.fft.rfft(found))
    assert spectrum[: int(60 * len(found) / 16000)].max() < 0.05 * spectrum.max()


def test_a_mix_that_would_clip_is_turned_down(tmp_path: Path) -> None:
    tone = 0.8 * np.sin(np.arange(48000) / 10)
    path = record(tmp_path / "a.flac", None, Track(np.tile(tone, (3, 1)), 48000, "flac", "3.0"))
    found = audio.read(path)
    assert np.abs(found.waveform).max() == pytest.approx(1)
    assert audio.level(found.waveform) == pytest.approx(-3, abs=0.1)
    assert any("turned down by 4.1 dB" in note for note in found.notes)


@pytest.mark.parametrize("channels", [3, 8, 17, 64])
def test_channels_of_unknown_places(tmp_path: Path, channels: int) -> None:
    """A wav that does not say what its channels are; PyAV crashes on more than seven planes."""
    said = (voice(25, 16000) * 30000).astype("<i2")
    every = np.zeros((len(said), channels), "<i2")
    every[:, -1] = said
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((channels, 2, 16000, 0, "NONE", ""))
        file.writeframes(every.tobytes())
    found = audio.read(tmp_path / "a.wav")
    assert audio.level(found.waveform) == pytest.approx(audio.level(said / 32768), abs=0.1)
    assert found.notes == (f"only channel {channels} of {channels}{_place(channels)} has audio:"
                           " it is taken alone",)  # fmt: skip


def _place(channels: int) -> str:
    return " (SR)" if channels == 8 else ""


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16be", "pcm_s24le", "pcm_s32le", "pcm_f32le",
                                   "pcm_f64le", "flac", "aac"])  # fmt: skip
@pytest.mark.parametrize("channels", [2, 8])
def test_samples_of_any_kind(tmp_path: Path, codec: str, channels: int) -> None:
    layout = {2: "stereo", 8: "7.1"}[channels]
    samples = np.zeros((channels, 12000))
    samples[min(2, channels - 1)] = 0.5 * np.sin(np.arange(12000) / 10)
    suffix = {"flac": "flac", "aac": "m4a"}.get(codec, "mkv")
    if codec == "pcm_s16be":
        suffix = "mov"
    path = record(tmp_path / f"a.{suffix}", None, Track(samples, 48000, codec, layout))
    assert audio.level(audio.load(path)[:4000]) == pytest.approx(-9.03, abs=0.15)


def _float_wav(path: Path, samples: np.ndarray) -> Path:
    """A wav of 32-bit floats at 16 kHz."""
    body = samples.astype("<f4").tobytes()
    head = b"WAVEfmt " + np.array([16], "<u4").tobytes()
    head += np.array([3, 1], "<u2").tobytes() + np.array([16000, 64000], "<u4").tobytes()
    head += np.array([4, 32], "<u2").tobytes() + b"data" + np.array([len(body)], "<u4").tobytes()
    size = np.array([len(head) + len(body)], "<u4").tobytes()
    path.write_bytes(b"RIFF" + size + head + body)
    return path


def test_samples_that_are_no_numbers(tmp_path: Path) -> None:
    tone = 0.3 * np.sin(np.arange(16000) / 10)
    tone[500:600] = np.nan
    tone[900] = np.inf
    found = audio.read(_float_wav(tmp_path / "a.wav", tone))
    assert np.isfinite(found.waveform).all()
    assert not found.waveform[500:600].any()
    assert found.notes == ("101 samples are not finite: silenced",)
    with pytest.raises(audio.NoAudioError, match="no finite samples"):
        audio.read(_float_wav(tmp_path / "b.wav", np.full(16000, np.nan)))


@pytest.mark.parametrize("suffix", ["m4a", "mp3"])
def test_a_sound_that_breaks_off_is_told(tmp_path: Path, suffix: str) -> None:
    track = Track(voice(50), codec="aac" if suffix == "m4a" else "libmp3lame")
    path = record(tmp_path / f"a.{suffix}", None, track, container_options={
        "movflags": "faststart"} if suffix == "m4a" else {})  # fmt: skip
    whole = audio.read(path)
    assert whole.notes == ()
    if suffix == "m4a":  # an mp3 does not say how long it is
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        cut = audio.read(path)
        assert "the audio breaks off: the file is cut short" in cut.notes
        assert 0.4 * len(whole.waveform) < len(cut.waveform) < 0.8 * len(whole.waveform)


def test_of_several_tracks_the_default_one_is_taken(tmp_path: Path) -> None:
    tones = [0.5 * np.sin(2 * np.pi * hertz * np.arange(48000) / 48000) for hertz in (440, 880)]
    tracks = [
        Track(tones[0], language="eng", default=False),
        Track(tones[1], language="deu", default=True),
    ]
    path = record(tmp_path / "a.mkv", None, *tracks)

    def pitch(track: int | None) -> int:
        return int(np.abs(np.fft.rfft(audio.load(path, track)[:16000])).argmax())

    assert (pitch(None), pitch(1), pitch(2)) == (880, 440, 880)
    assert audio.read(path).notes == ("audio track 2 of 2 (deu) taken",)
    assert audio.read(path, 1).notes == ("audio track 1 of 2 (eng) taken",)
    with pytest.raises(UserError, match="no audio track 3: it has 2"):
        audio.read(path, 3)


def test_level() -> None:
    assert audio.level(np.full(10, 0.1, np.float32)) == pytest.approx(-20)
    assert audio.level(np.zeros(10)) == audio.level(np.zeros(0)) == -100
