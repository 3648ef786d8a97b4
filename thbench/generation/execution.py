"""Runs a strategy on devices: the clips of a split on any number, or a context on one device."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from thbench.config import TrainerConfig
from thbench.core.console import is_rank_zero, quiet, rank_zero_print
from thbench.core.types import Generation, Request
from thbench.generation import runner as runner
from thbench.generation.requests import SplitRequests
from thbench.generation.strategy import Strategy
from thbench.generation.writer import ClipWriter
from thbench.training.devices import limit_devices, make_trainer, use_threads


class ClipProgressBar(Callback):
    """A progress bar over generated clips.

    Args:
        total: clips, over all devices.
        shown: False turns it off.
    """

    def __init__(self, total: int, shown: bool = True) -> None:
        self.total = total
        self.shown = shown
        self._bar: tqdm[Any] | None = None

    @rank_zero_only
    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._bar = tqdm(
            desc="generate", total=self.total, unit="clip", disable=None if self.shown else True
        )

    @rank_zero_only
    def on_predict_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self._bar is not None:
            self._bar.update(min(trainer.world_size, self.total - self._bar.n))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Termination(Callback):
    """Lets SIGTERM end a generation at once.

    Lightning catches the signal, for the sake of checkpoints, and its prediction never looks
    whether there was one: the process would go on to the last clip. Clips that are finished are
    kept, and none is half written (``ClipWriter``).
    """

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # where no signal arrives
        known = signal.getsignal(signal.SIGTERM)

        def stop(number: int, frame: FrameType | None) -> None:
            if callable(known):
                known(number, frame)  # tells the other devices' processes
            rank_zero_print("interrupted; run the same command again and it goes on.")
            raise SystemExit(128 + number)

        signal.signal(signal.SIGTERM, stop)  # Lightning puts back what was there before


def generate_split(
    strategy: Strategy, requests: SplitRequests, writer: ClipWriter, trainer: TrainerConfig
) -> bool:
    """Generate the videos that are missing, on any number of devices.

    Args:
        strategy: ready to generate.
        requests: all that should be there in the end.
        writer: knows what is there, and writes.
        trainer: devices and threads.

    Returns:
        Whether this process is the first one, which goes on with what is to be done once.
    """
    missing = [i for i in range(len(requests)) if not writer.is_done(*requests.name(i))]
    if not missing:
        return is_rank_zero()
    loader = DataLoader(Subset(requests, missing), batch_size=None)
    return predict(strategy, loader, writer, trainer, len(missing))


class Predictor(L.LightningModule):
    """Generates one clip per batch of ``Trainer.predict`` and hands it to a writer.

    Args:
        strategy: ready to generate.
        writer: takes each generation, with the device that it runs on.
    """

    def __init__(
        self, strategy: Strategy, writer: Callable[[Generation, torch.device], None]
    ) -> None:
        super().__init__()
        self.strategy = strategy
        self.writer = writer

    def predict_step(self, request: Request, batch_idx: int) -> None:
        self.writer(runner.generate(self.strategy, request), self.device)


def predict(
    strategy: Strategy,
    requests: DataLoader,
    writer: Callable[[Generation, torch.device], None],
    settings: TrainerConfig,
    n: int,
) -> bool:
    """Let a strategy generate ``n`` requested clips, shared among the devices.

    Args:
        strategy: ready to generate.
        requests: yields one request at a time.
        writer: takes each generation, with the device that it runs on.
        settings: devices and threads.
        n: requests in all.

    Returns:
        Whether this process is the first one.

    Raises:
        UserError: devices or precision that this machine does not have.
    """
    with quiet():
        trainer = make_trainer(
            settings,
            precision=strategy.sampler.precision,
            devices=limit_devices(settings, n),
            strategy="auto" if settings.strategy == "fsdp" else settings.strategy,
            callbacks=[ClipProgressBar(n, settings.progress), Termination()],
            logger=False,
            enable_checkpointing=False,
        )
        trainer.predict(Predictor(strategy, writer), requests, return_predictions=False)
    return bool(trainer.is_global_zero)


@contextlib.contextmanager
def on_one_device(strategy: Strategy, kind: str, settings: TrainerConfig) -> Iterator[torch.device]:
    """Move a strategy to one device, in its sampler's precision, and back to the CPU at the end.

    Args:
        strategy: ready to generate.
        kind: ``cpu`` or ``cuda``; of several devices, the first that the settings name.
        settings: threads and devices.
    """
    torch.set_float32_matmul_precision("high")
    use_threads(settings)
    chosen = limit_devices(settings, 1)
    index = f":{chosen[0]}" if kind == "cuda" and isinstance(chosen, list) else ""
    device = torch.device(kind + index)
    how: Precision = Precision()
    if strategy.sampler.precision != "32-true":
        how = MixedPrecision(strategy.sampler.precision, device.type)  # type: ignore[arg-type]
    strategy.to(device)
    try:
        with how.forward_context():
            yield device
    finally:
        strategy.cpu()
