import math

import numpy as np
import pytest
import torch

from metrics.blink import BlinkDuration, BlinkRate, blink_duration, blink_rate, find_blinks
from tests import lossless
from thbench.evaluation import features, protocol
from thbench.evaluation.score import score

FPS = 25


def eyes(n, closings, depth=0.22, half=3):
    """Open at .3; each blink closes over ``half`` frames and opens over ``half``."""
    ratio = np.full(n, 0.3)
    for centre in closings:
        for k in range(-half, half + 1):
            ratio[centre + k] = 0.3 - depth * (1 - abs(k) / half)
    return ratio


@pytest.mark.parametrize("planted", [[], [30], [20, 60, 100, 140, 180]])
def test_planted_blinks_are_counted(planted):
    ratio = eyes(200, planted)
    assert len(find_blinks(ratio)) == len(planted)
    assert blink_rate(ratio, fps=FPS) == pytest.approx(len(planted) / 8)


def test_duration_is_from_open_to_open():
    ratio = eyes(100, [20, 60])
    assert [(b.start, b.end) for b in find_blinks(ratio)] == [(17, 23), (57, 63)]
    assert blink_duration(ratio, fps=FPS) == pytest.approx(6 / FPS)
    wavering = ratio + 1e-4 * np.cos(np.arange(100))
    for blink in find_blinks(wavering):
        assert blink.end - blink.start in (6, 7, 8)
        assert blink.start <= blink.closing < blink.end
    assert math.isnan(blink_duration(np.full(50, 0.3), fps=FPS))


def test_slow_drift_and_small_twitches_are_no_blinks():
    drift = np.linspace(0.35, 0.15, 100)
    assert find_blinks(drift) == []
    assert find_blinks(eyes(100, [50], depth=0.1)) == []
    assert len(find_blinks(eyes(100, [50], depth=0.1), height=0.03)) == 1


def test_a_clip_may_begin_and_end_within_a_blink():
    opens = np.array([0.2, 0.21, 0.22, 0.21, 0.1, 0.2, *[0.3] * 9])
    assert [(b.start, b.end) for b in find_blinks(opens)] == [(0, 6)]
    closes = np.array([*[0.3] * 9, 0.1, 0.2, 0.21])
    assert [(b.start, b.end) for b in find_blinks(closes)] == [(8, 11)]


def test_two_closings_within_the_distance_are_one():
    ratio = np.array([0.3, 0.3, 0.2, 0.28, 0.18, 0.3, 0.3, 0.3, 0.3])
    assert len(find_blinks(ratio)) == 1
    assert len(find_blinks(ratio, distance=1)) == 2


def test_missed_faces_are_missing_not_closed():
    ratio = eyes(200, [50, 150])
    valid = np.ones(200, bool)
    valid[90:110] = False
    lost = np.where(valid, ratio, 0.0)
    assert len(find_blinks(lost, valid)) == 2
    assert blink_rate(lost, valid, fps=FPS) == pytest.approx(2 / (180 / FPS))
    assert math.isnan(blink_rate(lost, np.zeros(200, bool), fps=FPS))


def test_a_plain_transcription_agrees():
    rng = np.random.default_rng(0)
    ratio = 0.3 + 0.05 * rng.standard_normal(300)
    falls = [ratio[i] - ratio[i + 1] for i in range(299)]
    peaks = [
        i
        for i, f in enumerate(falls)
        if f >= 0.072 and (i == 0 or f > falls[i - 1]) and (i == 298 or f > falls[i + 1])
    ]
    kept = []
    for i in sorted(peaks, key=lambda i: -falls[i]):
        if all(abs(i - j) >= 4 for j in kept):
            kept.append(i)
    assert [b.closing for b in find_blinks(ratio)] == sorted(kept)


def test_metrics_carry_the_references_own_figure():
    generated = {"eyes": torch.tensor(eyes(200, [50])).unsqueeze(1).repeat(1, 2)}
    reference = {"eyes": torch.tensor(eyes(200, [40, 150])).unsqueeze(1).repeat(1, 2)}
    for found in (generated, reference):
        found["valid"] = torch.ones(200, dtype=torch.bool)
    rate, duration = BlinkRate(), BlinkDuration()
    for metric in (rate, duration):
        metric.update(generated, reference)
    assert float(rate.compute()) == pytest.approx(1 / 8)
    assert float(rate.compute_reference()) == pytest.approx(2 / 8)
    assert float(duration.compute()) == pytest.approx(6 / FPS)


# The published rule


