"""Training of DAWN's audio-to-video flow diffusion: audio and motion to flows (section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from thbench.config import SamplerConfig
from thbench.core.errors import UserError
from thbench.core.signatures import Blocks
from thbench.core.slices import iterate_slices
from thbench.core.types import Batch, to_unit
from thbench.data.frozen_cache import FrozenRows
from thbench.dawn.a2v_net import FLOW_DIM, A2VNet, A2VNetConfig, FlowConditions
from thbench.dawn.lfg import LatentFlowGenerator, SourceFeatures
from thbench.diffusion.losses import frame_mean, region_mean
from thbench.diffusion.process import sample_together
from thbench.nn.normalize import unrepeated_frames
from thbench.nn.regions import box_mask, region_mask
from thbench.training.stage import Stage, StageContext

LOSSES = {"paper": (1.0, 0.0), "code": (0.15, 0.15)}
"""Weights of the lips' error and of the clean value's: section A.2, and the released code.

Of ``paper``, lips are their outline, and their error is divided by all cells, as L_simple is, of
which Eq. 7 masks a part: a cell of the lips weighs 1 + w_lip times another. Of ``code``, lips are
the box around them, and the error, summed over the three channels, is divided by the box's cells
alone: with a fiftieth of the cells inside, 0.15 lets one of them weigh 24 times another.
"""


class A2VStage(Stage):
    """Trains ``A2VNet`` on flows that the frozen latent flow generator finds (DAWN Eq. 7).

    Both stages of the paper's curriculum are this class, with another ``draw``. Frames at level 0
    are observed, not learned: what other plans are trained with (``baselines.windows``).

    Args:
        context: ``needs`` holds ``lfg``.
        net: ``A2VNetConfig``, as a mapping.
        loss: ``paper`` or ``code``, see ``LOSSES``: the lips' error and its weight, and that of the
            clean value's error.
        w_lip: weight of the lips' error in place of ``loss``'s; what it is divided by stays.
        w_eyes: weight of the error in the eyes and a cell around them, divided by all cells; 0 in
            the paper.
        dropout: how often all conditions of a clip are hidden, for guidance.
        drop: ``clip``, or ``frame``, where each frame's conditions are hidden by a draw of its own,
            as in the released code.
        levels: ``clip`` (one noise level for all frames) or ``frame`` (independent ones).
        chunk: pairs of frames that the latent flow generator sees at once, at least one clip's.
        cache: keep the flows of all frames beside the data, see ``FrozenCache``. Needs ``draw``
            with ``source: opening`` and no jitter; the result is the same.
    """

    stable_name = "dawn.a2v"
    audio_loss = "lip"
    neutral = ("chunk", "cache")
    config_blocks: ClassVar[Blocks] = {"net": A2VNetConfig}
    net: A2VNet
    version: ClassVar[int] = 2

    def __init__(
        self,
        context: StageContext,
        *,
        net: Mapping[str, Any] | None = None,
        loss: str = "paper",
        w_lip: float | None = None,
        w_eyes: float = 0.0,
        dropout: float = 0.1,
        drop: str = "clip",
        levels: str = "clip",
        chunk: int = 64,
        cache: bool = False,
    ) -> None:
        super().__init__(context)
        if loss not in LOSSES:
            raise UserError(f"loss must be 'paper' or 'code', not '{loss}'.")
        if levels not in ("clip", "frame"):
            raise UserError(f"levels must be 'clip' or 'frame', not '{levels}'.")
        if drop not in ("clip", "frame"):
            raise UserError(f"drop must be 'clip' or 'frame', not '{drop}'.")
        lfg = self.lfg
        size = lfg.latent_size(context.size)
        config = A2VNetConfig(**(net or {}))
        self.net = A2VNet(context.audio_dim, lfg.latent_dim, size, config)
        self.w_lip, self.w_clean = LOSSES[loss]
        self.boxed = loss == "code"
        self.w_lip = self.w_lip if w_lip is None else w_lip
        self.w_eyes = w_eyes
        self.drop = drop
        self.dropout, self.levels, self.chunk, self.cache = dropout, levels, chunk, cache

    def frozen_rows(self) -> FrozenRows | None:
        if not self.cache:
            return None
        lfg, size = self.lfg, self.net.latent_size

        def compute(portrait: Tensor, frames: Tensor) -> Tensor:
            device = next(lfg.parameters()).device
            flow, occlusion = lfg.flow(to_unit(portrait.to(device)), to_unit(frames.to(device)))
            return torch.cat([flow, occlusion], dim=1)

        return FrozenRows("flow", lfg, (FLOW_DIM, size, size), compute, follows_portrait=True)

    @property
    def lfg(self) -> LatentFlowGenerator:
        """The trained latent flow generator."""
        return self.needed("lfg", LatentFlowGenerator)

    def trained_for(self) -> dict[str, Any]:
        return {"observed": 0, "levels": self.levels}

    def draw_levels(self, frames: Tensor) -> Tensor:
        """Noise levels (B, T) from 1 to the process's steps; 0 would make a frame observed."""
        b, n = frames.shape
        drawn = (b, 1) if self.levels == "clip" else (b, n)
        steps = self.net.process.steps
        return torch.randint(1, steps + 1, drawn, device=frames.device).expand(b, n)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        latent, given = self.prepare(batch)
        noise = torch.randn_like(latent)
        return self.error(batch, latent, given, noise, self.draw_levels(batch.frames))

    def error(
        self, batch: Batch, latent: Tensor, given: FlowConditions, noise: Tensor, t: Tensor
    ) -> dict[str, Tensor]:
        """The losses of predicting ``latent`` under ``noise`` at levels ``t``.

        Args:
            batch: only its frames, valid and landmarks are looked at.
            latent: (B, 3, T, h, w), clean.
            given: conditions of these frames.
            noise: shaped as ``latent``.
            t: (B, T); frames at 0 are observed.
        """
        process = self.net.process
        noisy = process.add_noise(latent, noise, t)
        drawn = batch.frames.shape[1] if self.drop == "frame" else 1
        keep = torch.rand(len(latent), drawn, device=latent.device) >= self.dropout
        prediction = self.net(noisy, t, batch.frames, given, keep.expand_as(batch.frames))
        error = (prediction.float() - process.target(latent, noise, t)).square()
        counted = ((t > 0) & batch.valid)[:, None, :, None, None].float()
        simple, lip = frame_mean(error, counted), self._lip_error(error, batch.landmarks, counted)
        losses = {"simple": simple, "lip": lip}
        total = simple + self.w_lip * lip
        if self.w_eyes:
            # A shut eye's outline is a line, which holds no cell's centre.
            size = self.net.latent_size
            eyes = region_mask(batch.landmarks, "eyes", size, margin=1 / size).transpose(1, 2)
            losses["eyes"] = frame_mean(error * eyes, counted)
            total = total + self.w_eyes * losses["eyes"]
        if self.w_clean:
            clean = process.to_clean(prediction, noisy, t).clamp(-10, 10)
            losses["clean"] = frame_mean((clean - latent).square(), counted)
            total = total + self.w_clean * losses["clean"]
        return {"loss": total, **losses}

    def _lip_error(self, error: Tensor, landmarks: Tensor, counted: Tensor) -> Tensor:
        size = self.net.latent_size
        if self.boxed:
            box = box_mask(landmarks, "lips", size, touched=True).transpose(1, 2)
            return region_mean(error, box, counted)
        lips = region_mask(landmarks, "lips", size).transpose(1, 2)
        return frame_mean(error * lips, counted)

    def prepare(self, batch: Batch) -> tuple[Tensor, FlowConditions]:
        """Clean latents (B, 3, T, h, w) and conditions of a batch.

        Frames with a negative index are the portrait; they do not count in statistics, nor does
        what is seen of a face where none was found.
        """
        pose = batch.pose - batch.source_pose[:, None]
        eyes = batch.eyes - batch.source_eyes[:, None]
        flow, occlusion, source = self._flows(batch)
        motion = self.net.motion(pose, eyes, batch.source_landmarks)
        real = unrepeated_frames(batch.frames)
        seen = real & batch.valid
        self.net.observe_statistics(
            flow[seen.flatten()],
            occlusion[seen.flatten()],
            motion[seen],
            audio=batch.audio[real],
            pose=pose[seen],
            eyes=eyes[seen],
        )
        given = self.net.conditions(source, batch.source_landmarks, batch.audio, pose, eyes)
        latent = self.net.to_latent(flow, occlusion, given.motion.flatten(0, 1))
        latent = latent.unflatten(0, batch.frames.shape)
        return latent.transpose(1, 2), given

    @torch.no_grad()
    def _flows(self, batch: Batch) -> tuple[Tensor, Tensor, SourceFeatures]:
        """Flow (B*T, 2, h, w), occlusion (B*T, 1, h, w), and the portraits' features."""
        lfg, portraits = self.lfg, to_unit(batch.source)
        if self.kept is not None:
            rows = self.kept.of(batch)[1].flatten(0, 1)
            return rows[:, :2], rows[:, 2:], lfg.encode(portraits)
        driving = to_unit(batch.video)
        slices = iterate_slices(len(portraits), max(1, self.chunk // driving.shape[1]))
        # Flows are small differences of positions, and what is learned: not in half precision.
        with torch.autocast(driving.device.type, enabled=False):
            parts = [lfg.flow(portraits[part], driving[part].flatten(0, 1)) for part in slices]
        flow, occlusion = (torch.cat(part) for part in zip(*parts, strict=True))
        return flow, occlusion, lfg.encode(portraits)

    @torch.no_grad()
    def samples(self, batch: Batch) -> dict[str, Tensor]:
        """The first clip: what was filmed beside what is made from noise in ten steps."""
        first = batch.first()
        _, given = self.prepare(first)
        latent = sample(self.net, given, first.frames, SamplerConfig(steps=10))
        made = self.lfg.decode(
            given.source, *self.net.from_latent(latent[0].transpose(0, 1), given.motion[0])
        )
        return {"generated": torch.cat([to_unit(first.video[0]), made], dim=-1)}


@torch.no_grad()
def sample(net: A2VNet, given: FlowConditions, frames: Tensor, config: SamplerConfig) -> Tensor:
    """All frames of one clip at once, from torch's own noise, for a look during training.

    ``thbench.generation.runner`` generates videos.

    Args:
        net: the denoising network.
        given: conditions of exactly these frames.
        frames: (1, T), their indices in the clip.
        config: of the sampler.

    Returns:
        Latents (1, 3, T, h, w).
    """
    shape = (1, net.shape[0], frames.shape[1], *net.shape[1:])
    keep = torch.ones_like(frames, dtype=torch.bool)

    def predict(noisy: Tensor, t: Tensor) -> Tensor:
        return net(noisy, t, frames, given, keep)

    return sample_together(net.process, predict, torch.randn(shape, device=frames.device), config)
