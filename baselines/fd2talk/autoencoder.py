"""The latent autoencoder whose decoder also sees the reference (FD2Talk, section 3.4.2)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from baselines.autoencoder import Autoencoder, AutoencoderStage
from baselines.pretrained import fill, published
from thbench.core.signatures import Blocks
from thbench.core.types import Batch
from thbench.nn.perceptual import pyramid_l1
from thbench.training.reconstruction import pairs
from thbench.training.stage import StageContext

ENTRY = "decoder.conv_in.weight"


class ReferenceAutoencoder(Autoencoder):
    """An autoencoder whose decoder's first convolution takes two latents.

    Args:
        sizes: see ``Autoencoder``; the defaults are LDM's KL autoencoder with f = 4 (Rombach et al.
            2022), and latents are not scaled.
    """

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**{"channels": (128, 256, 512), "latent_dim": 3, "scale": 1.0, **sizes})
        first = self.vae.decoder.conv_in
        self.vae.decoder.conv_in = nn.Conv2d(
            2 * self.latent_dim, first.out_channels, first.kernel_size, padding=first.padding
        )

    def decode(self, latents: Tensor, reference: Tensor | None = None) -> Tensor:
        """Latents and those of their reference, both (B, d, h, w), to images in about [0, 1].

        Without a reference each latent is its own.
        """
        both = [self._entry(latents if reference is None else reference), self._entry(latents)]
        return self.to_frames(self.vae.decoder(torch.cat(both, dim=1)), latents / self.scale)

    def forward(self, reference: Tensor, images: Tensor) -> Tensor:
        """D([E(F1), E(F2)]) of eq. 13, for images (B, 3, H, W) in [0, 1]."""
        return self.decode(self.encode(images), self.encode(reference))

    def load_published(self, source: str) -> None:
        """Start from a published autoencoder.

        The substituted convolution has the published weights for the frame's latent and none for
        the reference's, so that it decodes as before until it is trained.
        """
        state = published(AutoencoderKL, source, "vae")
        state[ENTRY] = torch.cat([torch.zeros_like(state[ENTRY]), state[ENTRY]], dim=1)
        fill(self.vae, state, source)

    def _entry(self, latents: Tensor) -> Tensor:
        return self.vae.post_quant_conv(latents / self.scale)


class ReferenceAutoencoderStage(AutoencoderStage):
    """Trains ``ReferenceAutoencoder`` on two frames of a clip (eq. 13 to 15).

    Args:
        context, net, init_from, perceptual: see ``AutoencoderStage``; features are compared by L1,
            as eq. 14.
        w_rec, w_perceptual: the paper's lambdas, whose values it does not give.
        w_kl: of the posterior's divergence from a standard normal, per element; above 0 latents are
            drawn, which decodes well what is not exact. The paper has none.
    """

    stable_name = "fd2talk.autoencoder"
    config_blocks: ClassVar[Blocks] = {"net": ReferenceAutoencoder}
    network = ReferenceAutoencoder
    net: ReferenceAutoencoder

    def __init__(
        self, context: StageContext, *, w_rec: float = 1.0, w_kl: float = 0.0, **options: Any
    ) -> None:
        super().__init__(context, w_kl=w_kl, **options)
        self.w_rec = w_rec

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        reference, frames = pairs(batch)
        made, spread = self._rebuild(reference, frames)
        losses = {
            "rec": F.mse_loss(made, frames),
            "per": pyramid_l1(self.features(), made, frames, scales=self.scales),
        }
        total = self.w_rec * losses["rec"] + self.w_perceptual * losses["per"]
        if self.w_kl:
            losses["kl"] = spread
            total = total + self.w_kl * spread
        return {"loss": total, **losses}

    def _rebuild(self, reference: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The images reconstructed, (N, 3, H, W), and the posterior's divergence per element."""
        both = self.net.posterior(torch.cat([reference, frames]))
        latents = both.sample() if self.w_kl and self.training else both.mode()
        first, second = (latents * self.net.scale).chunk(2)
        return self.net.decode(second, first), both.kl().mean() / latents[0].numel()

    @torch.no_grad()
    def samples(self, batch: Batch) -> dict[str, Tensor]:
        """Portrait, frame and reconstruction, side by side, of the first clip."""
        reference, frames = pairs(batch.first())
        return {"reconstruction": torch.cat([reference, frames, self.net(reference, frames)], -1)}
