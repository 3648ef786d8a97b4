"""DAWN's pose and blink network (section 3.4): a variational autoencoder of motion given audio.

The latent has one vector per frame, or one every few, so a clip of any length is made in one pass.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thbench.config import DrawConfig
from thbench.core.errors import UserError
from thbench.core.signatures import Blocks
from thbench.core.types import EYES_DIM, POSE_DIM, Batch
from thbench.data.dataset import fewest_frames
from thbench.dawn.pbnet_split import SplitDecoder, SplitEncoder
from thbench.diffusion.losses import clip_mean
from thbench.nn.attention import LocalMask, local_attention_mask
from thbench.nn.input_init import unit_gain
from thbench.nn.normalize import RunningStats, audio_stats, eyes_stats, pose_stats
from thbench.nn.transformer import transformer_layers
from thbench.training.optim import build_optimizer
from thbench.training.stage import Stage, StageContext

LEAST_FRAMES = 24
"""Shorter clips leave no patch for the discriminator."""


class Encoder(nn.Module):
    """Motion and audio to the mean and log-variance of a latent per frame (Eq. 8)."""

    def __init__(
        self, audio_dim: int, latent: int, widths: tuple[int, int, int], layer: dict[str, Any]
    ) -> None:
        super().__init__()
        pose, eyes, audio = widths
        self.pose, self.source_pose = nn.Linear(POSE_DIM, pose), nn.Linear(POSE_DIM, pose)
        self.eyes, self.source_eyes = nn.Linear(EYES_DIM, eyes), nn.Linear(EYES_DIM, eyes)
        self.audio = nn.Linear(audio_dim, audio)
        self.layers = transformer_layers(sum(widths), cross=False, **layer)
        self.norm = nn.LayerNorm(sum(widths))
        self.head = nn.Linear(sum(widths), 2 * latent)

    def forward(
        self,
        motion: tuple[Tensor, Tensor],
        audio: Tensor,
        source: tuple[Tensor, Tensor],
        local_mask: LocalMask,
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, T, latent) of the posterior; all inputs normalised.

        Args:
            motion: poses (B, T, 6) and eyes (B, T, 2), differences to the portrait's.
            audio: (B, T, D).
            source: the portrait's pose (B, 6) and eyes (B, 2).
            local_mask: which frames attend to each other.
        """
        pose = self.pose(motion[0]) + self.source_pose(source[0])[:, None]
        eyes = self.eyes(motion[1]) + self.source_eyes(source[1])[:, None]
        x = torch.cat([pose, eyes, self.audio(audio)], dim=-1)
        for layer in self.layers:
            x = layer(x, local_mask)
        mean, log_variance = self.head(self.norm(x)).chunk(2, dim=-1)
        return mean, log_variance.clamp(-20, 10)


class Branch(nn.Module):
    """Decodes one kind of motion: frames of audio and portrait attend to latents.

    Args:
        width: of the motion, such as 6 of a pose.
        dim: of the transformer.
        layer: its other options, as ``transformer_layers`` takes them.
    """

    def __init__(self, width: int, dim: int, layer: dict[str, Any]) -> None:
        super().__init__()
        self.source = nn.Linear(width, dim)
        self.layers = transformer_layers(dim, cross=True, **layer)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, width)

    def forward(self, x: Tensor, memory: Tensor, source: Tensor, local_mask: LocalMask) -> Tensor:
        """Motion (B, T, width), normalised.

        Args:
            x: (B, T, dim), of the audio.
            memory: (B, T, dim), of the latents.
            source: (B, width), the portrait's motion, normalised.
            local_mask: which frames attend to each other.
        """
        x = x + self.source(source)[:, None]
        for layer in self.layers:
            x = layer(x, local_mask, memory)
        return self.head(self.norm(x))


