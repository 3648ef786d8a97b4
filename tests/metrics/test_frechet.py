import numpy as np
import pytest
import scipy.linalg
import torch

from metrics.fid import FID
from metrics.frechet import FrechetMetric, Gaussian, distance, fit, frechet_distance


class Small(FrechetMetric):
    needs = ("small",)
    feature = "small"
    dim = 6

    @property
    def name(self):
        return "small"


def draw(n, d, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator).double()
    return torch.randn(n, d, generator=generator).double() @ mix + shift


def by_sqrtm(x, y, ddof=1):
    m1, m2 = x.mean(0).numpy(), y.mean(0).numpy()
    s1, s2 = (np.cov(f.numpy(), rowvar=False, ddof=ddof) for f in (x, y))
    root = scipy.linalg.sqrtm(s1 @ s2).real
    return ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * root)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 300, 16), (70, 1000, 64)])
@pytest.mark.parametrize("ddof", [0, 1])
def test_full_rank_agrees_with_sqrtm(n, m, d, ddof):
    x, y = draw(n, d, 0), draw(m, d, 1, 0.5)
    assert float(frechet_distance(x, y, ddof)) == pytest.approx(by_sqrtm(x, y, ddof), rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(20, 25), (20, 400), (400, 20)])
def test_few_samples_agree_with_the_full_covariances(n, m):
    x, y = draw(n, 40, 2), draw(m, 40, 3, 0.2)
    full = [Gaussian(f.mean(0), cov=torch.cov(f.T)) for f in (x, y)]
    assert float(frechet_distance(x, y)) == pytest.approx(float(distance(*full)), rel=1e-6)
    assert (fit(x).root is None) == (n >= 40)


def test_known_gaussians():
    # Commuting covariances: |m|^2 + sum (sqrt a - sqrt b)^2.
    a, b = torch.tensor([4.0, 9.0, 1.0]).double(), torch.tensor([1.0, 16.0, 1.0]).double()
    one = Gaussian(torch.zeros(3).double(), cov=a.diag())
    two = Gaussian(torch.tensor([3.0, 0.0, 4.0]).double(), cov=b.diag())
    assert float(distance(one, two)) == pytest.approx(25 + 1 + 1, rel=1e-12)
    assert float(distance(one, one)) == pytest.approx(0, abs=1e-12)


def test_large_samples_approach_the_analytic_value():
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(200_000, 2, generator=generator)
    y = torch.randn(200_000, 2, generator=generator) + 1
    assert float(frechet_distance(x, y)) == pytest.approx(2 * 1 + 2 * 1, rel=0.02)


def test_nan_features_and_lone_samples_raise():
    bad = draw(10, 6, 0)
    bad[3, 2] = torch.nan
    with pytest.raises(ValueError, match="1 of 10 features are NaN"):
        frechet_distance(bad, draw(10, 6, 1))
    with pytest.raises(ValueError, match="needs more than 1"):
        frechet_distance(draw(1, 6, 0), draw(10, 6, 1))
    with pytest.raises(ValueError, match="NaN"):
        Small().update({"small": bad}, {"small": draw(10, 6, 1)})


@pytest.mark.parametrize("n", [3, 50])
def test_metric_equals_the_function_whatever_the_pieces(n):
    x, y = draw(n, 6, 0), draw(n + 1, 6, 1, 1.0)
    metric = Small()
    for part in x.split(2):
        metric.update({"small": part})
    metric.update({"small": x[:0]}, {"small": y})
    assert float(metric.compute()) == pytest.approx(float(frechet_distance(x, y)), rel=1e-9)
    metric.reset()
    assert torch.isnan(metric.compute())


def test_memory_is_bounded_and_few_samples_are_noted():
    metric = Small()
    for seed in range(20):
        metric.update({"small": draw(5, 6, seed)}, {"small": draw(5, 6, seed + 50)})
        assert sum(map(torch.numel, metric.generated_rows)) < 6 * 6
    assert metric.notes() == []
    few = FID()
    few.update({"inception": torch.zeros(4, 2048)}, {"inception": torch.zeros(4, 2048)})
    assert few.notes() == ["4 samples for 2048 dimensions: biased upwards"]
