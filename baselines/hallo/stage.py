"""Training of Hallo: single images first, then clips with audio (section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import MotionAdapter, UNet2DConditionModel
from torch import Tensor, nn

from baselines.augmentation import spoil
from baselines.autoencoder import Autoencoder, encode_clips, latent_rows
from baselines.hallo.net import (
    ConditionMask,
    HalloNet,
    HalloNetConfig,
    Portrait,
    spatial_parts,
    unused_in_time,
)
from baselines.hallo.unet_forward import unused_by_features, unused_by_maps
from baselines.pretrained import fill_from
from thbench.config import DrawConfig, SamplerConfig
from thbench.core.console import rank_zero_print
from thbench.core.errors import UserError, did_you_mean
from thbench.core.hub import MissingResource, missing_weights
from thbench.core.signatures import Blocks
from thbench.core.types import Batch, to_unit
from thbench.data.dataset import frame_range
from thbench.data.frozen_cache import FrozenRows
from thbench.diffusion.losses import frame_mean, min_snr_weight
from thbench.diffusion.process import sample_together
from thbench.nn.normalize import unrepeated_frames
from thbench.nn.regions import box_mask
from thbench.training.optim import build_optimizer
from thbench.training.stage import Stage, StageContext

DROPS = {"image": 0.05, "audio": 0.05, "motion": 0.05}
"""How often each condition of a clip is hidden in training (section 4.1)."""


@dataclass
class Example:
    """Frames to learn, and the conditions that they are generated from.

    Attributes:
        clean: (B, C, T, h, w), as ``HalloNet.to_latent`` gives them.
        portrait: of B clips.
        landmarks, valid: (B, T, 478, 3) and (B, T), of these frames.
        audio_tokens: (B, T, tokens, dim), or None for single images.
        motion: (B, motion, C, h, w) for each residual block (``HalloNet.motion_maps``), or None.
    """

    clean: Tensor
    portrait: Portrait
    landmarks: Tensor
    valid: Tensor
    audio_tokens: Tensor | None = None
    motion: list[Tensor] | None = None


class HalloStage(Stage):
    """What both stages share: the network, the frozen autoencoder and the loss.

    Args:
        context: ``needs`` holds ``autoencoder``.
        net: ``HalloNetConfig``, as a mapping.
        init_from: published weights to start from, a folder in diffusers' format or a name on the
            hub; which ones, the stages say.
        drop: how often ``image``, ``audio`` and ``motion`` are hidden, in place of ``DROPS``.
        w_lip: weight of the error in the box around the lips, beside that everywhere; the paper
            has none. Both are divided by all cells: a cell in the box weighs 1 + w_lip times
            another.
        min_snr: gamma of ``min_snr_weight``, by which each clip's error is multiplied; 0 for none.
        snr_shifted: see there.
        noise_offset: deviation of a shift of the noise that all frames and cells of a channel
            share, so that brightness is learnt too; 0 for none.
        chunk: frames that the autoencoder encodes at once.
        cache: keep the latents of all frames beside the data, see ``FrozenCache``. Needs ``draw``
            without jitter. The result is the same but for rounding: what is kept was encoded in
            full precision.
    """

    config_blocks: ClassVar[Blocks] = {"net": HalloNetConfig, "drop": DROPS}

    net: HalloNet
    version: ClassVar[int] = 2
    neutral = ("chunk", "cache")
    sources = ("init_from",)

    def __init__(
        self,
        context: StageContext,
        *,
        net: Mapping[str, Any] | None = None,
        init_from: str | None = None,
        drop: Mapping[str, float] | None = None,
        w_lip: float = 0.0,
        min_snr: float = 0.0,
        snr_shifted: bool = False,
        noise_offset: float = 0.0,
        chunk: int = 64,
        cache: bool = False,
    ) -> None:
        super().__init__(context)
        for name, value in (("min_snr", min_snr), ("noise_offset", noise_offset)):
            if value < 0:
                raise UserError(f"{name} must be 0 or more, not {value}.")
        for key in drop or {}:
            if key not in DROPS:
                raise UserError(f"There is no condition '{key}' to drop.{did_you_mean(key, DROPS)}")
        self.drop = {**DROPS, **(drop or {})}
        self.init_from, self.w_lip, self.chunk, self.cache = init_from, w_lip, chunk, cache
        self.min_snr, self.snr_shifted, self.noise_offset = min_snr, snr_shifted, noise_offset
        vae = self.vae
        size = vae.latent_size(context.size)
        config = HalloNetConfig(**(net or {}))
        self.net = HalloNet(context.audio_dim, vae.latent_dim, size, config)
        self.net.requires_grad_(False)
        for part in self.trained():
            part.requires_grad_(True)

    @property
    def vae(self) -> Autoencoder:
        """The trained autoencoder."""
        return self.needed("autoencoder", Autoencoder)

    def frozen_rows(self) -> FrozenRows | None:
        return latent_rows(self.vae, self.context.size) if self.cache else None

    def trained(self) -> Iterator[nn.Module]:
        """The parts that this stage trains."""
        raise NotImplementedError

    def prepare(self, batch: Batch) -> Example:
        """What the network is trained on, of a batch."""
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        chosen = [p for p in self.net.parameters() if p.requires_grad]
        return build_optimizer(chosen, self.context.optim)

    def missing(self, steps: int) -> Iterator[MissingResource]:
        try:
            self.net.face.check()
        except UserError as error:
            yield MissingResource(str(error).rstrip("."))

    def use_placeholders(self) -> None:
        self.net.face.blank = self.net.face.encoder is None

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        example, process = self.prepare(batch), self.net.process
        b, n = example.valid.shape
        device = example.clean.device
        t = torch.randint(1, process.steps + 1, (b, 1), device=device).expand(b, n)
        noise = self._noise(example.clean)
        noisy = process.add_noise(example.clean, noise, t)
        shown = {kind: torch.rand(b, device=device) >= share for kind, share in self.drop.items()}
        prediction = self._predict(example, ConditionMask(**shown))(noisy, t)
        error = (prediction.float() - process.target(example.clean, noise, t)).square()
        if self.min_snr:
            error = error * min_snr_weight(
                process, t, error, self.min_snr, shifted=self.snr_shifted
            )
        counted = example.valid[:, None, :, None, None].float()
        simple = frame_mean(error, counted)
        losses = {"simple": simple}
        total = simple
        if self.w_lip or (self.hears and not self.training):
            # On a coarse latent, lips may hold no cell's centre.
            lips = box_mask(example.landmarks, "lips", self.net.shape[-1], touched=True)
            lips = lips.transpose(1, 2)
            losses["lip"] = frame_mean(error * lips, counted)
            total = total + self.w_lip * losses["lip"]
        return {"loss": total, **losses}

    @torch.no_grad()
    def samples(self, batch: Batch) -> dict[str, Tensor]:
        """The first clip, filmed beside generated in ten steps: (T, 3, H, 2 W) in [0, 1]."""
        first = batch.first()
        example = self.prepare(first)
        predict = self._predict(example, ConditionMask.all(1, first.video.device))
        config = SamplerConfig(steps=10, eta=0, spacing="trailing")
        noise = torch.randn_like(example.clean)
        made = sample_together(self.net.process, predict, noise, config)[0].transpose(0, 1)
        latents = self.net.from_latent(made, example.portrait.latent)
        filmed = to_unit(self._without_context(first.video)[0, -len(made) :])
        return {"generated": torch.cat([filmed, self.vae.decode(latents)], dim=-1)}

    def _noise(self, clean: Tensor) -> Tensor:
        noise = torch.randn_like(clean)
        if self.noise_offset:
            b, c = clean.shape[:2]
            shift = torch.randn(b, c, 1, 1, 1, dtype=clean.dtype, device=clean.device)
            noise = noise + self.noise_offset * shift
        return noise

    def _predict(self, example: Example, keep: ConditionMask) -> Callable[[Tensor, Tensor], Tensor]:
        def predict(noisy: Tensor, t: Tensor) -> Tensor:
            return self.net(noisy, t, example.portrait, keep, example.audio_tokens, example.motion)

        return predict

    def _portrait(self, latent: Tensor, batch: Batch) -> Portrait:
        """What is known of the portraits in training, the extents of their clips included."""
        if batch.extent is None:
            raise ValueError("Hallo trains on batches that know the extent of their clips")
        return self.net.portrait(latent, batch.source, batch.source_landmarks, batch.extent)

    def _without_context(self, values: Tensor) -> Tensor:
        """Values (B, T, ...) without those of frames that only give the audio around others."""
        return values

    def _latents(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The autoencoder's latents of portraits (B, C, h, w) and frames (B, C, T, h, w)."""
        if self.kept is not None:
            still, moved = self.kept.of(batch)
            latents = torch.cat([still[:, None], self._without_context(moved)], dim=1)
            latents = latents.transpose(1, 2)
        else:
            frames = torch.cat([batch.source[:, None], self._without_context(batch.video)], dim=1)
            latents = encode_clips(self.vae, frames, self.chunk)
        real = unrepeated_frames(batch.frames)
        seen = self._without_context(real & batch.valid)
        change = (latents[:, :, 1:] - latents[:, :, :1]).transpose(1, 2)
        self.net.observe_statistics(change[seen], batch.audio[real])
        return latents[:, :, 0], latents[:, :, 1:]


