import math

import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from metrics import kid
from metrics.kid import KID, kernel_distance


def draw(n, d=5, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator).double() + shift


def by_loops(x, y):
    d = x.shape[1]

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / d + 1) ** 3

    x, y = x.tolist(), y.tolist()
    within = [
        sum(k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j)
        / (len(s) * (len(s) - 1))
        for s in (x, y)
    ]
    return sum(within) - 2 * sum(k(a, b) for a in x for b in y) / (len(x) * len(y))


@pytest.mark.parametrize("block", [3, 4, 2048])
def test_loops_over_all_pairs_agree_whatever_the_blocks(block, monkeypatch):
    monkeypatch.setattr(kid, "BLOCK", block)
    x, y = draw(9), draw(7, seed=1, shift=0.5)
    assert float(kernel_distance(x, y)) == pytest.approx(by_loops(x, y), rel=1e-12)


def test_torchmetrics_agrees_on_sets_of_one_size():
    x, y = draw(60, 16), draw(60, 16, seed=1, shift=0.3)
    assert float(kernel_distance(x, y)) == pytest.approx(float(poly_mmd(x, y)), rel=1e-10)


def test_a_hand_computed_value():
    # One dimension: k(0, 2) = 1, k(1, 1) = 8, and across (0, 1), (2, 1) twice each: 1, 27.
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [1.0]])
    assert float(kernel_distance(x, y)) == 1 + 8 - 2 * (1 + 27) / 2


def test_equal_distributions_are_at_zero_on_average_with_few_frames_too():
    values = [
        float(kernel_distance(draw(5, seed=2 * i), draw(8, seed=2 * i + 1))) for i in range(400)
    ]
    mean, error = torch.tensor(values).mean(), torch.tensor(values).std() / 20
    assert abs(mean) < 3 * error
    assert min(values) < 0


@pytest.mark.parametrize("n", [2, 40])
def test_metric_equals_the_function_whatever_the_pieces(n):
    x, y = draw(n), draw(n + 1, seed=1, shift=1.0)
    metric = KID(feature="small")
    for part in x.split(3):
        metric.update({"small": part})
    metric.update({"small": x[:0]}, {"small": y})
    assert float(metric.compute()) == pytest.approx(float(kernel_distance(x, y)), rel=1e-12)
    assert metric.name == "KID (small)"
    metric.reset()
    assert torch.isnan(metric.compute())


def test_what_cannot_be_compared_is_refused():
    bad = draw(10)
    bad[3, 2] = torch.nan
    with pytest.raises(ValueError, match="1 of 10 features are NaN"):
        kernel_distance(bad, draw(4))
    with pytest.raises(ValueError, match="at least 2 features"):
        kernel_distance(draw(1), draw(4))
    metric = KID(feature="small")
    metric.update({"small": draw(1)}, {"small": draw(3)})
    assert math.isnan(float(metric.compute()))
    with pytest.raises(ValueError, match="7 dimensions, not 5"):
        metric.update({"small": draw(3, 7)})
