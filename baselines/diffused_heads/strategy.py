"""Diffused Heads: one frame after another, in pixels (Stypulkowski et al. 2024, section 4.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from baselines.diffused_heads.net import FrameConditions, FrameNet
from thbench.config import SamplerConfig
from thbench.core.errors import UserError
from thbench.core.types import Request, to_unit
from thbench.generation import plans
from thbench.generation.strategy import Denoiser, GenerationPass, Strategy
from thbench.training.stage import StageContext


class FrameDenoiser(Denoiser):
    """``FrameNet`` as the runner calls it: observed frames, then the one to generate."""

    def __init__(self, net: FrameNet) -> None:
        self.net = net

    def latent_shape(self, conditions: FrameConditions) -> tuple[int, ...]:
        return (3, self.net.size, self.net.size)

    def observe(self, clean: Tensor, frames: Tensor, conditions: FrameConditions) -> Tensor:
        """Portrait and motion frames in the first convolution, once for all steps of a frame."""
        return conditions.static + self.net.motion_features(clean)

    def denoise(
        self,
        noisy: Tensor,
        t: Tensor,
        frames: Tensor,
        conditions: FrameConditions,
        context: Tensor | None,
    ) -> Tensor:
        windows, seen = noisy.shape[0], noisy.shape[2] - 1
        static = conditions.static if context is None else context
        alike = (x.expand(windows, -1, -1, -1) for x in (conditions.portrait, static))
        audio = conditions.audio[0, frames[:, -1]]
        made = self.net(noisy[:, :, -1], t[:, -1], *alike, audio)
        # Predictions for observed frames are ignored.
        return torch.cat(
            [made.new_zeros(*made.shape[:2], seen, *made.shape[2:]), made[:, :, None]], 2
        )


class DiffusedHeads(Strategy):
    """The frame network with the ``ar`` plan.

    Args:
        nets: ``frame``.
        context: as the stages were given.
        plan: ``{name: ar, motion: ...}``, with as many motion frames as the network was built for;
            ``stabilize`` is the released code's.
        sampler: see ``Strategy``.

    Raises:
        UserError: another plan, or another number of motion frames.
    """

    stable_name = "diffused_heads"
    roles: ClassVar[Mapping[str, type[nn.Module]]] = {"frame": FrameNet}
    space = "pixels"

    def __init__(
        self,
        nets: Mapping[str, nn.Module],
        context: StageContext,
        plan: Mapping[str, Any],
        sampler: SamplerConfig,
    ) -> None:
        super().__init__(nets, context, plan, sampler)
        self.net = self.network("frame", FrameNet)
        _check(self.plan, self.net.motion)

    def encode(self, request: Request) -> FrameConditions:
        portrait = 2 * to_unit(request.source)[None] - 1
        return self.net.conditions(portrait, request.audio[None])

    def passes(self, request: Request) -> Sequence[GenerationPass]:
        plan = plans.build(n=request.n_frames, **self.plan)
        denoisers = {"main": FrameDenoiser(self.net)}
        return [GenerationPass(self.space, plan, denoisers, self.net.process, self.sampler)]

    def decode(self, latents: Tensor, frames: Tensor, conditions: FrameConditions) -> Tensor:
        return (latents + 1) / 2

    def source_latent(self, conditions: FrameConditions) -> Tensor:
        return conditions.portrait[0]


def _check(plan: Mapping[str, Any], motion: int) -> None:
    """Only frames made one by one, seeing exactly the motion frames, are what the net can do."""
    wanted = f"plan={{name: ar, motion: {motion}}}"
    if plan["name"] != "ar":
        raise UserError(f"Diffused Heads makes one frame at a time: take {wanted}.")
    seen = {len(window.observe) for window in plans.windows(plans.build(n=2, **plan))}
    if seen != {motion}:
        raise UserError(
            f"This network was trained with {motion} motion frame(s), the plan shows {max(seen)}:"
            f" take {wanted}, or train another with stages.frame.model.net.motion."
        )
