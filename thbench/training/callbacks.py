"""Callbacks: counting steps, averaging weights, stopping on NaN, throughput, progress."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from tqdm import tqdm

from thbench.core.errors import UserError
from thbench.core.types import Batch
from thbench.training.hearing import HEARD, OWN
from thbench.training.stage import Stage


class StepCounter(Callback):
    """Counts optimiser steps, which are global batches, and ends training after ``limit``.

    Lightning's own count depends on accumulation and on the number of optimisers.

    Args:
        limit: optimiser steps after which training ends.
        accumulate: batches per optimiser step.
    """

    def __init__(self, limit: int, accumulate: int = 1) -> None:
        self.limit = limit
        self.accumulate = accumulate
        self._parts = 0
        self._before = 0.0
        self._began = time.monotonic()
        self.paused = 0.0
        self._validation = contextlib.ExitStack()

    @property
    def state_key(self) -> str:
        return "steps"  # in checkpoints, whatever the class is called

    @property
    def done(self) -> int:
        """Optimiser steps done since training first began, over all runs."""
        return self._parts // self.accumulate

    @property
    def current(self) -> int:
        """The number, from 1, of the step that the last batch belongs to."""
        return -(-self._parts // self.accumulate)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Exclude the time within the block from throughput; it is added to ``paused``."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.paused += time.perf_counter() - began

    @property
    def seconds(self) -> float:
        """Wall time of training in seconds, over all runs."""
        return self._before + time.monotonic() - self._began

    def due(self, every: int) -> bool:
        """Whether a step has just ended whose number is a multiple of ``every`` (0: never)."""
        return every > 0 and self._parts % (self.accumulate * every) == 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = time.monotonic()
        trainer.should_stop = self.done >= self.limit

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._parts += 1
        if self.done >= self.limit:
            trainer.should_stop = True

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validation.enter_context(self.pause())

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validation.close()

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.done, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._parts = state_dict["steps"] * self.accumulate
        self._before = state_dict["seconds"]


class Ema(WeightAveraging):
    """Averaged weights with a ramp: after n updates the decay is min(decay, (1 + n) / (10 + n)).

    Buffers of floats (running statistics) are averaged as well, counters copied. A checkpoint's
    ``state_dict`` holds the averages, ``current_model_state`` the weights in training.
    """

    def __init__(self, decay: float) -> None:
        def average(ema: list[Tensor], current: list[Tensor], n: Tensor | int) -> None:
            if not ema[0].is_floating_point():
                torch._foreach_copy_(ema, current)
                return
            weight = 1 - min(decay, (1 + int(n)) / (10 + int(n)))
            torch._foreach_lerp_(ema, current, weight)

        super().__init__(multi_avg_fn=average)

    @contextlib.contextmanager
    def averaged(self, module: L.LightningModule) -> Iterator[None]:
        """Swap the averaged weights into ``module`` within the block."""
        self._swap_models(module)
        try:
            yield
        finally:
            self._swap_models(module)


class NanGuard(Callback):
    """Stops training when a loss or a weight is no longer finite, before a checkpoint is saved.

    Args:
        steps: the counter.
        every: steps between checks on a GPU, where a check synchronises; on the CPU each step is
            checked. The first bad step is recorded on the device, so the message names it.
        save_every: steps between checkpoints; weights are checked before each.
    """

    def __init__(self, steps: StepCounter, every: int, save_every: int) -> None:
        self.steps = steps
        self.every = every
        self.save_every = save_every
        self._bad: Tensor | None = None
        self._terms: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, Stage)
        self._record(pl_module)
        saving = self.steps.due(self.save_every) or self.steps.done >= self.steps.limit
        if pl_module.device.type == "cpu" or saving or self.steps.due(self.every):
            self.check(trainer, pl_module, saving)

    def check(self, trainer: L.Trainer, stage: Stage, weights: bool) -> None:
        """Raise a UserError on all ranks if one of them has seen a value that is not finite."""
        step = int(self._bad) if self._bad is not None else -1
        broken = weights and not _all_finite(stage)
        bad = step >= 0 or broken
        if trainer.world_size > 1:
            bad = trainer.strategy.reduce_boolean_decision(bad, all=False)
        if not bad:
            return
        at = step if step >= 0 else self.steps.done
        terms = ", ".join(f"{name}={float(value):g}" for name, value in self._terms.items())
        raise UserError(
            f"Training diverged at step {at}: {'a loss' if step >= 0 else 'a weight'} is not"
            f" finite ({terms}). The last checkpoint is from before. Lower optim.lr, set clip=1,"
            " or take trainer.precision=32-true (or bf16-mixed in place of 16-mixed)."
        )

    def _record(self, stage: Stage) -> None:
        """Record the first step with a bad loss, and its terms, without a synchronisation."""
        if not stage.terms:
            return
        values = torch.stack([value.float() for value in stage.terms.values()])
        finite = values.isfinite().all()
        step = torch.where(finite, -1, self.steps.current)
        if self._bad is None:
            self._bad, self._terms = step, dict(stage.terms)
            return
        keep = self._bad >= 0
        self._terms = {
            name: torch.where(keep, self._terms.get(name, value), value)
            for name, value in stage.terms.items()
        }
        self._bad = torch.where(keep, self._bad, step)


class Throughput(Callback):
    """Logs samples and frames per second, peak memory and the learning rate.

    Time spent waiting for data counts; validation, sampling and saving do not.
    """

    def __init__(self, steps: StepCounter, every: int) -> None:
        self.steps = steps
        self.every = every
        self._window: tuple[float, ...] = (0, 0, 0)
        self._total: tuple[float, ...] = (0, 0, 0)
        self._clock = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._clock = self._active()
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        now = self._active()
        n = len(batch) * trainer.world_size
        add = (n, n * batch.frames.shape[1], now - self._clock)
        self._clock = now
        self._window = tuple(a + b for a, b in zip(self._window, add, strict=True))
        self._total = tuple(a + b for a, b in zip(self._total, add, strict=True))
        if self.steps.due(self.every):
            samples, frames, seconds = self._window
            values = {
                "speed/samples_per_second": samples / seconds,
                "speed/frames_per_second": frames / seconds,
                "speed/peak_memory_gb": peak_memory(pl_module.device),
                "optim/lr": trainer.optimizers[0].param_groups[0]["lr"],
            }
            pl_module.log_dict(values, batch_size=len(batch))
            self._window = (0, 0, 0)

    def summary(self, device: torch.device) -> str:
        """A line on throughput and peak memory of this run."""
        samples, frames, seconds = self._total
        if not seconds:
            return "nothing was left to train"
        speed = f"{samples / seconds:.1f} samples/s, {frames / seconds:.1f} frames/s"
        return f"{speed}, peak memory {peak_memory(device):.1f} GB"

    def _active(self) -> float:
        return time.perf_counter() - self.steps.paused


def peak_memory(device: torch.device) -> float:
    """Peak memory in gigabytes: of the GPU that is trained on, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


