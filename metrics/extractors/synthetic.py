"""Experts of the synthetic domain: small networks that know nothing but our synthetic faces.

On rendered faces the features of Inception or ArcFace mean little, and their weights may be absent.
These are trained on the renderer's own labels by ``benchmarks/experts.py`` and travel with the
package. They say nothing about real people: metrics of them carry the name ``synthetic``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metrics import weights
from metrics.extractors.base import NetworkExtractor
from metrics.frames import Frames

SIZE = 64  # frames are looked at in this size
FOLDER = Path(__file__).with_name("experts")
READS = ("yaw", "pitch", "roll", "mouth", "closure", "scale")


class FaceNet(nn.Module):
    """Frames (n, 3, 64, 64) in [0, 1] to features (n, ``dim``).

    Args:
        dim: of the features.
        outputs: of the head that training puts on them.
    """

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, width in ((3, 24), (24, 48), (48, 96), (96, 128)):
            layers += [nn.Conv2d(inputs, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, dim))
        self.head = nn.Linear(dim, outputs)

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.body(2 * images - 1))

    def read(self, features: Tensor) -> Tensor:
        """What the head makes of features: (n, ``outputs``)."""
        return cast(Tensor, self.head(F.relu(features)))


def shrink(frames: Tensor) -> Tensor:
    """Frames (n, 3, H, W) uint8 as the networks see them: (n, 3, 64, 64) float in [0, 1]."""
    return F.interpolate(
        frames.float() / 255, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False
    )


class _Expert(NetworkExtractor):
    """Args: ``path`` is a safetensors file; by default the one that travels with the package."""

    domain = "synthetic"
    file: str
    outputs: int
    dim: int

    def find(self) -> Path:
        return FOLDER / self.file

    def load(self, path: Path) -> None:
        self.net = FaceNet(self.dim, self.outputs)
        weights.fill(self.net, path)
        self.net = self.net.eval().requires_grad_(False).to(self.device)


class SyntheticFace(_Expert):
    """Features of a net that reads pose, mouth and lids from a frame: (T, 64)."""

    name = "synthetic-face"
    file = "face.safetensors"
    dim = 64
    outputs = len(READS)

    def forward(self, frames: Tensor) -> Tensor:
        return F.relu(self.net(shrink(frames)))

    def read(self, frames: Frames | Tensor) -> Tensor:
        """What the net reads from frames (T, 3, H, W) uint8: (T, 6), in its own units."""
        with torch.inference_mode():
            return self.net.head(self.extract(frames).to(self.device)).cpu()


class SyntheticMouth(SyntheticFace):
    """How far that net sees the mouth open, in its own units: (T, 1)."""

    name = "synthetic-mouth"

    def extract(self, frames: Frames | Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        features = super().extract(frames)
        place = READS.index("mouth")
        with torch.inference_mode():
            return self.net.head(features.to(self.device))[:, place : place + 1].cpu()


class SyntheticMotion(SyntheticFace):
    """How those features move within windows of 16 frames, every 8: (windows, 256).

    Mean, standard deviation, mean absolute first and second difference of each feature over the
    window. A clip shorter than a window has none: (0, 256).
    """

    name = "synthetic-motion"
    window = 16
    stride = 8

    def extract(self, frames: Frames | Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        features = super().extract(frames)
        if len(features) < self.window:
            return features.new_zeros(0, 4 * self.dim)
        windows = features.unfold(0, self.window, self.stride)  # (windows, dim, 16)
        first, second = windows.diff(dim=-1), windows.diff(n=2, dim=-1)
        parts = [windows.mean(-1), windows.std(-1), first.abs().mean(-1), second.abs().mean(-1)]
        return torch.cat(parts, dim=1)


class SyntheticIdentity(_Expert):
    """Embedding of whose face it is, of length 1: (T, 64)."""

    name = "synthetic-identity"
    file = "identity.safetensors"
    dim = 64
    outputs = 400

    def forward(self, frames: Tensor) -> Tensor:
        return F.normalize(self.net(shrink(frames)), dim=1)
