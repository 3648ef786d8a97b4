import dataclasses

import pytest
import torch

from thbench.config import OptimConfig
from thbench.core.errors import UserError
from thbench.core.types import Batch
from thbench.dawn import lfg
from thbench.dawn.lfg import LatentFlowGenerator, LatentFlowGeneratorConfig, LFGStage
from thbench.dawn.lfg_losses import pixel_weight, psnr
from thbench.dawn.motion import (
    REACH,
    Refinement,
    Regions,
    affine_between,
    equivariance,
    moments,
    region_maps,
)
from thbench.nn.perceptual import VGG19, pixel_features, pyramid_l1
from thbench.nn.regions import LIPS
from thbench.nn.warp import Deformation, identity_grid, warp_by_flow
from thbench.training.stage import StageContext

TINY = {
    "regions": 4,
    "expansion": 8,
    "down": 1,
    "bottleneck": 1,
    "region_net": [4, 16, 2],
    "background_net": [4, 16, 2],
    "flow_net": [8, 32, 2],
    "kernel": 3,
}
REFINED = {**TINY, "refinement": [4, 16, 2], "own_gate": True, "sees_flow": True}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return LatentFlowGenerator(LatentFlowGeneratorConfig(**REFINED)).eval()


def pictures(n, seed=0):
    """Smooth coloured blobs, (n, 3, 32, 32)."""
    noise = torch.rand(n, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, size=(32, 32), mode="bicubic").clamp(0, 1)


def batch(n=4, frames=1):
    source = (pictures(n) * 255).to(torch.uint8)
    video = torch.stack([source.roll(2 * (t + 1), dims=-1) for t in range(frames)], dim=1)
    landmarks = torch.full((n, frames, 478, 3), 0.1)
    square = torch.tensor([[0.4, 0.6], [0.6, 0.6], [0.6, 0.8], [0.4, 0.8]])
    landmarks[..., list(LIPS), :2] = square.repeat_interleave(5, dim=0)
    return Batch(
        video=video,
        source=source,
        audio=torch.zeros(n, frames, 4),
        pose=torch.zeros(n, frames, 6),
        eyes=torch.zeros(n, frames, 2),
        landmarks=landmarks,
        valid=torch.ones(n, frames, dtype=torch.bool),
        source_pose=torch.zeros(n, 6),
        source_eyes=torch.zeros(n, 2),
        source_landmarks=landmarks[:, 0],
        frames=torch.zeros(n, frames, dtype=torch.int64),
        source_frame=torch.zeros(n, dtype=torch.int64),
        ids=tuple(map(str, range(n))),
    )


def stage(**options):
    context = StageContext(size=32, audio_dim=4, optim=OptimConfig())
    torch.manual_seed(0)
    return LFGStage(context, **{"net": REFINED, "perceptual": "pixel", **options})


def spd(*shape, seed=0):
    """Covariances that are neither tiny nor round."""
    g = torch.Generator().manual_seed(seed)
    angle = torch.rand(*shape, generator=g, dtype=torch.float64) * 3
    axes = torch.stack([torch.stack([angle.cos(), -angle.sin()], -1),
                        torch.stack([angle.sin(), angle.cos()], -1)], -2)  # fmt: skip
    spread = torch.rand(*shape, 2, generator=g, dtype=torch.float64) * 0.01 + 0.01
    spread[..., 0] += 0.2
    return axes @ torch.diag_embed(spread) @ axes.mT


def test_sizes_at_paper_scale_are_the_published_ones():
    with torch.device("meta"):
        net = LatentFlowGenerator(LatentFlowGeneratorConfig())
    size = {
        name: sum(p.numel() for p in child.parameters()) for name, child in net.named_children()
    }
    generator = size["encoder"] + size["decoder"] + size["flow_predictor"]
    assert generator == pytest.approx(45.6e6, rel=0.02)
    assert size["flow_predictor"] == pytest.approx(37.7e6, rel=0.02)
    assert size["region_predictor"] == pytest.approx(14.1e6, rel=0.02)
    assert size["background_predictor"] == pytest.approx(6.3e6, rel=0.02)
    assert (net.latent_dim, net.latent_size(128)) == (256, 32)


