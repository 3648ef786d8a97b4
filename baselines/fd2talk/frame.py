"""FD2Talk's frame generation: a frame's latent from coefficients and reference (section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import Tensor, nn

from baselines.autoencoder import Autoencoder, latent_rows
from baselines.drawn_over import draw_over
from baselines.fd2talk.morphable import coefficients
from baselines.fd2talk.unet import UNet, UNetConfig
from thbench.config import SamplerConfig
from thbench.core.errors import UserError
from thbench.core.signatures import Blocks
from thbench.core.types import Batch
from thbench.data.face.morphable import POSE_COEFFICIENTS, Morphable
from thbench.data.frozen_cache import FrozenRows
from thbench.diffusion.gaussian import GaussianDiffusion
from thbench.diffusion.losses import clip_mean
from thbench.diffusion.process import sample_together
from thbench.nn.input_init import equal_shares, unit_gain
from thbench.nn.normalize import RunningStats
from thbench.nn.regions import box_mask
from thbench.training.reconstruction import pairs
from thbench.training.stage import Stage, StageContext

CONDITIONS = ("separate", "concatenated")
SHORTCUTS = (False, True, "guess", "mask")


@dataclass(frozen=True, kw_only=True)
class FrameNetConfig(UNetConfig):
    """The ``net:`` block of ``FrameStage``; the paper names no sizes.

    Attributes:
        conditions: ``separate`` cross-attentions, motion first and then the reference, or
            ``concatenated`` tokens under one, the ablation of Table 2.
        tokens: so many tokens are made of a frame's coefficients.
        portrait_motion: the portrait's own coefficients are given beside the frame's, so that how
            far to move need not be read off the reference.
        portrait_input: the portrait's latent is joined to the noisy one as channels, since a small
            network would take long to find it by attention.
        modulate: motion is also added to the embedded noise level, which shifts every residual
            block, since a small network learns slowly from attention to few tokens.
        shortcut: what spares a small network learning to copy the portrait: ``guess``, of which it
            predicts the correction (true says the same); ``mask``, which says for each place how
            much of the portrait is drawn over (``baselines.drawn_over``); or false.
        width: of the tokens; ``4 dim`` by default.
        process: arguments of ``GaussianDiffusion``; the latent itself is predicted (eq. 16).
    """

    config_blocks: ClassVar[Blocks] = {"process": GaussianDiffusion}

    conditions: str = "separate"
    tokens: int = 1
    portrait_motion: bool = False
    portrait_input: bool = False
    modulate: bool = False
    shortcut: bool | str = False
    width: int | None = None
    process: Mapping[str, Any] | None = None


class FrameNet(nn.Module):
    """Denoises the latent of a frame from its motion and the portrait's latent.

    Args:
        latent: d, channels of a latent.
        side: a latent is ``side`` x ``side``.
        expression: E, expression coefficients.
        config: sizes and switches.

    Raises:
        UserError: a value out of range, or a size that the levels do not divide.
    """

    places: Tensor

    def __init__(self, latent: int, side: int, expression: int, config: FrameNetConfig) -> None:
        super().__init__()
        self.process = GaussianDiffusion(**{"prediction": "x0", **(config.process or {})})
        _check(config, self.process, side)
        self.shape = (latent, side, side)
        self.joined = config.conditions == "concatenated"
        self.shortcut = "guess" if config.shortcut is True else config.shortcut
        self.tokens, self.portrait_motion = config.tokens, config.portrait_motion
        self.portrait_input = config.portrait_input
        width = config.width or 4 * config.dim
        motion = [expression, POSE_COEFFICIENTS] * (2 if self.portrait_motion else 1)
        self.scale = RunningStats((1, 1, 1))
        self.change = RunningStats(self.shape)
        self.scale_motion = RunningStats((expression + POSE_COEFFICIENTS,))
        self.motion_tokens = equal_shares(nn.Linear(sum(motion), self.tokens * width), motion)
        self.reference_tokens = unit_gain(nn.Linear(latent, width))
        places = get_2d_sincos_pos_embed(width, side, output_type="pt")
        self.register_buffer("places", places.float(), persistent=False)
        self.pixel_places = nn.Conv2d(width, config.dim, 1)
        inputs = latent * (2 if self.portrait_input else 1)
        outputs = latent + (self.shortcut == "mask")
        self.unet = UNet(inputs, outputs, width, 1 if self.joined else 2, config)
        self.modulation: nn.Module | None = None
        if config.modulate:
            self.modulation = nn.Sequential(
                nn.Linear(self.tokens * width, 4 * config.dim),
                nn.SiLU(),
                nn.Linear(4 * config.dim, 4 * config.dim),
            )

    def to_latent(self, latents: Tensor) -> Tensor:
        """The autoencoder's latents (N, d, h, w), scaled as a whole to unit variance."""
        return self.scale(latents)

    def from_latent(self, latents: Tensor) -> Tensor:
        """Undo ``to_latent``: the autoencoder's latents (N, d, h, w)."""
        return self.scale.inverse(latents)

    def reference(self, latent: Tensor) -> Tensor:
        """Tokens (B, h w, width) of portraits' scaled latents (B, d, h, w), with their places."""
        return self.reference_tokens(latent.flatten(2).transpose(1, 2)) + self.places

    def motion(self, motion: Tensor, portrait: Tensor) -> Tensor:
        """Tokens (N, tokens, width) of coefficients (N, E + 6).

        The portrait's, (N or 1, E + 6), are joined to them with ``portrait_motion``.
        """
        given = self.scale_motion(motion)
        if self.portrait_motion:
            still = self.scale_motion(portrait).expand_as(given)
            given = torch.cat([given, still], dim=-1)
        return self.motion_tokens(given).unflatten(-1, (self.tokens, -1))

    def forward(
        self, noisy: Tensor, t: Tensor, motion: Tensor, reference: Tensor, still: Tensor
    ) -> Tensor:
        """The prediction (N, d, h, w).

        Args:
            noisy: (N, d, h, w), scaled.
            t: (N,).
            motion: (N, tokens, width), from ``motion``.
            reference: (N or 1, h w, width), from ``reference``.
            still: (N or 1, d, h, w), the portrait's scaled latent, for ``portrait_input`` and the
                shortcut.
        """
        conditions = [motion, reference]
        if self.joined:
            shared = reference.expand(len(motion), -1, -1)
            conditions = [torch.cat([motion, shared], dim=1)]
        places = self.places.T.unflatten(-1, self.shape[1:])[None]
        shown = noisy
        if self.portrait_input:
            shown = torch.cat([noisy, still.expand_as(noisy)], dim=1)
        with_time = 0.0 if self.modulation is None else self.modulation(motion.flatten(1))
        made = self.unet(shown, t, conditions, self.pixel_places(places), with_time)
        if not self.shortcut:
            return made
        if self.shortcut == "mask":
            drawn, mask = made.tensor_split([self.shape[0]], dim=1)
            return draw_over(still, drawn, mask)
        guess, doubt = self.guess(noisy, t, still)
        return guess + doubt * made

    def guess(self, noisy: Tensor, t: Tensor, still: Tensor) -> tuple[Tensor, Tensor]:
        """A latent as if it were the portrait's plus a normal change: its mean and deviation.

        (Adding the portrait's alone would make the network undo that wherever there is little
        noise, and it would see the portrait by attention only.)
        """
        still, change = still[:, :, None], self.change.deviation[:, None]
        made = self.process.estimate(noisy[:, :, None], t[:, None], still, change)
        return made[0][:, :, 0], made[1][:, :, 0]


