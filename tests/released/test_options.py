"""The options that the released weights of DAWN need, each by what it is said to do."""

import pytest
import torch
import torch.nn.functional as F

from tests.dawn.test_a2v import batch, stage
from tests.released.test_dawn import WORDS, a2v
from thbench import config as configs
from thbench.core.errors import UserError
from thbench.core.types import N_LANDMARKS
from thbench.dawn.a2v_net import A2VNet, A2VNetConfig
from thbench.dawn.lfg import LatentFlowGenerator, LatentFlowGeneratorConfig
from thbench.dawn.motion import affine_between, affine_by_svd
from thbench.nn.attention import ChannelNorm, local_attention_mask
from thbench.nn.hourglass import normalise
from thbench.nn.unet3d import CosineAttention, UNet3D, UNet3DConfig
from thbench.nn.warp import blurred_downsample, identity_grid, warp, warp_by_flow

KINDS = {"audio": 5, "pose": 6}


def unet(**options):
    torch.manual_seed(0)
    config = UNet3DConfig(dim=16, mults=(1, 2), heads=2, head_dim=8, **options)
    return UNet3D(3, 7, KINDS, config).eval()


def run(net, n=4, noisy=None, keep=None):
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(1, 3, n, 8, 8, generator=generator)
    static = torch.randn(1, 16, 8, 8, generator=generator)
    tokens = {k: torch.randn(1, n, width, generator=generator) for k, width in KINDS.items()}
    frames = torch.arange(n)[None]
    keep = torch.ones(1, n, dtype=torch.bool) if keep is None else keep
    noisy = drawn if noisy is None else noisy
    mask = local_attention_mask(frames, None)
    with torch.no_grad():
        return net(noisy, torch.full((1, n), 9), static, tokens, keep, mask)


# Warping


def test_grids_between_corners_hold_the_centres_of_corner_pixels():
    grid = identity_grid(3, 5, corners=True)
    assert grid[0, 0].tolist() == [-1, -1]
    assert grid[-1, -1].tolist() == [1, 1]
    assert grid[1, 2].tolist() == [0, 0]


def test_a_grid_between_corners_shows_black_outside_and_is_resized_as_it_is():
    x = torch.ones(1, 1, 4, 4)
    far = torch.full((1, 4, 4, 2), 3.0)
    assert (warp(x, far) == 1).all()
    assert (warp(x, far, corners=True) == 0).all()
    grid = identity_grid(2, 2, corners=True)[None]
    picture = torch.rand(1, 3, 4, 4)
    resized = F.interpolate(grid.movedim(-1, 1), size=(4, 4), mode="bilinear").movedim(1, -1)
    wanted = F.grid_sample(picture, resized, align_corners=False)
    assert torch.allclose(warp(picture, grid, corners=True), wanted)


def test_flows_are_relative_to_the_edges_grid_under_both_conventions():
    x = torch.rand(1, 3, 6, 6)
    still = torch.zeros(1, 2, 6, 6)
    assert torch.allclose(warp_by_flow(x, still, corners=True), x, atol=1e-5)


def test_the_blur_keeps_a_constant_inside_and_is_black_outside():
    made = blurred_downsample(torch.ones(1, 2, 64, 64), 4)
    assert made.shape == (1, 2, 16, 16)
    assert torch.allclose(made[..., 2:-2, 2:-2], torch.ones(()), atol=1e-5)
    assert (made[..., 0, 0] < 0.5).all()
    assert blurred_downsample(made, 1) is made


def test_maps_by_svd_carry_one_covariance_onto_the_other():
    roots = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(3))
    source, driving = roots @ roots.mT + 0.1 * torch.eye(2)
    affine = affine_by_svd(source, driving)
    assert torch.allclose(affine @ driving @ affine.mT, source, atol=1e-4)
    assert (affine[..., 0, 0] > 0).all()
    # Where both are turned and stretched a little, both ways agree.
    near = driving + 0.01 * torch.eye(2)
    lines = torch.diag(torch.tensor([1.0, 0.01]))
    assert torch.allclose(affine_by_svd(lines, lines), torch.eye(2), atol=1e-5)
    assert torch.allclose(affine_between(lines, lines), torch.eye(2), atol=1e-5)
    assert torch.isfinite(affine_by_svd(near, driving)).all()


