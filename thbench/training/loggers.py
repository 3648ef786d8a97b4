"""Loggers of training: always a CSV file of curves, and a tracker where configured."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from thbench.config import Config
from thbench.core.files import write_atomic
from thbench.training.runs import StageRun
from thbench.training.tracking import About, forgiven, tracker, weights_artifact

_HEADER = ("step", "name", "value")


class CurveLogger(Logger):
    """Appends every value to ``metrics.csv`` as a row ``step,name,value``.

    A row per value, because not all are known at every step. ``step`` counts optimiser steps done.

    Args:
        path: the file.
        resume_at: the run resumes from this step; rows beyond it, left by a run that was killed
            after its last checkpoint, are dropped.
    """

    def __init__(self, path: Path, resume_at: int = 0) -> None:
        super().__init__()
        self.path = path
        self._rows: list[tuple[int, str, float]] = []
        self._resume_at: int | None = resume_at

    @property
    def name(self) -> str:
        return "curves"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        at = (step or 0) + 1  # Lightning counts from 0
        self._rows += [(at, name, float(v)) for name, v in metrics.items() if name != "epoch"]
        self.save()

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """The run folder's config.yaml holds them."""

    @rank_zero_only
    def save(self) -> None:
        if self._resume_at is not None:
            self._rewind(self._resume_at)
            self._resume_at = None
        with open(self.path, "a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(self._rows)
        self._rows.clear()

    def _rewind(self, step: int) -> None:
        kept = [",".join(_HEADER)]
        if self.path.is_file():
            lines = self.path.read_text().splitlines()[1:]
            # A killed run can leave half a line at the end.
            whole = [line for line in lines if len(line.split(",")) == len(_HEADER)]
            kept += [line for line in whole if int(line.split(",")[0]) <= step]
        write_atomic(self.path, "\n".join(kept) + "\n")


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) pairs by name, in order of steps, from a ``metrics.csv``."""
    curves: dict[str, list[tuple[int, float]]] = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            curves.setdefault(row["name"], []).append((int(row["step"]), float(row["value"])))
    return curves


def loggers(config: Config, run: StageRun, resume_at: int = 0) -> list[Logger]:
    """The loggers of a stage's training: the CSV file, and what ``tracking.logger`` names.

    Trackers know a run by its folder's name, so a resumed run continues its curves.

    Raises:
        UserError: as ``tracker``.
    """
    curves = CurveLogger(run.folder / "metrics.csv", resume_at)
    about = About(
        id=run.folder.name,
        name=f"{config.strategy}/{run.name}",
        group=config.tracking.group or config.data.name,
        job=f"fit/{run.name}",
        tags=(config.strategy, config.scale, config.data.name),
        config={**asdict(config), "fingerprint": dict(run.fingerprint)},
        folder=run.folder,
    )
    other = tracker(config.tracking, about, resume_at)
    return [curves] if other is None else [curves, other]


@rank_zero_only
def finish(used: Iterable[Logger], run: StageRun, failed: bool) -> None:
    """Name the trained weights to W&B and end its run, or the next stage would write into it."""
    if not any(isinstance(logger, WandbLogger) for logger in used):
        return
    import wandb

    if wandb.run is None:
        return
    with forgiven(run.folder.name):
        if not failed:
            made = weights_artifact(run.name, run.hash, run.steps, run.last)
            wandb.run.log_artifact(made)
    wandb.finish(exit_code=int(failed), quiet=True)
