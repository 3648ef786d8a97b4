import math

import pytest
import torch
from torchmetrics.image import StructuralSimilarityIndexMeasure

from metrics.image import MSE, PSNR, SSIM, mse, psnr, ssim


def clip(n=5, size=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def test_psnr_is_the_formula_per_frame():
    a, b = clip(), clip(seed=1)
    mse = ((a.double() - b.double()) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(
        psnr(a, b).double(), 10 * torch.log10(255**2 / mse), rtol=1e-5, atol=0
    )
    assert (psnr(a, a) == 100).all()


def test_ssim_agrees_with_torchmetrics_frame_by_frame():
    a, b = clip(40), clip(40, seed=1)
    values = ssim(a, b)
    for i in (0, 31, 32, 39):
        theirs = StructuralSimilarityIndexMeasure(data_range=1.0)
        expected = theirs(a[i : i + 1].float() / 255, b[i : i + 1].float() / 255)
        assert float(values[i]) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("metric", [PSNR(), SSIM()])
def test_one_frame_and_no_reference(metric):
    one = {"frames": clip(1)}
    assert metric.measure(one, one) == pytest.approx(100 if metric.name == "PSNR" else 1)
    assert math.isnan(metric.measure(one, None))
    assert math.isnan(SSIM().measure({"frames": clip(1, 8)}, {"frames": clip(1, 8)}))


def test_figure_is_the_mean_over_clips_not_frames():
    metric = PSNR()
    pairs = [(clip(2), clip(2, seed=1)), (clip(9), clip(9))]
    for a, b in pairs:
        metric.update({"frames": a}, {"frames": b})
    values = [float(psnr(a, b).double().mean()) for a, b in pairs]
    assert float(metric.compute()) == pytest.approx(sum(values) / 2, rel=1e-9)


def test_mse_is_in_levels_of_255():
    a, b = clip(), clip(seed=1)
    expected = [float(((x.double() - y.double()) ** 2).mean()) for x, y in zip(a, b, strict=True)]
    assert mse(a, b).tolist() == pytest.approx(expected, rel=1e-12)
    black, white = torch.zeros_like(a), torch.full_like(a, 255)
    assert MSE().measure({"frames": black}, {"frames": white}) == 65025
    assert MSE().measure({"frames": a}, {"frames": a}) == 0
    assert math.isnan(MSE().measure({"frames": a}, None))
    assert math.isnan(MSE().measure({"frames": a[:0]}, {"frames": a[:0]}))
