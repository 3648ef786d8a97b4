"""The Inception network of FID, with the weights that pytorch-fid ported from TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from pytorch_fid import inception as fid
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import inception_v3

from metrics import weights
from metrics.extractors.base import NetworkExtractor

SIZE = 299


def build(state: Mapping[str, Tensor]) -> nn.Module:
    """The network with the given weights, up to its last pooling: (n, 3, 299, 299) to (n, 2048).

    pytorch-fid's own constructor downloads weights; here its blocks are put into torchvision's
    network, of which they replace some, without any.

    Args:
        state: the state dict of pytorch-fid's weight file.
    """
    net = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    net.Mixed_5b = fid.FIDInceptionA(192, pool_features=32)
    net.Mixed_5c = fid.FIDInceptionA(256, pool_features=64)
    net.Mixed_5d = fid.FIDInceptionA(288, pool_features=64)
    net.Mixed_6b = fid.FIDInceptionC(768, channels_7x7=128)
    net.Mixed_6c = fid.FIDInceptionC(768, channels_7x7=160)
    net.Mixed_6d = fid.FIDInceptionC(768, channels_7x7=160)
    net.Mixed_6e = fid.FIDInceptionC(768, channels_7x7=192)
    net.Mixed_7b = fid.FIDInceptionE_1(1280)
    net.Mixed_7c = fid.FIDInceptionE_2(2048)
    net.load_state_dict(state)
    net.fc = nn.Identity()
    return cast(nn.Module, net.eval().requires_grad_(False))


class Inception(NetworkExtractor):
    """Inception features as pytorch-fid computes them.

    Frames in [0, 1] are resized to 299 x 299, bilinear without antialiasing, then scaled to
    [-1, 1].

    Args:
        path: a weight file to use unchecked; by default the official one, checked.

    Raises:
        metrics.weights.WeightsMissing: the official file is not here.
    """

    name = "inception"

    def find(self) -> Path:
        return weights.find("fid-inception")

    def load(self, path: Path) -> None:
        self.net = build(weights.load_state(path)).to(self.device)

    def forward(self, frames: Tensor) -> Tensor:
        resized = F.interpolate(
            frames.float() / 255, (SIZE, SIZE), mode="bilinear", align_corners=False
        )
        return cast(Tensor, self.net(2 * resized - 1))