def test_norms_are_of_a_known_kind():
    assert isinstance(normalise(32, "batch"), torch.nn.BatchNorm2d)
    with pytest.raises(UserError, match="norm must be one of group, batch"):
        normalise(32, "layer")


def test_a_generator_with_batch_norm_trains_and_ignores_others_of_the_batch_after():
    config = configs.load("dawn", WORDS).stages["lfg"].model["net"]
    net = LatentFlowGenerator(LatentFlowGeneratorConfig(**config))
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    net(pictures, pictures.flip(0)).mean().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.eval()
    with torch.no_grad():
        both, one = net(pictures, pictures.flip(0)), net(pictures[:1], pictures[1:])
    assert torch.allclose(both[:1], one, atol=1e-5)


# The U-Net


def test_the_norm_of_a_pixel_sees_no_other_pixel():
    norm = ChannelNorm(6)
    x = torch.randn(2, 6, 3, 3)
    made = norm(x)
    assert torch.allclose(made.mean(1), torch.zeros(()), atol=1e-5)
    x[..., 0, 0] = 7
    assert torch.equal(norm(x)[..., 1, 1], made[..., 1, 1])


def test_one_bias_serves_all_attentions_in_time():
    net = unet(one_bias=True)
    assert net.middle.time.bias is net.stem_time.bias
    assert all(level.time.bias is net.stem_time.bias for level in [*net.down, *net.up])
    assert unet().middle.time.bias is not unet().stem_time.bias


def test_conditions_move_from_the_last_block_to_the_middle():
    net = unet(middle=True, split=(2, 1), cosine=True)
    assert all(block.attend is not None for block in net.middle.blocks)
    assert net.last.attend is None
    assert net.last.time is None
    assert net.more[0][0].attend is None
    assert run(net).shape == (1, 3, 4, 8, 8)


def test_heads_make_up_the_channels():
    with pytest.raises(UserError, match="split must make up 3 output channels"):
        unet(split=(1, 1))


def test_group_norms_over_the_clip_see_other_frames():
    """Where attention in time and its residuals are shut, nothing else lets frames see others."""
    changes = {}
    for over_clip in (False, True):
        net = unet(over_clip=over_clip)
        for module in net.modules():
            if hasattr(module, "to_out") and hasattr(module, "bias"):
                torch.nn.init.zeros_(module.to_out.weight)
        noisy = torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(5))
        before = run(net, noisy=noisy)
        noisy[:, :, 3] *= 5
        changes[over_clip] = (run(net, noisy=noisy) - before)[:, :, 0].abs().max()
    assert changes[False] < 1e-5
    assert changes[True] > 1e-3


def test_the_early_skip_is_what_the_stem_makes():
    early, late = unet(early_skip=True), unet()
    late.load_state_dict(early.state_dict())
    assert not torch.allclose(run(early), run(late))
    for net in (early, late):
        torch.nn.init.zeros_(net.stem_time.to_out.weight)
    assert torch.allclose(run(early), run(late), atol=1e-6)


def test_hidden_conditions_are_zero_to_cosine_attention():
    net = unet(cosine=True)
    hidden = run(net, keep=torch.zeros(1, 4, dtype=torch.bool))
    assert not torch.allclose(run(net), hidden)
    attend = CosineAttention(8, 8, KINDS)
    x, keep = torch.randn(2, 8, 3, 3), torch.zeros(2, dtype=torch.bool)
    tokens = {k: torch.randn(2, width) for k, width in KINDS.items()}
    zero = {k: torch.zeros_like(token) for k, token in tokens.items()}
    assert torch.equal(attend(x, tokens, keep), attend(x, zero, ~keep))


