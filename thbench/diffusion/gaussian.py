"""Gaussian diffusion, sampled by DDIM: the noise process of all four papers."""

from __future__ import annotations

from torch import Tensor

from thbench.config import SamplerConfig
from thbench.diffusion import ddim
from thbench.diffusion.noise_schedule import NoiseSchedule
from thbench.diffusion.process import NoiseProcess


class GaussianDiffusion(NoiseSchedule, NoiseProcess):
    """A noise schedule (Ho et al. 2020) with the steps of DDIM (Song et al. 2021) down its levels.

    Args: as for ``NoiseSchedule``.
    """

    def grid(self, sampler: SamplerConfig) -> Tensor:
        return ddim.grid(self, sampler)

    def step(
        self,
        noisy: Tensor,
        prediction: Tensor,
        t: Tensor,
        s: Tensor,
        noise: Tensor | None,
        sampler: SamplerConfig,
    ) -> Tensor:
        return ddim.step(self, noisy, prediction, t, s, noise, sampler)

    def draws_noise(self, sampler: SamplerConfig) -> bool:
        return sampler.eta > 0