def slow_peaks(signal, height, distance=1):
    """Local maxima, of plateaus the middle; of any nearer than ``distance`` the highest stays."""
    found = []
    for i in range(1, len(signal) - 1):
        if signal[i - 1] >= signal[i]:
            continue
        last = i
        while last + 1 < len(signal) and signal[last + 1] == signal[i]:
            last += 1
        if last + 1 < len(signal) and signal[last + 1] < signal[i] and signal[i] >= height:
            found.append((i + last) // 2)
    kept = []
    for i in sorted(found, key=lambda i: -signal[i]):
        if all(abs(i - j) >= distance for j in kept):
            kept.append(i)
    return sorted(kept)


def slow_blinks(signal):
    """What blink-detector finds: (first frame, last frame) of each blink."""
    falls = [signal[i] - signal[i + 1] for i in range(len(signal) - 1)]
    closings = slow_peaks(falls, 0.072, 4)
    half = (min(signal) + max(signal)) / 2
    blinks = []
    for i, closing in enumerate(closings):
        if signal[closing - 1] <= signal[closing]:
            start = closing
        else:
            before = slow_peaks(signal[: closing + 1], half)
            start = before[-1] if before else 0
        last = i == len(closings) - 1
        after = slow_peaks(signal[closing:] if last else signal[closing : closings[i + 1]], half)
        if after:
            blinks.append((start, closing + after[0]))
        elif last:
            blinks.append((start, len(signal) - 1))
    return blinks


def both(ratio, valid=None):
    return [
        [(b.start, b.end) for b in find_blinks(np.array(ratio), valid, mode=mode)]
        for mode in ("open-level", "as-published")
    ]


@pytest.mark.parametrize("seed", range(20))
def test_a_slow_transcription_of_the_published_rule_agrees(seed):
    """Of noise smoothed over some frames; of every second, rounded, so that plateaus are there."""
    rng = np.random.default_rng(seed)
    width = 1 + seed % 3
    ratio = 0.3 + 0.1 * np.convolve(rng.standard_normal(300), np.ones(width) / width, "same")
    ratio = np.round(ratio, 2) if seed % 2 else ratio
    expected = slow_blinks(ratio.tolist())
    assert len(expected) > 3
    assert both(ratio)[1] == expected
    assert both(ratio)[0] != expected


# Frames             0    1    2    3    4    5    6    7    8    9    10   11   12   13
HALF_OPEN = [0.30, 0.32, 0.31, 0.20, 0.10, 0.15, 0.22, 0.18, 0.24, 0.30, 0.31, 0.30, 0.30, 0.29]


def test_an_eye_half_open_ends_a_published_blink():
    """Frame 6 is above (.10 + .32) / 2 and below .8 times the median, .236."""
    assert both(HALF_OPEN) == [[(1, 10)], [(1, 6)]]
    ratio = np.array(HALF_OPEN)
    assert blink_duration(ratio, fps=FPS) == pytest.approx(9 / FPS)
    assert blink_duration(ratio, fps=FPS, mode="as-published") == pytest.approx(5 / FPS)


def test_an_open_eye_that_does_not_waver_is_no_published_peak():
    """Plateaus that reach the clip's ends are none, so the blink lasts from end to end."""
    flat = np.full(100, 0.3)
    flat[49:52] = 0.22, 0.1, 0.22
    assert both(flat) == [[(48, 52)], [(0, 99)]]


def test_a_blink_begins_at_its_closing_where_the_ratio_had_not_fallen():
    early = [0.3, 0.31, 0.29, 0.30, 0.30, 0.1, 0.2, 0.31, 0.3, 0.3]
    assert both(early) == [[(4, 7)], [(4, 7)]]
    falling = [0.3, 0.31, 0.29, 0.30, 0.29, 0.1, 0.2, 0.31, 0.3, 0.3]
    assert both(falling) == [[(3, 7)], [(3, 7)]]
    opening = [0.1, 0.12, 0.14, 0.13, 0.13, 0.02, 0.04, 0.31, 0.3, 0.3]
    assert both(opening)[1] == [(4, 7)]
    assert both([*opening[:4], 0.125, *opening[5:]])[1] == [(0, 7)]


def test_without_an_open_eye_before_the_next_closing_a_published_blink_is_dropped():
    twice = [0.30, 0.32, 0.31, 0.22, 0.20, 0.20, 0.19, 0.10, 0.12, 0.2, 0.31, 0.30, 0.30]
    assert both(twice) == [[(1, 10), (1, 10)], [(1, 10)]]
    rates = [blink_rate(np.array(twice), fps=FPS, mode=m) for m in ("open-level", "as-published")]
    assert rates == pytest.approx([2 * FPS / 13, FPS / 13])


def test_the_first_and_the_last_fall_are_no_published_blinks():
    edges = [0.30, 0.20, 0.25, 0.30, 0.31, 0.30, 0.30, 0.32, 0.2]
    assert [len(found) for found in both(edges)] == [2, 0]


def test_published_blinks_hold_the_ratio_where_there_is_no_face():
    ratio = eyes(200, [50, 150]) + 1e-3 * np.cos(np.arange(200))
    valid = np.ones(200, bool)
    valid[:10] = valid[90:110] = False
    held = ratio.copy()
    held[:10], held[90:110] = 0, held[89]
    garbage = np.where(valid, ratio, 7.0)
    assert both(garbage, valid)[1] == slow_blinks(held.tolist())
    assert len(both(garbage, valid)[1]) == 2
    # The whole clip is time.
    assert blink_rate(garbage, valid, fps=FPS, mode="as-published") == pytest.approx(2 / 8)
    nothing = np.zeros(200, bool)
    assert math.isnan(blink_rate(garbage, nothing, fps=FPS, mode="as-published"))
    assert math.isnan(blink_duration(garbage, nothing, fps=FPS, mode="as-published"))


def test_before_the_first_face_the_published_ratio_is_zero():
    """And lowers the level of an open eye: here from .21 to .16."""
    ratio = np.array([0.3, 0.3, 0.3, 0.32, 0.31, 0.2, 0.1, 0.15, 0.18, 0.16, 0.24, 0.3, 0.31, 0.3])
    assert both(ratio)[1] == [(3, 12)]
    assert both(ratio, np.arange(14) > 1)[1] == [(3, 8)]


def test_the_mode_stands_in_the_name():
    assert [m().name for m in (BlinkRate, BlinkDuration)] == ["Blink/s", "Blink duration"]
    published = [m(mode="as-published").name for m in (BlinkRate, BlinkDuration)]
    assert published == ["Blink/s (as-published)", "Blink duration (as-published)"]
    with pytest.raises(ValueError, match="mode is one of open-level, as-published"):
        BlinkRate(mode="published")


def test_files_go_in_and_both_rules_come_out(tmp_path, monkeypatch):
    """The eye is as open as the picture is bright."""

    def track(frames):
        light = torch.cat([part.float().mean((1, 2, 3)) for part in frames]) / 255
        return {"eyes": light[:, None].repeat(1, 2), "valid": torch.ones(len(light), dtype=bool)}

    monkeypatch.setattr(features, "track", track)
    clips = {}
    for side, seed in (("gen", 0), ("ref", 7)):
        for i in range(3):
            rng = np.random.default_rng(seed + i)
            levels = np.round(255 * (0.3 + 0.07 * rng.standard_normal(60))).clip(0, 255)
            lossless.save(
                tmp_path / side / f"c{i}.mp4", np.ones((1, 32, 32)) * levels[:, None, None]
            )
            clips[side, i] = (levels.astype(np.float32) / np.float32(255)).tolist()
    lossless.save(tmp_path / "gen" / "c3.mp4", np.ones((1, 32, 32)) * 255 * grey(HALF_OPEN))
    lossless.save(tmp_path / "ref" / "c3.mp4", np.ones((1, 32, 32)) * 255 * grey(HALF_OPEN))
    metrics = [
        {"metric": name, **mode}
        for name in ("blinks", "blink-duration")
        for mode in ({}, {"mode": "as-published"})
    ]
    rule = protocol.parse("p", {"size": 32, "metrics": metrics})
    kwargs = {"run": "r", "strategy": "s", "progress": False, "cache": tmp_path / "cache"}
    result = score(tmp_path / "gen", tmp_path / "ref", rule, **kwargs)
    own = {row.id: row.metrics for row in result.per_clip}
    assert own["c3"] == pytest.approx(
        {
            "Blink/s": FPS / 14,
            "Blink/s (as-published)": FPS / 14,
            "Blink duration": 9 / FPS,
            "Blink duration (as-published)": 5 / FPS,
        }
    )
    for i in range(3):
        blinks = slow_blinks(clips["gen", i])
        assert own[f"c{i}"]["Blink/s (as-published)"] == pytest.approx(len(blinks) * FPS / 60)
        median = np.median([end - start for start, end in blinks]) / FPS
        assert own[f"c{i}"]["Blink duration (as-published)"] == pytest.approx(median)
        assert own[f"c{i}"]["Blink/s"] > own[f"c{i}"]["Blink/s (as-published)"] > 0
    counts = [len(slow_blinks(clips["ref", i])) * FPS / 60 for i in range(3)]
    figure = result.metrics["Blink/s (as-published)"]
    assert figure.reference == pytest.approx((sum(counts) + FPS / 14) / 4)


def grey(ratio):
    """The ratios of a clip's frames as levels of one, in steps that 8 bits hold."""
    return (np.round(255 * np.array(ratio)) / 255)[:, None, None]
