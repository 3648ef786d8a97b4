import math
import statistics

import pytest
import torch

from metrics.diversity import Diversity, pose_spread, spread


def test_spread_is_the_mean_of_the_columns_deviations():
    rows = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    expected = sum(statistics.pstdev(column) for column in rows.T.double().tolist()) / 3
    assert spread(rows) == pytest.approx(expected, rel=1e-9)


def test_pose_is_in_degrees_of_three_angles():
    pose = torch.zeros(4, 6)
    pose[:, 1] = torch.deg2rad(torch.tensor([6.0, -6.0, 6.0, -6.0]))
    pose[:, 3:] = torch.rand(4, 3)
    assert pose_spread(pose) == pytest.approx(6 / 3, rel=1e-5)


def test_half_a_turn_is_no_jump():
    angles = torch.deg2rad(torch.tensor([179.0, 181.0, 179.0, 181.0]))
    pose = torch.atan2(angles.sin(), angles.cos())[:, None].repeat(1, 6)
    assert pose_spread(pose) == pytest.approx(1, rel=1e-3)


def test_frames_without_a_face_do_not_count():
    pose = torch.randn(8, 6, generator=torch.Generator().manual_seed(1)) / 5
    valid = torch.arange(8) < 5
    metric = Diversity()
    assert metric.measure({"pose": pose, "valid": valid}, None) == pose_spread(pose[:5])
    for n in (0, 1):
        few = {"pose": pose, "valid": torch.arange(8) < n}
        assert math.isnan(metric.measure(few, None))


def test_a_still_head_has_none_and_more_motion_more():
    move = torch.randn(20, 6, generator=torch.Generator().manual_seed(2))
    series = [pose_spread(move * size) for size in (0, 0.01, 0.05, 0.2)]
    assert series[0] == 0
    assert series == sorted(series)


def test_another_signal_is_named():
    metric = Diversity("hopenet", feature="my-hopenet")
    assert (metric.name, metric.unit) == ("Diversity (my-hopenet)", "")
    assert metric.needs == ("my-hopenet", "valid")
    rows = torch.randn(6, 10, generator=torch.Generator().manual_seed(3))
    value = metric.measure({"my-hopenet": rows, "valid": torch.ones(6)}, None)
    assert value == spread(rows)
    assert (Diversity().name, Diversity().unit) == ("Diversity (pose)", "degrees")
    with pytest.raises(ValueError, match="mode is one of"):
        Diversity("other")