def test_moments_are_those_of_a_gaussian():
    grid = identity_grid(64, 64)
    made = Regions(torch.tensor([[[0.2, -0.1]]]), torch.tensor([[[[0.02, 0.006], [0.006, 0.01]]]]))
    heat = made.gaussians(grid)
    found = moments(heat / heat.sum((2, 3), keepdim=True))
    assert torch.allclose(found.mean, made.mean, atol=1e-3)
    assert torch.allclose(found.covariance, made.covariance, atol=4e-4)


def test_affine_between_is_the_svds_up_to_its_open_signs():
    source, driving = spd(50, seed=1), spd(50, seed=2)
    ours = affine_between(source, driving)
    assert torch.allclose(ours @ driving @ ours.mT, source, rtol=0.02, atol=2e-3)
    us, ss, _ = torch.linalg.svd(source)
    ud, sd, _ = torch.linalg.svd(driving)
    theirs = torch.stack([
        us @ torch.diag_embed(sign * (ss / sd).sqrt()) @ ud.mT
        for sign in torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    ])  # fmt: skip
    assert (theirs - ours).abs().amax((-1, -2)).min(0).values.max() < 0.02
    assert (torch.linalg.det(ours) > 0).all()  # never a reflection
    assert (ours.diagonal(dim1=-1, dim2=-2).sum(-1) >= 0).all()  # never above a quarter turn


def test_affine_between_is_stable_where_the_svd_is_not():
    round_ = (0.02 * torch.eye(2)).requires_grad_()
    long = torch.tensor([[0.05, 0.0], [0.0, 0.01]], requires_grad=True)
    for source, driving in ((round_, round_), (round_, long), (long, round_)):
        result = affine_between(source, driving)
        grads = torch.autograd.grad(result.square().sum() + result.sum(), (source, driving)
                                    if source is not driving else (source,))  # fmt: skip
        assert result.isfinite().all()
        assert all(g.isfinite().all() and g.abs().max() < 1e4 for g in grads)
    assert torch.allclose(affine_between(long, long), torch.eye(2), atol=1e-4)


def test_region_maps_carry_driving_regions_onto_source_regions():
    source = Regions(torch.rand(2, 3, 2).double(), spd(2, 3, seed=3))
    driving = Regions(torch.rand(2, 3, 2).double(), spd(2, 3, seed=4))
    maps = region_maps(source, driving)
    carried = (maps[..., :2] @ driving.mean[..., None])[..., 0] + maps[..., 2]
    assert torch.allclose(carried, source.mean)


@pytest.mark.parametrize("arguments", [TINY, REFINED])
def test_shapes_and_ranges(arguments):
    net = LatentFlowGenerator(LatentFlowGeneratorConfig(**arguments)).eval()
    source, driving = pictures(3), pictures(3, seed=1)
    features = net.encode(source)
    assert features.latent.shape == (3, net.latent_dim, 16, 16)
    flow, occlusion = net.flow(source, driving)
    assert flow.shape == (3, 2, 16, 16)
    assert occlusion.shape == (3, 1, 16, 16)
    assert occlusion.min() >= 0
    assert occlusion.max() <= 1
    image = net.decode(features, flow, occlusion)
    assert image.shape == source.shape
    assert image.min() >= 0
    assert image.max() <= 1