class ImageStage(HalloStage):
    """A frame of a clip from another one; neither audio nor time (first stage).

    ``init_from`` is Stable Diffusion 1.5: its U-Net fills the denoiser and ReferenceNet.

    Args:
        trains: ``all`` spatial modules, or ``attention`` alone, as the paper's text has it; the
            latter only makes sense with published weights.
        context, net, init_from, drop, w_lip, min_snr, snr_shifted, noise_offset, chunk, cache: see
            ``HalloStage``.
    """

    stable_name = "hallo.image"
    audio_loss = ""

    def __init__(self, context: StageContext, *, trains: str = "all", **options: Any) -> None:
        if trains not in ("all", "attention"):
            raise UserError(f"trains must be 'all' or 'attention', not '{trains}'.")
        self.trains = trains
        super().__init__(context, **options)
        for part in unused_by_features(self.net.reference):
            part.requires_grad_(False)

    def trained(self) -> Iterator[nn.Module]:
        if self.trains == "all":
            return iter(spatial_parts(self.net))
        nets = (self.net.unet, self.net.reference)
        inside = [m for net in nets for name, m in net.named_modules() if _is_attention(name)]
        return iter([*inside, *spatial_parts(self.net)[len(nets) :]])

    def start(self) -> None:
        if not self.init_from:
            rank_zero_print(
                "image: starts from random weights; init_from=FOLDER or a hub id takes SD 1.5's"
            )
            return
        for net in (self.net.unet, self.net.reference):
            fill_from(net, UNet2DConditionModel, self.init_from, "unet")

    def missing(self, steps: int) -> Iterator[MissingResource]:
        yield from super().missing(steps)
        yield from _start(self.init_from, "unet", "Stable Diffusion 1.5's")

    def prepare(self, batch: Batch) -> Example:
        source, clips = self._latents(batch)
        portrait = self._portrait(source, batch)
        clean = self.net.to_latent(clips, source)
        return Example(clean, portrait, batch.landmarks, batch.valid)


