"""Requests of a split, and of a user's own pictures, sounds and motions."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.signal import resample_poly

from tests.recordings import Track, record
from thbench.config import DataConfig
from thbench.core.errors import UserError
from thbench.core.types import SAMPLE_RATE, Clip
from thbench.data import manifest
from thbench.data.embedding import encoders
from thbench.data.media import audio, video
from thbench.data.media.video import VideoWriter
from thbench.data.store import Store
from thbench.data.synthetic.identity import generator
from thbench.data.synthetic.speech import speak, voice
from thbench.generation.requests import (
    SplitRequests,
    from_files,
    read_portrait,
    read_speech,
    transfer_motion,
)

ROTATED = 6  # EXIF: turn by 90 degrees clockwise to see it upright


@pytest.fixture(scope="module")
def portrait(bench):
    """A frame of a test clip, 128 px so that the mesh is found well, as a Pillow picture."""
    frame = video.read(bench.data / "clips" / "p0004-00.mp4", [3])[0]
    return Image.fromarray(frame.permute(1, 2, 0).numpy()).resize((256, 256), Image.BICUBIC)


@pytest.fixture(scope="module", params=["made", pytest.param("real", marks=pytest.mark.real)])
def speech(request):
    """1.5 s at 16 kHz, (S,) in [-1, 1]."""
    if request.param == "real":
        said = audio.load(request.getfixturevalue("clips") / "speech" / "hallo_1.wav")
    else:
        said = speak(38, voice(0, 0), generator(0, "speech")).waveform
    return said[: 3 * SAMPLE_RATE // 2]


def encode(path, waveform, codec, rate, layout):
    """Write a sound file with PyAV, at another rate and with channels that differ."""
    mono = resample_poly(waveform, rate, SAMPLE_RATE).astype(np.float32)
    channels = [mono] if layout == "mono" else [mono * 1.2, mono * 0.8]
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        if stream.codec_context.format.name.startswith("s16"):
            kind, samples = "s16p", (np.stack(channels).clip(-1, 1) * 32767).astype(np.int16)
        else:
            kind, samples = "fltp", np.stack(channels)
        frame = av.AudioFrame.from_ndarray(samples, format=kind, layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        resampler = av.AudioResampler(
            stream.codec_context.format, layout, rate, stream.codec_context.frame_size or None
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(piece))
        file.mux(stream.encode())


def correlation(a, b, lag=2500):
    """The greatest correlation over shifts up to ``lag`` samples: codecs delay."""
    n = min(len(a), len(b))
    a, b = (x[:n] - x[:n].mean() for x in (a, b))
    whole = np.correlate(np.pad(a, lag), b, "valid")
    return whole.max() / np.sqrt((a * a).sum() * (b * b).sum())


# A user's own files


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout", "least"),
    [
        ("a.wav", "pcm_s16le", 44_100, "stereo", 0.98),
        ("a.wav", "pcm_s16le", 8_000, "mono", 0.98),
        ("a.mp3", "libmp3lame", 44_100, "stereo", 0.97),
        ("a.m4a", "aac", 48_000, "stereo", 0.97),
        ("a.flac", "flac", 22_050, "mono", 0.98),
    ],
)
def test_sound_of_any_kind(name, codec, rate, layout, least, portrait, speech, tmp_path):
    encode(tmp_path / name, speech, codec, rate, layout)
    portrait.save(tmp_path / "me.png")
    made = from_files(tmp_path / "me.png", tmp_path / name, "logmel", 64)
    # mp3 and AAC fill their last block with silence: up to 2 frames of video.
    assert 37 <= made.n_frames <= 40
    assert made.waveform.shape == (made.n_frames * 640,)
    assert made.audio.shape == (made.n_frames, encoders.encoder("logmel").dim)
    # What the file can hold: nothing above half of its rate.
    low = min(rate, SAMPLE_RATE)
    held = resample_poly(resample_poly(speech, low, SAMPLE_RATE), SAMPLE_RATE, low)
    assert correlation(made.waveform.numpy(), held) > least


@pytest.mark.parametrize(("samples", "n"), [(1, 1), (500, 1), (640 * 7, 7), (640 * 7 + 400, 8)])
def test_a_video_is_as_long_as_its_sound(samples, n, portrait, tmp_path):
    portrait.save(tmp_path / "me.png")
    audio.write_wav(tmp_path / "s.wav", np.full(samples, 0.1))
    assert from_files(tmp_path / "me.png", tmp_path / "s.wav", "logmel", 64).n_frames == n


def test_what_was_done_to_a_user_s_sound_is_said(tmp_path, capsys):
    tone = 0.3 * np.sin(np.arange(48000) / 10)
    record(tmp_path / "a.m4a", None, Track(np.stack([tone, -tone]), 48000, "aac", "stereo"))
    assert np.abs(read_speech(tmp_path / "a.m4a")).max() > 0.25
    said = capsys.readouterr().out
    assert "a.m4a: the channels cancel each other" in said
    assert "silent" not in said
    audio.write_wav(tmp_path / "b.wav", np.full(16000, 1e-4))
    read_speech(tmp_path / "b.wav")
    assert "b.wav is nearly silent (-8" in capsys.readouterr().out


@pytest.fixture(scope="module")
def upright(portrait, tmp_path_factory):
    path = tmp_path_factory.mktemp("upright") / "me.png"
    portrait.save(path)
    return read_portrait(path, 64)


def saved(picture, path, how):
    """Save a portrait in another way; all of them show the same upright."""
    if how == "exif":
        exif = Image.Exif()
        exif[0x0112] = ROTATED
        turned = picture.transpose(Image.Transpose.ROTATE_90)
        turned.save(path / "p.jpg", quality=95, exif=exif)
    elif how == "jpeg":
        picture.save(path / "p.jpg", quality=95)
    elif how == "alpha":
        picture.putalpha(255)
        picture.save(path / "p.png")
    elif how == "palette":
        picture.convert("P", palette=Image.Palette.ADAPTIVE).save(path / "p.png")
    elif how == "huge":
        picture.resize((3000, 3000), Image.BICUBIC).save(path / "p.jpg")
    else:
        picture.resize((96, 96), Image.BICUBIC).save(path / "p.png")
    (found,) = path.iterdir()
    return found


@pytest.mark.parametrize("how", ["jpeg", "exif", "alpha", "palette", "huge", "small"])
def test_pictures_of_any_kind_show_the_same_face(how, portrait, upright, tmp_path):
    source, seen = read_portrait(saved(portrait.copy(), tmp_path, how), 64)
    expected, measured = upright
    assert source.shape == (3, 64, 64)
    assert source.dtype == torch.uint8
    assert (source.float() - expected.float()).abs().mean() < 12
    np.testing.assert_allclose(seen.pose[0, :3], measured.pose[0, :3], atol=0.12)
    np.testing.assert_allclose(seen.landmarks, measured.landmarks, atol=0.06)


def test_transparency_is_white(portrait, tmp_path):
    picture = portrait.copy()
    mask = Image.new("L", picture.size, 255)
    mask.paste(0, (0, 0, picture.width, 12))
    picture.putalpha(mask)
    picture.save(tmp_path / "me.png")
    assert (video.read_image(tmp_path / "me.png")[:, :12] == 255).all()


def test_a_portrait_is_found_in_a_larger_picture(portrait, tmp_path):
    whole = Image.new("RGB", (900, 500), "gray")
    whole.paste(portrait, (500, 150))
    whole.save(tmp_path / "me.png")
    source, seen = read_portrait(tmp_path / "me.png", 64)
    assert source.shape == (3, 64, 64)
    assert 0.2 < seen.pose[0, 3] < 0.9
    assert np.abs(seen.pose[0, 4:]).max() < 0.3


def test_of_two_faces_the_larger_is_taken_and_that_is_said(portrait, tmp_path, capsys):
    side = portrait.width
    both = Image.new("RGB", (3 * side, 2 * side))
    both.paste(portrait, (0, side))
    both.paste(portrait.resize((2 * side, 2 * side)), (side, 0))
    both.save(tmp_path / "we.png")
    portrait.resize((2 * side, 2 * side)).save(tmp_path / "me.png")
    source, _ = read_portrait(tmp_path / "we.png", 64)
    assert "2 faces, the largest is taken" in capsys.readouterr().out
    alone, _ = read_portrait(tmp_path / "me.png", 64)
    assert capsys.readouterr().out == ""
    assert (source.float() - alone.float()).abs().mean() < 12


@pytest.mark.real
@pytest.mark.parametrize("name", ["hallo_1.jpg", "people_0.png"])
def test_real_portraits(name, clips):
    source, seen = read_portrait(clips / "portraits" / name, 128)
    assert source.shape == (3, 128, 128)
    assert seen.valid.all()


# Motion


def test_motion_is_carried_over_from_the_portraits_own(bench, upright):
    _, seen = upright
    clip = bench.data / "clips" / "p0003-00.mp4"
    pose, eyes = transfer_motion(clip, seen, 20)
    assert pose.shape == (20, 6)
    assert eyes.shape == (20, 2)
    torch.testing.assert_close(pose[0], torch.from_numpy(seen.pose[0]))
    torch.testing.assert_close(eyes[0], torch.from_numpy(seen.eyes[0]))
    with np.load(clip.with_suffix(".npz")) as npz:
        change = npz["pose"][:20, :3] - npz["pose"][0, :3]
    moved = (pose - pose[0])[:, :3].numpy()
    strongest = np.abs(change).max(0).argmax()
    assert np.corrcoef(moved[:, strongest], change[:, strongest])[0, 1] > 0.9


def test_a_motion_that_is_too_short_is_refused(bench, upright):
    clip = bench.data / "clips" / "p0003-00.mp4"
    with pytest.raises(UserError, match=r"25 frames at 25 fps, but the sound needs 26"):
        transfer_motion(clip, upright[1], 26)


# A split


def data(bench):
    return DataConfig(name="tiny", root=str(bench.data))


def test_a_split_is_asked_for_in_order(bench):
    asked = SplitRequests(data(bench), "test", 64, seeds=(0, 3), follow=True)
    ids = [f"p000{i}-00" for i in (3, 4, 5)]
    assert [asked.name(i) for i in range(len(asked))] == [(c, s) for s in (0, 3) for c in ids]
    assert asked.longest == 25
    first = asked[0]
    store = Store(bench.data, "test", 64, "logmel", cache_gb=0)
    assert torch.equal(first.source, store.frames(0, np.array([0]))[0])
    track = store.track(0, np.arange(25))
    np.testing.assert_array_equal(first.pose, track.pose)
    np.testing.assert_array_equal(first.eyes, track.eyes)
    np.testing.assert_array_equal(first.source_landmarks, track.landmarks[0])
    assert first.waveform.shape == (25 * 640,)
    np.testing.assert_array_equal(
        first.waveform, audio.fit_length(audio.load(bench.data / "clips" / "p0003-00.mp4"), 25)
    )


def test_limits_shorten_a_split(bench):
    asked = SplitRequests(data(bench), "test", 64, limit=2, frames=7)
    assert (len(asked), asked.longest) == (2, 7)
    request = asked[1]
    assert (request.n_frames, len(request.waveform)) == (7, 7 * 640)
    assert request.pose is None
    assert request.eyes is None
    for wrong in ({"limit": 0}, {"limit": -1}, {"frames": 0}):
        with pytest.raises(UserError, match="must be a positive number"):
            SplitRequests(data(bench), "test", 64, **wrong)


def test_a_random_portrait_depends_on_the_seed_and_the_clip_alone(bench):
    asked = SplitRequests(data(bench), "test", 64, seeds=range(8), source_frame="random")
    again = SplitRequests(data(bench), "test", 64, seeds=(5,), source_frame="random")
    at = [asked._source(0, seed) for seed in range(8)]
    assert len(set(at)) > 3
    assert again._source(0, 5) == at[5]
    assert torch.equal(again[0].source, asked[5 * 3].source)


def test_the_first_frame_with_a_face_is_the_portrait(tmp_path):
    make_blind(tmp_path, seen=[False, False, True, False])
    asked = SplitRequests(DataConfig(root=str(tmp_path)), "test", 16)
    assert asked._source(0, 0) == 2
    make_blind(tmp_path / "blind", seen=[False] * 4)
    with pytest.raises(UserError, match="Clip 'a' shows no face"):
        SplitRequests(DataConfig(root=str(tmp_path / "blind")), "test", 16)[0]


def make_blind(root, seen):
    n = len(seen)
    for folder in ("clips", "audio/logmel"):
        (root / folder).mkdir(parents=True)
    with VideoWriter(root / "clips/a.mp4", 16, 16, waveform=np.zeros(n * 640)) as writer:
        writer.write(torch.zeros(n, 3, 16, 16, dtype=torch.uint8))
    np.savez(
        root / "clips/a.npz",
        landmarks=np.zeros((n, 478, 3), np.float16),
        pose=np.zeros((n, 6), np.float32),
        eyes=np.zeros((n, 2), np.float32),
        valid=np.array(seen),
    )
    np.save(root / "audio/logmel/a.npy", np.zeros((n, 5), np.float32))
    manifest.write(root, [Clip("a", "a", "test", n, "clips/a.mp4", "clips/a.npz", "0" * 64)])
