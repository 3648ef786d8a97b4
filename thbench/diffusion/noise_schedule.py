"""The forward process of a diffusion model, with a noise level for each frame.

Levels are whole numbers: 0 is clean (alpha-bar 1), k is index k - 1 of a diffusers scheduler, and
``steps`` is pure noise. Keeping the clean end as a level of its own is what makes observed frames,
staggered windows and the last sampler step the same arithmetic, without an index off by one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from thbench.core.errors import UserError, did_you_mean

SCHEDULES: Mapping[str, str] = {
    "cosine": "squaredcos_cap_v2",
    "linear": "linear",
    "scaled_linear": "scaled_linear",
}
PREDICTIONS: Mapping[str, str] = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}
VARIANCES = ("fixed", "learned")


class NoiseSchedule:
    """Variance-preserving noise: ``noisy = sqrt(abar_t) clean + sqrt(1 - abar_t) noise``.

    All methods take latents (B, C, T, h, w) or (B, C, T) and levels ``t`` (B, T), and give
    float32 on the latents' device.

    Args:
        schedule: ``cosine`` (Nichol and Dhariwal 2021), ``linear`` (Ho et al. 2020) or
            ``scaled_linear`` (linear in the root of beta: Stable Diffusion).
        steps: training steps, the level of pure noise.
        prediction: what a network predicts: ``epsilon``, ``x0`` or ``v`` (Salimans and Ho 2022).
        beta_start, beta_end: ends of the linear schedules; the cosine has none.
        zero_snr: rescale so that the last level holds no signal (Lin et al. 2024).
        variance: ``fixed``, or ``learned`` (Nichol and Dhariwal 2021): the network gives as many
            channels again, which say where between its two bounds a step's variance lies.

    Raises:
        UserError: an unknown name, a step count below 1 (2 for a learned variance), or ``epsilon``
            with ``zero_snr``, where the noise says nothing about the clean value.
    """

    def __init__(
        self,
        schedule: str = "cosine",
        steps: int = 1000,
        prediction: str = "epsilon",
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        zero_snr: bool = False,
        variance: str = "fixed",
    ) -> None:
        _known("schedule", schedule, SCHEDULES)
        _known("prediction", prediction, PREDICTIONS)
        _known("variance", variance, VARIANCES)
        least = 2 if variance == "learned" else 1
        if steps < least:
            raise UserError(f"This noise process needs at least {least} step(s), not {steps}.")
        if zero_snr and prediction == "epsilon":
            raise UserError("zero_snr needs prediction 'v' or 'x0', not 'epsilon'.")
        self.schedule, self.steps = schedule, steps
        self.prediction, self.zero_snr = prediction, zero_snr
        self.learns_variance = variance == "learned"
        scheduler: Any = DDIMScheduler(
            num_train_timesteps=steps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=SCHEDULES[schedule],
            trained_betas=None,
            clip_sample=False,
            set_alpha_to_one=True,
            steps_offset=0,
            prediction_type=PREDICTIONS[prediction],
            thresholding=False,
            timestep_spacing="trailing",
            rescale_betas_zero_snr=zero_snr,
        )
        abar = torch.cumprod(1 - scheduler.betas.double(), dim=0)
        self.alpha_bar = torch.cat([abar.new_ones(1), abar])
        """(steps + 1,) float64, indexed by level."""
        tables = (self.alpha_bar, 1 - self.alpha_bar)
        self._table = torch.stack([x for a in tables for x in (a, a.sqrt())]).float()

    def variances(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """``(abar_t, 1 - abar_t)``, float32, shaped to multiply ``like`` (B, C, T, ...)."""
        values = self._gather(t, like)
        return values[0], values[2]

    def scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """The roots of ``variances``: how much signal and how much noise."""
        values = self._gather(t, like)
        return values[1], values[3]

    def transition(self, t: Tensor, s: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Variances of q(x_t | x_s) and of q(x_s | x_t, x_0), for levels ``s <= t``.

        With s = t - 1 these are beta and beta-tilde (Ho et al. 2020, eq. 7); with s further down
        they are those of the process respaced to the levels that are visited (Nichol and Dhariwal
        2021, section 4).
        """
        abar_t, above = self.variances(t, like)
        abar_s, below = self.variances(s, like)
        # Without differences of nearly equal numbers.
        fall = torch.where(abar_s < 0.5, abar_s - abar_t, above - below).clamp(min=0)
        forward = fall / abar_s.clamp(min=1e-20)
        return forward, forward * below / above.clamp(min=1e-20)

    def split(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """A network's output (B, C or 2 C, ...) as prediction and variance channels, or None."""
        if not self.learns_variance:
            return output, None
        prediction, channels = output.chunk(2, dim=1)
        return prediction, channels

    def log_variance(self, channels: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Logarithm of the learned variance of p(x_s | x_t) (Nichol and Dhariwal 2021, eq. 15).

        ``channels`` -1 give q(x_s | x_t, x_0)'s variance and 1 that of q(x_t | x_s). For s = 0,
        where the former is 0, the variance one step up takes its place.
        """
        forward, posterior = self.transition(t, s, channels)
        _, one_up = self.transition(t.clamp(min=2), t.clamp(min=2) - 1, channels)
        share = (channels.float() + 1) / 2
        low = torch.where(posterior > 0, posterior, one_up).clamp(min=1e-20).log()
        return share * forward.clamp(min=1e-20).log() + (1 - share) * low

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The forward process. Frames at level 0 come back as they were."""
        signal, sigma = self.scales(t, clean)
        return signal * clean.float() + sigma * noise.float()

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should predict."""
        if self.prediction == "epsilon":
            return noise.float()
        if self.prediction == "x0":
            return clean.float()
        signal, sigma = self.scales(t, clean)
        return signal * noise.float() - sigma * clean.float()

    def to_clean(self, prediction: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """The clean value that a prediction stands for."""
        prediction, noisy = prediction.float(), noisy.float()
        if self.prediction == "x0":
            return prediction
        signal, sigma = self.scales(t, noisy)
        if self.prediction == "epsilon":
            return (noisy - sigma * prediction) / signal
        return signal * noisy - sigma * prediction

    def from_clean(self, clean: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """The prediction that stands for a clean value; of its noise, 0 on clean frames."""
        if self.prediction == "x0":
            return clean.float()
        noise = self.noise_between(clean, noisy, t)
        return noise if self.prediction == "epsilon" else self.target(clean, noise, t)

    def estimate(
        self, noisy: Tensor, t: Tensor, mean: Tensor, deviation: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the clean value of what is noisy, if it is normally distributed.

        A network that corrects the former by so many of the latter need not learn to pass on what
        it is shown (as in the preconditioning of Karras et al. 2022).

        Args:
            noisy: (B, C, T, ...).
            t: (B, T).
            mean: of the clean value before anything noisy was seen; shaped to fit.
            deviation: its standard deviation then; shaped to fit.
        """
        kept, added = self.variances(t, noisy)
        variance = deviation.float().square()
        total = kept * variance + added
        away = noisy.float() - kept.sqrt() * mean
        return mean + kept.sqrt() * variance / total * away, (added * variance / total).sqrt()

    def to_noise(self, prediction: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """The noise that a prediction stands for; 0 on clean frames for ``x0``."""
        if self.prediction == "epsilon":
            return prediction.float()
        if self.prediction == "x0":
            return self.noise_between(prediction, noisy, t)
        signal, sigma = self.scales(t, noisy)
        return signal * prediction.float() + sigma * noisy.float()

    def noise_between(self, clean: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """The noise that leads from ``clean`` to ``noisy`` at level ``t``; 0 at level 0."""
        signal, sigma = self.scales(t, noisy)
        noise = (noisy.float() - signal * clean.float()) / sigma.clamp(min=1e-12)
        return torch.where(sigma > 0, noise, torch.zeros_like(noise))

    def _gather(self, t: Tensor, like: Tensor) -> Tensor:
        """(4, B, 1, T, 1...) of abar, its root, 1 - abar and its root."""
        if t.shape != (like.shape[0], like.shape[2]):
            raise ValueError(f"levels {tuple(t.shape)} do not fit latents {tuple(like.shape)}")
        if self._table.device != like.device:
            with torch.inference_mode(False):  # sampling may come first, training needs it too
                self._table = self._table.to(like.device)
        shape = (4, like.shape[0], 1, like.shape[2]) + (1,) * (like.ndim - 3)
        return self._table[:, t.to(like.device)].reshape(shape)


def _known(what: str, name: str, names: Collection[str]) -> None:
    if name not in names:
        raise UserError(f"No {what} '{name}'.{did_you_mean(name, names)}")
