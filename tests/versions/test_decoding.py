"""Decoders against written values: the lowest versions and the locked ones must both give them.

What is written is the truth of what was encoded, so both agree with each other as far as the
tolerance, which is narrower than the mistakes that decoders have been seen to make.
"""

import wave

import av
import numpy as np
import pytest
import torch
from PIL import Image

from thbench.data.media import audio, video

pytestmark = pytest.mark.numbers

BT709, UNSAID, BT601 = 1, 2, 6  # as H.273 numbers them
LIMITED, FULL = 1, 2

RGB = [(199, 118, 99), (30, 60, 200), (20, 180, 40), (128, 128, 128)]
YUV = {
    (BT601, LIMITED): [(136, 108, 165), (74, 194, 105), (116, 90, 68), (126, 128, 128)],
    (BT601, FULL): [(140, 105, 170), (67, 203, 102), (116, 85, 59), (128, 128, 128)],
    (BT709, LIMITED): [(131, 112, 164), (71, 193, 109), (133, 83, 63), (126, 128, 128)],
    (BT709, FULL): [(134, 109, 169), (64, 201, 107), (136, 76, 54), (128, 128, 128)],
    # Nobody says how it was made: then it is BT.601.
    (UNSAID, LIMITED): [(136, 108, 165), (74, 194, 105), (116, 90, 68), (126, 128, 128)],
}
"""The colours above in 8 bits; in 10 bits, limited range, each number is four times as large."""

NEAR = 3
"""Levels. The other matrix is 7 away, (192, 111, 100) for the first colour; the other range 9."""

PATCH = 32


def planes(colours, scale):
    """Patches side by side, (1.5 H, W) as yuv420p lies in memory."""
    y, u, v = (np.repeat([c[k] for c in colours], PATCH) * scale for k in range(3))
    chroma = [np.tile(plane[::2], PATCH // 2).reshape(-1, len(y)) for plane in (u, v)]
    return np.concatenate([np.tile(y, (PATCH, 1)), *chroma])


def write(path, matrix, spread, bits=8):
    """Four lossless frames of the patches."""
    pixels = planes(YUV[matrix, spread], 1 if bits == 8 else 4)
    kind, number = ("yuv420p", np.uint8) if bits == 8 else ("yuv420p10le", np.uint16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = pixels.shape[1], PATCH, kind
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = matrix
        context.color_range = spread
        for k in range(4):
            frame = filled(kind, pixels.astype(number))
            frame.colorspace, frame.color_range, frame.pts = matrix, spread, k
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def filled(kind, pixels):
    """A frame with these planes; PyAV's own from_ndarray takes too few formats."""
    frame = av.VideoFrame(pixels.shape[1], PATCH, kind)
    pieces = np.split(pixels.reshape(-1), np.cumsum([PATCH * pixels.shape[1], pixels.size // 6]))
    for plane, piece in zip(frame.planes, pieces, strict=True):
        rows = piece.reshape(plane.height, plane.width)
        padded = np.zeros((plane.height, plane.line_size // rows.itemsize), rows.dtype)
        padded[:, : plane.width] = rows
        plane.update(padded.tobytes())
    return frame


def colours(picture):
    """The middle of each patch of (H, W, 3)."""
    return picture[PATCH // 2, PATCH // 2 :: PATCH].astype(int)


@pytest.mark.parametrize(("matrix", "spread"), YUV)
def test_colours_of_8_bit_video(tmp_path, matrix, spread):
    path = write(tmp_path / "a.mp4", matrix, spread)
    streamed = torch.cat(list(video.stream(path))).permute(0, 2, 3, 1).numpy()
    picked = video.read(path, [3, 0]).permute(0, 2, 3, 1).numpy()
    assert (len(streamed), len(picked)) == (4, 2)
    assert np.abs(colours(streamed[3]) - RGB).max() <= NEAR
    assert np.abs(colours(picked[0]) - RGB).max() <= NEAR
    # decord, where it is, has an FFmpeg of its own
    assert np.abs(streamed[[3, 0]].astype(int) - picked).max() <= 2


@pytest.mark.parametrize("matrix", [BT601, BT709])
def test_colours_of_10_bit_video(tmp_path, matrix):
    path = write(tmp_path / "a.mp4", matrix, LIMITED, bits=10)
    with av.open(str(path)) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(colours(picture) - RGB).max() <= NEAR


def test_frames_of_30_a_second_at_25(tmp_path):
    path = tmp_path / "a.mp4"
    levels = torch.arange(0, 240, 8, dtype=torch.uint8)
    with video.VideoWriter(path, 64, 64, fps=30) as writer:
        writer.write(levels[:, None, None, None].expand(30, 3, 64, 64))
    got = torch.cat(list(video.stream(path))).float().mean((1, 2, 3))
    assert (got / 8).round().int().tolist() == [
        0, 1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20, 22, 23, 24, 25, 26, 28, 29,
    ]  # fmt: skip
    info = video.probe(path)
    assert (info.fps, info.n_frames, info.duration) == (30, 30, pytest.approx(1))


def test_sound_of_a_video(tmp_path):
    """AAC keeps level, pitch and place of a tone that starts after half a second."""
    path = tmp_path / "a.mp4"
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    sound = np.pad(tone, (8000, 8000)).astype(np.float32)
    with video.VideoWriter(path, 64, 64, waveform=sound) as writer:
        writer.write(torch.zeros(50, 3, 64, 64, dtype=torch.uint8))
    got = audio.load(path)
    assert 0 <= len(got) - 32000 < 1024
    assert level(got[9000:23000]) == pytest.approx(0.35355, rel=0.01)
    assert level(got[:7000]) < 0.002
    assert abs(int(np.correlate(got, tone, "valid").argmax()) - 8000) <= 1


def test_sound_at_another_rate(tmp_path):
    """Stereo of 44.1 kHz, one side silent, as 16 kHz mono: the other side, in place."""
    t = np.arange(44100) / 44100
    left = (16384 * np.sin(2 * np.pi * 1000 * t)).astype("<i2")
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((2, 2, 44100, 0, "NONE", ""))
        file.writeframes(np.stack([left, 0 * left], 1).tobytes())
    got = audio.load(tmp_path / "a.wav")
    assert abs(len(got) - 16000) <= 1
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    assert np.abs(got[200:15800] - expected[200:15800]).max() < 0.002


def level(samples):
    """Root of the mean square."""
    return float(np.sqrt(np.square(samples, dtype=np.float64).mean()))


def test_still_pictures(tmp_path):
    """JPEG's colours, an EXIF turn, 16 bits and transparency."""
    flat = Image.new("RGB", (32, 16), RGB[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    flat.save(tmp_path / "a.jpg", quality=95, exif=exif)
    got = video.read_image(tmp_path / "a.jpg")
    assert got.shape == (3, 32, 16)
    assert np.abs(got[:, 8, 8].int().numpy() - RGB[0]).max() <= 2
    Image.fromarray(np.full((4, 4), 30000, np.uint16)).save(tmp_path / "deep.png")
    assert video.read_image(tmp_path / "deep.png").unique().tolist() == [117]
    Image.new("RGBA", (4, 4), (*RGB[1], 51)).save(tmp_path / "clear.png")
    got = video.read_image(tmp_path / "clear.png")[:, 0, 0].int().numpy()
    assert np.abs(got - (210, 216, 244)).max() <= 1
