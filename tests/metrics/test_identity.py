import math

import pytest
import torch

from metrics.identity import CSIM, cosine


def faces(n, d=8, seed=0):
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return {"arcface": rows / rows.norm(dim=1, keepdim=True), "valid": torch.ones(n).bool()}


def test_cosine_is_row_by_row():
    a, b = torch.randn(5, 8), torch.randn(5, 8)
    for i, value in enumerate(cosine(a, b).tolist()):
        expected = float(a[i] @ b[i]) / float(a[i].norm() * b[i].norm())
        assert value == pytest.approx(expected, abs=1e-6)


def test_the_same_face_is_one_and_another_is_less():
    metric = CSIM()
    metric.update(faces(6), faces(6))
    assert float(metric.compute()) == pytest.approx(1)
    metric.reset()
    metric.update(faces(6, seed=1), faces(6))
    assert float(metric.compute()) < 0.9


def test_frames_missed_in_either_video_are_left_out():
    mine, theirs = faces(4), faces(4)
    mine["arcface"][1], theirs["arcface"][2] = 0, -theirs["arcface"][2]
    mine["valid"][1] = theirs["valid"][2] = False
    assert CSIM().measure(mine, theirs) == pytest.approx(1)
    mine["valid"][:] = False
    assert math.isnan(CSIM().measure(mine, theirs))
    assert math.isnan(CSIM().measure(theirs, None))
    assert math.isnan(CSIM().measure(faces(0), faces(0)))


def test_another_network_has_another_name():
    metric = CSIM(features="toy")
    assert metric.name == "CSIM (toy)"
    assert metric.needs == ("toy", "valid")
    clip = {"toy": torch.eye(3), "valid": torch.ones(3).bool()}
    assert metric.measure(clip, clip) == pytest.approx(1)