class Decoder(nn.Module):
    """Latents, audio and portrait to motion (Eq. 9), poses and eyes in a branch each."""

    def __init__(
        self, audio_dim: int, latent: int, audio: int, dim: int, layer: dict[str, Any]
    ) -> None:
        super().__init__()
        layers = unit_gain(nn.Linear(audio_dim, audio)), nn.GELU(), unit_gain(nn.Linear(audio, dim))
        self.audio = nn.Sequential(*layers)
        self.latent = nn.Linear(latent, dim)
        self.pose, self.eyes = Branch(POSE_DIM, dim, layer), Branch(EYES_DIM, dim, layer)

    def forward(
        self, latent: Tensor, audio: Tensor, source: tuple[Tensor, Tensor], local_mask: LocalMask
    ) -> tuple[Tensor, Tensor]:
        """Poses (B, T, 6) and eyes (B, T, 2), normalised differences to the portrait's.

        Args:
            latent: (B, T, latent).
            audio: (B, T, D), normalised.
            source: the portrait's pose (B, 6) and eyes (B, 2), normalised.
            local_mask: which frames attend to each other.
        """
        x, memory = self.audio(audio), self.latent(latent)
        pose = self.pose(x, memory, source[0], local_mask)
        return pose, self.eyes(x, memory, source[1], local_mask)


