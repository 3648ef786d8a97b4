import pytest
import torch

from thbench.core.errors import UserError
from thbench.nn.attention import local_attention_mask
from thbench.nn.unet3d import TokenAttention, UNet3D, UNet3DConfig, sinusoid

KINDS = {"audio": 5, "pose": 6}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return UNet3D(3, 7, KINDS, UNet3DConfig(dim=16, mults=(1, 2), heads=2, head_dim=8)).eval()


def inputs(b=2, n=5, size=8):
    g = torch.Generator().manual_seed(1)
    noisy = torch.randn(b, 3, n, size, size, generator=g)
    t = torch.randint(1, 1000, (b, n), generator=g)
    static = torch.randn(b, 16, size, size, generator=g)
    tokens = {k: torch.randn(b, n, width, generator=g) for k, width in KINDS.items()}
    band = local_attention_mask(torch.arange(n).expand(b, n))
    return [noisy, t, static, tokens, torch.ones(b, n, dtype=torch.bool), band]


def test_shape_and_gradient_reach_every_parameter():
    torch.manual_seed(0)
    net = UNet3D(3, 7, KINDS, UNet3DConfig(dim=16, mults=(1, 2), heads=2, head_dim=8))
    noisy, t, _, tokens, keep, band = inputs()
    out = net(noisy, t, net.stem_static(torch.randn(2, 7, 8, 8)), tokens, keep, band)
    assert out.shape == noisy.shape
    out.square().mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


@pytest.mark.parametrize("side", [7, 3])
def test_the_stem_is_one_convolution_of_everything(side):
    torch.manual_seed(0)
    config = UNet3DConfig(dim=16, mults=(1, 2), heads=2, head_dim=8, stem=side)
    net = UNet3D(3, 7, KINDS, config)
    noisy, static = torch.randn(2, 3, 8, 8), torch.randn(2, 7, 8, 8)
    weight = torch.cat([net.stem.weight, net.stem_static.weight], dim=1)
    whole = torch.nn.functional.conv2d(
        torch.cat([noisy, static], dim=1), weight, net.stem.bias, padding=side // 2
    )
    torch.testing.assert_close(
        net.stem(noisy) + net.stem_static(static), whole, rtol=1e-4, atol=1e-5
    )


def test_a_stem_of_an_even_side_has_no_middle():
    with pytest.raises(UserError, match="stem must be odd"):
        UNet3D(3, 7, KINDS, UNet3DConfig(stem=4))


@torch.no_grad()
def test_each_frame_has_its_own_noise_level(net):
    args = inputs()
    before = net(*args)
    args[1] = args[1].clone()
    args[1][0, 2] = 1
    moved = (net(*args) - before).abs().amax(dim=(1, 3, 4))
    assert moved[0].argmax() == 2
    assert moved[1].max() == 0


@torch.no_grad()
def test_windows_of_a_batch_do_not_mix(net):
    args = inputs()
    whole = net(*args)
    noisy, t, static, tokens, keep, band = args
    one = net(noisy[1:], t[1:], static[1:], {k: v[1:] for k, v in tokens.items()}, keep[1:], band)
    torch.testing.assert_close(whole[1:], one, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_one_static_part_serves_all_windows(net):
    args = inputs()
    args[2] = args[2][:1].expand(2, -1, -1, -1)
    expected = net(*args)
    args[2] = args[2][:1]
    torch.testing.assert_close(net(*args), expected)


@torch.no_grad()
def test_hidden_conditions_do_not_matter(net):
    args = inputs()
    args[4] = torch.zeros_like(args[4])
    first = net(*args)
    args[3] = {k: v + 5 for k, v in args[3].items()}
    torch.testing.assert_close(net(*args), first)
    args[4] = ~args[4]
    assert (net(*args) - first).abs().max() > 1e-4


@torch.no_grad()
def test_token_attention_is_softmax_attention_over_token_and_null():
    torch.manual_seed(0)
    layer = TokenAttention(8, KINDS, heads=2, head_dim=4)
    for null in layer.null.values():
        null.normal_()
    x, tokens = torch.randn(3, 8, 2, 2), {k: torch.randn(3, w) for k, w in KINDS.items()}
    keep = torch.tensor([True, True, False])
    pixels = layer.norm(x).flatten(2).transpose(1, 2)
    expected = torch.zeros(3, 4, 8)
    for kind in KINDS:
        q = layer.to_q[kind](pixels).view(3, 4, 2, 4)
        key, value = layer.to_kv[kind](tokens[kind]).view(3, 2, 2, 4).unbind(1)
        null_key, null_value = layer.null[kind].view(2, 2, 4)
        keys = torch.stack([key, null_key.expand_as(key)], 1)
        values = torch.stack([value, null_value.expand_as(value)], 1)
        score = torch.einsum("nphd,nkhd->nphk", q, keys) / 2
        score[~keep, ..., 0] = float("-inf")
        made = torch.einsum("nphk,nkhd->nphd", score.softmax(-1), values)
        expected += layer.to_out[kind](made.flatten(2))
    ours = layer(x, tokens, keep).flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_net_without_conditions_runs():
    net = UNet3D(3, 7, {}, UNet3DConfig(dim=16, mults=(1, 2), heads=2, head_dim=8))
    noisy, t, static, _, keep, band = inputs()
    assert net(noisy, t, static, {}, keep, band).shape == noisy.shape


def test_sinusoid_tells_all_levels_apart():
    codes = sinusoid(torch.arange(1001), 32)
    assert codes.shape == (1001, 32)
    assert torch.cdist(codes, codes).fill_diagonal_(1).min() > 1e-3


@torch.no_grad()
def test_conditions_that_modulate_are_heard_without_attention_and_hidden_with_it():
    torch.manual_seed(0)
    config = UNet3DConfig(dim=16, mults=(1, 2), heads=2, head_dim=8, modulate=True)
    net = UNet3D(3, 7, KINDS, config).eval()
    for part in net.modules():
        if isinstance(part, TokenAttention):
            part.forward = lambda x, *_: torch.zeros_like(x)
    args = inputs()
    before = net(*args)
    args[3] = {**args[3], "audio": args[3]["audio"] + 1}
    assert (net(*args) - before).abs().max() > 1e-3
    hidden = [*args[:4], torch.zeros_like(args[4]), args[5]]
    other = [*hidden[:3], {k: v + 1 for k, v in args[3].items()}, *hidden[4:]]
    assert torch.equal(net(*hidden), net(*other))
