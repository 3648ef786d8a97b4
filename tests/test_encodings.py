"""How the scored videos are encoded, and what is said where they are not alike."""

import dataclasses

import av
import numpy as np
import pytest

from tests.test_evaluation import SIZE, frames, save
from tests.test_scoring_edges import clicks, sounding
from thbench.evaluation import encodings, report
from thbench.evaluation.results import Coverage, Encoding

H264 = Encoding("h264", "High", "yuv420p", 32, 32, 25.0, "aac", 16000, 1, 100_000.0)


def mpeg4(path, count=10, size=48, fps=30):
    """A video of another codec, rate and size, without audio."""
    with av.open(str(path), "w") as container:
        track = container.add_stream("mpeg4", rate=fps)
        track.width, track.height, track.pix_fmt = size, size, "yuv420p"
        for k in range(count):
            image = np.full((size, size, 3), 20 * k, np.uint8)
            container.mux(track.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(track.encode())


def bits_per_second(path, seconds):
    """Of the video track, by counting the bytes of its packets."""
    with av.open(str(path)) as container:
        return 8 * sum(p.size for p in container.demux(video=0)) / seconds


def test_what_the_streams_say_is_read(tmp_path):
    sounding(tmp_path / "a.mp4", frames(50), clicks(50))
    found = encodings.read(tmp_path / "a.mp4")
    assert found.bit_rate == pytest.approx(bits_per_second(tmp_path / "a.mp4", 2), rel=0.02)
    assert found == dataclasses.replace(
        H264, width=SIZE, height=SIZE, profile=found.profile, bit_rate=found.bit_rate
    )
    assert found.profile
    mpeg4(tmp_path / "b.mp4")
    other = encodings.read(tmp_path / "b.mp4")
    assert (other.codec, other.fps, other.width, other.audio) == ("mpeg4", 30, 48, "")
    assert other.sample_rate == 0


def test_videos_of_one_encoding_are_counted_with_their_median_rate():
    rates = [100.0, 300.0, 200.0, None]
    mine = [dataclasses.replace(H264, bit_rate=rate) for rate in rates]
    rare = dataclasses.replace(H264, codec="vp9", bit_rate=None)
    assert encodings.summarize([rare, *mine]) == (
        dataclasses.replace(H264, clips=4, bit_rate=200.0),
        rare,
    )


def test_a_video_that_comes_again_counts_once(tmp_path):
    save(tmp_path / "a.mp4", frames())
    path = tmp_path / "a.mp4"
    (found,) = encodings.of_videos({"reference": [path, path]})["reference"]
    assert found.clips == 1


def test_videos_that_are_not_alike_are_noted():
    other = dataclasses.replace(H264, codec="vp9", audio="", sample_rate=0, bit_rate=None)

    def notes(generated, reference):
        sides = {"generated": generated, "reference": reference}
        return report.encoding_notes(Coverage(encodings=sides))

    faster = dataclasses.replace(H264, bit_rate=1.0, clips=9, width=64, height=64)
    assert notes((H264,), (faster,)) == []
    assert report.encoding_notes(Coverage()) == []
    assert report.encoding_notes(Coverage(encodings={"reference": (H264,)})) == []
    assert notes((H264,), (other,)) == [
        "generated and reference videos are encoded differently: h264 High yuv420p 32x32 at 25 fps,"
        " 100 kbit/s, aac 16000 Hz (1), against vp9 High yuv420p 32x32 at 25 fps, no audio (1)"
    ]
    (mixed,) = notes((H264, other), (H264,))
    assert mixed.startswith("generated videos are encoded in 2 ways: h264")
    for change in (
        {"profile": "Main"},
        {"pixels": "yuv444p"},
        {"fps": 30.0},
        {"sample_rate": 8000},
    ):
        assert len(notes((H264,), (dataclasses.replace(H264, **change),))) == 1, change