class PBNet(nn.Module):
    """Generates head poses and blinks from audio. The defaults are the paper's sizes.

    Args:
        audio_dim: D, channels of the audio embedding.
        latent: width of the latent of a frame.
        hold: frames from one latent to the next, 1 in the paper; between them latents are
            interpolated. One for each frame is white noise where it is drawn from the prior, of
            which a small decoder has to make slow turns and blinks of several frames.
        widths: of pose, eyes and audio in the encoder, whose width is their sum.
        dim: width of the decoder.
        depth, heads, hidden, dropout: of both transformers.
        window: frames that attention reaches over, half on either side, or None.
        split: poses and eyes have networks of their own, as the released weights
            (``thbench.dawn.pbnet_split``), and latents of their own, each of width ``latent``.
        buckets: of those networks' relative biases.
    """

    def __init__(
        self,
        audio_dim: int,
        *,
        latent: int = 256,
        hold: int = 1,
        widths: tuple[int, int, int] = (64, 64, 256),
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        hidden: int = 128,
        dropout: float = 0.1,
        window: int | None = 400,
        split: bool = False,
        buckets: int = 128,
    ) -> None:
        super().__init__()
        layer = {"depth": depth, "heads": heads, "hidden": hidden, "dropout": dropout}
        pose, eyes, audio = widths
        if hold < 1:
            raise UserError(f"hold must be 1 or more frames, not {hold}.")
        self.latent, self.hold, self.window = latent, hold, window
        self.encoder: Encoder | SplitEncoder
        self.decoder: Decoder | SplitDecoder
        if split:
            self.latent = 2 * latent
            self.encoder = SplitEncoder(audio_dim, latent, (pose, eyes, audio), layer)
            self.decoder = SplitDecoder(audio_dim, latent, audio, dim, buckets, layer)
        else:
            self.encoder = Encoder(audio_dim, latent, (pose, eyes, audio), layer)
            self.decoder = Decoder(audio_dim, latent, audio, dim, layer)
        self.statistics = nn.ModuleDict(
            {
                "pose": pose_stats(),
                "eyes": eyes_stats(),
                "source_pose": pose_stats(),
                "source_eyes": eyes_stats(),
                "audio": audio_stats(audio_dim),
            }
        )

    def encode(
        self, pose: Tensor, eyes: Tensor, audio: Tensor, source: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of latents (B, N, latent), N being T / ``hold``, rounded up.

        All inputs are normalised, (B, T, ...) and (B, ...).
        """
        found = self.encoder((pose, eyes), audio, source, self._local_mask(audio))
        if self.hold == 1:
            return found
        mean, log_variance = (F.avg_pool1d(x.mT, self.hold, ceil_mode=True).mT for x in found)
        return mean, log_variance

    def decode(
        self, latent: Tensor, audio: Tensor, source: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Normalised differences of pose (B, T, 6) and eyes (B, T, 2) to the portrait's.

        Args:
            latent: (B, N, latent), N being T / ``hold``, rounded up.
            audio: (B, T, D), normalised.
            source: see ``source``.
        """
        if self.hold > 1:
            latent = F.interpolate(latent.mT, scale_factor=self.hold, mode="linear").mT
            latent = latent[:, : audio.shape[1]]
        return self.decoder(latent, audio, source, self._local_mask(audio))

    @torch.no_grad()
    def sample(
        self,
        audio: Tensor,
        source_pose: Tensor,
        source_eyes: Tensor,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Motion for a clip of any length.

        Args:
            audio: (N, D).
            source_pose: (6,), the portrait's.
            source_eyes: (2,).
            generator: on the CPU, so that devices agree.
            temperature: deviation of the latents; 1 is the prior's (the paper's).

        Returns:
            Absolute pose (N, 6) and eyes (N, 2).
        """
        n = math.ceil(len(audio) / self.hold)
        drawn = torch.randn(1, n, self.latent, generator=generator).to(audio.device)
        drawn = temperature * drawn
        source = self.source(source_pose[None], source_eyes[None])
        pose, eyes = self.decode(drawn, self.normalize("audio", audio[None]), source)
        return (
            self.restore("pose", pose[0]) + source_pose,
            self.restore("eyes", eyes[0]) + source_eyes,
        )

    def source(self, pose: Tensor, eyes: Tensor) -> tuple[Tensor, Tensor]:
        """A portrait's pose (B, 6) and eyes (B, 2), normalised."""
        return self.normalize("source_pose", pose), self.normalize("source_eyes", eyes)

    def normalize(self, kind: str, values: Tensor) -> Tensor:
        """Values (..., width) normalised by the statistics of ``kind``."""
        return self._stats(kind)(values)

    def restore(self, kind: str, values: Tensor) -> Tensor:
        """Undo ``normalize``: values (..., width) in their own units."""
        return self._stats(kind).inverse(values)

    def observe_statistics(self, **values: Tensor) -> None:
        """Add training data (..., width), by kind, to the statistics until these are frozen."""
        for kind, value in values.items():
            self._stats(kind).update(value.flatten(0, -2))

    def _stats(self, kind: str) -> RunningStats:
        stats = self.statistics[kind]
        assert isinstance(stats, RunningStats)
        return stats

    def _local_mask(self, audio: Tensor) -> LocalMask:
        return local_attention_mask(torch.arange(audio.shape[1])[None], self.window, audio.device)


class Discriminator(nn.Sequential):
    """Logits (B, patches) of motion (B, T, 8) being real, patch by patch (Isola et al. 2016)."""

    def __init__(self) -> None:
        widths, strides = (POSE_DIM + EYES_DIM, 64, 128, 256, 256, 1), (2, 2, 2, 1, 1)
        blocks: list[nn.Module] = []
        for a, b, stride in zip(widths[:-1], widths[1:], strides, strict=True):
            blocks += [nn.Conv1d(a, b, 4, stride, 1), nn.LeakyReLU(0.2)]
        super().__init__(*blocks[:-1])

    def forward(self, motion: Tensor) -> Tensor:
        """Logits (B, patches) of normalised motion (B, T, 8)."""
        return super().forward(motion.transpose(1, 2))[:, 0]


class PBNetStage(Stage):
    """Trains ``PBNet`` and its discriminator in turn (Eq. 11 to 13).

    The weight of the KL divergence is 0 for the first quarter of training and then rises linearly
    (section A.2).

    Args:
        context: see ``Stage``.
        net: arguments of ``PBNet``.
        reconstruction, adversarial, kl: the paper's weights; ``kl`` is the last one.
        w_eyes: weight of an error of the eyes in the reconstruction, beside that of the pose.
        steps: training steps over which ``kl`` is reached; the optimiser's ``decay_steps`` where
            not given.

    Raises:
        UserError: neither ``steps`` nor ``decay_steps`` is known.
    """

    stable_name = "dawn.pbnet"
    audio_loss = "rec"
    config_blocks: ClassVar[Blocks] = {"net": PBNet}
    net: PBNet
    version: ClassVar[int] = 2

    def __init__(
        self,
        context: StageContext,
        *,
        net: dict[str, Any] | None = None,
        reconstruction: float = 1.0,
        adversarial: float = 0.6,
        kl: float = 0.01,
        w_eyes: float = 1.0,
        steps: int | None = None,
    ) -> None:
        super().__init__(context)
        self.automatic_optimization = False
        total = steps or context.optim.decay_steps
        if not total:
            raise UserError("pbnet needs model.steps or optim.decay_steps: its KL term ramps up.")
        self.net, self.discriminator = PBNet(context.audio_dim, **(net or {})), Discriminator()
        self.weights = {"rec": reconstruction, "gan": adversarial}
        self.kl, self.w_eyes, self.steps = kl, w_eyes, total

    def configure_optimizers(self) -> Any:
        parts = (self.net, self.discriminator)
        return [build_optimizer(part.parameters(), self.context.optim) for part in parts]

    def kl_weight(self) -> float:
        """0 for a quarter of training, then a straight line to ``kl`` at its end."""
        progress = int(cast("Tensor", self.batches_seen)) / self.steps
        return self.kl * min(max((progress - 0.25) / 0.75, 0.0), 1.0)

    def check_draw(self, draw: DrawConfig) -> None:
        """Raise a UserError if the discriminator would see no patch of what is drawn."""
        if fewest_frames(draw) < LEAST_FRAMES:
            raise UserError(
                f"pbnet needs draw.frames, and draw.least if it is set, of {LEAST_FRAMES} or more."
            )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return self.generator_losses(batch)[0]

    def generator_losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The generator's losses, and the motions that the discriminator compares.

        Returns:
            Losses by name, ``loss`` among them; real motion (B, T, 8); generated motion (B, T, 8).
        """
        pose = batch.pose - batch.source_pose[:, None]
        eyes = batch.eyes - batch.source_eyes[:, None]
        given = {"pose": pose, "eyes": eyes, "audio": batch.audio}
        portrait = {"source_pose": batch.source_pose, "source_eyes": batch.source_eyes}
        seen = {kind: value[batch.valid] for kind, value in given.items()}
        self.net.observe_statistics(**seen, **portrait)
        pose, eyes, audio = (self.net.normalize(kind, value) for kind, value in given.items())
        source = self.net.source(batch.source_pose, batch.source_eyes)
        mean, log_variance = self.net.encode(pose, eyes, audio, source)
        latent = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        real = torch.cat([pose, eyes], dim=-1)
        made = torch.cat(self.net.decode(latent, audio, source), dim=-1)
        weights = made.new_tensor([1.0] * POSE_DIM + [self.w_eyes] * EYES_DIM)
        losses = {
            "rec": clip_mean(((made - real).square() * weights).mean(-1), batch.valid),
            "kl": kl_divergence(mean, log_variance),
            "gan": self._bce(self.discriminator(made), real=True),
        }
        total = sum(self.weights[name] * losses[name] for name in self.weights)
        return {"loss": total + self.kl_weight() * losses["kl"], **losses}, real, made

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        generator, discriminator = cast("list[Any]", self.optimizers())
        self.toggle_optimizer(generator)
        losses, real, made = self.generator_losses(batch)
        self._optimizer_step(losses["loss"], generator)
        self.untoggle_optimizer(generator)
        self.toggle_optimizer(discriminator)
        judged = [self.discriminator(x.detach()) for x in (real, made)]
        losses["disc"] = (self._bce(judged[0], real=True) + self._bce(judged[1], real=False)) / 2
        self._optimizer_step(losses["disc"], discriminator)
        self.untoggle_optimizer(discriminator)
        for scheduler in _listed(self.lr_schedulers()):
            scheduler.step()
        return self.log_losses("train", losses, len(batch)).detach()

    def _optimizer_step(self, loss: Tensor, optimizer: Any) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        # Only here have the scaled gradients of 16-mixed precision their true size again.
        if self.context.clip:
            self.clip_gradients(optimizer, self.context.clip, "norm")

    @staticmethod
    def _bce(logits: Tensor, *, real: bool) -> Tensor:
        wanted = torch.full_like(logits, float(real))
        return F.binary_cross_entropy_with_logits(logits, wanted)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Of N(mean, variance) from N(0, 1), mean over all elements."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2


def _listed(schedulers: Any) -> list[Any]:
    if schedulers is None:
        return []
    return schedulers if isinstance(schedulers, list) else [schedulers]