class ProgressBar(Callback):
    """A progress bar on a terminal, else a line at intervals. Both go to stderr.

    Args:
        steps: the counter.
        title: the stage's name.
        every: steps between updates of the losses; five times that between lines.
        shown: False turns the bar off; the lines stay.
    """

    def __init__(self, steps: StepCounter, title: str, every: int, shown: bool = True) -> None:
        self.steps = steps
        self.title = title
        self.every = every
        self.shown = shown and sys.stderr.isatty()
        self._bar: tqdm[Any] | None = None

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.shown:
            self._bar = tqdm(
                desc=self.title,
                total=self.steps.limit,
                initial=self.steps.done,
                unit="step",
                dynamic_ncols=True,
                leave=False,
            )

    @rank_zero_only
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if not self.steps.due(1):
            return
        if self._bar is not None:
            self._bar.update()
            if self.steps.due(self.every):
                self._bar.set_postfix_str(self._losses(trainer, pl_module))
        elif self.steps.due(5 * self.every):
            where = f"{self.title}: step {self.steps.done}/{self.steps.limit}"
            print(f"{where}, {self._losses(trainer, pl_module)}", file=sys.stderr, flush=True)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _losses(self, trainer: L.Trainer, pl_module: L.LightningModule) -> str:
        assert isinstance(pl_module, Stage)
        losses = {k: v for k, v in pl_module.terms.items() if k == "train/loss"}
        logged = trainer.callback_metrics
        losses |= {name: logged[name] for name in (f"{OWN}/loss", HEARD) if name in logged}
        return ", ".join(f"{name} {float(value):.4g}" for name, value in losses.items())


def _all_finite(stage: Stage) -> bool:
    norms = torch._foreach_norm([p.detach() for p in stage.parameters() if p.is_floating_point()])
    return bool(torch.stack([norm.cpu().float() for norm in norms]).isfinite().all())
