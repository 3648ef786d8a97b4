"""Figures over time, on planted decay."""

import dataclasses
import math

import pytest
import torch

from metrics.base import by_frame
from metrics.fid import PyramidDistance
from metrics.flow import OFM
from metrics.image import PSNR
from metrics.soft_dtw import SoftPSNR
from tests.leaderboard.rows import result
from thbench.core.errors import UserError
from thbench.evaluation import over_time, protocol, results

T, BIN = 30, 10


def features(frames):
    pyramid = frames.float().flatten(1)[:, :240]
    return {"frames": frames, "pyramid": pyramid, "waveform": torch.arange(640.0 * len(frames))}


@pytest.fixture
def clip():
    return torch.randint(0, 256, (T, 3, 16, 16), dtype=torch.uint8)


def decayed(clip):
    """The clip, with noise that grows from the second bin on."""
    noise = torch.randn(clip.shape) * (torch.arange(T) // BIN)[:, None, None, None] * 20
    return (clip + noise).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize(("length", "wanted"), [(9, 0), (10, 1), (19, 1), (20, 2)])
def test_bins_are_whole(length, wanted):
    assert [part.stop - part.start for part in over_time.bins(length, 10)] == [10] * wanted


def test_a_part_of_a_clip_keeps_its_own_sound(clip):
    part = over_time.cut(features(clip), ["frames", "waveform"], slice(10, 20), T)
    assert torch.equal(part["frames"], clip[10:20])
    assert part["waveform"].tolist() == list(range(6400, 12800))


def test_what_has_no_row_per_frame_is_refused(clip):
    with pytest.raises(UserError, match="'sync' has 25 rows for 30 frames"):
        over_time.cut({"sync": torch.zeros(25, 4)}, ["sync"], slice(0, 10), T)


def test_planted_decay_is_seen_where_it_is(clip):
    row = over_time.measure([PSNR()], features(decayed(clip)), features(clip), T, BIN)["PSNR"]
    assert row[0] > row[1] + 10 > row[2] + 10
    curve = over_time.clip_curve(PSNR(), [row, row[:2], [math.nan]], BIN)
    assert curve.values == pytest.approx(row)
    assert curve.clips == (2, 2, 1)
    assert (curve.frames, curve.direction, curve.unit) == (BIN, "higher", "dB")


def _short(*sides):
    return [{"frames": side["frames"][: T - 3]} for side in sides]


@pytest.mark.parametrize(
    "metric", [PSNR(), OFM(), SoftPSNR(3)], ids=["frames", "pairs of frames", "alignment"]
)
def test_values_of_frames_make_the_bins_that_measuring_in_them_does(clip, metric):
    mine, theirs = features(decayed(clip)), features(clip)
    (expected,) = over_time.measure([metric], *_short(mine, theirs), T - 3, BIN).values()
    (found,) = by_frame([metric], *_short(mine, theirs))
    made = over_time.bin_values(metric, found.values, T - 3, BIN)
    assert made == pytest.approx(expected, rel=1e-12)
    assert len(made) == 2


def test_sets_are_compared_with_all_frames_of_the_reference(clip):
    pair = ("a", features(decayed(clip)), features(clip))
    curve = over_time.set_curve(PyramidDistance, [pair, pair], [T, T], BIN)
    metric = PyramidDistance()
    for mine, theirs in (pair[1:], pair[1:]):
        metric.update({"pyramid": mine["pyramid"][20:]}, theirs)
    assert curve.values[2] == pytest.approx(float(metric.compute()))
    assert curve.values[2] > curve.values[1]
    assert curve.clips == (2, 2, 2)


def test_a_short_clip_is_missing_from_late_bins_but_its_reference_counts(clip):
    long, short = (("a", features(clip), features(clip)), ("b", features(clip[:12]), None))
    curve = over_time.set_curve(PyramidDistance, [long, short], [T, 12], BIN)
    assert curve.clips == (2, 1, 1)


def test_no_values_no_curve(clip):
    assert over_time.clip_curve(PSNR(), [[math.nan, math.nan]], BIN) is None
    assert over_time.clip_curve(PSNR(), [], BIN) is None
    assert over_time.set_curve(PyramidDistance, [], [], BIN) is None


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ({"frame": 5}, "has no key 'frame'. Did you mean 'frames'"),
        ({"frames": 0}, "positive whole number"),
        ({"metrics": ["psnr"]}, "metric: NAME"),
        ({"metrics": [{"metric": "psnr"}, {"metric": "psnr"}]}, "two metrics"),
    ],
)
def test_a_protocol_with_a_wrong_block_is_refused(block, says):
    content = protocol.read_yaml(protocol.find("protocol", "synthetic"))
    with pytest.raises(UserError, match=says):
        protocol.parse("p", {**content, "over_time": block})


def test_what_is_followed_is_part_of_the_protocols_hash():
    content = protocol.read_yaml(protocol.find("protocol", "synthetic"))
    other = {**content, "over_time": {"frames": 7}}
    assert protocol.parse("p", content).hash != protocol.parse("p", other).hash


def test_a_result_keeps_its_curves(tmp_path):
    curve = results.Curve(10, (1.0, None), (2, 1), "lower")
    kept = dataclasses.replace(result("a"), over_time={"FID": curve})
    assert results.read(results.write(kept, tmp_path)).over_time == {"FID": curve}