class VideoStage(HalloStage):
    """A segment of a clip, from audio and the frames before it (second stage).

    The spatial modules stay as they are; attention to the audio and along time is trained.
    ``init_from`` is a motion module of AnimateDiff.

    Two departures serve small networks, whose spatial modules a first stage of minutes leaves half
    trained and whose errors add up from segment to segment; both are off by default.

    A draw is the motion frames and the segment, with as many frames of context on either side as
    the audio's tokens look at.

    Args:
        segment: frames to be made.
        trains: ``temporal``, what hears and what knows time; or ``all``, the spatial modules too.
        motion_noise: the motion frames of a clip get noise of a deviation drawn from 0 to this, in
            training (``baselines.augmentation.spoil``).
        context, net, init_from, drop, w_lip, min_snr, snr_shifted, noise_offset, chunk, cache: see
            ``HalloStage``.

    Raises:
        UserError: another ``trains``, or negative noise.
    """

    stable_name = "hallo.video"
    audio_loss = "lip"

    def __init__(
        self,
        context: StageContext,
        *,
        segment: int = 14,
        trains: str = "temporal",
        motion_noise: float = 0.0,
        **options: Any,
    ) -> None:
        if trains not in ("temporal", "all"):
            raise UserError(f"trains must be 'temporal' or 'all', not '{trains}'.")
        if motion_noise < 0:
            raise UserError(f"motion_noise must be 0 or more, not {motion_noise}.")
        self.trains, self.motion_noise = trains, motion_noise
        super().__init__(context, **options)
        self.segment = segment
        by_features = self.net.motion_features == "attention"
        unused = unused_by_features if by_features else unused_by_maps
        for part in (*unused(self.net.reference), *unused_in_time(self.net)):
            part.requires_grad_(False)

    def trained(self) -> Iterator[nn.Module]:
        heard = [self.net.audio_tokens, self.net.audio_attention, self.net.temporal]
        return iter([*heard, *(spatial_parts(self.net) if self.trains == "all" else ())])

    def trained_for(self) -> dict[str, Any]:
        plan = {"name": "sar", "segment": self.segment, "overlap": self.net.motion}
        return {"observed": self.net.motion, "levels": "clip", "plan": plan}

    def start(self) -> None:
        if not self.init_from:
            rank_zero_print(
                "video: time starts from random weights; init_from=... takes AnimateDiff's"
            )
            return
        fill_from(self.net.temporal, MotionAdapter, self.init_from)

    def missing(self, steps: int) -> Iterator[MissingResource]:
        yield from super().missing(steps)
        yield from _start(self.init_from, "", "AnimateDiff's")

    def check_draw(self, draw: DrawConfig) -> None:
        """Raise a UserError unless the draw is motion frames, a segment and context around them."""
        super().check_draw(draw)
        around, frames = self.net.audio_tokens.context, self.net.motion + self.segment
        if frame_range(draw.frames) != (frames, frames) or draw.context != around or draw.least:
            raise UserError(
                f"Hallo's second stage needs {self.net.motion} motion frames and a segment of"
                f" {self.segment}: set its draw.frames={frames}, draw.context={around} and"
                " draw.least=null."
            )

    def prepare(self, batch: Batch) -> Example:
        motion, around = self.net.motion, self.net.audio_tokens.context
        with torch.no_grad():
            source, clips = self._latents(batch)
            whole = self.net.to_latent(clips, source)
            seen = whole[:, :, :motion]
            if self.motion_noise and self.training:
                seen = spoil(seen, self.motion_noise)
        with torch.set_grad_enabled(self.trains == "all" and torch.is_grad_enabled()):
            portrait = self._portrait(source, batch)
            before = self.net.motion_maps(seen, portrait) if motion else None
        made = slice(around + motion, batch.frames.shape[1] - around)
        at = torch.arange(batch.frames.shape[1], device=batch.audio.device)[made]
        audio_tokens = self.net.tokens(batch.audio, at.expand(len(batch.audio), -1))
        clean = whole[:, :, motion:]
        shown = batch.landmarks[:, made], batch.valid[:, made]
        return Example(clean, portrait, *shown, audio_tokens, before)

    def _without_context(self, values: Tensor) -> Tensor:
        around = self.net.audio_tokens.context
        return values[:, around : values.shape[1] - around]


def _start(source: str | None, part: str, whose: str) -> Iterator[MissingResource]:
    """What is missing of the published weights that a stage starts from."""
    if source:
        yield from missing_weights(source, part, f"{whose} weights")
    else:
        text = (
            f"starts from random weights; {whose} are taken with model.init_from=FOLDER or hub id"
        )
        yield MissingResource(text, is_fatal=False)


def _is_attention(name: str) -> bool:
    return name.rsplit(".", 1)[-1] in ("attn1", "attn2")
