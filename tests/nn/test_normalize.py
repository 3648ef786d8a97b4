import pytest
import torch

from thbench.nn import normalize
from thbench.nn.normalize import RunningStats


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
    mine, theirs = torch.randn(10, 3), torch.randn(10, 3) * 2 + 5

    def all_reduce(moments):
        moments += torch.stack([theirs.mean(0), theirs.square().mean(0)])

    monkeypatch.setattr(normalize.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(normalize.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(normalize.dist, "all_reduce", all_reduce)
    stats, both = RunningStats((3,)), torch.cat([mine, theirs])
    stats.update(mine)
    torch.testing.assert_close(stats.mean, both.mean(0))
    torch.testing.assert_close(stats.deviation, both.std(0, correction=0))


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
