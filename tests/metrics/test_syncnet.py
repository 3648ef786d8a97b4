import math

import pytest
import torch
from torch.nn.functional import pad, pairwise_distance

from metrics.syncnet import (
    LSEC,
    LSED,
    AVConfidence,
    AVOffset,
    mean_distances,
    sync,
    sync_distances,
)


def embeddings(n, d=16, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def in_sync(n, late, d=16, noise=0.3):
    """Lips, and sound that says the same ``late`` frames later."""
    track = embeddings(n + 60, d)
    sound = track + noise * embeddings(n + 60, d, seed=1)
    return track[30 : 30 + n], sound[30 - late : 30 - late + n]


def test_a_plain_transcription_agrees():
    lip, audio = embeddings(12).double(), embeddings(12, seed=1).double()
    padded = pad(audio, (0, 0, 15, 15))
    rows = [
        pairwise_distance(lip[i].expand(31, -1), padded[i : i + 31], eps=1e-6) for i in range(12)
    ]
    distances = torch.stack(rows)
    torch.testing.assert_close(sync_distances(lip, audio), distances, rtol=1e-12, atol=1e-12)
    mean = distances.mean(0).tolist()
    found = sync(lip, audio)
    assert found.distance == pytest.approx(min(mean))
    assert found.confidence == pytest.approx(sorted(mean)[15] - min(mean))
    assert found.offset == 15 - mean.index(min(mean))


@pytest.mark.parametrize("valid_only", [False, True])
@pytest.mark.parametrize("late", range(-8, 9))
def test_planted_shifts_are_found(late, valid_only):
    lip, audio = in_sync(60, late)
    found = sync(lip, audio, valid_only=valid_only)
    assert found.offset == -late
    assert found.confidence > 1


def test_zeros_beyond_the_ends_bias_a_short_clip_and_valid_pairs_do_not():
    far = [in_sync(n, 3) for n in (200, 22)]
    long, short = (sync(*pair) for pair in far)
    _, valid = (sync(*pair, valid_only=True) for pair in far)
    assert abs(valid.distance - long.distance) < abs(short.distance - long.distance)


def test_valid_pairs_only():
    lip, audio = embeddings(8), embeddings(8, seed=1)
    distances = sync_distances(lip, audio, vshift=10, valid_only=True)
    for i in range(8):
        for j in range(21):
            inside = 0 <= i + j - 10 < 8
            assert distances[i, j].isnan() != inside
            if inside:
                expected = (lip[i] - audio[i + j - 10] + 1e-6).norm()
                assert float(distances[i, j]) == pytest.approx(float(expected), rel=1e-6)
    means = mean_distances(distances, least_pairs=5)
    assert means.isnan().tolist() == [abs(j - 10) > 3 for j in range(21)]


def test_clips_without_windows_have_no_value():
    empty = {"syncnet": torch.zeros(0, 2048)}
    for metric in (LSED(), LSEC(), AVConfidence(), AVOffset()):
        metric.update(empty)
        assert math.isnan(float(metric.compute()))
    few = embeddings(3), embeddings(3, seed=1)
    assert not math.isnan(sync(*few).distance)
    assert all(math.isnan(x) for x in sync(*few, valid_only=True))


def test_sound_that_never_changes_has_no_confidence():
    lip = embeddings(200)
    found = sync(lip, torch.ones(200, 16), valid_only=True)
    assert found.confidence < 0.1


def test_metrics_read_embeddings_of_any_size():
    lip, audio = in_sync(60, late=4, d=7)
    clip = {"toy": torch.cat([lip, audio], 1)}
    expected = sync(lip, audio)
    for cls, value in (
        (LSED, expected.distance),
        (LSEC, expected.confidence),
        (AVConfidence, expected.confidence),
        (AVOffset, -4),
    ):
        metric = cls(features="toy")
        assert metric.needs == ("toy",)
        assert cls().needs == ("syncnet",)
        metric.update(clip)
        assert float(metric.compute()) == pytest.approx(value)


def test_offsets_early_and_late_cancel_unless_absolute():
    signed, absolute = AVOffset(), AVOffset(absolute=True)
    for late in (-3, 3):
        for metric in (signed, absolute):
            metric.update({"syncnet": torch.cat(in_sync(60, late), 1)})
    assert float(signed.compute()) == 0
    assert float(absolute.compute()) == 3
    assert absolute.bounds == (0, 15)


def test_names_tell_what_changes_the_number():
    assert LSED().name == "LSE-D"
    assert AVConfidence().name == "AV confidence"
    assert AVOffset(absolute=True).name == "|AV offset|"
    assert LSEC("toy", vshift=10, valid_only=True).name == "LSE-C (toy, valid pairs, ±10)"
