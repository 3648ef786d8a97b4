"""What a strategy must provide: how trained networks make a video."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import lightning as L
from torch import Tensor, nn

from thbench.config import SamplerConfig
from thbench.core.errors import UserError
from thbench.core.signatures import Blocks
from thbench.core.types import Request
from thbench.core.versioned import Versioned
from thbench.diffusion.process import NoiseProcess
from thbench.generation.plans import Plan
from thbench.training.stage import StageContext


class Denoiser(Protocol):
    """What ``thbench.generation.runner`` runs a plan with.

    Shapes: latents are (B, C, T, h, w) or (B, C, T); noise levels ``t`` and true frame indices
    ``frames`` are (B, T). ``t`` is 0 for clean and k for scheduler index k - 1.

    Attributes:
        branches: network calls that one ``denoise`` takes: more than one with classifier-free
            guidance.
    """

    branches: int = 1

    def latent_shape(self, conditions: Any) -> tuple[int, ...]:
        """Shape of one frame's latent: (C, h, w) or (C,)."""

    def observe(self, clean: Tensor, frames: Tensor, conditions: Any) -> Any:
        """Context from observed latents, once per window, or None."""

    def denoise(
        self, noisy: Tensor, t: Tensor, frames: Tensor, conditions: Any, context: Any
    ) -> Tensor:
        """The prediction, shaped as ``noisy``; twice its channels with a learned variance.

        Observed frames stand inside ``noisy`` at t = 0, before the generated ones; predictions on
        them are ignored. The portrait among them has frame index ``SOURCE``.
        """


@dataclass(frozen=True)
class GenerationPass:
    """One pass over the clip in one space.

    Attributes:
        space: names the latent that is made ("flow", "pixels", "coefficients").
        plan: in which order its frames are made.
        denoisers: by the model names that the plan uses.
        process: the noise process that the denoisers were trained with.
        sampler: steps, eta, thresholds.
    """

    space: str
    plan: Plan
    denoisers: Mapping[str, Denoiser]
    process: NoiseProcess
    sampler: SamplerConfig


class Strategy(Versioned, L.LightningModule, ABC):
    """Trained stages put together with a plan.

    Args:
        nets: the trained networks, by stage name.
        context: as the stages were given.
        plan: ``{"name": ..., options}``.
        sampler: steps, eta, thresholds.

    Subclasses take their own switches as further keyword arguments.

    Attributes:
        roles: of the networks that it cannot do without, as ``nets:`` names them.
        optional_roles: of those that it can. A class that names none at all takes any.
        decode_chunk: frames decoded at a time.
        frames_per_call: at most so many frames in one network call, where a round allows to split;
            None for no limit. Changes memory and speed, not the result.
        space: in which the last pass makes frames, for the tables.
    """

    version: ClassVar[int] = 1
    """Of this class, the runner, the plans and the samplers, for all strategies."""
    roles: ClassVar[tuple[str, ...]] = ()
    optional_roles: ClassVar[tuple[str, ...]] = ()
    config_blocks: ClassVar[Blocks] = {}
    """Of ``options:``, what takes the keys of the blocks inside; as in ``Stage``."""
    space: str = ""
    decode_chunk: int = 16
    frames_per_call: int | None = None

    def __init__(
        self,
        nets: Mapping[str, nn.Module],
        context: StageContext,
        plan: Mapping[str, Any],
        sampler: SamplerConfig,
    ) -> None:
        super().__init__()
        self.nets = nn.ModuleDict(nets)
        self.context = context
        self.plan = dict(plan)
        self.sampler = sampler
        self.eval().requires_grad_(False)

    @property
    def follows(self) -> frozenset[str]:
        """Which of a request's ``pose`` and ``eyes`` the videos follow; none by default."""
        return frozenset()

    @abstractmethod
    def encode(self, request: Request) -> Any:
        """Conditions: what is computed once per portrait and sound."""

    @abstractmethod
    def passes(self, request: Request) -> Sequence[GenerationPass]:
        """The passes that make the clip, in order; the last one's latents are decoded."""

    @abstractmethod
    def decode(self, latents: Tensor, frames: Tensor, conditions: Any) -> Tensor:
        """Frames (n, 3, H, W) in [0, 1] of latents (n, C, ...) with indices ``frames`` (n,)."""

    def after(self, done: GenerationPass, latents: Tensor, conditions: Any) -> Any:
        """Conditions for the next pass, from the latents (T, C, ...) of the one before."""
        return conditions

    def motion(self, conditions: Any) -> tuple[Tensor | None, Tensor | None]:
        """The pose (T, 6) and eyes (T, 2) that the clip follows, where the strategy knows them."""
        return None, None

    def source_latent(self, conditions: Any) -> Tensor:
        """The portrait in the space of the latents, (C, ...), for plans that observe ``SOURCE``.

        Raises:
            UserError: the strategy has no such latent.
        """
        raise UserError(f"{type(self).__name__} has no latent of the portrait, which plan needs.")
