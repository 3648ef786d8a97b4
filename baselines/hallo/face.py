"""Whose face it is: tokens that stand where Stable Diffusion has a text (section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from metrics import weights
from metrics.extractors.arcface import ArcFace
from metrics.extractors.base import Extractor
from metrics.extractors.synthetic import SyntheticIdentity
from metrics.weights import WeightsMissing, WeightsUnreadable
from thbench.core.errors import UserError, did_you_mean
from thbench.core.types import to_unit
from thbench.nn.zero_init import zero_init

WIDTHS = {"arcface": 512, "glintr100": 512, "synthetic-identity": 64, "encoder": 512}
"""Channels of the embedding, by where it comes from."""


class FaceTokens(nn.Module):
    """An embedding of the portrait's face, and a linear layer from it to tokens.

    Args:
        source: ``arcface`` (published weights; real people), ``glintr100`` (the released code's:
            insightface's larger network, whose embeddings keep their length),
            ``synthetic-identity`` (the expert of the synthetic faces; travels with the package) or
            ``encoder`` (a small network trained along, for any faces).
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

    def unknown(self) -> Tensor:
        """Tokens (tokens, dim) of no face: of an embedding of zeros."""
        return self.norm(self.project.bias.unflatten(-1, self.shape))

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


class FaceLocator(nn.Module):
    """Where the face is, for the denoiser's first convolution (the released code's).

    Its last layer starts at zero, so a new one changes nothing.

    Args:
        channels: of each resolution, finest first; the last is the latent's.
        outputs: channels that the denoiser's first convolution makes.
    """

    def __init__(self, channels: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.halvings = len(channels) - 1
        layers: list[nn.Module] = [nn.Conv2d(3, channels[0], 3, 1, 1), nn.SiLU()]
        for inputs, made in pairwise(channels):
            layers += [nn.Conv2d(inputs, inputs, 3, 1, 1), nn.SiLU()]
            layers += [nn.Conv2d(inputs, made, 3, 2, 1), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.last = zero_init(nn.Conv2d(channels[-1], outputs, 3, 1, 1))

    def forward(self, mask: Tensor) -> Tensor:
        """Features (B, outputs, h, w) of a mask (B, 1, H, W), H = 2^halvings h."""
        return self.last(self.layers(mask.expand(-1, 3, -1, -1)))  # type: ignore[no-any-return]


class Glintr100(ArcFace):
    """Embeddings (T, 512) of insightface's ``glintr100.onnx``, of the length that it gives them.

    Aligned by Face Mesh's points; insightface aligns by those of its own detector.

    Args: as ``ArcFace``.

    Raises:
        metrics.weights.WeightsMissing: the file or onnxruntime is not here.
    """

    name = "glintr100"

    def find(self) -> Path:
        path = weights.folder() / "glintr100.onnx"
        if not path.is_file():
            raise WeightsMissing(
                f"glintr100.onnx of insightface's antelopev2 is not in {weights.folder()}"
            )
        return path

    def forward(self, frames: Tensor) -> Tensor:
        """Embeddings (n, 512) of aligned faces (n, 3, 112, 112), 0 to 255."""
        scaled = (frames.float() / 255 - 0.5) / 0.5
        entry = self._session.get_inputs()[0].name
        (found,) = self._session.run(None, {entry: scaled.cpu().numpy()})
        return torch.from_numpy(found)


@lru_cache(maxsize=2)
def extractor(source: str) -> Extractor:
    """The network that embeds faces, loaded once per process and kept out of the model."""
    try:
        kinds = {"arcface": ArcFace, "glintr100": Glintr100}
        return kinds.get(source, SyntheticIdentity)()
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
