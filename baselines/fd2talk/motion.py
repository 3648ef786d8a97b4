"""Training of FD2Talk's motion generation (section 3.4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from baselines.fd2talk.lip import LipExpert
from baselines.fd2talk.morphable import coefficients
from baselines.fd2talk.motion_net import MotionNet, MotionNetConfig
from thbench.config import DrawConfig
from thbench.core.errors import UserError
from thbench.core.signatures import Blocks
from thbench.core.types import Batch
from thbench.data.dataset import fewest_frames
from thbench.data.face.morphable import Morphable
from thbench.diffusion.losses import clip_mean
from thbench.generation import plans
from thbench.nn.normalize import unrepeated_frames
from thbench.training.stage import Stage, StageContext


class MotionStage(Stage):
    """Trains ``MotionNet`` on coefficient sequences: L_exp + L_pose + L_sync (eq. 12).

    The paper trains on 25 frames and does not say how longer clips are made. Here its segments
    observe the end of the one before, so half of the batches begin with so many clean frames, which
    stand at level 0 and do not count; the others are a clip's first segment.

    Args:
        context: ``needs`` holds ``morphable`` and, unless ``w_sync`` is 0, ``lip``.
        net: ``MotionNetConfig``, as a mapping.
        plan: ``{name: sar, segment: ..., overlap: ...}`` or ``{name: nar}``: what is trained for.
        w_exp, w_pose, w_sync: the paper's lambdas, whose values it does not give.
    """

    stable_name = "fd2talk.motion"
    audio_loss = "lip"
    config_blocks: ClassVar[Blocks] = {"net": MotionNetConfig, "plan": plans.check_options}
    net: MotionNet
    version: ClassVar[int] = 2

    def __init__(
        self,
        context: StageContext,
        *,
        plan: Mapping[str, Any],
        net: Mapping[str, Any] | None = None,
        w_exp: float = 1.0,
        w_pose: float = 1.0,
        w_sync: float = 0.1,
    ) -> None:
        super().__init__(context)
        model = self.needed("morphable", Morphable)
        config = MotionNetConfig(**(net or {}))
        self.net = MotionNet(model.n_expression, context.audio_dim, config)
        self.weights = {"exp": w_exp, "pose": w_pose, "sync": w_sync}
        self.plan = plans.filled(plan)
        if self.plan["name"] not in ("sar", "nar"):
            raise UserError("model.plan of FD2Talk's motion stage is sar or nar.")
        if w_sync:
            self.needed("lip", LipExpert)

    @property
    def overlap(self) -> int:
        """Frames that a later segment observes."""
        return int(self.plan.get("overlap", 0))

    def trained_for(self) -> dict[str, Any]:
        return {"observed": self.overlap, "levels": "clip", "plan": self.plan}

    def check_draw(self, draw: DrawConfig) -> None:
        """Raise a UserError if nothing is left to make behind the frames that are observed."""
        if fewest_frames(draw) <= self.overlap:
            raise UserError(
                "draw.frames, and draw.least if it is set, must exceed the plan's overlap of"
                f" {self.overlap} frames."
            )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        face = coefficients(self.needed("morphable", Morphable), batch)
        self.net.scale.update(face.motion[batch.valid])
        self.net.scale_audio.update(batch.audio[unrepeated_frames(batch.frames)])
        continues = bool(torch.randint(2, ()))
        shown = slice(0 if continues else self.overlap, None)
        frames, audio, valid = (x[:, shown] for x in (batch.frames, batch.audio, batch.valid))
        clean = self.net.to_latent(face.motion[:, shown])
        b, n = frames.shape
        steps = self.net.process.steps
        t = torch.randint(1, steps + 1, (b, 1), device=clean.device).repeat(1, n)
        if continues:
            t[:, : self.overlap] = 0
        noise = torch.randn_like(clean)
        noisy = self.net.process.add_noise(clean, noise, t)
        made = self.net(noisy, t, frames, audio)
        error = (made.float() - self.net.process.target(clean, noise, t)).square()
        counted = ((t > 0) & valid).float()
        parts = error.split([self.net.expression, error.shape[1] - self.net.expression], dim=1)
        losses = {
            k: clip_mean(part.mean(1), counted)
            for k, part in zip(("exp", "pose"), parts, strict=True)
        }
        predicted = self.net.from_latent(self.net.process.to_clean(made, noisy, t))
        if self.weights["sync"]:
            losses["sync"] = clip_mean(self.sync_loss(predicted, face.identity, audio), counted)
        total = torch.stack([self.weights[k] * v for k, v in losses.items()]).sum()
        if not self.training:
            lips = self.lip_error(predicted, face.motion[:, shown], face.identity)
            losses["lip"] = clip_mean(lips, counted)
        return {"loss": total, **losses}

    def lip_error(self, predicted: Tensor, true: Tensor, identity: Tensor) -> Tensor:
        """Mean squared distance (B, T) of the mouth's vertices, in heights of the face.

        For validation: L_exp weighs coefficients that hardly move the mouth like those that do.

        Args:
            predicted: (B, T, E + 6), coefficients.
            true: (B, T, E + 6).
            identity: (B, A), the portrait's.
        """
        model = self.needed("morphable", Morphable)
        made, wanted = (
            model.mouths(identity[:, None], motion[..., : self.net.expression])
            for motion in (predicted, true)
        )
        return (made - wanted).square().sum(-1).mean(-1)

    def sync_loss(self, motion: Tensor, identity: Tensor, audio: Tensor) -> Tensor:
        """-log P_sync (eq. 11) of each frame, (B, T).

        Args:
            motion: (B, T, E + 6), predicted coefficients.
            identity: (B, A), the portrait's.
            audio: (B, T, D).
        """
        model = self.needed("morphable", Morphable)
        expert = self.needed("lip", LipExpert)
        lips = model.mouths(identity[:, None], motion[..., : self.net.expression])
        return -expert(lips, audio).log()
