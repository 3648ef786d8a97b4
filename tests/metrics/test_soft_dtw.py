import functools
import math

import pytest
import torch

from metrics.base import by_frame
from metrics.image import PSNR, psnr
from metrics.landmarks import LMD
from metrics.motion import MouthCorrelation
from metrics.soft_dtw import SoftLMD, SoftMouthCorrelation, SoftPSNR, band, soft_means


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).double()


def clip(n=12, seed=0, size=16):
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(n, 478, 3, generator=generator) / 50
    return {
        "frames": torch.randint(0, 256, (n, 3, size, size), generator=generator).byte(),
        "size": torch.tensor([size, size]),
        "landmarks": 0.5 + steps.cumsum(0),
        "mouth": torch.rand(n, generator=generator),
        "valid": torch.ones(n, dtype=torch.bool),
    }


def table(matrix, reach):
    """A matrix (T, T) as ``band`` lays it out."""
    t = torch.arange(len(matrix))
    return band(lambda i, j: matrix[i, j], t, t, reach)


def all_paths(length, reach):
    """Lists of (i, j, weight), by trying every step."""

    def onwards(path):
        i, j, _ = path[-1]
        if (i, j) == (length - 1, length - 1):
            yield path
            return
        for di, dj in ((1, 1), (1, 0), (0, 1)):
            if max(i + di, j + dj) < length and abs(i + di - j - dj) <= reach:
                yield from onwards([*path, (i + di, j + dj, di + dj)])

    return list(onwards([(0, 0, 2)]))


def by_enumeration(costs, values, reach, gamma):
    paths = all_paths(len(costs), reach)
    assert {sum(weight for *_, weight in path) for path in paths} == {2 * len(costs)}
    totals = torch.stack([sum(w * costs[i, j] for i, j, w in path) for path in paths])
    means = torch.stack([sum(w * values[i, j] for i, j, w in path) for path in paths])
    return float(torch.softmax(-totals / gamma, 0) @ means) / (2 * len(costs))


def by_gradient(costs, values, reach, gamma):
    """The naive recursion over the whole matrix; its gradient weighs the pairs."""
    length = len(costs)
    costs = costs.clone().requires_grad_()
    far = torch.tensor(math.inf).double()
    soft = [[far] * (length + 1) for _ in range(length + 1)]
    soft[0][0] = torch.zeros(()).double()
    for i in range(1, length + 1):
        for j in range(1, length + 1):
            if abs(i - j) <= reach:
                cost = costs[i - 1, j - 1]
                ways = [soft[i - 1][j - 1] + 2 * cost, soft[i - 1][j] + cost, soft[i][j - 1] + cost]
                ways = torch.stack([way for way in ways if way.isfinite()])
                soft[i][j] = -gamma * torch.logsumexp(-ways / gamma, 0)
    soft[-1][-1].backward()
    return float((costs.grad * values).sum() / (2 * length))


def measured(costs, values, reach, gamma):
    return float(soft_means(table(costs, reach), table(values, reach)[..., None], gamma)[0])


@pytest.mark.parametrize("gamma", [0.05, 1.0])
@pytest.mark.parametrize("reach", [1, 2, 6])
def test_every_path_counts_by_its_cost(reach, gamma):
    costs, values = draw(5, 5), draw(5, 5, seed=1)
    expected = by_enumeration(costs, values, reach, gamma)
    assert measured(costs, values, reach, gamma) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("reach", [1, 4, 30])
def test_the_gradient_of_the_naive_soft_minimum_agrees(reach):
    costs, values = draw(25, 25), draw(25, 25, seed=1)
    expected = by_gradient(costs, values, reach, 0.1)
    assert measured(costs, values, reach, 0.1) == pytest.approx(expected, rel=1e-9)


def test_a_hand_computed_value():
    # Two frames, all paths: straight on, 2 (0) + 2 (0); by either corner, 2 (0) + 1 + 0.
    costs = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double()
    corner = math.exp(-1)
    expected = 2 * corner * 1 / (1 + 2 * corner) / 4
    assert measured(costs, costs, 1, 1.0) == pytest.approx(expected, rel=1e-12)


def test_it_is_near_the_best_path_and_a_wider_reach_makes_that_no_worse():
    costs = draw(30, 30)
    best = [measured(costs, costs, reach, 1e-6) for reach in range(6)]
    assert best == sorted(best, reverse=True)
    assert best[-1] < best[0] - 0.1
    for gamma in (0.01, 0.1, 10.0):
        assert best[5] <= measured(costs, costs, 5, gamma) <= best[5] + gamma * math.log(3)


PAIRS = [
    (PSNR(), functools.partial(SoftPSNR)),
    (LMD(), functools.partial(SoftLMD)),
    (LMD("mouth-centred", "normalised"), functools.partial(SoftLMD, "mouth-centred", "normalised")),
    (MouthCorrelation(), functools.partial(SoftMouthCorrelation)),
]


