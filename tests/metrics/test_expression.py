"""Expression coefficients as a feature, and E-FID over them."""

import pytest
import torch

from metrics.efid import EFID
from metrics.extractors.expression import LandmarkExpression, SyntheticExpression
from metrics.weights import WeightsMissing, WeightsUnreadable
from tests.metrics.test_experts import PEOPLE, clip
from thbench.data.face.morphable import Morphable, write


def features(person):
    found = clip(person)[1]
    return {**found, "synthetic-expression": SyntheticExpression().extract(found["frames"], found)}


def test_expression_follows_the_planted_mouth():
    """Rendered people that the basis never saw: the coefficients give the mouth back."""
    expert = SyntheticExpression()
    for person in PEOPLE:
        played, found = clip(person)
        rows = expert.extract(found["frames"], found)
        assert rows.shape == (len(found["frames"]), 16)
        lips = (rows @ expert.basis.expression.T).unflatten(-1, (-1, 3))
        opening = lips[:, 14, 1] - lips[:, 13, 1]
        mouth = played.state.mouth[: len(opening)].float()
        assert torch.corrcoef(torch.stack([opening, mouth]))[0, 1] > 0.8


def test_a_still_mouth_has_a_larger_e_fid_than_other_people():
    metric = EFID("coefficients", feature="synthetic-expression", dim=16)
    truth = [features(person) for person in PEOPLE]
    moved, still = [], []
    for seen in truth:
        frozen = seen["synthetic-expression"][:1].expand_as(seen["synthetic-expression"])
        still.append({**seen, "synthetic-expression": frozen})
        nearby = seen["synthetic-expression"] + 0.1 * torch.randn(len(frozen), 16)
        moved.append({**seen, "synthetic-expression": nearby})

    def figure(made):
        metric.reset()
        for a, b in zip(made, truth, strict=True):
            metric.update(a, b)
        return float(metric.compute())

    assert metric.name == "E-FID (synthetic-expression)"
    assert figure(truth) == pytest.approx(0, abs=1e-6)
    assert figure(still) > 5 * figure(moved) > 0


def test_frames_without_a_face_are_left_out_and_none_at_all_is_no_error():
    found = dict(clip(0)[1])
    expert = SyntheticExpression()
    whole = expert.extract(found["frames"], found)
    found["valid"] = torch.zeros_like(found["valid"])
    assert not expert.extract(found["frames"], found).any()
    found["valid"][::2] = True
    some = expert.extract(found["frames"], found)
    assert (some - whole).abs().mean() < 0.2  # the person is the mean over fewer frames


def test_a_basis_of_one_s_own_is_named_by_its_digest_or_missed_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("THBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsMissing, match="thbench data morphable"):
        LandmarkExpression()
    write(Morphable(3, 5), tmp_path / LandmarkExpression.file)
    with pytest.raises(WeightsUnreadable, match="--expression 64"):
        LandmarkExpression()
    write(Morphable(3, 64), tmp_path / LandmarkExpression.file)
    made = LandmarkExpression()
    assert made.fingerprint == f"landmark-expression-1-{made.digest}"
