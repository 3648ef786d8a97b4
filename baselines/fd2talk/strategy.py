"""FD2Talk: two passes, motion coefficients and then frames in latents (Yao et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from baselines.autoencoder import Autoencoder
from baselines.fd2talk.frame import FrameNet
from baselines.fd2talk.motion_net import MotionNet
from thbench.config import SamplerConfig
from thbench.core.errors import UserError, did_you_mean
from thbench.core.signatures import Blocks
from thbench.core.types import Request, to_unit
from thbench.data.face.morphable import Morphable, pose_coefficients
from thbench.generation import plans
from thbench.generation.strategy import Denoiser, GenerationPass, Strategy
from thbench.training.stage import StageContext

COEFFICIENTS, LATENTS = "coefficients", "latents"


@dataclass
class Conditions:
    """What a clip is generated from.

    Attributes:
        audio: (1, T, D).
        source_pose: (6,), the portrait's pose.
        source: (1, E + 6), the portrait's coefficients.
        portrait: (1, d, h, w), its scaled latent.
        reference: (1, h w, width), the tokens of that latent.
        pose: (T, 6), the pose to follow, or None.
    """

    audio: Tensor
    source_pose: Tensor
    source: Tensor
    portrait: Tensor
    reference: Tensor
    pose: Tensor | None = None


@dataclass
class FrameConditions:
    """What the frames of a clip are generated from, after the motion pass.

    Attributes:
        clip: the conditions of the whole clip.
        motion: (T, E + 6), the coefficients to show.
    """

    clip: Conditions
    motion: Tensor


class MotionDenoiser(Denoiser):
    """``MotionNet`` as ``thbench.generation.runner`` runs it."""

    def __init__(self, net: MotionNet) -> None:
        self.net = net

    def latent_shape(self, conditions: Conditions) -> tuple[int, ...]:
        return (self.net.channels,)

    def observe(self, clean: Tensor, frames: Tensor, conditions: Conditions) -> None:
        return None

    def denoise(
        self, noisy: Tensor, t: Tensor, frames: Tensor, conditions: Conditions, context: None
    ) -> Tensor:
        # The portrait, where a plan shows it, has no audio of its own: it takes the first frame's.
        audio = conditions.audio[0, frames.clamp(min=0)]
        return self.net(noisy, t, frames, audio)


class FrameDenoiser(Denoiser):
    """``FrameNet`` as ``thbench.generation.runner`` runs it: windows of one frame each."""

    def __init__(self, net: FrameNet) -> None:
        self.net = net

    def latent_shape(self, conditions: FrameConditions) -> tuple[int, ...]:
        return self.net.shape

    def observe(self, clean: Tensor, frames: Tensor, conditions: FrameConditions) -> None:
        return None

    def denoise(
        self, noisy: Tensor, t: Tensor, frames: Tensor, conditions: FrameConditions, context: None
    ) -> Tensor:
        clip = conditions.clip
        motion = self.net.motion(conditions.motion[frames[:, 0]], clip.source)
        made = self.net(noisy[:, :, 0], t[:, 0], motion, clip.reference, clip.portrait)
        return made[:, :, None]


class FD2Talk(Strategy):
    """Motion transformers with ``plan``, then all frames of the clip in one batched round.

    A pose to follow takes the place of the predicted one between the passes, which changes nothing
    else, since expressions are predicted apart (with ``single`` too, where they saw another pose).
    Blinks are part of the expression: eyes to follow are not followed.

    Args:
        nets: ``morphable``, ``motion``, ``autoencoder`` and ``frame``.
        context: as the stages were given.
        plan: of the motion pass; the frame pass is always ``frames``.
        sampler: of both passes.
        frame_sampler: settings of ``sampler`` that the frame pass has otherwise, such as
            ``{steps: 10}``.
    """

    stable_name = "fd2talk"
    config_blocks: ClassVar[Blocks] = {"frame_sampler": SamplerConfig}
    roles: ClassVar[Mapping[str, type[nn.Module]]] = {
        "morphable": Morphable,
        "motion": MotionNet,
        "autoencoder": Autoencoder,
        "frame": FrameNet,
    }
    space = LATENTS

    def __init__(
        self,
        nets: Mapping[str, nn.Module],
        context: StageContext,
        plan: Mapping[str, Any],
        sampler: SamplerConfig,
        *,
        frame_sampler: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(nets, context, plan, sampler)
        self.morphable = self.network("morphable", Morphable)
        self.motion_net = self.network("motion", MotionNet)
        self.autoencoder = self.network("autoencoder", Autoencoder)
        self.frame = self.network("frame", FrameNet)
        self.frame_sampler = _changed(sampler, frame_sampler or {})

    @property
    def follows(self) -> frozenset[str]:
        return frozenset({"pose"})

    def encode(self, request: Request) -> Conditions:
        latent = self.autoencoder.encode(to_unit(request.source)[None])
        portrait = self.frame.to_latent(latent.float())
        pose = request.source_pose[None]
        with torch.autocast(latent.device.type, enabled=False):
            expression = self.morphable.fit(request.source_landmarks[None], pose)[1]
        source = torch.cat([expression, pose_coefficients(pose, pose)], -1)
        return Conditions(
            audio=request.audio[None],
            source_pose=request.source_pose,
            source=source,
            portrait=portrait,
            reference=self.frame.reference(portrait),
            pose=request.pose,
        )

    def passes(self, request: Request) -> Sequence[GenerationPass]:
        n = request.n_frames
        plan = plans.build(n=n, **self.plan)
        denoisers = dict.fromkeys(plans.models(plan), MotionDenoiser(self.motion_net))
        frame_denoisers = {"main": FrameDenoiser(self.frame)}
        return [
            GenerationPass(COEFFICIENTS, plan, denoisers, self.motion_net.process, self.sampler),
            GenerationPass(
                LATENTS, plans.frames(n), frame_denoisers, self.frame.process, self.frame_sampler
            ),
        ]

    def update_conditions(
        self, done: GenerationPass, latents: Tensor, conditions: Conditions
    ) -> FrameConditions:
        """The coefficients (T, E + 6) of the motion pass; a pose to follow replaces its pose."""
        motion = self.motion_net.from_latent(latents.T[None])[0]
        if conditions.pose is not None:
            given = pose_coefficients(conditions.pose, conditions.source_pose[None])
            motion = torch.cat([motion[:, : self.motion_net.expression], given], -1)
        return FrameConditions(conditions, motion)

    def decode(self, latents: Tensor, frames: Tensor, conditions: FrameConditions) -> Tensor:
        reference = self.frame.from_latent(conditions.clip.portrait)
        return self.autoencoder.decode(
            self.frame.from_latent(latents), reference.expand(len(latents), -1, -1, -1)
        )

    def motion(self, conditions: Conditions) -> tuple[Tensor | None, Tensor | None]:
        return conditions.pose, None

    def source_latent(self, conditions: Conditions) -> Tensor:
        return self.motion_net.to_latent(conditions.source[None])[0, :, 0]


def _changed(sampler: SamplerConfig, changes: Mapping[str, Any]) -> SamplerConfig:
    for key in changes:
        if not hasattr(sampler, key):
            hint = did_you_mean(key, list(vars(sampler)))
            raise UserError(f"There is no key 'options.frame_sampler.{key}'.{hint}")
    return replace(sampler, **changes)
