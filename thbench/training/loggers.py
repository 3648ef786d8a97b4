"""Loggers: always a CSV file of curves, Weights & Biases where configured."""

from __future__ import annotations

import csv
import netrc
import os
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from thbench.config import Config
from thbench.core.errors import UserError, did_you_mean
from thbench.core.files import write_atomic
from thbench.training.runs import StageRun

MODES = ("auto", "online", "offline", "off")
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
    """The loggers of a run.

    Weights & Biases groups runs by strategy, and identifies a run by its folder's name, so a
    resumed run continues its curves.

    Raises:
        UserError: an unknown mode, or ``online`` without a key.
    """
    curves = CurveLogger(run.folder / "metrics.csv", resume_at)
    mode = wandb_mode(config.tracking.wandb)
    return [curves] if mode == "off" else [curves, _wandb(config, run, mode)]


@rank_zero_only
def finish(used: Iterable[Logger], failed: bool) -> None:
    """End the W&B run, or the next stage of this process would write into it."""
    from lightning.pytorch.loggers import WandbLogger

    if any(isinstance(logger, WandbLogger) for logger in used):
        import wandb

        if wandb.run is not None:
            wandb.finish(exit_code=int(failed), quiet=True)


def wandb_mode(wanted: str) -> str:
    """Resolve ``tracking.wandb`` to ``online``, ``offline`` or ``off``.

    ``auto`` is online with WANDB_API_KEY set, else off.

    Raises:
        UserError: an unknown mode, or ``online`` without a key.
    """
    if wanted not in MODES:
        raise UserError(f"There is no tracking.wandb={wanted}.{did_you_mean(str(wanted), MODES)}")
    if wanted == "auto":
        return "online" if os.environ.get("WANDB_API_KEY") else "off"
    if wanted == "online" and not _has_key():
        raise UserError(
            "tracking.wandb=online needs a key: run `wandb login`, or set WANDB_API_KEY."
        )
    return wanted


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _wandb(config: Config, run: StageRun, mode: str) -> Logger:
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    os.environ.setdefault("WANDB_SILENT", "true")
    logger = WandbLogger(
        name=f"{config.strategy}/{run.name}",
        id=run.folder.name,
        project=config.tracking.project,
        group=config.tracking.group or config.strategy,
        job_type=run.name,
        save_dir=run.folder,
        offline=mode == "offline",
        resume="allow",
        config=dict(run.fingerprint),
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=False),
    )
    # Lightning passes on an option that W&B no longer has, and W&B then says so on every start.
    getattr(logger, "_wandb_init", {}).pop("anonymous", None)
    return logger
