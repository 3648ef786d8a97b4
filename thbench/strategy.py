"""What a strategy must provide: stages that are trained, and how trained stages make a video."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import lightning as L
import torch
from torch import Tensor, nn

from thbench.config import DrawConfig, OptimConfig, SamplerConfig
from thbench.contracts import Batch, Generation, Request
from thbench.diffusion.process import NoiseProcess
from thbench.errors import UserError
from thbench.optim import build_optimizer
from thbench.plans import Plan
from thbench.versioned import Versioned


class Frozen:
    """Holds a module out of its owner's parameters, state dict and deep copies.

    A frozen stage that a Lightning module uses must not be copied by the EMA, saved twice or
    optimised; it only has to follow its owner to the device.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        return self

    def to(self, device: torch.device | str) -> Frozen:
        self.module.to(device)
        return self


@dataclass(frozen=True)
class Missing:
    """Something from outside that a stage wants and that is not on this machine.

    Attributes:
        what: it is, and how to get it, in one line.
        stops: training cannot do without it, nor get it when the stage starts.
    """

    what: str
    stops: bool = True


@dataclass(frozen=True)
class Setting:
    """What a stage is told about its surroundings.

    Attributes:
        size: frames are ``size`` x ``size`` pixels.
        audio_dim: D, channels of the audio embedding.
        optim: the optimiser's settings.
        seed: of the run.
        needs: the trained networks of the stages that this one needs, by stage name.
        clip: gradient norm, 0 for none. The trainer clips; only a stage that optimises by hand
            (``automatic_optimization = False``) does it itself.
    """

    size: int
    audio_dim: int
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0
    needs: Mapping[str, nn.Module] = field(default_factory=dict)
    clip: float = 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> Setting:
        return self  # frozen, and the networks in ``needs`` must not be copied by the EMA


