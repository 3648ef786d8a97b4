import pytest
import torch
from torch import nn

from thbench.nn import normalize
from thbench.nn.normalize import (
    ConditionalStats,
    RunningStats,
    audio_stats,
    count_in_parts,
    eyes_stats,
    pose_stats,
    unrepeated_frames,
)


def test_statistics_are_those_of_all_values_seen_then_frozen():
    torch.manual_seed(0)
    stats = RunningStats((2, 3), batches=4, floor=0.0)
    seen = torch.randn(4, 10, 2, 3) * torch.tensor([1.0, 2, 3]) + 5
    for values in seen:
        stats.update(values)
    flat = seen.flatten(0, 1)
    torch.testing.assert_close(stats.mean, flat.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(stats.deviation, flat.std(0, correction=0), rtol=1e-3, atol=1e-3)
    stats.update(torch.full((10, 2, 3), 1e6))
    torch.testing.assert_close(stats.mean, flat.mean(0), rtol=1e-4, atol=1e-4)


def test_all_ranks_find_the_statistics_of_what_all_of_them_saw(monkeypatch):
    mine, theirs = torch.randn(10, 3), torch.randn(30, 3) * 2 + 5
    both = torch.cat([mine, theirs])
    others = [
        torch.cat([theirs.sum(0), torch.tensor([30.0])]),
        (theirs - both.mean(0)).square().sum(0),
    ]
    monkeypatch.setattr(normalize.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(normalize.dist, "all_reduce", lambda values: values.add_(others.pop(0)))
    stats = RunningStats((3,))
    stats.update(mine)
    torch.testing.assert_close(stats.mean, both.mean(0))
    torch.testing.assert_close(stats.deviation, both.std(0, correction=0))


def test_a_batch_in_parts_counts_as_the_whole_and_freezes_after_as_many_batches():
    torch.manual_seed(0)
    whole, parted = RunningStats((3,), batches=2), RunningStats((3,), batches=2)
    count_in_parts(nn.Sequential(parted), 4)
    for k in range(3):
        values = torch.randn(8, 3) * (1 + k) + 5
        whole.update(values)
        for rows in values.split([5, 1, 0, 2]):
            parted.update(rows)
    assert int(whole.count) == int(parted.count) == 2
    torch.testing.assert_close(parted.mean, whole.mean)
    torch.testing.assert_close(parted.deviation, whole.deviation)
    # Another stage that starts from it keeps them, in however many parts it comes.
    other = RunningStats((3,), batches=2)
    other.load_state_dict(parted.state_dict())
    count_in_parts(other, 8)
    other.update(torch.full((8, 3), 1e6))
    torch.testing.assert_close(other.mean, whole.mean)


def test_a_large_mean_costs_no_precision():
    torch.manual_seed(0)
    stats = RunningStats((2,))
    for _ in range(4):
        stats.update(1e4 + torch.randn(500, 2) * torch.tensor([1.0, 0.1]))
    torch.testing.assert_close(stats.deviation, torch.tensor([1.0, 0.1]), rtol=0.05, atol=0)


def test_constant_channels_and_a_few_loud_ones_leave_the_others_alone():
    torch.manual_seed(0)
    stats = audio_stats(20)
    size = torch.ones(20)
    size[0], size[1] = 0.0, 100.0
    values = torch.randn(4000, 20) * size + 3
    stats.update(values)
    made = stats(values)
    assert made[:, 0].abs().max() < 0.01
    torch.testing.assert_close(made[:, 1:].std(0), torch.ones(19), rtol=0.05, atol=0)
    silence = audio_stats(4)
    silence.update(torch.full((100, 4), -2.5))
    assert silence(torch.full((4,), -2.5) + 1e-6).abs().max() < 0.01


def test_poses_that_never_change_are_not_blown_up():
    poses, eyes = pose_stats(), eyes_stats()
    poses.update(1e-4 * torch.randn(1000, 6) + 0.5)
    eyes.update(1e-4 * torch.randn(1000, 2) + 0.3)
    assert poses(0.5 + 1e-4 * torch.ones(6)).abs().max() < 0.05
    assert eyes(0.3 + 1e-4 * torch.ones(2)).abs().max() < 0.05
    poses, moved = (
        pose_stats(),
        torch.randn(4000, 6) * torch.tensor([0.2, 0.1, 0.1, 0.03, 0.03, 0.03]),
    )
    poses.update(moved)
    torch.testing.assert_close(poses(moved).std(0), torch.ones(6), rtol=0.05, atol=0)


def test_stand_ins_and_repeated_frames_are_no_data():
    frames = torch.tensor([[-1, -1, 0, 1], [3, 4, 4, 4], [0, 0, 1, 2]])
    assert unrepeated_frames(frames).tolist() == [
        [False, False, True, True],
        [True, True, False, False],
        [True, False, True, True],
    ]


def test_their_size_is_one_number_for_all_elements():
    stats = RunningStats((2, 1))
    values = torch.stack([torch.full((4, 1), 3.0), torch.full((4, 1), 4.0)], dim=1)
    stats.update(values)
    assert float(stats.size) == pytest.approx((12.5) ** 0.5)


def test_normalised_values_come_back():
    stats = RunningStats((3,))
    stats.update(torch.randn(50, 3) * 7 + 1)
    values = torch.randn(4, 5, 3)
    torch.testing.assert_close(stats.inverse(stats(values)), values)
    assert stats(torch.randn(1000, 3) * 7 + 1).std().item() < 1.5


def test_what_hardly_varies_is_not_blown_up_per_channel():
    stats = RunningStats((2, 4), floor=0.5)
    scale = torch.tensor([[1.0, 1, 1, 1e-6], [100, 100, 100, 1e-6]])
    stats.update(torch.randn(1000, 2, 4) * scale)
    assert 0.3 < stats.deviation[0, 3] < 0.6
    assert 30 < stats.deviation[1, 3] < 60


def test_validation_teaches_nothing_and_a_checkpoint_keeps_everything():
    stats = RunningStats((3,))
    stats.update(torch.randn(50, 3))
    stats.eval()
    stats.update(torch.randn(50, 3) + 100)
    other = RunningStats((3,))
    other.load_state_dict(stats.state_dict())
    assert other.mean.abs().max() < 5
    torch.testing.assert_close(other.deviation, stats.deviation)
    assert other.count == 1


def test_before_any_data_it_changes_nothing():
    values = torch.randn(2, 3)
    torch.testing.assert_close(RunningStats((3,))(values), values)


def conditional(batches=4):
    """Statistics of planted data, the data, and what is known of it."""
    torch.manual_seed(0)
    known = torch.randn(batches, 50, 2) * torch.tensor([0.1, 3.0]) + 1
    slopes = torch.randn(2, 3, 4, 4)
    left = torch.randn(batches, 50, 3, 4, 4) * 0.2
    values = torch.einsum("bnk,kchw->bnchw", known, slopes) + left + 7
    stats = ConditionalStats(2, (3, 4, 4), batches=batches, ridge=0.0)
    for part in zip(values, known, strict=True):
        stats.update(*part)
    return stats, values.flatten(0, 1), known.flatten(0, 1)


def test_conditional_statistics_are_least_squares_on_all_rows():
    stats, values, known = conditional()
    design = torch.cat([known, torch.ones(len(known), 1)], dim=1).double()
    wanted = torch.linalg.lstsq(design, values.flatten(1).double()).solution
    left = values.flatten(1) - design @ wanted
    torch.testing.assert_close(
        stats(values, known).flatten(1).double(),
        left / left.square().mean(0).sqrt(),
        rtol=1e-2,
        atol=1e-2,
    )
    torch.testing.assert_close(stats.inverse(stats(values, known), known), values)


def test_conditional_statistics_freeze_and_do_not_move_in_evaluation():
    stats, values, known = conditional()
    before = stats.moments(known)[0]
    stats.update(values + 100, known)
    assert torch.equal(stats.moments(known)[0], before)
    fresh = ConditionalStats(2, (3, 4, 4)).eval()
    fresh.update(values, known)
    assert int(fresh.rows) == 0


def test_all_ranks_find_the_same_conditional_statistics(monkeypatch):
    stats, values, known = conditional(batches=1)
    half = ConditionalStats(2, (3, 4, 4), batches=1, ridge=0.0)
    # Two ranks with the same rows: every sum is twice what one of them finds.
    monkeypatch.setattr(normalize, "_over_ranks", lambda sums: 2 * sums)
    half.update(values, known)
    torch.testing.assert_close(half.moments(known)[0], stats.moments(known)[0])
    torch.testing.assert_close(half.fit()[1], stats.fit()[1])


def test_conditional_statistics_are_the_same_in_mixed_precision():
    stats, values, known = conditional(batches=1)
    mixed = ConditionalStats(2, (3, 4, 4), batches=1, ridge=0.0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed.update(values, known)
        made = mixed(values, known)
    torch.testing.assert_close(made, stats(values, known))
