"""What a strategy must provide: how its trained networks generate a video."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import lightning as L
from torch import Tensor, nn

from thbench.config import SamplerConfig
from thbench.core.errors import UserError, did_you_mean
from thbench.core.signatures import Blocks
from thbench.core.types import Request
from thbench.core.versioned import Versioned
from thbench.diffusion.process import NoiseProcess
from thbench.generation.plans import Plan
from thbench.training.stage import StageContext

Network = TypeVar("Network", bound=nn.Module)


class Denoiser(Protocol):
    """What ``thbench.generation.runner`` runs a plan with.

    Shapes: latents are (B, C, T, h, w) or (B, C, T), B windows of T frames; noise levels ``t`` and
    frame indices in the clip ``frames`` are (B, T) int64. ``t`` is 0 for clean and k for scheduler
    index k - 1.

    Attributes:
        branches: network calls that one ``denoise`` takes: more than one with classifier-free
            guidance.
    """

    branches: int = 1

    def latent_shape(self, conditions: Any) -> tuple[int, ...]:
        """Shape of one frame's latent: (C, h, w) or (C,)."""

    def observe(self, clean: Tensor, frames: Tensor, conditions: Any) -> Any:
        """What all steps of a window share, computed from its observed frames.

        Args:
            clean: (B, C, T_observed, ...), the observed latents.
            frames: (B, T_observed).
            conditions: of the clip.

        Returns:
            The ``context`` of ``denoise``, of any type, or None.
        """

    def denoise(
        self, noisy: Tensor, t: Tensor, frames: Tensor, conditions: Any, context: Any
    ) -> Tensor:
        """The network's prediction for one step of B windows.

        Args:
            noisy: (B, C, T, ...), observed frames at level 0 before the generated ones.
            t: (B, T) noise levels.
            frames: (B, T); the portrait among the observed frames has index ``SOURCE``.
            conditions: of the clip.
            context: from ``observe``; None where the plan observes nothing.

        Returns:
            Shaped as ``noisy``, with twice its channels where the variance is learned. Predictions
            for observed frames are ignored.
        """


@dataclass(frozen=True)
class GenerationPass:
    """One pass over the clip in one space.

    Attributes:
        space: names the generated latent ("flow", "pixels", "coefficients").
        plan: in which order its frames are generated.
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
        roles: the networks that it needs: names as in ``nets:``, and their classes.
        optional_roles: networks that it uses where they are given. A class that names no role at
            all takes any.
        decode_chunk: frames decoded at a time.
        frames_per_call: at most so many frames in one network call, where a round allows to split;
            None for no limit. Changes memory and speed, not the result.
        space: in which the last pass generates frames, for the tables.

    Raises:
        UserError: a role is missing, unknown, or has a network of another class.
    """

    stable_name = "strategy"
    version: ClassVar[int] = 1
    """Of this class, the runner, the plans and the samplers, for all strategies."""
    roles: ClassVar[Mapping[str, type[nn.Module]]] = {}
    optional_roles: ClassVar[Mapping[str, type[nn.Module]]] = {}
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
        self.check_roles(nets)
        for role, net in nets.items():
            self._check_class(role, net, self.role_classes().get(role, nn.Module))
        self.nets = nn.ModuleDict(nets)
        self.context = context
        self.plan = dict(plan)
        self.sampler = sampler
        self.eval().requires_grad_(False)

    @classmethod
    def role_classes(cls) -> dict[str, type[nn.Module]]:
        """The class that a network must have, by role, optional roles included."""
        return {**cls.roles, **cls.optional_roles}

    @classmethod
    def check_roles(cls, nets: Mapping[str, Any]) -> None:
        """Raise a UserError if a role of ``nets`` is missing or unknown."""
        known = cls.role_classes()
        for role, wanted in cls.roles.items():
            if role not in nets:
                raise UserError(
                    f"nets.{role} is missing: {cls.__name__} needs the class {wanted.__name__}. Set"
                    f" nets.{role}=STAGE, a stage that trains one."
                )
        for role in nets:
            if known and role not in known:
                raise UserError(
                    f"nets.{role}: {cls.__name__} has no such role.{did_you_mean(role, known)}"
                )

    def network(self, role: str, kind: type[Network]) -> Network:
        """The network of a role, as the class that it is.

        Raises:
            UserError: the role has no network, or one of another class.
        """
        net = dict(self.nets.items()).get(role)
        return self._check_class(role, net, kind)

    @classmethod
    def _check_class(cls, role: str, net: nn.Module | None, kind: type[Network]) -> Network:
        if isinstance(net, kind):
            return net
        got = "none" if net is None else f"a {type(net).__name__}"
        raise UserError(
            f"nets.{role}: {cls.__name__} needs the class {kind.__name__}, not {got}. Set"
            f" nets.{role}=STAGE, a stage that trains one."
        )

    @property
    def follows(self) -> frozenset[str]:
        """Which of a request's ``pose`` and ``eyes`` the videos follow; none by default."""
        return frozenset()

    @abstractmethod
    def encode(self, request: Request) -> Any:
        """Conditions of the clip, of any type: what is computed once per portrait and audio."""

    @abstractmethod
    def passes(self, request: Request) -> Sequence[GenerationPass]:
        """The passes that generate the clip, in order; the last one's latents are decoded.

        Its plan may run past the clip's end: frames that are too many are dropped undecoded.
        """

    @abstractmethod
    def decode(self, latents: Tensor, frames: Tensor, conditions: Any) -> Tensor:
        """Frames (n, 3, H, W) in [0, 1] of latents (n, C, ...) with indices ``frames`` (n,)."""

    def update_conditions(self, done: GenerationPass, latents: Tensor, conditions: Any) -> Any:
        """Conditions for the next pass, from the latents (T, C, ...) of the pass ``done``."""
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