class Stage(Versioned, L.LightningModule, ABC):
    """One thing that is trained.

    A subclass takes a ``Setting`` and, as keyword arguments, the keys of its ``model:`` block in
    the YAML; it sets ``self.net`` to the module that is trained, saved and later generated with,
    and writes ``loss``. Everything about the optimiser, logging, resuming and randomness is here
    or in ``thbench.training``.
    """

    net: nn.Module
    batches_seen: Tensor
    stable_name = "stage"
    version: ClassVar[int] = 1
    """Of this class and of the trainer, for all stages."""
    hears: ClassVar[bool] = True
    """Whether the result depends on the sound; if not, strategies of any encoder share it."""
    neutral: ClassVar[tuple[str, ...]] = ()
    """Keys of ``model:`` that change time and memory alone, and so are not hashed."""
    sources: ClassVar[tuple[str, ...]] = ()
    """Keys of ``model:`` that name files from outside, which are hashed by their content."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting
        self.frozen = {name: Frozen(net) for name, net in setting.needs.items()}
        self.terms: dict[str, Tensor] = {}
        self.register_buffer("batches_seen", torch.zeros((), dtype=torch.int64))

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Scalar losses by name. ``"loss"`` is minimised, the others are logged."""

    def start(self) -> None:
        """Take weights from outside, before the first step of a run that does not resume.

        Called after the weights of ``init_from:`` are in ``self.net``. Networks are also built to
        be filled from a checkpoint, so a constructor must not ask for such weights.
        """

    def check_draw(self, draw: DrawConfig) -> None:
        """Raise a UserError, before any step, if what is drawn cannot be learned from."""

    def check_part(self, clips: int) -> None:
        """Raise a UserError if the loss cannot be computed on parts of a batch.

        A loss is a mean over clips, or over groups of them, that each part holds whole; then
        devices and accumulation do not change what is minimised.

        Args:
            clips: of a global batch that a device sees at once.
        """

    def missing(self, steps: int) -> Iterator[Missing]:
        """What training takes from outside of the data set and is not here: weights, mostly.

        Asked before any stage is trained, of networks without content.

        Args:
            steps: to be trained; with 0 the weights stay as ``start`` takes them.
        """
        yield from ()

    def stand_in(self) -> None:
        """Put networks without content where training loads some from outside, for estimates."""

    def samples(self, batch: Batch) -> dict[str, Tensor]:
        """Videos of the batch's first clip for the log, (T, 3, H, W) in [0, 1], by name."""
        return {}

    def trained_for(self) -> dict[str, Any]:
        """What the network has seen, kept in its checkpoint (observed frames, levels, lengths)."""
        return {}

    def configure_optimizers(self) -> Any:
        return build_optimizer(self.net.parameters(), self.setting.optim)

    def on_fit_start(self) -> None:
        for frozen in self.frozen.values():
            frozen.to(self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make all randomness of this batch a pure function of (seed, batches seen, rank).

        ``batches_seen`` counts this batch from here on: callbacks that save a checkpoint at its
        end run before the module's own hook there.
        """
        torch.manual_seed(fold(self.setting.seed, int(self.batches_seen), self.global_rank))
        self.batches_seen += 1

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.log_losses("train", self.loss(batch), len(batch))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        # The same noise at every validation, or its curve would be mostly noise. Training draws
        # its own seed at its next batch, so there is no state to put back.
        torch.manual_seed(fold(self.setting.seed, batch_idx, self.global_rank, "val"))
        self.log_losses("val", self.loss(batch), len(batch))

    def log_losses(self, split: str, losses: Mapping[str, Tensor], n: int) -> Tensor:
        """Log each loss as ``split/name`` and return the one to minimise."""
        named = {f"{split}/{name}": value.detach() for name, value in losses.items()}
        self.terms = named
        self.log_dict(named, batch_size=n, sync_dist=split == "val", on_epoch=split == "val")
        return losses["loss"]


class Denoiser(Protocol):
    """What ``thbench.generation`` runs a plan with.

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
class Pass:
    """One sweep over the clip in one space.

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
        setting: as the stages were given.
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
        writer: takes the generations of ``predict_step``, with the device they were made on.
    """

    stable_name = "strategy"
    version: ClassVar[int] = 1
    """Of this class, the runner, the plans and the samplers, for all strategies."""
    roles: ClassVar[tuple[str, ...]] = ()
    optional_roles: ClassVar[tuple[str, ...]] = ()
    space: str = ""
    writer: Callable[[Generation, torch.device], None] | None = None
    decode_chunk: int = 16
    frames_per_call: int | None = None

    def __init__(
        self,
        nets: Mapping[str, nn.Module],
        setting: Setting,
        plan: Mapping[str, Any],
        sampler: SamplerConfig,
    ) -> None:
        super().__init__()
        self.nets = nn.ModuleDict(nets)
        self.setting = setting
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
    def passes(self, request: Request) -> Sequence[Pass]:
        """The sweeps that make the clip, in order; the last one's latents are decoded."""

    @abstractmethod
    def decode(self, latents: Tensor, frames: Tensor, conditions: Any) -> Tensor:
        """Frames (n, 3, H, W) in [0, 1] of latents (n, C, ...) with indices ``frames`` (n,)."""

    def after(self, done: Pass, latents: Tensor, conditions: Any) -> Any:
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

    def generate(self, request: Request) -> Generation:
        """Make a video. Frames are made and decoded as ``Generation.chunks`` is consumed."""
        from thbench.generation import run

        return run(self, request)

    def predict_step(self, request: Request, batch_idx: int) -> None:
        """Make one clip and hand it to ``writer``."""
        assert self.writer is not None
        self.writer(self.generate(request), self.device)


def fold(*parts: object) -> int:
    """A seed below 2^63 from any values: equal parts give equal seeds on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def noise_for(request: Request, *parts: object) -> torch.Generator:
    """The request's own source of noise, independent of order, device count and batch."""
    return torch.Generator().manual_seed(fold(request.seed, request.id, *parts))


def iterate_slices(n: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` that cover range(n)."""
    for a in range(0, n, size):
        yield slice(a, min(a + size, n))