def _check(config: FrameNetConfig, process: GaussianDiffusion, side: int) -> None:
    if config.conditions not in CONDITIONS:
        raise UserError(
            f"net.conditions is one of {', '.join(CONDITIONS)}, not {config.conditions}."
        )
    halvings = len(config.mults) - 1
    if side % 2**halvings:
        raise UserError(f"Latents of {side} pixels do not halve {halvings} times: mults.")
    if config.shortcut not in SHORTCUTS:
        raise UserError(f"net.shortcut is false, true, guess or mask, not {config.shortcut}.")
    if config.shortcut and process.prediction != "x0":
        raise UserError(
            f"net.shortcut={str(config.shortcut).lower()} needs net.process.prediction=x0."
        )


class FrameStage(Stage):
    """Trains ``FrameNet`` on frames of clips, each with its own coefficients (eq. 16).

    The paper takes coefficients that the trained transformers make from the clip's audio. Those
    are a motion that the frame does not show, so here they are measured on the frame.

    Args:
        context: ``needs`` holds ``morphable`` and ``autoencoder``.
        net: ``FrameNetConfig``, as a mapping.
        jitter: noise on the coefficients, in deviations, for those that will be predicted.
        w_lip: weight of the error in the box around the lips, beside that everywhere; the paper has
            none. Both are divided by all cells: a cell in the box weighs 1 + w_lip times another.
        cache: keep the latents of all frames beside the data, see ``FrozenCache``. Needs ``draw``
            without jitter. The result is the same but for rounding: what is kept was encoded in
            full precision.
    """

    stable_name = "fd2talk.frame"
    config_blocks: ClassVar[Blocks] = {"net": FrameNetConfig}
    net: FrameNet
    version: ClassVar[int] = 2
    uses_audio = False
    neutral = ("cache",)

    def __init__(
        self,
        context: StageContext,
        *,
        net: Mapping[str, Any] | None = None,
        jitter: float = 0.0,
        w_lip: float = 0.0,
        cache: bool = False,
    ) -> None:
        super().__init__(context)
        model = self.needed("morphable", Morphable)
        auto = self.needed("autoencoder", Autoencoder)
        side = context.size // auto.factor
        config = FrameNetConfig(**(net or {}))
        self.net = FrameNet(auto.latent_dim, side, model.n_expression, config)
        self.jitter, self.w_lip, self.cache = jitter, w_lip, cache

    def frozen_rows(self) -> FrozenRows | None:
        auto = self.needed("autoencoder", Autoencoder)
        return latent_rows(auto, self.context.size) if self.cache else None

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        clean, still, motion, portrait = self.prepare(batch)
        process = self.net.process
        n = len(clean)
        t = torch.randint(1, process.steps + 1, (n, 1), device=clean.device)
        noise = torch.randn_like(clean)
        noisy, target = (
            f(clean[:, :, None], noise[:, :, None], t)[:, :, 0]
            for f in (process.add_noise, process.target)
        )
        motion = motion + self.jitter * torch.randn_like(motion) * self.net.scale_motion.deviation
        made = self.net(
            noisy, t[:, 0], self.net.motion(motion, portrait), self.net.reference(still), still
        )
        error = (made.float() - target).square().unflatten(0, batch.frames.shape)
        # A frame without a face shows no coefficients of its own.
        counted = batch.valid[:, :, None, None, None].float()
        losses = {"simple": clip_mean(error, counted)}
        total = losses["simple"]
        if self.w_lip:
            lips = box_mask(batch.landmarks, "lips", clean.shape[-1], touched=True)
            losses["lip"] = clip_mean(error * lips, counted)
            total = total + self.w_lip * losses["lip"]
        return {"loss": total, **losses}

    @torch.no_grad()
    def prepare(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scaled latents of frames and portraits (N, d, h, w), and their coefficients (N, E + 6).

        N is B T.
        """
        auto = self.needed("autoencoder", Autoencoder)
        face = coefficients(self.needed("morphable", Morphable), batch)
        if self.kept is not None:
            still, made = self.kept.of(batch)
            made = made.flatten(0, 1)
            still = still.repeat_interleave(batch.frames.shape[1], dim=0)
        else:
            reference, frames = pairs(batch)
            made, still = auto.encode(torch.cat([frames, reference])).float().chunk(2)
        motion, seen = face.motion.flatten(0, 1), batch.valid.flatten()
        self.net.scale.update(made[seen].flatten()[:, None, None, None])
        self.net.scale_motion.update(motion[seen])
        portrait = face.source.repeat_interleave(batch.frames.shape[1], dim=0)
        made, still = self.net.to_latent(made), self.net.to_latent(still)
        self.net.change.update((made - still)[seen])
        return made, still, motion, portrait

    @torch.no_grad()
    def samples(self, batch: Batch) -> dict[str, Tensor]:
        """Portrait, frame and what is made from noise in ten steps, of the first clip."""
        first = batch.first()
        clean, still, motion, portrait = self.prepare(first)
        given = self.net.motion(motion, portrait), self.net.reference(still)

        def predict(noisy: Tensor, t: Tensor) -> Tensor:
            return self.net(noisy[:, :, 0], t[:, 0], *given, still)[:, :, None]

        noisy = torch.randn_like(clean)[:, :, None]
        made = sample_together(self.net.process, predict, noisy, SamplerConfig(steps=10))
        auto = self.needed("autoencoder", Autoencoder)
        seen = auto.decode(self.net.from_latent(made[:, :, 0]), self.net.from_latent(still))
        reference, frames = pairs(first)
        return {"generated": torch.cat([reference, frames, seen], dim=-1)}
