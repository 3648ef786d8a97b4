import math

import numpy as np
import pytest
import torch

from metrics.motion import (
    FacesFound,
    MouthAmplitude,
    MouthCorrelation,
    PoseError,
    amplitude,
    correlation,
    pose_error,
)


def features(n=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "pose": 0.2 * torch.randn(n, 6, generator=generator),
        "mouth": torch.rand(n, generator=generator),
        "valid": torch.ones(n, dtype=torch.bool),
    }


def test_pose_error_is_in_degrees_and_wraps():
    a = torch.zeros(4, 6)
    b = a.clone()
    b[:, 0] = math.radians(3)
    b[:, 3:] = 100
    assert pose_error(a, b) == pytest.approx(1.0, rel=1e-6)
    a[:, 2], b[:, 2] = math.radians(179), math.radians(-179)
    assert pose_error(a, b) == pytest.approx((3 + 2) / 3, rel=1e-4)


def test_correlation_is_pearsons():
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 30)) + 5
    expected = np.corrcoef(x, y)[0, 1]
    assert correlation(torch.tensor(x), torch.tensor(y)) == pytest.approx(expected, rel=1e-9)
    assert math.isnan(correlation(torch.full((30,), 0.3), torch.tensor(y)))
    assert math.isnan(correlation(torch.rand(2), torch.rand(2)))


def test_amplitude_is_a_ratio_of_deviations():
    wanted = torch.rand(40)
    assert amplitude(0.3 + wanted / 2, wanted) == pytest.approx(0.5, rel=1e-6)
    assert amplitude(-3 * wanted, wanted) == pytest.approx(3, rel=1e-6)
    assert amplitude(torch.full((40,), 0.2), wanted) == 0
    assert math.isnan(amplitude(wanted, torch.full((40,), 0.3)))
    assert math.isnan(amplitude(wanted, torch.zeros(40)))
    assert math.isnan(amplitude(torch.rand(2), torch.rand(2)))


def test_mouths_that_move_half_as_far_agree_all_the_same():
    made, filmed = features(), features()
    made["mouth"] = 0.4 + made["mouth"] / 2
    assert MouthCorrelation().measure(made, filmed) == pytest.approx(1, abs=1e-6)
    metric = MouthAmplitude()
    assert metric.measure_clip(made, filmed) == (pytest.approx(0.5, rel=1e-5), 1.0)
    metric.update(made, filmed)
    metric.update(filmed, filmed)
    metric.update(made, {**filmed, "mouth": torch.full((50,), 0.1)})  # of a mouth that keeps still
    metric.update(made, {**filmed, "valid": torch.zeros(50, dtype=torch.bool)})
    assert float(metric.compute()) == pytest.approx(0.75, rel=1e-5)
    assert float(metric.compute_reference()) == 1
    assert math.isnan(metric.measure(made, None))


PERFECT = [(PoseError(), 0.0), (MouthCorrelation(), 1.0), (MouthAmplitude(), 1.0)]


@pytest.mark.parametrize(("metric", "perfect"), PERFECT)
def test_only_frames_with_two_faces_count(metric, perfect):
    a, b = features(), features()
    a["pose"][10:20], a["mouth"][10:20] = 3.0, 9.0
    assert metric.measure(a, b) != pytest.approx(perfect)
    a["valid"][10:20] = False
    assert metric.measure(a, b) == pytest.approx(perfect, abs=1e-6)
    a["valid"][:] = False
    assert math.isnan(metric.measure(a, b))


def test_mouths_can_be_read_by_an_extractor():
    made, filmed = features(seed=1), features(seed=2)
    for clip in (made, filmed):
        clip["lips"] = torch.rand(50, 1)
    made["valid"][:10] = False
    by_lips = MouthCorrelation(features="lips")
    assert (by_lips.name, by_lips.needs) == ("Mouth r (lips)", ("lips", "valid"))
    expected = np.corrcoef(made["lips"][10:, 0], filmed["lips"][10:, 0])[0, 1]
    assert by_lips.measure(made, filmed) == pytest.approx(expected, rel=1e-5)
    metric = MouthAmplitude(features="lips")
    expected = made["lips"][10:].std() / filmed["lips"][10:].std()
    assert metric.measure_clip(made, filmed) == (pytest.approx(float(expected), rel=1e-5), 1.0)
    assert metric.name == "Mouth amplitude (lips)"


def test_faces_found_is_a_share_of_all_frames():
    made = features(8)
    made["valid"][:2] = False
    assert FacesFound().measure(made, features(8)) == 0.75
    assert math.isnan(FacesFound().measure(features(0), None))
