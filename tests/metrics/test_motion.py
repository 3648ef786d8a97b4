import math

import numpy as np
import pytest
import torch

from metrics.motion import MouthCorrelation, PoseError, correlation, pose_error


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


@pytest.mark.parametrize(("metric", "perfect"), [(PoseError(), 0.0), (MouthCorrelation(), 1.0)])
def test_only_frames_with_two_faces_count(metric, perfect):
    a, b = features(), features()
    a["pose"][10:20], a["mouth"][10:20] = 3.0, 9.0
    assert metric.measure(a, b) != pytest.approx(perfect)
    a["valid"][10:20] = False
    assert metric.measure(a, b) == pytest.approx(perfect, abs=1e-6)
    a["valid"][:] = False
    assert math.isnan(metric.measure(a, b))
