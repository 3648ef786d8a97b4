"""Trackers beside the CSV file: W&B, TensorBoard or MLflow, through Lightning's loggers.

``fit`` and ``eval`` describe their runs in the same way (``About``), and both continue a run that
is started again: a run's id is the name of its folder or result.
"""

from __future__ import annotations

import contextlib
import functools
import netrc
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from thbench.config import TrackingConfig, flatten
from thbench.core.console import is_rank_zero, rank_zero_print
from thbench.core.errors import UserError, did_you_mean
from thbench.core.files import write_atomic

if TYPE_CHECKING:
    import wandb

LOGGERS = ("wandb", "tensorboard", "mlflow")
MODES = ("auto", "online", "offline", "off")
PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "mlflow": ("mlflow",)}
"""By the logger, packages of which it needs one."""
WEIGHTS = "weights"
"""Type of the artifacts that stand for trained weights."""
MAX_TAG = 64
"""Characters of a tag that W&B takes."""


@dataclass(frozen=True)
class About:
    """How trackers name and file a run.

    Attributes:
        id: the same for a run that is started again.
        name: for people.
        group: of runs that belong together, "" for none.
        job: kind of run within its group.
        tags: to find it by; empty ones and repeats are left out.
        config: all settings, nested.
        folder: where files go.
    """

    id: str
    name: str
    group: str
    job: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    folder: Path


def tracker(settings: TrackingConfig, about: About, resume_at: int = 0) -> Logger | None:
    """The logger that ``tracking.logger`` names; None where W&B is off.

    Args:
        settings: ``config.tracking``.
        about: the run.
        resume_at: steps done by an earlier part of it, whose later values TensorBoard drops.

    Raises:
        UserError: an unknown word, no key for ``online``, or a package is missing.
    """
    mode = check(settings)
    if mode == "off":
        return None
    if settings.logger == "tensorboard":
        more: dict[str, Any] = {"purge_step": resume_at} if resume_at else {}
        board = TensorBoardLogger(
            about.folder, name="tensorboard", version="", default_hp_metric=False, **more
        )
        board.log_hyperparams(flatten(about.config))
        return board
    return (
        _mlflow(settings, about) if settings.logger == "mlflow" else _wandb(settings, about, mode)
    )


def check(settings: TrackingConfig) -> str:
    """Check ``config.tracking``; say once how to switch W&B on where a key is all that lacks.

    Returns:
        W&B's mode, ``online``, ``offline`` or ``off``; for the other loggers their name.

    Raises:
        UserError: as for ``tracker``.
    """
    if settings.logger not in LOGGERS:
        hint = did_you_mean(str(settings.logger), LOGGERS)
        raise UserError(f"There is no tracking.logger={settings.logger}.{hint}")
    mode = wandb_mode(settings.wandb)
    if settings.logger != "wandb":
        names = PACKAGES[settings.logger]
        if not any(map(find_spec, names)):
            raise UserError(
                f"tracking.logger={settings.logger} needs the package {names[0]}:"
                f" `pip install {names[0]}`, or take tracking.logger=wandb."
            )
        return settings.logger
    if mode == "off" and settings.wandb == "auto":
        say_how()
    return mode


def wandb_mode(wanted: str) -> str:
    """Resolve ``tracking.wandb`` to ``online``, ``offline`` or ``off``.

    ``auto`` is online with a key, in WANDB_API_KEY or where `wandb login` puts it, else off.

    Raises:
        UserError: an unknown mode, or ``online`` without a key.
    """
    if wanted not in MODES:
        raise UserError(f"There is no tracking.wandb={wanted}.{did_you_mean(str(wanted), MODES)}")
    if wanted == "auto":
        return "online" if has_key() else "off"
    if wanted == "online" and not has_key():
        raise UserError(
            "tracking.wandb=online needs a key: run `wandb login`, or set WANDB_API_KEY."
        )
    return wanted


def has_key() -> bool:
    """Whether W&B has a key for its server, which WANDB_BASE_URL may name."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(server) is not None
    except (OSError, netrc.NetrcParseError):
        return False


@functools.cache
def say_how() -> None:
    """Say how W&B is switched on, once in a process."""
    rank_zero_print(
        "tracking: W&B is off, it has no key. `wandb login` turns it on, tracking.wandb=offline"
        " keeps runs here to sync later, tracking.wandb=off says no more of it"
    )


def weights_artifact(stage: str, digest: str, steps: int, path: Path) -> wandb.Artifact:
    """What stands for a stage's weights in W&B: where they lie and what they are. None are sent.

    The steps are part of the entry's name, so training longer gives the artifact a new version.

    Args:
        stage: its name.
        digest: hash of the run that trained it.
        steps: that it was trained.
        path: of the checkpoint, or of the shipped file.
    """
    import wandb

    about = {"hash": digest, "steps": steps, "path": str(path.resolve())}
    made = wandb.Artifact(f"{stage}-{digest}", type=WEIGHTS, metadata=about)
    made.add_reference(path.resolve().as_uri(), name=f"step-{steps}/{path.name}", checksum=False)
    return made


@contextlib.contextmanager
def forgiven(where: str) -> Iterator[None]:
    """Print what fails in a tracker, in one line, and go on: the files here are complete without.

    Args:
        where: what the tracker was told of.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        rank_zero_print(f"tracking of {where} failed, all else is written: {reason}")


def _wandb(settings: TrackingConfig, about: About, mode: str) -> Logger:
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    about.folder.mkdir(parents=True, exist_ok=True)
    logger = WandbLogger(
        name=about.name,
        id=about.id,
        project=settings.project,
        group=about.group or None,
        job_type=about.job,
        tags=[tag[:MAX_TAG] for tag in dict.fromkeys(about.tags) if tag],
        save_dir=about.folder,
        offline=mode == "offline",
        # Offline an id is all that a run needs to go on; W&B warns of more.
        resume=None if mode == "offline" else "allow",
        config=dict(about.config),
        # Lightning says "offline" by an environment variable, which W&B reads once in a process.
        settings=wandb.Settings(
            mode="offline" if mode == "offline" else "online",
            silent=True,
            console="off",
            x_disable_stats=False,
        ),
    )
    # Lightning passes on an option that W&B no longer has, and W&B then says so on every start.
    getattr(logger, "_wandb_init", {}).pop("anonymous", None)
    return logger


def _mlflow(settings: TrackingConfig, about: About) -> Logger | None:
    """MLflow names runs itself; the name is kept, so that a run started again continues.

    All runs of a folder share a database, so that MLflow's page shows them beside each other; and a
    process has one alone in any case. Only the first process has a logger: several would make the
    database at once.
    """
    if not is_rank_zero():
        return None
    folder = about.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    shared = folder.parent
    kept = folder / "mlflow_run"
    known = kept.read_text().strip() if kept.is_file() else None
    server = os.environ.get("MLFLOW_TRACKING_URI")
    tags = {"group": about.group, "job": about.job, "tags": ", ".join(filter(None, about.tags))}
    logger = MLFlowLogger(
        experiment_name=settings.project,
        run_name=about.name,
        # Plain files, Lightning's default, are refused by MLflow 3.
        tracking_uri=server or f"sqlite:///{shared / 'mlflow.db'}",
        artifact_location=None if server else (shared / "mlartifacts").as_uri(),
        tags=tags,
        run_id=known,
    )
    if known is None:
        write_atomic(kept, f"{logger.run_id}\n")
        logger.log_hyperparams(flatten(about.config))  # MLflow takes no second value
    return logger
