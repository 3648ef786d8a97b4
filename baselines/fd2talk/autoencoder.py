"""The latent autoencoder whose decoder also sees the reference (FD2Talk, section 3.4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from thbench.contracts import Batch, to_unit
from thbench.errors import UserError
from thbench.nn.perceptual import VGG19, Features, pixel_features, pyramid_l1
from thbench.strategy import Frozen, Setting, Stage


class ReferenceAutoencoder(nn.Module):
    """diffusers' ``AutoencoderKL``; the decoder's first convolution takes two latents.

    The defaults are the sizes of LDM's KL autoencoder with f = 4 (Rombach et al. 2022).

    Args:
        latent: d, channels of a latent.
        widths: channels of the levels; each but the last halves the picture.
        blocks: residual blocks of a level.
        groups: of the group norms.
        patch: the network sees ``patch`` x ``patch`` cells of the picture, moved to channels, which
            saves a small one its dearest level.
    """

    def __init__(
        self,
        *,
        latent: int = 3,
        widths: Sequence[int] = (128, 256, 512),
        blocks: int = 2,
        groups: int = 32,
        patch: int = 1,
    ) -> None:
        super().__init__()
        self.latent, self.patch = latent, patch
        self.factor = patch * 2 ** (len(widths) - 1)
        made = AutoencoderKL(
            in_channels=3 * patch**2,
            out_channels=3 * patch**2,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=tuple(widths),
            layers_per_block=blocks,
            latent_channels=latent,
            norm_num_groups=groups,
        )
        self.vae = cast(Any, made)  # diffusers' own classes say little of themselves to mypy
        first = self.vae.decoder.conv_in
        self.vae.decoder.conv_in = nn.Conv2d(2 * latent, first.out_channels, 3, padding=1)

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] to latents (B, d, H / f, W / f), the posterior's mean."""
        return self.posterior(pictures).mode()

    def posterior(self, pictures: Tensor) -> DiagonalGaussianDistribution:
        """The distribution of latents that pictures have."""
        return self.vae.encode(F.pixel_unshuffle(2 * pictures - 1, self.patch)).latent_dist

    def decode(self, latents: Tensor, reference: Tensor) -> Tensor:
        """Latents and those of their reference, both (B, d, h, w), to pictures in about [0, 1]."""
        both = torch.cat([self._entry(reference), self._entry(latents)], dim=1)
        return (F.pixel_shuffle(self.vae.decoder(both), self.patch) + 1) / 2

    def forward(self, reference: Tensor, pictures: Tensor) -> Tensor:
        """D([E(F1), E(F2)]) of eq. 13, for pictures (B, 3, H, W) in [0, 1]."""
        return self.decode(self.encode(pictures), self.encode(reference))

    def take(self, source: str) -> None:
        """Start from a published autoencoder: a diffusers folder, or a hub id.

        The substituted convolution has the published weights for the frame's latent and none for
        the reference's, so that it decodes as before until it is trained.

        Raises:
            UserError: it cannot be had, or it has other sizes.
        """
        folder, _, inner = source.partition(":")
        try:
            other: Any = AutoencoderKL.from_pretrained(
                folder, subfolder=inner or None, local_files_only=Path(folder).is_dir()
            )
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"model.pretrained={source} cannot be read ({reason}): name a folder that diffusers"
                " wrote, a hub id, either with ':' and a subfolder, or null to train from nothing."
            ) from error
        state, name = other.state_dict(), "decoder.conv_in.weight"
        own = self.vae.state_dict()
        if name in state and state[name].shape[1] == self.latent:
            state[name] = torch.cat([torch.zeros_like(state[name]), state[name]], dim=1)
        different = [k for k, v in own.items() if k not in state or state[k].shape != v.shape]
        if different or len(state) != len(own):
            raise UserError(
                f"model.pretrained={source} has another layout than model.net says (such as"
                f" {different[0] if different else 'further layers'}): set latent, widths, blocks."
            )
        self.vae.load_state_dict(state)

    def _entry(self, latents: Tensor) -> Tensor:
        return self.vae.post_quant_conv(latents)


class AutoencoderStage(Stage):
    """Trains ``ReferenceAutoencoder`` on two frames of a clip (eq. 13 to 15).

    Args:
        setting: see ``Stage``.
        net: arguments of ``ReferenceAutoencoder``.
        pretrained: an ``AutoencoderKL`` to start from, a folder or hub id, ``:`` and a subfolder
            behind it where it lies in one; None trains from nothing.
        perceptual: ``vgg`` (features of VGG-19, L1 as eq. 14) or ``pixel``.
        w_rec, w_per: the paper's lambdas, whose values it does not give.
        w_kl: of the posterior's divergence from a standard normal; above 0 latents are drawn, which
            keeps them few in size and decodes well what is not exact. The paper has none.
    """

    net: ReferenceAutoencoder

    def __init__(
        self,
        setting: Setting,
        *,
        net: Mapping[str, Any] | None = None,
        pretrained: str | None = None,
        perceptual: str = "vgg",
        w_rec: float = 1.0,
        w_per: float = 0.1,
        w_kl: float = 0.0,
    ) -> None:
        super().__init__(setting)
        if perceptual not in ("vgg", "pixel"):
            raise UserError(f"perceptual must be 'vgg' or 'pixel', not '{perceptual}'.")
        self.net = ReferenceAutoencoder(**(net or {}))
        if setting.size % self.net.factor:
            raise UserError(
                f"size={setting.size} does not divide by {self.net.factor}: see widths."
            )
        self.pretrained, self.perceptual = pretrained, perceptual
        self.w_rec, self.w_per, self.w_kl = w_rec, w_per, w_kl

    def initialise(self) -> None:
        if self.pretrained:
            self.net.take(self.pretrained)

    def on_fit_start(self) -> None:
        self._features()  # so that missing weights are told before the first batch is read
        super().on_fit_start()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        reference, frames = pairs(batch)
        made, spread = self._rebuild(reference, frames)
        losses = {
            "rec": F.mse_loss(made, frames),
            "per": pyramid_l1(self._features(), made, frames, scales=1),
        }
        total = self.w_rec * losses["rec"] + self.w_per * losses["per"]
        if self.w_kl:
            losses["kl"] = spread
            total = total + self.w_kl * spread
        return {"loss": total, **losses}

    def _rebuild(self, reference: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The pictures made anew, and the posterior's divergence per element."""
        both = self.net.posterior(torch.cat([reference, frames]))
        latents = both.sample() if self.w_kl and self.training else both.mode()
        first, second = latents.chunk(2)
        return self.net.decode(second, first), both.kl().mean() / latents[0].numel()

    @torch.no_grad()
    def samples(self, batch: Batch) -> dict[str, Tensor]:
        """Portrait, frame and reconstruction, side by side, of the first clip."""
        reference, frames = pairs(batch.map(lambda tensor: tensor[:1]))
        return {"reconstruction": torch.cat([reference, frames, self.net(reference, frames)], -1)}

    def _features(self) -> Features:
        if self.perceptual == "pixel":
            return pixel_features
        if "vgg" not in self.frozen:
            self.frozen["vgg"] = Frozen(VGG19()).to(self.device)
        return self.frozen["vgg"].module


def pairs(batch: Batch) -> tuple[Tensor, Tensor]:
    """Portraits and frames, (B*T, 3, H, W) in [0, 1]."""
    source = to_unit(batch.source).repeat_interleave(batch.video.shape[1], dim=0)
    return source, to_unit(batch.video).flatten(0, 1)
