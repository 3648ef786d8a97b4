"""The base class of training stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, get_type_hints

import lightning as L
import torch
from torch import Tensor, nn

from thbench.config import DrawConfig, OptimConfig
from thbench.core.errors import UserError, did_you_mean
from thbench.core.hub import MissingResource
from thbench.core.seeding import derive_seed
from thbench.core.signatures import Blocks
from thbench.core.types import Batch
from thbench.core.versioned import Versioned
from thbench.data.frozen_cache import FrozenCache, FrozenRows
from thbench.training.hearing import HEARD, OTHER, OWN, HeardRatio, with_other_audio
from thbench.training.optim import build_optimizer

Network = TypeVar("Network", bound=nn.Module)


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
class StageContext:
    """What a stage is built with, beside its ``model:`` block.

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

    def __deepcopy__(self, memo: dict[int, Any]) -> StageContext:
        return self  # frozen, and the networks in ``needs`` must not be copied by the EMA


class Stage(Versioned, L.LightningModule, ABC):
    """One stage of a strategy's training.

    A subclass takes a ``StageContext`` and, as keyword arguments, the keys of its ``model:`` block
    in the YAML; it sets ``self.net`` to the module that is trained, saved and later used for
    generation, and implements ``loss``. Optimiser, logging, resuming and randomness are here or in
    ``thbench.training.fit``.
    """

    net: nn.Module
    batches_seen: Tensor
    stable_name = "stage"
    version: ClassVar[int] = 1
    """The version of this class and of the trainer, part of all stages' hashes."""
    uses_audio: ClassVar[bool] = True
    """Whether the result depends on the audio; if not, strategies of any encoder share it."""
    audio_loss: ClassVar[str] = "loss"
    """The loss that audio should lower most, on the lips where there is one: validation measures it
    with another clip's audio as well. "" for a stage whose losses do not depend on audio."""
    neutral: ClassVar[tuple[str, ...]] = ()
    """Keys of ``model:`` that change time and memory alone, and so are not hashed."""
    sources: ClassVar[tuple[str, ...]] = ()
    """Keys of ``model:`` that name files from outside, which are hashed by their content."""
    config_blocks: ClassVar[Blocks] = {}
    """Of ``model:``, what takes the keys of the blocks inside: ``{"net": MyNet}``, so that a
    misspelt key is found before anything is trained; see ``thbench.core.signatures``."""

    def __init__(self, context: StageContext) -> None:
        super().__init__()
        self.context = context
        self.frozen = {name: Frozen(net) for name, net in context.needs.items()}
        self.kept: FrozenCache | None = None
        self.terms: dict[str, Tensor] = {}
        self.heard = HeardRatio()
        self.register_buffer("batches_seen", torch.zeros((), dtype=torch.int64))

    @classmethod
    def network_class(cls) -> type[nn.Module]:
        """What ``net`` is declared to be; ``nn.Module`` where the class does not say."""
        try:
            declared = get_type_hints(cls).get("net")
        except NameError:  # imported for type checkers alone
            return nn.Module
        return declared if isinstance(declared, type) else nn.Module

    def needed(self, name: str, kind: type[Network]) -> Network:
        """The trained network of a stage that this one builds on.

        Args:
            name: of that stage.
            kind: the class that its network must have.

        Raises:
            UserError: ``needs:`` does not name the stage, or it trains another network.
        """
        own = type(self).__name__
        if name not in self.frozen:
            raise UserError(
                f"{own} builds on stage '{name}', which trains a {kind.__name__}: add it to the"
                f" stage's needs: [{name}]."
            )
        net = self.frozen[name].module
        if not isinstance(net, kind):
            raise UserError(
                f"{own} builds on a {kind.__name__}, and stage '{name}' of its needs trains a"
                f" {type(net).__name__}: name the stage that trains the former '{name}'."
            )
        return net

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Scalar losses by name. ``"loss"`` is minimised, the others are logged.

        In eval mode there may be more of them, for validation alone.
        """

    def start(self) -> None:
        """Load published weights, before the first step of a run that does not resume.

        Called after the weights of ``init_from:`` are in ``self.net``. Networks are also built to
        load a checkpoint into, so a constructor must not load such weights.
        """

    def check_draw(self, draw: DrawConfig) -> None:
        """Check, before any step, that the stage can learn from what is drawn.

        Raises:
            UserError: it cannot.
        """
        if rows := self.frozen_rows():
            rows.check_draw(draw)

    def frozen_rows(self) -> FrozenRows | None:
        """What a frozen network gives for each frame, if it is to be kept beside the data.

        Training then finds it in ``self.kept``. It changes time alone: the ``model.cache`` of
        stages that have it.
        """
        return None

    def check_part(self, clips: int) -> None:
        """Raise a UserError if the loss cannot be computed on parts of a batch.

        A loss is a mean over clips, or over groups of them, that each part holds whole; then
        devices and accumulation do not change what is minimised.

        Args:
            clips: of a global batch that a device sees at once.
        """

    def missing(self, steps: int) -> Iterator[MissingResource]:
        """Resources outside of the data set, mostly weights, that training needs and lacks.

        Called before any stage is trained, on networks of fake tensors.

        Args:
            steps: to be trained; with 0 the weights stay as ``start`` loads them.
        """
        yield from ()

    def use_placeholders(self) -> None:
        """Put fake networks where training loads published ones, for estimates."""

    def samples(self, batch: Batch) -> dict[str, Tensor]:
        """Videos of the batch's first clip for the log, (T, 3, H, W) in [0, 1], by name."""
        return {}

    def trained_for(self) -> dict[str, Any]:
        """What the network was trained for (observed frames, levels, lengths), for its metadata."""
        return {}

    def configure_optimizers(self) -> Any:
        return build_optimizer(self.net.parameters(), self.context.optim)

    def on_fit_start(self) -> None:
        for frozen in self.frozen.values():
            frozen.to(self.device)
        if rows := self.frozen_rows():
            data = getattr(self.trainer, "datamodule", None)
            if data is None:
                raise UserError("model.cache keeps rows beside a data set, and there is none.")
            self.kept = FrozenCache(data.stores.values(), rows)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make all randomness of this batch a pure function of (seed, batches seen, rank).

        ``batches_seen`` counts this batch from here on: callbacks that save a checkpoint at its
        end run before the module's own hook there.
        """
        torch.manual_seed(derive_seed(self.context.seed, int(self.batches_seen), self.global_rank))
        self.batches_seen += 1

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.log_losses("train", self.loss(batch), len(batch))

    @property
    def hears(self) -> bool:
        """Whether audio should lower a loss of this stage."""
        return self.uses_audio and bool(self.audio_loss)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the losses of a batch and, of a stage that hears, those with other audio."""
        own = self._validation_losses(batch, batch_idx)
        self.log_losses(OWN, own, len(batch))
        swapped = with_other_audio(batch) if self.hears else None
        if swapped is None:
            return
        name = self.audio_loss
        if name not in own:
            raise UserError(
                f"{type(self).__name__}.audio_loss is '{name}', and its loss() gives"
                f" {', '.join(own)}.{did_you_mean(name, own)}"
            )
        other = self._validation_losses(swapped, batch_idx)
        self.log_losses(OTHER, other, len(batch))
        self.heard.add(own[name], other[name], len(batch))

    def on_validation_epoch_end(self) -> None:
        ratio = self.heard.take(lambda sums: self.trainer.strategy.reduce(sums, reduce_op="sum"))
        if ratio is not None:
            self.log(HEARD, ratio, sync_dist=True)

    def _validation_losses(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        # The same noise at every validation, or its curve would be mostly noise, and with whatever
        # audio. Training draws its own seed at its next batch, so there is no state to put back.
        torch.manual_seed(derive_seed(self.context.seed, batch_idx, self.global_rank, "val"))
        return self.loss(batch)

    def log_losses(self, split: str, losses: Mapping[str, Tensor], n: int) -> Tensor:
        """Log each loss as ``split/name`` and return the one to minimise."""
        named = {f"{split}/{name}": value.detach() for name, value in losses.items()}
        self.terms = named
        validates = split != "train"
        self.log_dict(named, batch_size=n, sync_dist=validates, on_epoch=validates)
        return losses["loss"]
