"""A variational autoencoder of frames, in whose latents several baselines generate videos.

The network is diffusers' ``AutoencoderKL`` (Rombach et al. 2022, section 3.1). At paper scale it
is Stable Diffusion's, frozen: ``init_from`` names its weights and the stage has no steps. Smaller
ones are trained here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from scipy.fft import dct
from torch import Tensor, nn

from baselines.pretrained import fill_from
from thbench.core.errors import UserError
from thbench.core.hub import MissingResource, missing_weights
from thbench.core.signatures import Blocks
from thbench.core.slices import iterate_slices
from thbench.core.types import Batch, to_unit
from thbench.data.frozen_cache import FrozenRows
from thbench.nn.perceptual import pyramid_l1
from thbench.nn.zero_init import zero_init
from thbench.training.reconstruction import ReconstructionStage
from thbench.training.stage import StageContext

CERTAIN = -6.0
"""The logarithm of the variance with which an untrained encoder beside ``BlockCosines`` draws."""


class BlockCosines(nn.Module):
    """A linear code of images: the lowest frequencies of each block, as in JPEG.

    It knows no data and is not trained. The basis is orthonormal: a discrete cosine transform (type
    II) of brightness and of two differences of colours, of which the expected strongest are kept.

    Args:
        size: height and width of a block.
        dim: coefficients per block.
        colour: how much weaker differences of colours are expected to be, in power.

    Raises:
        UserError: a block has not so many.
    """

    basis: Tensor

    def __init__(self, size: int, dim: int, colour: float = 0.2) -> None:
        super().__init__()
        if not 0 < dim <= 3 * size**2:
            raise UserError(
                f"Blocks of {size} x {size} pixels have {3 * size**2} cosines, not {dim}: set"
                " net.latent_dim lower, or net.cosines=false."
            )
        self.size = size
        waves = dct(np.eye(size), axis=0, norm="ortho")
        colours = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
        squares = np.arange(size) ** 2
        power = np.array([1, colour, colour])[:, None, None] / (1 + squares[:, None] + squares)
        strongest = np.argsort(-power, axis=None, kind="stable")[:dim]
        which, down, across = np.unravel_index(strongest, power.shape)
        basis = np.einsum("nc,ny,nx->ncyx", colours[which], waves[down], waves[across])
        self.register_buffer("basis", torch.tensor(basis).float().flatten(1), persistent=False)

    def encode(self, images: Tensor) -> Tensor:
        """Coefficients (N, dim, h, w) of images (N, 3, size h, size w)."""
        return F.conv2d(F.pixel_unshuffle(images, self.size), self.basis[:, :, None, None])

    def decode(self, coefficients: Tensor) -> Tensor:
        """Images (N, 3, size h, size w) of coefficients (N, dim, h, w); dropped ones count as 0."""
        return F.pixel_shuffle(F.conv2d(coefficients, self.basis.T[:, :, None, None]), self.size)


class Autoencoder(nn.Module):
    """Frames in [0, 1] to latents and back. The defaults are Stable Diffusion's.

    Args:
        channels: at each resolution; there is one halving fewer than entries.
        layers: residual blocks at each.
        latent_dim: channels of the latent.
        groups: of the group norms.
        patch: the network runs on ``patch`` x ``patch`` cells of the frame, moved to channels,
            which spares a small one its finest level.
        cosines: ``BlockCosines`` stand beside the network, which learns what they miss: a small one
            would take long to learn to pass images through.
        scale: what the latents are multiplied with (Rombach et al. 2022, section G).
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = (128, 256, 512, 512),
        layers: int = 2,
        latent_dim: int = 4,
        groups: int = 32,
        patch: int = 1,
        cosines: bool = False,
        scale: float = 0.18215,
    ) -> None:
        super().__init__()
        n = len(channels)
        self.latent_dim, self.factor = latent_dim, patch * 2 ** (n - 1)
        self.patch, self.scale = patch, scale
        self.vae: Any = AutoencoderKL(
            in_channels=3 * patch**2,
            out_channels=3 * patch**2,
            down_block_types=("DownEncoderBlock2D",) * n,
            up_block_types=("UpDecoderBlock2D",) * n,
            block_out_channels=tuple(channels),
            layers_per_block=layers,
            latent_channels=latent_dim,
            norm_num_groups=groups,
            scaling_factor=scale,
        )
        self.cosines = BlockCosines(self.factor, latent_dim) if cosines else None
        if cosines:
            _zero_init_coder(self.vae, latent_dim)

    def latent_size(self, size: int) -> int:
        """Height and width of the latent of frames of ``size`` pixels.

        Raises:
            UserError: the halvings do not divide ``size``.
        """
        if size % self.factor:
            raise UserError(f"size={size} does not divide by {self.factor}, the autoencoder's.")
        return size // self.factor

    def posterior(self, frames: Tensor) -> DiagonalGaussianDistribution:
        """What the encoder says of frames (N, 3, H, W) in [0, 1], before scaling."""
        frames = 2 * frames - 1
        found = self.vae.encode(F.pixel_unshuffle(frames, self.patch)).latent_dist
        if self.cosines is None:
            return found
        mean = found.mean + self.cosines.encode(frames)
        return DiagonalGaussianDistribution(torch.cat([mean, found.logvar], dim=1))

    def draw(self, latents: Tensor) -> Tensor:
        """Frames (N, 3, H, W) of unscaled latents, not clamped."""
        return self.to_frames(self.vae.decode(latents).sample, latents)

    def to_frames(self, drawn: Tensor, latents: Tensor) -> Tensor:
        """Frames (N, 3, H, W) in about [0, 1].

        Args:
            drawn: (N, 3 patch**2, H / patch, W / patch), the decoder's output.
            latents: (N, latent_dim, h, w), unscaled.
        """
        frames = F.pixel_shuffle(drawn, self.patch)
        if self.cosines is not None:
            frames = frames + self.cosines.decode(latents)
        return (frames + 1) / 2

    def encode(self, frames: Tensor) -> Tensor:
        """The mode of frames (N, 3, H, W) in [0, 1]: latents (N, latent_dim, h, w)."""
        return self.posterior(frames).mode() * self.scale

    def decode(self, latents: Tensor, reference: Tensor | None = None) -> Tensor:
        """Frames (N, 3, H, W) in [0, 1], all N in one batch.

        Args:
            latents: (N, latent_dim, h, w), scaled.
            reference: latents of the portrait; this decoder does not look at them.
        """
        return self.draw(latents / self.scale).clamp(0, 1)

    def load_published(self, source: str) -> None:
        """Load the weights of a published autoencoder.

        Args:
            source: a folder in diffusers' format, or a name on the hub.

        Raises:
            UserError: the weights cannot be had, or are of another layout.
        """
        fill_from(self.vae, AutoencoderKL, source, "vae")


