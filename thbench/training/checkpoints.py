"""When a run is saved, and how a job that must make way ends."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any, BinaryIO

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from thbench.core.console import rank_zero_print
from thbench.training.callbacks import StepCounter
from thbench.training.runs import META, StageRun, read_checkpoint


class Checkpoints(Checkpoint):
    """``last.ckpt`` every so many steps and at the end, ``best.ckpt`` at the least ``val/loss``.

    Checkpoints are made between optimiser steps only, where a run can go on exactly. That holds
    for a warning from the scheduler too: on SIGTERM, and on SLURM's SIGUSR1 (``#SBATCH
    --signal=SIGUSR1@90``), the step is finished, the checkpoint saved, the job requeued if it was
    SIGUSR1, and the process ends; the requeued job finds the same run folder and goes on.
    Lightning's own handler would save in the middle of a step.

    Args:
        run: the run folder.
        steps: the counter.
        every: steps between checkpoints.
        metadata: what checkpoints say of themselves.
    """

    def __init__(
        self, run: StageRun, steps: StepCounter, every: int, metadata: dict[str, Any]
    ) -> None:
        self.run = run
        self.steps = steps
        self.every = every
        self.metadata = metadata
        self.best: float | None = None
        self._requeue = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        main = threading.current_thread() is threading.main_thread()
        if "SLURM_JOB_ID" in os.environ and main:
            signal.signal(signal.SIGUSR1, self._warned)  # Lightning puts the old handler back
        # Validation follows saving, so ``last.ckpt`` may not know of the newest best one.
        if self.run.best.is_file():
            self.best = read_checkpoint(self.run, self.run.best)[META]["best"]

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if not self.steps.due(1):
            return
        stopping = self._requeue or trainer.received_sigterm
        if trainer.world_size > 1:
            stopping = trainer.strategy.reduce_boolean_decision(stopping, all=False)
        if stopping or self.steps.due(self.every) or self.steps.done >= self.steps.limit:
            with self.steps.pause():
                self.save(trainer, "interrupted" if stopping else "running")
        if stopping:
            if self._requeue and trainer.is_global_zero:
                requeue()
            raise SIGTERMException

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss = trainer.callback_metrics.get("val/loss")
        if loss is None or not torch.isfinite(loss):
            return
        if self.best is None or float(loss) < self.best:
            self.best = float(loss)
            with self.steps.pause():
                trainer.save_checkpoint(self.run.best)

    def save(self, trainer: L.Trainer, status: str) -> None:
        """Write ``last.ckpt`` (whole or not at all) and note the progress."""
        trainer.save_checkpoint(self.run.last)
        if trainer.is_global_zero:
            seconds = round(self.steps.seconds, 1)
            self.run.update_record(status=status, steps=self.steps.done, seconds=seconds)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[META] = {**self.metadata, "steps": self.steps.done, "best": self.best}

    def _warned(self, *_: Any) -> None:
        self._requeue = True


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it there, so that it is whole or the old.

    Lightning goes by way of the system's temporary folder, and moving a file from there to another
    file system can end in the middle when that is full.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        try:
            with part.open("wb") as file:
                _stream(checkpoint, file)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _stream(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    """Write a checkpoint without holding it in memory a second time: Hallo's has 20 GB.

    Raises:
        OSError: the file does not take it. torch hides that behind an error of its own.
    """
    told = _RememberingFile(file)
    try:
        torch.save(checkpoint, told)  # type: ignore[arg-type]
    except RuntimeError as error:
        raise (told.error or error) from None


class _RememberingFile:
    """A file that remembers why it did not take what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def requeue() -> None:
    """Ask SLURM to run this job (or this task of an array) again."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    except OSError as error:
        rank_zero_print(f"The job could not be requeued ({error}): submit it again, it will go on.")
        return
    if done.returncode:
        rank_zero_print(
            f"scontrol requeue {job} failed ({done.stderr.strip()}): submit the job again."
        )
