"""Saving checkpoints, and ending a job that the scheduler preempts."""

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

    Checkpoints are saved between optimiser steps only, where a run can resume exactly, also on
    preemption: on SIGTERM, and on SLURM's SIGUSR1 (``#SBATCH --signal=SIGUSR1@90``), the step is
    finished, the checkpoint saved, the job requeued if it was SIGUSR1, and the process ends; the
    requeued job finds the same run folder and resumes. Lightning's own handler would save in the
    middle of a step.

    Args:
        run: the run folder.
        steps: the counter.
        every: steps between checkpoints.
        metadata: kept in each checkpoint under ``META``.
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
            signal.signal(
                signal.SIGUSR1, self._on_preemption
            )  # Lightning puts the old handler back
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
        """Write ``last.ckpt``, whole or not at all, and update the run's record."""
        trainer.save_checkpoint(self.run.last)
        if trainer.is_global_zero:
            seconds = round(self.steps.seconds, 1)
            self.run.update_record(status=status, steps=self.steps.done, seconds=seconds)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[META] = {**self.metadata, "steps": self.steps.done, "best": self.best}

    def _on_preemption(self, *_: Any) -> None:
        self._requeue = True


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file beside it and renames that, so it is never partial.

    Lightning writes to the system's temporary folder, from where moving a file to another file
    system can stop half-way when that is full.
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
        OSError: the file cannot be written; torch hides that behind an error of its own.
    """
    target = _RememberingFile(file)
    try:
        torch.save(checkpoint, target)  # type: ignore[arg-type]
    except RuntimeError as error:
        raise (target.error or error) from None


class _RememberingFile:
    """A file that keeps the error of a failed write."""

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
