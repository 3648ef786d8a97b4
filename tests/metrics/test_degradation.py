import math

import pytest
import torch

from metrics.degradation import DegradationRate, degradation_rate
from metrics.frechet import frechet_distance


def rows(n, shift=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=generator) + shift


def pairs():
    """Three clips whose last frames lie apart from the reference, and the reference."""
    for i, n in enumerate((20, 14, 17)):
        generated = torch.cat([rows(n - 5, seed=i), rows(5, 3.0, i + 20)])
        yield {"x": generated}, {"x": rows(n, seed=i + 10)}


def metric(**options):
    return DegradationRate(**{"frames": 5, "feature": "x", "dim": 6, **options})


def by_hand(frames, skip, position):
    clips = [(g["x"], r["x"]) for g, r in pairs()]
    last = torch.cat([g[len(g) - frames :] for g, _ in clips])
    first = torch.cat([g[skip : skip + frames] for g, _ in clips])
    against_last = against_first = torch.cat([r for _, r in clips])
    if position:
        against_last = torch.cat([r[len(r) - frames :] for _, r in clips])
        against_first = torch.cat([r[skip : skip + frames] for _, r in clips])
    return float(frechet_distance(last, against_last) / frechet_distance(first, against_first) - 1)


@pytest.mark.parametrize("reference", ["all", "position"])
@pytest.mark.parametrize("skip", [0, 2])
def test_rate_is_the_ratio_of_two_distances(reference, skip):
    m = metric(reference=reference, skip_first=skip)
    for pair in pairs():
        m.update(*pair)
    expected = by_hand(5, skip, reference == "position")
    assert expected > 1
    assert float(m.compute()) == pytest.approx(expected, rel=1e-9)


def test_short_clips_count_on_no_side_and_are_told():
    whole, m = metric(), metric()
    for pair in pairs():
        whole.update(*pair)
        m.update(*pair)
    m.update({"x": rows(9, 50.0)}, {"x": rows(9, 50.0)})
    assert float(m.compute()) == float(whole.compute())
    assert m.notes()[0] == "1 of 4 clips have under 10 frames: left out"
    assert not any("left out" in note for note in whole.notes())
    assert metric(skip_first=1).notes() == ["0 samples for 6 dimensions: biased upwards"]


def test_only_short_clips_are_no_figure():
    m = metric()
    m.update({"x": rows(9)}, {"x": rows(9)})
    assert math.isnan(float(m.compute()))


def test_a_reference_counts_once_for_several_seeds():
    m = metric()
    for generated, reference in pairs():
        m.update(generated, reference)
        m.update(generated, None)
    assert int(m._count("reference")) == 51
    assert int(m._count("last")) == 30


@pytest.mark.parametrize(
    ("last", "first", "expected"), [(6.0, 4.0, 0.5), (1.0, 4.0, -0.75), (1.0, 0.0, math.nan)]
)
def test_degradation_rate(last, first, expected):
    assert degradation_rate(last, first) == pytest.approx(expected, nan_ok=True)


def test_names_tell_the_options():
    assert DegradationRate().name == "DR25"
    assert DegradationRate().needs == ("inception",)
    named = DegradationRate(50, reference="position", skip_first=1, feature="pyramid")
    assert named.name == "DR50 (pyramid, same position, without the first 1)"


@pytest.mark.parametrize(
    "options", [{"frames": 0}, {"skip_first": -1}, {"reference": "x"}, {"dim": None}]
)
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match=r"at least|one of|dim says"):
        metric(**options)
