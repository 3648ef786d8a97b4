"""What a noise process must provide for any plan to sample a network that was trained with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from thbench.config import SamplerConfig


class NoiseProcess(ABC):
    """Between noise and clean latents, with a noise level for each frame.

    Latents are (B, C, T, h, w) or (B, C, T). A level is a whole number from 0, clean, to
    ``steps``, pure noise, which is standard normal; levels ``t`` and ``s`` are (B, T) int64.

    Attributes:
        steps: the level of pure noise.
    """

    steps: int

    @abstractmethod
    def grid(self, sampler: SamplerConfig) -> Tensor:
        """The levels that a frame passes through when it is sampled.

        Returns:
            (sampler.steps + 1,) int64, descending from at most ``steps`` to 0.

        Raises:
            UserError: settings that the process has no grid for.
        """

    @abstractmethod
    def step(
        self,
        noisy: Tensor,
        prediction: Tensor,
        t: Tensor,
        s: Tensor,
        noise: Tensor | None,
        sampler: SamplerConfig,
    ) -> Tensor:
        """Take each frame from level ``t`` to level ``s``.

        Args:
            noisy: latents at levels ``t``.
            prediction: the network's output for them, (B, C or 2 C, T, ...).
            t: where the frames stand.
            s: ``s <= t``; frames with ``s == t`` stay as they are.
            noise: standard normal, shaped as ``noisy``; None where ``draws_noise`` says no.
            sampler: the sampler's settings.

        Returns:
            Latents at levels ``s``, float32, shaped as ``noisy``.
        """

    def draws_noise(self, sampler: SamplerConfig) -> bool:
        """Whether ``step`` takes fresh noise; the runner then draws it."""
        return False


@torch.no_grad()
def sample_together(
    process: NoiseProcess,
    predict: Callable[[Tensor, Tensor], Tensor],
    noisy: Tensor,
    sampler: SamplerConfig,
) -> Tensor:
    """All frames together from pure noise to clean, with torch's own noise.

    For looking on during training; videos are made by ``thbench.generation.runner``.

    Args:
        process: the noise process.
        predict: from noisy latents and their levels (B, T) to the network's output.
        noisy: (B, C, T, h, w), standard normal.
        sampler: its settings.

    Returns:
        Clean latents, shaped as ``noisy``.
    """
    like = torch.ones(noisy.shape[0], noisy.shape[2], dtype=torch.int64, device=noisy.device)
    for a, b in process.grid(sampler).unfold(0, 2, 1).tolist():
        output = predict(noisy, a * like)
        noise = torch.randn_like(noisy) if process.draws_noise(sampler) else None
        noisy = process.step(noisy, output, a * like, b * like, noise, sampler)
    return noisy
