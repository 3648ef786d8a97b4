"""Small stand-ins that several tests share. Each does what it says, and no more."""

from __future__ import annotations

import torch

from thbench.config import SamplerConfig
from thbench.core.types import N_LANDMARKS, Request
from thbench.diffusion.gaussian import GaussianDiffusion
from thbench.diffusion.process import NoiseProcess
from thbench.generation import plans
from thbench.generation.strategy import Denoiser, GenerationPass, Strategy
from thbench.training.stage import StageContext


def request(n: int = 8, *, size: int = 8, audio_dim: int = 4, seed: int = 0, id: str = "a"):
    """A request of ``n`` frames with a portrait of noise and audio that counts frames."""
    source = torch.Generator().manual_seed(1)
    return Request(
        id=id,
        source=torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=source),
        audio=torch.arange(n, dtype=torch.float32)[:, None].expand(n, audio_dim),
        waveform=torch.zeros(n * 640),
        source_pose=torch.zeros(6),
        source_eyes=torch.full((2,), 0.3),
        source_landmarks=torch.rand(N_LANDMARKS, 3, generator=source),
        seed=seed,
    )


class Recorder(Denoiser):
    """A denoiser whose clean prediction for frame i is the constant i; it keeps its calls."""

    def __init__(self) -> None:
        self.calls: list[dict] = []
        self.contexts: list[torch.Tensor] = []

    def latent_shape(self, conditions):
        return (3, 2, 2)

    def observe(self, clean, frames, conditions):
        self.contexts.append(frames.clone())
        return frames.clone()

    def denoise(self, noisy, t, frames, conditions, context):
        self.calls.append({"t": t.clone(), "frames": frames.clone(), "noisy": noisy.clone()})
        return frames.float()[:, None, :, None, None].expand_as(noisy) / 255


class Counting(Strategy):
    """Frame i of its videos is the grey level i; its denoisers are recorders."""

    def __init__(self, plan: dict, steps: int = 8, eta: float = 0.0, threshold=None) -> None:
        sampler = SamplerConfig(steps=steps, eta=eta, threshold=threshold)
        super().__init__({}, StageContext(size=8, audio_dim=4), plan, sampler)
        self.recorders = {name: Recorder() for name in ("main", "keys", "gaps")}
        self.process = GaussianDiffusion(prediction="x0")

    def encode(self, request):
        return request

    def passes(self, request):
        plan = plans.build(n=request.n_frames, **self.plan)
        return [GenerationPass("toy", plan, self.recorders, self.process, self.sampler)]

    def source_latent(self, conditions):
        return torch.full((3, 2, 2), -1.0)

    def decode(self, latents, frames, conditions):
        return latents.repeat_interleave(4, -1).repeat_interleave(4, -2)


class RectifiedFlow(NoiseProcess):
    """Straight lines from noise to clean (Liu et al. 2023), walked in steps of Euler.

    A network predicts the velocity, clean minus noise.
    """

    steps = 100

    def grid(self, sampler):
        return torch.linspace(self.steps, 0, sampler.steps + 1).round().long()

    def step(self, noisy, prediction, t, s, noise, sampler):
        ahead = ((t - s) / self.steps)[:, None, :, None, None]
        return noisy + ahead * prediction
