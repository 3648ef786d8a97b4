import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thbench.core.errors import UserError
from thbench.nn.attention import (
    SpatialAttention,
    SpatialLinearAttention,
    TemporalAttention,
    local_attention,
    local_attention_mask,
    portrait_positions,
    relative_bucket,
    rope,
)


def places(n, start=0, step=1):
    return torch.arange(start, start + n * step, step)[None]


def dense(q, k, v, positions, window, bias=None):
    """Attention written out, with the band as a full mask."""
    score = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    distance = (positions[:, None, :] - positions[:, :, None])[:, None, None]
    if bias is not None:
        score = score + bias(distance)
    if window is not None:
        score = score.masked_fill(distance.abs() > window // 2, float("-inf"))
    return score.softmax(-1) @ v


def slope(distance):
    return -0.1 * distance.clamp(-50, 50).float()


def compare(positions, window, batch=2, with_bias=True):
    generator = torch.Generator().manual_seed(0)
    n = positions.shape[1]
    q, k, v = torch.randn(3, batch, 3, 2, n, 4, generator=generator)
    band = local_attention_mask(positions, window)
    bias = slope(band.distance)[:, None].expand(-1, 2, -1, -1, -1) if with_bias else None
    ours = local_attention(q, k, v, band, bias)
    expected = dense(q, k, v, positions, window, slope if with_bias else None)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    return band


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.sampled_from([None, 2, 5, 8, 16]), st.booleans())
def test_banded_is_dense_masked_attention_for_every_length(n, window, with_bias):
    compare(places(n), window, with_bias=with_bias)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.sampled_from([4, 10, 80]))
def test_the_band_counts_true_distance_between_strided_frames(gaps, window):
    compare(torch.tensor(gaps).cumsum(0)[None], window)


def test_windows_with_different_gaps_in_one_batch():
    positions = torch.stack([places(50)[0], places(50, 7, 3)[0]])
    assert len(compare(positions, 8).positions) == 2


def test_windows_that_differ_by_where_they_start_share_one_band():
    positions = torch.stack([places(50)[0], places(50, 900)[0]])
    assert len(compare(positions, 8).positions) == 1


def test_equal_neighbours_are_exact_too():
    compare(places(60).div(2, rounding_mode="floor"), 8)


def test_frames_must_ascend():
    with pytest.raises(ValueError, match="ascending"):
        local_attention_mask(torch.tensor([[0, 5, 3]]))


def test_a_band_of_one_frame_is_refused():
    with pytest.raises(UserError, match="window"):
        local_attention_mask(places(3), 1)


def test_cost_is_linear_in_frames():
    sizes = {n: local_attention_mask(places(n), 80).distance.numel() for n in (400, 800, 1600)}
    assert sizes[800] == 2 * sizes[400]
    assert sizes[1600] == 4 * sizes[400]
    assert sizes[1600] < 1600 * 1600 / 10


def test_gradient_is_finite_where_blocks_are_padded():
    q, k, v = (torch.randn(1, 1, 1, 41, 4, requires_grad=True) for _ in range(3))
    local_attention(q, k, v, local_attention_mask(places(41), 4)).sum().backward()
    assert all(x.grad.isfinite().all() for x in (q, k, v))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 500), st.integers(-40, 40))
def test_rope_scores_depend_on_relative_position_only(start, offset):
    q, k = torch.randn(2, 1, 1, 1, 1, 32, generator=torch.Generator().manual_seed(3))

    def score(a, b):
        at = [torch.tensor([[float(p)]]) for p in (a, b)]
        return (rope(q, at[0]) * rope(k, at[1])).sum()

    torch.testing.assert_close(
        score(start, start + offset), score(1000, 1000 + offset), rtol=1e-3, atol=1e-3
    )


def test_rope_turns_every_dimension():
    x = torch.ones(1, 1, 1, 1, 32)
    turned = rope(x, torch.tensor([[3000.0]]))
    assert ((turned - x).abs() > 1e-3).all()
    torch.testing.assert_close(turned.norm(), x.norm())
    torch.testing.assert_close(rope(x, torch.zeros(1, 1)), x)


def test_relative_buckets():
    distance = torch.arange(-60, 61)
    bucket = relative_bucket(distance)
    assert bucket.min() == 0
    assert bucket.max() == 31
    near = bucket[60 - 7 : 60 + 8]
    assert len(near.unique()) == len(near)  # exact near zero, and it sees the sign
    assert (bucket[distance <= -32] == 15).all()
    assert (bucket[distance >= 32] == 31).all()
    assert (bucket[61:].diff() >= 0).all()


def test_the_portrait_stands_in_for_the_frame_before_its_successor():
    frames = torch.tensor([[-1, -1, 0, 1], [-1, 8, 9, 10], [5, 6, 7, 8], [-1, -1, -1, 3]])
    expected = torch.tensor([[-2, -1, 0, 1], [7, 8, 9, 10], [5, 6, 7, 8], [0, 1, 2, 3]])
    assert torch.equal(portrait_positions(frames), expected)


def test_temporal_attention_reaches_as_far_as_its_band():
    torch.manual_seed(0)
    layer = TemporalAttention(8, heads=2, head_dim=4)
    x = torch.randn(1, 40, 8, 2, 2)
    changed = x.clone()
    changed[:, 20] = torch.randn(8, 2, 2)
    band = local_attention_mask(places(40), 6)
    moved = (layer(x, band) - layer(changed, band)).abs().amax(dim=(0, 2, 3, 4)) > 1e-6
    assert moved.nonzero().flatten().tolist() == list(range(17, 24))
    # Pixels do not mix.
    one = x.clone()
    one[..., 0, 0] = torch.randn(1, 40, 8)
    same = layer(x, band)[..., 1, 1] - layer(one, band)[..., 1, 1]
    assert same.abs().max() == 0


def test_temporal_attention_knows_the_order_of_frames_and_learns_its_bias():
    torch.manual_seed(0)
    layer = TemporalAttention(8, heads=2, head_dim=4)
    x = torch.randn(1, 6, 8, 1, 1)
    out = layer(x, local_attention_mask(places(6)))
    flipped = layer(x.flip(1), local_attention_mask(places(6))).flip(1)
    assert (out - flipped).abs().max() > 1e-4
    out.square().sum().backward()
    assert layer.bias.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", [SpatialAttention, SpatialLinearAttention])
def test_spatial_attention_mixes_pixels_of_a_frame_and_nothing_else(kind):
    torch.manual_seed(0)
    layer = kind(8, heads=2, head_dim=4)
    x = torch.randn(2, 8, 4, 6)
    changed = x.clone()
    changed[0, :, 0, 0] = torch.randn(8)
    moved = (layer(x) - layer(changed)).abs().amax(1)
    assert (moved[0] > 1e-7).all()
    assert moved[1].max() == 0


def test_spatial_linear_attention_is_its_formula():
    torch.manual_seed(0)
    layer = SpatialLinearAttention(8, heads=2, head_dim=4)
    x = torch.randn(1, 8, 3, 3)
    q, k, v = layer.to_qkv(layer.norm(x)).view(3, 2, 4, 9)
    made = torch.zeros(2, 4, 9)
    for h in range(2):
        weights = k[h].softmax(-1).T  # pixel by feature
        made[h] = (q[h].softmax(0) / 2).T.matmul(weights.T @ v[h].T).T
    expected = x + layer.to_out(made.view(1, 8, 3, 3))
    torch.testing.assert_close(layer(x), expected)
