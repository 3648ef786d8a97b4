import pytest
import torch

from metrics.efid import EFID
from metrics.frechet import frechet_distance


def test_inception_mode_is_fid_under_its_own_name():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, 2048, generator=generator) for _ in range(2))
    metric = EFID()
    metric.update({"inception": a}, {"inception": b})
    assert float(metric.compute()) == pytest.approx(float(frechet_distance(a, b)), rel=1e-9)
    assert (metric.name, metric.needs) == ("E-FID (inception)", ("inception",))


def test_coefficients_of_frames_without_a_face_do_not_count():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(30, 4, generator=generator) for _ in range(2))
    seen = torch.arange(30) < 20
    a[20:] = 1e6
    metric = EFID("coefficients", feature="deca", dim=4)
    everywhere = torch.ones(30, dtype=torch.bool)
    metric.update({"deca": a, "valid": seen}, {"deca": b, "valid": everywhere})
    assert float(metric.compute()) == pytest.approx(float(frechet_distance(a[:20], b)), rel=1e-9)
    assert (metric.name, metric.needs) == ("E-FID (deca)", ("deca", "valid"))


def test_clips_without_a_face_are_no_figure():
    metric = EFID("coefficients", feature="deca", dim=4)
    nothing = {"deca": torch.rand(5, 4), "valid": torch.zeros(5, dtype=torch.bool)}
    metric.update(nothing, nothing)
    assert torch.isnan(metric.compute())


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "coefficients"},
        {"mode": "coefficients", "feature": "deca"},
        {"mode": "inception", "feature": "deca"},
        {"mode": "other"},
    ],
)
def test_the_source_must_be_said(options):
    with pytest.raises(ValueError, match="coefficients"):
        EFID(**options)
