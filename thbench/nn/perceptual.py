"""Reconstruction losses: L1 between features of two images at several resolutions.

With VGG-19 features this is the perceptual loss of Johnson et al. (2016) as MRAA and DAWN (Eq. 5)
use it; with plain pixels and their differences it needs no weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VGG19_Weights, vgg19

from metrics import weights as weight_files
from thbench.core.errors import UserError
from thbench.nn.warp import resize_to

VGG_URL = VGG19_Weights.IMAGENET1K_V1.url
Features = Callable[[Tensor], list[Tensor]]


class VGG19(nn.Module):
    """The first ReLU of each of VGG-19's five blocks, for images (B, 3, H, W) in [0, 1].

    Args:
        weights: torchvision's, or None for random ones (tests). The file that `thbench weights pull
            vgg19` fetched is taken where it is, otherwise torchvision fetches it.

    Raises:
        UserError: the weights are not there and cannot be downloaded.
    """

    mean: Tensor
    std: Tensor
    ENDS = (2, 7, 12, 21, 30)

    def __init__(self, weights: VGG19_Weights | None = VGG19_Weights.IMAGENET1K_V1) -> None:
        super().__init__()
        try:
            layers = _layers(weights)
        except (OSError, RuntimeError) as error:  # no network, or a broken file
            raise UserError(_missing(error)) from error
        starts = (0, *self.ENDS[:-1])
        self.blocks = nn.ModuleList(layers[a:b] for a, b in zip(starts, self.ENDS, strict=True))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False  # a block's output is a feature, the next must not edit it
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Feature maps of images (B, 3, H, W) in [0, 1], finest first."""
        x, features = (image - self.mean) / self.std, []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return features


def pixel_features(image: Tensor) -> list[Tensor]:
    """The image and its differences along x and y, (B, 3, H, W) each."""
    across = F.pad(image[..., 1:] - image[..., :-1], (0, 1))
    down = F.pad(image[..., 1:, :] - image[..., :-1, :], (0, 0, 0, 1))
    return [image, across, down]


def pyramid_l1(
    features: Features,
    prediction: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    scales: int = 4,
) -> Tensor:
    """Sum over scales and features of the mean absolute difference.

    Args:
        features: image to feature maps.
        prediction: (B, 3, H, W) in [0, 1].
        target: (B, 3, H, W) in [0, 1]. No gradient flows into it.
        weight: (B, 1, H, W) importance of pixels, or None for 1 everywhere.
        scales: the images are compared at 1, 1/2, 1/4, ... of their size.
    """
    total = prediction.new_zeros(())
    for scale in range(scales):
        if scale:
            prediction, target = F.avg_pool2d(prediction, 2), F.avg_pool2d(target, 2)
        with torch.no_grad():
            wanted = features(target)
        for ours, theirs in zip(features(prediction), wanted, strict=True):
            error = (ours - theirs).abs()
            if weight is not None:
                error = error * resize_to(weight, (error.shape[-2], error.shape[-1]))
            total = total + error.mean()
    return total


def _layers(wanted: VGG19_Weights | None) -> nn.Sequential:
    here = weight_files.folder() / weight_files.WEIGHTS["vgg19"].file
    if wanted is None or not here.is_file():
        return cast(nn.Sequential, vgg19(weights=wanted, init_weights=False).features)
    try:
        state = weight_files.load_state(weight_files.find("vgg19"))
    except (weight_files.WeightsMissing, weight_files.WeightsUnreadable) as error:
        raise UserError(f"The perceptual loss: {error}.") from error
    net = vgg19(weights=None, init_weights=False)
    net.load_state_dict(state)
    return cast(nn.Sequential, net.features)


def has_vgg_weights() -> bool:
    """Whether VGG-19's weights lie in one of the folders that they are taken from."""
    own = weight_files.folder() / weight_files.WEIGHTS["vgg19"].file
    return own.is_file() or (_hub() / Path(VGG_URL).name).is_file()


def vgg_remedy() -> str:
    """What to do where they do not."""
    return (
        f"the perceptual loss needs VGG-19: run `thbench weights pull vgg19`, put {VGG_URL} into"
        f" {_hub()}, or set perceptual=pixel in the stage's model block"
    )


def _hub() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _missing(error: Exception) -> str:
    text = vgg_remedy()
    return f"{text[0].upper()}{text[1:]} (it could not be fetched: {error})."