def test_cosine_attention_is_a_softmax_over_the_null_and_the_token():
    torch.manual_seed(4)
    attend = CosineAttention(8, 12, {"audio": 5})
    for p in attend.gain.parameters():
        torch.nn.init.normal_(p, 1, 0.2)
    x, token = torch.randn(2, 8, 3, 3), torch.randn(2, 5)
    made = attend(x, {"audio": token}, torch.ones(2, dtype=torch.bool))
    q = attend.to_q["audio"](attend.norm["audio"](x).movedim(1, -1)).unflatten(-1, (8, 8))
    key, value = attend.to_kv["audio"](attend.embed["audio"](token)).chunk(2, dim=-1)
    null_key, null_value = attend.null["audio"].repeat(1, 8)
    keys = torch.stack([null_key.expand_as(key), key], 1).unflatten(-1, (8, 8))
    values = torch.stack([null_value.expand_as(value), value], 1).unflatten(-1, (8, 8))
    q, keys = (F.normalize(part, dim=-1) for part in (q, keys))
    q, keys = q * attend.gain["audio"][0], keys * attend.gain["audio"][1]
    share = (8 * torch.einsum("nxyhd,nkhd->nxyhk", q, keys)).softmax(-1)
    seen = torch.einsum("nxyhk,nkhd->nxyhd", share, values).flatten(-2)
    wanted = F.layer_norm(attend.to_out["audio"](seen), (12,), attend.norm_out["audio"].weight)
    assert torch.allclose(made, wanted.movedim(-1, 1), atol=1e-5)


# The diffusion model


def test_an_absolute_latent_holds_the_grid_and_comes_back():
    net = a2v(configs.load("dawn", WORDS), 5, 4, 8)
    flow, occlusion = 0.1 * torch.randn(2, 2, 8, 8), torch.rand(2, 1, 8, 8)
    motion = torch.zeros(2, net.known)
    latent = net.to_latent(flow, occlusion, motion)
    grid = identity_grid(8, 8).movedim(-1, 0)
    assert torch.allclose(latent[:, :2], flow + grid)
    again = net.from_latent(latent, motion)
    assert torch.allclose(again[0], flow, atol=1e-6)
    assert torch.allclose(again[1], occlusion, atol=1e-6)


def test_raw_conditions_are_not_normalised():
    options = {"dim": 16, "mults": (1, 2), "heads": 1, "head_dim": 8}
    net = A2VNet(5, 4, 8, A2VNetConfig(**options, raw_pose=[-57.3] * 3 + [1, 120, -120]))
    assert not net.statistics
    with pytest.raises(UserError, match="raw_pose must be 6 numbers"):
        A2VNet(5, 4, 8, A2VNetConfig(**options, raw_pose=[1]))
    assert not any(name.startswith("statistics") for name in net.state_dict())


def test_the_boxed_mask_is_the_box_around_the_face():
    net = a2v(configs.load("dawn", WORDS), 5, 4, 8)
    seen = []
    net.mask_encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    landmarks = torch.full((1, N_LANDMARKS, 3), 0.5)
    landmarks[:, ::2] = 0.25
    net.static(torch.randn(1, 4, 8, 8), landmarks)
    assert seen[0].shape == (1, 1, 32, 32)
    assert seen[0][0, 0, 8:16, 8:16].all()
    assert not seen[0][0, 0, 20:].any()


@pytest.mark.parametrize(("drop", "alike"), [("clip", True), ("frame", False)])
def test_conditions_are_hidden_clip_by_clip_or_frame_by_frame(drop, alike):
    made = stage(dropout=0.5, drop=drop)
    kept = []
    hook = made.net.register_forward_pre_hook(lambda _, given: kept.append(given[4]))
    torch.manual_seed(0)
    for seed in range(8):
        made.loss(batch(seed=seed))
    hook.remove()
    rows = torch.cat(kept)
    assert bool((rows == rows[:, :1]).all()) is alike
    assert 0 < rows.float().mean() < 1


def test_how_conditions_are_hidden_has_two_names():
    with pytest.raises(UserError, match="drop must be 'clip' or 'frame'"):
        stage(drop="batch")