@pytest.mark.parametrize("arguments", [TINY, REFINED])
def test_flows_of_several_frames_of_a_portrait_are_those_of_each_pair(arguments):
    net = LatentFlowGenerator(LatentFlowGeneratorConfig(**arguments)).eval()
    portraits, frames = pictures(2), pictures(6, seed=1)
    together = net.flow(portraits, frames)
    pairs = net.flow(portraits.repeat_interleave(3, dim=0), frames)
    for a, b in zip(together, pairs, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    with pytest.raises(ValueError, match="6 frames"):
        net.flow(pictures(4), frames)


def test_the_portrait_is_encoded_once_for_many_frames(net):
    calls = []
    net.encoder.register_forward_hook(lambda *_: calls.append(1))
    source, driving = pictures(1), pictures(6, seed=1)
    flow, occlusion = net.flow(source.expand(6, -1, -1, -1), driving)
    features = net.encode(source)
    frames = [net.decode(features, flow[a : a + 2], occlusion[a : a + 2]) for a in (0, 2, 4)]
    assert len(calls) == 1
    each = net.decode(net.encode(source.expand(6, -1, -1, -1)), flow, occlusion)
    assert torch.allclose(torch.cat(frames), each, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_a_frame_is_the_same_in_any_batch(net, training):
    net.train(training)
    source, driving = pictures(4), pictures(4, seed=1)
    with torch.no_grad():
        together = net(source, driving)
        alone = torch.cat([net(source[i : i + 1], driving[i : i + 1]) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_portraits_and_frames_must_match(net):
    with pytest.raises(ValueError, match="2 portraits for 3 frames"):
        net.decode(net.encode(pictures(2)), torch.zeros(3, 2, 16, 16), torch.ones(3, 1, 16, 16))


def test_occlusion_of_one_shows_the_warped_portrait():
    net = LatentFlowGenerator(LatentFlowGeneratorConfig(**TINY)).eval()
    source = pictures(1)
    flow = torch.zeros(1, 2, 16, 16)
    flow[:, 0] = 2 * 2 / 32  # two pixels
    image = net.decode(net.encode(source), flow, torch.ones(1, 1, 16, 16))
    assert torch.allclose(image[..., :-2], source[..., 2:], atol=1e-5)


def test_the_flow_is_made_of_regions_and_background():
    """MRAA's bottleneck: the driving picture acts through these alone."""
    net = LatentFlowGenerator(LatentFlowGeneratorConfig(**TINY)).eval()
    image = net.downsample(pictures(1))
    regions, background = net.region_predictor(image), torch.eye(2, 3)[None]
    flow, _ = net.flow_predictor(image, regions, regions, background)
    assert flow.abs().max() < 1e-4  # nothing moved
    away = torch.eye(2, 3)[None].clone()
    away[..., 2] = 0.1
    source = Regions(regions.mean + 0.1, regions.covariance)
    flow, _ = net.flow_predictor(image, source, regions, away)
    assert torch.allclose(flow, torch.full_like(flow, 0.1), atol=1e-4)


def test_a_refinement_finds_what_regions_leave():
    """It begins with what the regions say, sees both pictures, and reaches no further than told."""
    torch.manual_seed(0)
    refine = Refinement((4, 16, 2), 2)
    source, driving, flow = pictures(2), pictures(2, seed=1), 0.1 * torch.randn(2, 2, 16, 16)
    assert torch.equal(refine(source, driving, flow), flow)
    torch.nn.init.normal_(refine.head.weight, std=0.02)
    better = refine(source, driving, flow)
    assert 1e-3 < (better - flow).abs().max() <= REACH
    for others in ((driving, driving, flow), (source, source, flow)):
        assert not torch.allclose(refine(*others), better, atol=1e-3)


def test_the_wanted_picture_has_no_say_in_the_occlusion_beside_regions(net):
    """Else it would be painted there."""
    source, driving = pictures(2), pictures(2, seed=1)
    torch.nn.init.normal_(net.refine.head.weight)
    flow, occlusion = net.flow(source, driving)
    net.refine = None
    coarse, same = net.flow(source, driving)
    assert torch.equal(occlusion, same)
    assert not torch.allclose(flow, coarse, atol=1e-3)


def test_equivariance_is_zero_for_a_perfect_predictor_and_not_for_a_blind_one():
    torch.manual_seed(0)

    class Perfect(torch.nn.Module):
        """Follows a picture whose two colours are its own coordinates."""

        def forward(self, image):
            x, y = image[:, 0], image[:, 1]
            spot = torch.exp(-(x.square() + y.square()) / 2 / 0.2**2)[:, None]
            return moments(spot / spot.sum((2, 3), keepdim=True))

    grid = identity_grid(64, 64).movedim(-1, 0)
    image = torch.cat([grid, grid[:1]])[None].repeat(4, 1, 1, 1)
    deep = Deformation.random(image, spline=0.0)
    assert not torch.allclose(deep.image(image), image, atol=0.01)
    perfect = Perfect()
    shift, affine = equivariance(perfect, image, perfect(image))
    assert shift < 0.01
    assert affine < 0.1
    blind = Regions(torch.full((4, 1, 2), 0.5), 0.2 * torch.eye(2).expand(4, 1, 2, 2))
    blind_shift, blind_affine = equivariance(perfect, image, blind)
    assert blind_shift > 10 * shift
    assert blind_affine > 3 * affine


@pytest.mark.parametrize("frames", [1, 3])
def test_loss_reaches_every_parameter(frames):
    training = stage(motion_weight=5.0, region_weight=2.0)
    for part in (training.net.background_predictor, training.net.refine):
        torch.nn.init.normal_(part.head.weight, std=0.01)
    losses = training.loss(batch(frames=frames))
    assert {"loss", "reconstruction", "shift", "affine", "psnr"} == set(losses)
    losses["loss"].backward()
    for name, parameter in training.net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_loss_is_of_frames_made_from_their_own_portraits_with_its_weights(monkeypatch):
    options = {"reconstruction": 11.0, "equivariance": (5.0, 7.0), "scales": 2}
    options |= {"warp_weight": 2.0, "smoothness": 3.0, "flow_noise": 0.5}
    training, data, seen = stage(**options), batch(4, frames=2), {}

    def watch(owner, name):
        real = getattr(owner, name)

        def watched(*args):
            seen[name] = (args, real(*args))
            return seen[name][1]

        monkeypatch.setattr(owner, name, watched)

    for owner, name in ((training.net, "motion"), (training.net, "decode"), (lfg, "equivariance")):
        watch(owner, name)
    losses = training.loss(data)
    portraits = (data.source / 255).repeat_interleave(2, 0)
    frames = (data.video / 255).flatten(0, 1)
    (source, driving), found = seen["motion"]
    torch.testing.assert_close(source, portraits)
    torch.testing.assert_close(driving, frames)
    (features, flow, occlusion), made = seen["decode"]
    torch.testing.assert_close(features.image, portraits)
    torch.testing.assert_close(features.latent, training.net.encode(portraits).latent)
    assert torch.equal(occlusion, found.occlusion)
    assert (flow - found.flow).std().item() == pytest.approx(0.5, rel=0.1)
    (_, shown, regions), (shift, affine) = seen["equivariance"]
    torch.testing.assert_close(shown, training.net.downsample(frames))
    assert regions is found.regions
    flow = found.flow
    uneven = flow.diff(dim=-1).abs().mean() + flow.diff(dim=-2).abs().mean()
    rebuilt = pyramid_l1(pixel_features, made, frames, scales=2)
    warped = pyramid_l1(pixel_features, warp_by_flow(portraits, flow), frames, scales=2)
    expected = 11 * rebuilt + 2 * warped + 3 * uneven + 5 * shift + 7 * affine
    torch.testing.assert_close(losses["loss"], expected)


def test_it_learns_a_translation():
    training = stage(motion_weight=5.0, equivariance=(0.0, 0.0))
    data = batch(2)
    optimizer = torch.optim.Adam(training.net.parameters(), 5e-3)
    source, driving = data.source / 255, data.video[:, 0] / 255
    copying = psnr(source, driving)
    for _ in range(40):
        losses = training.loss(data)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert losses["psnr"] > copying + 3


def test_weights_favour_what_moves_and_the_mouth():
    data = batch()
    source, driving = data.source / 255, data.video[:, 0] / 255
    assert pixel_weight(data, source, driving, motion=0.0, regions=0.0) is None
    mouth = pixel_weight(data, source, source, motion=0.0, regions=4.0)[0, 0]
    assert mouth[22, 16] == pytest.approx(5 * mouth[5, 25].item(), rel=1e-3)
    assert mouth.mean() == pytest.approx(1.0, rel=0.2)
    unseen = dataclasses.replace(data, valid=torch.zeros_like(data.valid))
    assert (pixel_weight(unseen, source, source, motion=0.0, regions=4.0) == 1).all()
    moving = source.clone()
    moving[..., :8, :8] = 1 - moving[..., :8, :8]
    weight = pixel_weight(data, source, moving, motion=8.0, regions=0.0)
    assert weight[..., :8, :8].mean() > 1.5 * weight[..., 16:, 16:].mean()


def test_each_clip_s_weights_have_a_mean_of_one_whatever_others_show():
    """Or the loss would depend on how a batch is divided over devices and parts."""
    data = batch(n=3, frames=2)
    source = data.source.repeat_interleave(2, 0) / 255
    driving = data.video.flatten(0, 1) / 255
    driving[:2] = source[:2]  # the first clip stands still
    weight = pixel_weight(data, source, driving, motion=8.0, regions=4.0)
    clips = weight.unflatten(0, (3, 2))
    torch.testing.assert_close(clips.mean((1, 2, 3, 4)), torch.ones(3))
    alone = data.map(lambda tensor: tensor[1:2])
    own = pixel_weight(alone, source[2:4], driving[2:4], motion=8.0, regions=4.0)
    torch.testing.assert_close(own, clips[1])


def test_vgg_path_with_given_features_keeps_them_out_of_the_checkpoint():
    torch.manual_seed(0)
    training = stage(perceptual="vgg", vgg=VGG19(weights=None), scales=1)
    losses = training.loss(batch(2))
    losses["loss"].backward()
    assert losses["loss"].isfinite()
    assert training.net.decoder.last.weight.grad.abs().sum() > 0
    assert not any("vgg" in name for name in training.state_dict())


def test_vgg_is_asked_for_only_when_training_starts(monkeypatch):
    def missing():
        raise UserError("VGG is not here")

    monkeypatch.setattr("thbench.training.reconstruction.VGG19", missing)
    waiting = stage(perceptual="vgg")  # a trained net is loaded through this, without VGG
    with pytest.raises(UserError, match="VGG is not here"):
        waiting.on_fit_start()


def test_samples_are_portrait_frame_and_reconstruction():
    strip = stage().samples(batch(2, frames=3))["reconstruction"]
    assert strip.shape == (3, 3, 32, 96)
    assert torch.equal(strip[1, :, :, :32], batch().source[0] / 255)
    assert not strip.requires_grad


def test_wrong_options_are_told():
    with pytest.raises(TypeError, match="'region'"):  # ``build_stage`` says which is meant
        stage(net={"region": 3})
    with pytest.raises(UserError, match="perceptual must be"):
        stage(perceptual="lpips")
    with pytest.raises(UserError, match=r"\[expansion, max_features, blocks\]"):
        stage(net={"flow_net": [8, 32]})
    with pytest.raises(UserError, match="size=32 does not divide by 64"):
        stage(net={**TINY, "flow_net": [8, 32, 5]})


def test_coordinates_stay_exact_under_half_precision():
    of, to = (Regions(torch.rand(1, 3, 2), spd(1, 3, seed=s).float()) for s in (5, 6))
    with torch.autocast("cpu", torch.bfloat16):
        half = region_maps(of, to)
        image = stage().net(pictures(1), pictures(1, seed=1))
    assert torch.equal(half, region_maps(of, to))
    assert image.isfinite().all()
