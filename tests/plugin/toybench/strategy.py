"""Flat frames: the mean colour of each frame is learned from its audio."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from thbench.core.types import to_unit
from thbench.diffusion.gaussian import GaussianDiffusion
from thbench.generation import plans
from thbench.generation.strategy import Denoiser, GenerationPass, Strategy
from thbench.training.stage import Stage


class ToneNet(nn.Module):
    """From audio (..., D) to a colour (..., 3)."""

    def __init__(self, audio_dim, *, width: int = 16):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(audio_dim, width), nn.SiLU(), nn.Linear(width, 3))

    def forward(self, audio):
        return self.layers(audio)


class ToneStage(Stage):
    """Trains ``ToneNet``."""

    net: ToneNet
    config_blocks: ClassVar = {"net": ToneNet}

    def __init__(self, context, *, net: dict | None = None):
        super().__init__(context)
        self.net = ToneNet(context.audio_dim, **(net or {}))

    def loss(self, batch):
        wanted = to_unit(batch.video).mean((3, 4))
        return {"loss": (self.net(batch.audio) - wanted).square().mean()}


class ToneDenoiser(Denoiser):
    """Knows the clean colours at once."""

    def latent_shape(self, conditions):
        return (3,)

    def observe(self, clean, frames, conditions):
        return None

    def denoise(self, noisy, t, frames, conditions, context):
        return conditions[frames].transpose(1, 2)


class Flat(Strategy):
    """Frames of one colour."""

    roles: ClassVar = {"tone": ToneNet}
    space = "tone"

    def __init__(self, nets, context, plan, sampler, *, gain: float = 1.0):
        super().__init__(nets, context, plan, sampler)
        self.gain = gain

    def encode(self, request):
        return self.gain * self.nets["tone"](request.audio)

    def passes(self, request):
        plan = plans.build(n=request.n_frames, **self.plan)
        process = GaussianDiffusion(prediction="x0")
        return [GenerationPass("tone", plan, {"main": ToneDenoiser()}, process, self.sampler)]

    def decode(self, latents, frames, conditions):
        size = self.context.size
        return latents[..., None, None].expand(*latents.shape, size, size)
