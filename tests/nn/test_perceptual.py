import dataclasses
from urllib.error import URLError

import pytest
import torch
from torchvision.models import VGG19_Weights

from metrics.weights import WEIGHTS, sha256
from thbench.core.errors import UserError
from thbench.nn import perceptual
from thbench.nn.perceptual import VGG19, pixel_features, pyramid_l1


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(0)
    return VGG19(weights=None)


def test_vgg_gives_five_levels_that_nothing_edits(vgg):
    with torch.no_grad():
        levels = vgg(torch.rand(1, 3, 32, 32))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2),
    ]  # fmt: skip
    assert all(level.min() >= 0 for level in levels)
    assert not any(parameter.requires_grad for parameter in vgg.parameters())


def test_vgg_loss_is_zero_for_the_same_picture_and_pulls_towards_the_target(vgg):
    target = torch.rand(1, 3, 32, 32)
    made = (target + 0.1).requires_grad_()
    assert pyramid_l1(vgg, target, target, scales=2) == 0
    loss = pyramid_l1(vgg, made, target, scales=2)
    loss.backward()
    with torch.no_grad():
        better = made - 0.02 * made.grad / made.grad.abs().max()
        assert pyramid_l1(vgg, better, target, scales=2) < loss


def test_the_weights_folder_comes_before_the_network(monkeypatch, tmp_path):
    entry = WEIGHTS["vgg19"]
    assert VGG19_Weights.IMAGENET1K_V1.url == entry.url
    monkeypatch.setenv("THBENCH_WEIGHTS", str(tmp_path))
    small = {"features.0.weight": torch.rand(64, 3, 3, 3)}
    torch.save(small, tmp_path / entry.file)
    with pytest.raises(UserError, match=r"hash differs.*weights pull vgg19"):
        VGG19()
    digest = sha256(tmp_path / entry.file)
    monkeypatch.setitem(WEIGHTS, "vgg19", dataclasses.replace(entry, sha256=digest))
    monkeypatch.setattr(perceptual, "vgg19", lambda **options: Named())
    first = VGG19().blocks[0][0]
    assert torch.equal(first.weight, small["features.0.weight"])


class Named(torch.nn.Module):
    """VGG-19's names with one convolution of its weights."""

    def __init__(self):
        super().__init__()
        convolution = torch.nn.Conv2d(3, 64, 3, bias=False)
        self.features = torch.nn.Sequential(convolution, *[torch.nn.ReLU() for _ in range(30)])


def test_missing_weights_are_one_line_with_all_remedies(monkeypatch, tmp_path):
    def offline(**options):
        raise URLError("no network")

    monkeypatch.setenv("THBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(perceptual, "vgg19", offline)
    with pytest.raises(UserError) as caught:
        VGG19()
    text = str(caught.value)
    assert VGG19_Weights.IMAGENET1K_V1.url in text
    assert str(torch.hub.get_dir()) in text
    assert "perceptual=pixel" in text
    assert "thbench weights pull vgg19" in text
    assert "\n" not in text


def test_pixel_features_are_values_and_slopes():
    ramp = torch.arange(8.0).expand(1, 3, 8, 8)
    image, across, down = pixel_features(ramp)
    assert torch.equal(image, ramp)
    assert (across[..., :-1] == 1).all()
    assert (down == 0).all()


def test_each_scale_halves_the_pictures():
    sizes = []
    pictures = torch.rand(2, 1, 3, 16, 16)
    value = pyramid_l1(lambda x: sizes.append(x.shape[-1]) or [x], *pictures, scales=3)
    assert sizes == [16, 16, 8, 8, 4, 4]
    small = [[torch.nn.functional.avg_pool2d(x, k) for x in pictures] for k in (1, 2, 4)]
    expected = sum((a - b).abs().mean() for a, b in small)
    torch.testing.assert_close(value, expected)


def test_the_pyramid_adds_up_its_scales_and_weighs_pixels():
    a, b = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.5)
    plain = pyramid_l1(lambda x: [x], a, b, scales=3)
    assert plain == pytest.approx(3 * 0.5)
    weight = torch.zeros(1, 1, 8, 8)
    weight[..., :4] = 2
    assert pyramid_l1(lambda x: [x], a, b, weight, scales=3) == pytest.approx(3 * 0.5)
    b[..., :4] = 0  # all of the error now stands where the weight is 0
    assert pyramid_l1(lambda x: [x], a, b, weight, scales=3) == 0