@pytest.mark.parametrize(("plain", "soft"), PAIRS, ids=lambda p: getattr(p, "name", ""))
def test_without_reach_it_is_the_frame_wise_metric(plain, soft):
    mine, theirs = clip(), clip(seed=1)
    mine["valid"][4:6] = False
    expected = plain.measure(mine, theirs)
    assert soft(reach=0).measure(mine, theirs) == pytest.approx(expected, rel=1e-12)
    assert soft(reach=3).measure(mine, theirs) != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("plain", "soft"), PAIRS, ids=lambda p: getattr(p, "name", ""))
def test_a_clip_that_is_late_is_forgiven_as_far_as_reach_goes(plain, soft):
    """Still at its ends, so that all of its frames have partners."""
    theirs = clip(40)
    order = torch.arange(40).clamp(10, 29)
    still = {k: v if k == "size" else v[order] for k, v in theirs.items()}
    late = {k: v if k == "size" else v[(order.roll(3)).clamp(10, 29)] for k, v in theirs.items()}
    late = {k: v if k == "size" else torch.cat([v[3:6], v[3:]]) for k, v in late.items()}
    perfect = plain.measure(still, still)
    assert soft(reach=3).measure(late, still) == pytest.approx(perfect, rel=0.01, abs=0.02)
    worse = [abs(soft(reach=r).measure(late, still) - perfect) for r in (0, 2, 3)]
    assert worse[0] > worse[1] > 3 * worse[2]


@pytest.mark.parametrize(("plain", "soft"), PAIRS, ids=lambda p: getattr(p, "name", ""))
def test_equal_clips_are_perfect_and_nothing_else_is(plain, soft):
    mine = clip(30)
    assert soft().measure(mine, mine) == pytest.approx(plain.measure(mine, mine), abs=0.01)
    assert math.isnan(soft().measure(mine, None))


@pytest.mark.parametrize("soft", [SoftLMD(reach=2), SoftMouthCorrelation(reach=2)])
def test_frames_without_a_face_keep_the_others_apart(soft):
    """Leaving frames out brings none within reach that were not."""
    mine, theirs = clip(9), clip(9, seed=1)
    seen = torch.tensor([1, 1, 1, 0, 0, 1, 1, 1, 1], dtype=torch.bool)
    mine["valid"] = seen
    cut = [{k: v if k == "size" else v[seen] for k, v in c.items()} for c in (mine, theirs)]
    assert soft.measure(mine, theirs) != pytest.approx(soft.measure(*cut), rel=1e-6)
    parts = [(slice(0, 3), 3), (slice(5, 9), 4)]
    if isinstance(soft, SoftLMD):  # three frames are missing in between, so no path goes across
        sums = [
            n * soft.measure(*[{k: v if k == "size" else v[s] for k, v in c.items()} for c in both])
            for both in [(mine, theirs)]
            for s, n in parts
        ]
        assert soft.measure(mine, theirs) == pytest.approx(sum(sums) / 7, rel=1e-9)


def test_images_are_compared_within_reach_part_by_part(monkeypatch):
    a, b = clip(20)["frames"], clip(20, seed=1)["frames"]
    compared = []

    def counted(x, y):
        compared.append(len(x))
        return psnr(x, y)

    monkeypatch.setattr("metrics.soft_dtw.psnr", counted)
    monkeypatch.setattr("metrics.frames.PART_BYTES", 3 * 16 * 16 * 6)
    metric = SoftPSNR(reach=4)
    ((values, _),) = by_frame([metric, PSNR()], {"frames": a}, {"frames": b})[:1]
    assert max(compared) <= 6 + 4
    matrix = torch.stack([psnr(a, b[j : j + 1].expand_as(a)) for j in range(20)], 1)
    torch.testing.assert_close(values, table(-matrix, 4), rtol=1e-6, atol=0)
    expected = by_gradient(-matrix.double(), matrix.double(), 4, metric.gamma)
    assert metric.clip_value(values) == pytest.approx(expected, rel=1e-6)


def test_options_stand_in_the_name_and_are_checked():
    assert SoftPSNR().name == "PSNR (soft-DTW, ±5)"
    assert SoftLMD("raw", "normalised", 3, 0.1).name == (
        "LMD (raw, normalised, soft-DTW, ±3, gamma 0.1)"
    )
    assert SoftMouthCorrelation(2).name == "Mouth r (soft-DTW, ±2)"
    for kind in (SoftPSNR, SoftLMD, SoftMouthCorrelation):
        with pytest.raises(ValueError, match="gamma above 0"):
            kind(gamma=0.0)
        with pytest.raises(ValueError, match="reach is at least 0"):
            kind(reach=-1)