class AutoencoderStage(ReconstructionStage):
    """Trains ``Autoencoder`` on single frames: L1 and perceptual difference, and the KL term.

    Args:
        context: see ``Stage``.
        net: arguments of ``Autoencoder``.
        init_from: weights to start from: a folder in diffusers' format, or a name on the hub.
        perceptual: ``vgg`` or ``pixel``, what images are compared by (``ReconstructionStage``).
        w_perceptual, w_kl: weights of the terms beside the L1's 1.
        scales: of the perceptual term.
    """

    stable_name = "autoencoder"
    sources = ("init_from",)
    config_blocks: ClassVar[Blocks] = {"net": Autoencoder}
    network: ClassVar[type[Autoencoder]] = Autoencoder
    net: Autoencoder

    def __init__(
        self,
        context: StageContext,
        *,
        net: Mapping[str, Any] | None = None,
        init_from: str | None = None,
        perceptual: str = "vgg",
        w_perceptual: float = 0.1,
        w_kl: float = 1e-6,
        scales: int = 1,
    ) -> None:
        super().__init__(context, perceptual)
        self.net = self.network(**(net or {}))
        self.net.latent_size(context.size)
        self.init_from = init_from
        self.w_perceptual, self.w_kl, self.scales = w_perceptual, w_kl, scales

    def start(self) -> None:
        if self.init_from:
            self.net.load_published(self.init_from)

    def missing(self, steps: int) -> Iterator[MissingResource]:
        yield from super().missing(steps)
        if self.init_from:
            yield from missing_weights(self.init_from, "vae", "the autoencoder's weights")
        elif not steps:
            yield MissingResource("max_steps=0 without model.init_from leaves the weights random")

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        frames = to_unit(batch.video).flatten(0, 1)
        posterior = self.net.posterior(frames)
        made = self.net.draw(posterior.sample())
        pixel = (made - frames).abs().mean()
        look = pyramid_l1(self.features(), made, frames, scales=self.scales)
        kl = posterior.kl().mean()
        total = pixel + self.w_perceptual * look + self.w_kl * kl
        return {"loss": total, "pixel": pixel, "perceptual": look, "kl": kl}

    @torch.no_grad()
    def samples(self, batch: Batch) -> dict[str, Tensor]:
        """The first clip's frames beside what is left of them."""
        frames = to_unit(batch.video[0])
        return {"reconstructed": torch.cat([frames, self.net.decode(self.net.encode(frames))], -1)}


def _zero_init_coder(vae: Any, latent_dim: int) -> None:
    """Let an untrained network output zeros, with a small variance of the latents."""
    zero_init(vae.quant_conv)
    nn.init.constant_(vae.quant_conv.bias[latent_dim:], CERTAIN)
    zero_init(vae.decoder.conv_out)


def latent_rows(net: Autoencoder, size: int) -> FrozenRows:
    """Latents of frames of ``size`` pixels, for ``model.cache`` of stages that learn them."""
    side = net.latent_size(size)

    def compute(portrait: Tensor, frames: Tensor) -> Tensor:
        return net.encode(to_unit(frames.to(next(net.parameters()).device)))

    return FrozenRows("latent", net, (net.latent_dim, side, side), compute)


@torch.no_grad()
def encode_clips(net: Autoencoder, video: Tensor, chunk: int = 64) -> Tensor:
    """Latents (B, latent_dim, T, h, w) of frames (B, T, 3, H, W) uint8, ``chunk`` at a time."""
    frames = video.flatten(0, 1)
    parts = [net.encode(to_unit(frames[part])) for part in iterate_slices(len(frames), chunk)]
    return torch.cat(parts).unflatten(0, video.shape[:2]).transpose(1, 2)
