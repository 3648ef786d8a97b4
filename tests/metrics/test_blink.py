import math

import numpy as np
import pytest
import torch

from metrics.blink import BlinkDuration, BlinkRate, blink_duration, blink_rate, find_blinks

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
    for features in (generated, reference):
        features["valid"] = torch.ones(200, dtype=torch.bool)
    rate, duration = BlinkRate(), BlinkDuration()
    for metric in (rate, duration):
        metric.update(generated, reference)
    assert float(rate.compute()) == pytest.approx(1 / 8)
    assert float(rate.compute_reference()) == pytest.approx(2 / 8)
    assert float(duration.compute()) == pytest.approx(6 / FPS)
