"""Whose face it is: tokens that stand where Stable Diffusion has a text (section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from metrics.extractors.arcface import ArcFace
from metrics.extractors.base import Extractor
from metrics.extractors.synthetic import SyntheticIdentity
from metrics.weights import WeightsMissing, WeightsUnreadable
from thbench.core.errors import UserError, did_you_mean
from thbench.core.types import to_unit

WIDTHS = {"arcface": 512, "synthetic-identity": 64, "encoder": 512}
"""Channels of the embedding, by where it comes from."""


class FaceTokens(nn.Module):
    """An embedding of the portrait's face, and a linear layer from it to tokens.

    Args:
        source: ``arcface`` (published weights; real people), ``synthetic-identity`` (the expert of
            the synthetic faces; travels with the package) or ``encoder`` (a small network trained
            along, for any faces).
        tokens, dim: how many, and their channels.
        channels: of ``encoder``, a halving each.
    """

    def __init__(
        self,
        source: str = "arcface",
        *,
        tokens: int = 4,
        dim: int = 768,
        channels: Sequence[int] = (32, 64, 128, 256),
    ) -> None:
        super().__init__()
        if source not in WIDTHS:
            raise UserError(f"No face embedding '{source}'.{did_you_mean(source, WIDTHS)}")
        self.source, width = source, WIDTHS[source]
        self.encoder = _encoder(channels, width) if source == "encoder" else None
        self.project = nn.Linear(width, tokens * dim)
        self.shape = (tokens, dim)
        self.norm = nn.LayerNorm(dim)
        self.blank = False  # embeds nothing, to see how large everything is

    def forward(self, portraits: Tensor, landmarks: Tensor) -> Tensor:
        """Tokens (B, tokens, dim) of portraits (B, 3, H, W) uint8 with their (B, 478, 3).

        Raises:
            UserError: the embedding's weights are not here.
        """
        return self.norm(self.project(self.embed(portraits, landmarks)).unflatten(-1, self.shape))

    def embed(self, portraits: Tensor, landmarks: Tensor) -> Tensor:
        """The embedding, (B, width)."""
        if self.blank:
            return portraits.new_zeros(len(portraits), WIDTHS[self.source], dtype=torch.float32)
        if self.encoder is not None:
            return self.encoder(2 * to_unit(portraits) - 1)
        given = {"landmarks": landmarks.float().cpu(), "valid": torch.ones(len(portraits))}
        found = extractor(self.source).extract(portraits.cpu(), given)
        return found.clone().to(
            portraits.device
        )  # made under inference_mode; training needs its own

    def check(self) -> None:
        """Raise a UserError if the embedding's weights are not here."""
        if self.encoder is None:
            extractor(self.source)


@lru_cache(maxsize=2)
def extractor(source: str) -> Extractor:
    """The network that embeds faces, loaded once per process and kept out of the model."""
    try:
        return ArcFace() if source == "arcface" else SyntheticIdentity()
    except (WeightsMissing, WeightsUnreadable) as error:
        raise UserError(
            f"Hallo's face embedding: {error}; or take another with stages.image.model.net.face and"
            " stages.video.model.net.face: 'encoder' is trained along and needs no weights."
        ) from error


def _encoder(channels: Sequence[int], width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in zip((3, *channels), channels, strict=False):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.GroupNorm(8, outputs), nn.SiLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], width)
    )
