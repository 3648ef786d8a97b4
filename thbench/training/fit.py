"""One trainer for every stage of every strategy.

``fit`` trains the missing stages of a strategy in order. A stage whose newest checkpoint has
reached ``max_steps`` is skipped; any other resumes from that checkpoint, after a crash, a kill, a
requeued SLURM job (submit with ``#SBATCH --signal=SIGUSR1@90``, ``srun thbench fit ...``) or with
a larger ``max_steps``. Because batches and noise are functions of (seed, step, rank), an
interrupted run ends where an uninterrupted one does.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from thbench.config import Config, StageConfig
from thbench.core.console import is_rank_zero, quiet, rank_zero_print
from thbench.core.errors import UserError
from thbench.core.provenance import provenance
from thbench.core.types import Batch
from thbench.data.datamodule import ClipData, RankShard
from thbench.nn.normalize import count_in_parts
from thbench.training.callbacks import Ema, NanGuard, ProgressBar, StepCounter, Throughput
from thbench.training.checkpoints import AtomicCheckpointIO, Checkpoints
from thbench.training.devices import make_trainer
from thbench.training.hearing import Validation
from thbench.training.loggers import finish, loggers
from thbench.training.optim import build_optimizer
from thbench.training.runs import (
    META,
    StageRun,
    build_stage,
    check_needs,
    describe,
    load_net,
    load_nets,
    load_weights,
    locate,
    read_checkpoint,
    read_meta,
    remember_sources,
    shipped_alike,
    stage_kind,
    stage_run,
    training_order,
    write_config,
)
from thbench.training.samples import SampleVideos
from thbench.training.stage import Stage

__all__ = ["build_optimizer", "build_trainer", "fit", "load_net", "load_nets", "stage_run"]


def fit(config: Config, only: str | None = None) -> dict[str, Path]:
    """Train the stages that are not trained yet.

    Weights that are shipped count as none, but with ``weights=zoo``: then stages that are shipped
    for these settings and this data set are taken as they are, and the others trained on them.

    Args:
        config: a strategy's configuration.
        only: train this stage alone; those that it builds on must be trained.

    Returns:
        The run folder of each requested stage, by name; of one that is taken, the shipped file.

    Raises:
        UserError: the stage cannot be built or trained as configured, training diverged, or the
            disk is full. The last good checkpoint stays. With ``weights=zoo``: there are none.
    """
    names, taken = training_order(config, only)
    wanted = [only] if only else names
    if config.weights == "zoo":
        config = replace(config, weights="auto")
    else:
        _mention_shipped(config, wanted)
    for name, run in taken.items():
        rank_zero_print(f"{name}: shipped, {run.steps} steps, taken as it is")
    for name in names:
        if not _is_trained(config, name):
            if name not in wanted:
                raise UserError(
                    f"Stage '{only}' builds on '{name}', which is not trained to its"
                    f" {config.stages[name].max_steps} steps: run `thbench fit {config.strategy}"
                    f" stage={name}`, or `thbench fit {config.strategy}` for all."
                )
            fit_stage(config, name)
    shipped = {name: run.shipped.path for name, run in taken.items() if run.shipped}
    return {**shipped, **{n: stage_run(config, n).folder for n in wanted if n not in shipped}}


def _mention_shipped(config: Config, names: Sequence[str]) -> None:
    """Say once which stages that are to be trained have shipped weights, which stay unused."""
    with contextlib.suppress(UserError):  # a damaged file of the zoo is no matter here
        found = [
            name
            for name in names
            if not stage_run(config, name).last.is_file() and shipped_alike(config, name)
        ]
        if found:
            rank_zero_print(
                f"{', '.join(found)}: weights with these settings are shipped (`thbench zoo list`);"
                " generate and eval use them without training, fit trains anew (weights=zoo: it"
                " takes them, and trains the other stages)"
            )


def fit_stage(config: Config, name: str) -> StageRun:
    """Train one stage to its ``max_steps``, from its newest checkpoint where it has one.

    Raises:
        UserError: as ``fit``.
    """
    run, stage_config = stage_run(config, name), config.stages[name]
    resume = run.steps
    with quiet(), as_user_errors(run):
        data = stage_data(config, name)
        data.prepare_data()  # the network's shape depends on the data; a second call finds it done
        nets = load_nets(config, stage_config.needs)[0] if stage_config.needs else {}
        stage = build_stage(config, name, nets, data.audio_dim)
        stage.check_draw(stage_config.draw)
        for split in ("train", "val") if data.validates else ("train",):
            if left_out := data.dataset(split).left_out:
                rank_zero_print(f"{name}: {left_out}")
        if stage_config.init_from and not resume:
            origin = read_checkpoint(locate(config, stage_config.init_from))
            load_weights(stage.net, origin, f"stage '{name}', which starts from it")
        if not resume:
            stage.start()
        count_in_parts(stage.net, config.trainer.accumulate)
        if config.trainer.compile:
            for part in stage.net.children():  # losses call these, seldom the net itself
                part.compile()
        metadata = {**describe(config, run, data.audio_dim), "trained_for": stage.trained_for()}
        if not stage_config.max_steps:
            _save_untrained(config, run, stage, metadata)
            return run
        trainer = build_trainer(config, stage_config, run, stage, data, metadata, resume)
        checkpoint = run.last if resume else None
        _start(config, run, resume)
        done = False
        try:
            trainer.fit(stage, datamodule=data, ckpt_path=checkpoint, weights_only=True)
            done = True
        except UserError as error:
            if trainer.is_global_zero:
                run.update_record(status="failed", error=str(error))
            raise
        finally:
            finish(trainer.loggers, run, failed=not done)
    _finish(trainer, run, stage)
    return run


def build_trainer(
    config: Config,
    stage_config: StageConfig,
    run: StageRun,
    stage: Stage,
    data: ClipData,
    metadata: dict[str, Any],
    resume: int = 0,
) -> L.Trainer:
    """The trainer of one stage.

    Args:
        config: devices, precision, intervals.
        stage_config: length, clipping, averaging.
        run: where it writes.
        stage: what is trained: whether it optimises by hand, and which parts of a batch it takes.
        data: its data.
        metadata: kept in each checkpoint.
        resume: the step that it resumes from.

    Raises:
        UserError: settings that this machine or the batch size do not allow.
    """
    settings = config.trainer
    manual = not stage.automatic_optimization
    if stage_config.ema and settings.strategy.startswith("fsdp"):
        raise UserError(
            f"Stage '{run.name}' averages its weights, which strategy=fsdp cannot: take"
            f" trainer.strategy=ddp, or train without (stages.{run.name}.ema=0)."
        )
    if manual and settings.accumulate > 1:
        raise UserError(
            f"Stage '{run.name}' takes its optimiser steps itself, so it cannot accumulate:"
            " set trainer.accumulate=1."
        )
    if not data.validates and settings.validate_batches and settings.validate_every:
        rank_zero_print(f"{run.name}: no validation, the data set has no clips in its split 'val'.")
    validate_every = settings.validate_every * settings.accumulate if data.validates else 0
    trainer = make_trainer(
        settings,
        alternating=manual,
        precision=stage_config.precision or settings.precision,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=(stage_config.clip or None) if not manual else None,
        max_epochs=-1,
        val_check_interval=validate_every or None,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if validate_every else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_every,
        logger=loggers(config, run, resume),
        callbacks=_callbacks(config, stage_config, run, data, metadata),
        default_root_dir=run.folder,
        use_distributed_sampler=False,
        benchmark=True,
    )
    shard = RankShard(stage_config.batch_size, 0, trainer.world_size, settings.accumulate)
    stage.check_part(len(shard.slots(0)))
    return trainer


def stage_data(config: Config, name: str) -> ClipData:
    """The data of a stage, with its draw and batch size."""
    stage, settings = config.stages[name], config.trainer
    return ClipData(
        config.data,
        stage.draw,
        stage.batch_size,
        size=config.size,
        seed=config.seed,
        accumulate=settings.accumulate,
        workers=settings.workers,
        validate_batches=settings.validate_batches if settings.validate_every else 0,
        needs_sound=stage_kind(config, name).uses_audio,
    )


@contextlib.contextmanager
def as_user_errors(run: StageRun) -> Iterator[None]:
    """Turn libraries' errors on settings, memory and full disks into one-line ``UserError``s."""
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UserError(
            f"No space is left for {run.folder}: free some and run the same command again; it goes"
            " on from the last checkpoint."
        ) from error
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"Stage '{run.name}' does not fit on the device: set trainer.accumulate=2 (the result"
            " stays the same), or take bf16-mixed."
        ) from error
    except SIGTERMException:
        rank_zero_print(f"{run.name}: interrupted; run the same command again and it goes on.")
        raise SystemExit(143) from None


def _is_trained(config: Config, name: str) -> bool:
    """Whether a stage is trained to its ``max_steps``; prints so."""
    run, limit = stage_run(config, name), config.stages[name].max_steps
    if not run.last.is_file():
        return False
    meta = read_meta(run)
    check_needs(run, meta)
    if meta["steps"] < limit:
        return False
    rank_zero_print(f"{name}: trained, {meta['steps']} steps, {run.folder}")
    return True


def _save_untrained(config: Config, run: StageRun, stage: Stage, metadata: dict[str, Any]) -> None:
    """Save the network of a stage without steps: published weights that are used unchanged."""
    _start(config, run, 0)
    if is_rank_zero():
        meta = {**metadata, "steps": 0, "best": None}
        AtomicCheckpointIO().save_checkpoint(
            {"state_dict": stage.state_dict(), META: meta}, run.last
        )
        run.update_record(status="done", seconds=0.0)
    rank_zero_print(f"{run.name}: no steps to train, its weights are used unchanged")


def _start(config: Config, run: StageRun, resume: int) -> None:
    limit = config.stages[run.name].max_steps
    from_where = f"from step {resume} " if resume else ""
    rank_zero_print(f"{run.name}: training {from_where}to step {limit}, {run.folder}")
    run.folder.mkdir(parents=True, exist_ok=True)
    if is_rank_zero():
        remember_sources(config, run.name)
        write_config(config, run)
        run.update_record(
            title=config.title,
            strategy=config.strategy,
            status="running",
            error=None,
            steps=resume,
            max_steps=limit,
            **provenance(),
        )


def _finish(trainer: L.Trainer, run: StageRun, stage: Stage) -> None:
    steps = next(c for c in trainer.callbacks if isinstance(c, StepCounter))  # type: ignore[attr-defined]
    speed = next(c for c in trainer.callbacks if isinstance(c, Throughput))  # type: ignore[attr-defined]
    device = trainer.strategy.root_device
    if trainer.is_global_zero:
        run.update_record(status="done", steps=steps.done, seconds=round(steps.seconds, 1))
    rank_zero_print(
        f"{run.name}: done, {steps.done} steps in {steps.seconds:.0f} s, {speed.summary(device)}"
    )
    if validation := Validation.read(trainer.callback_metrics, stage.audio_loss):
        rank_zero_print(f"{run.name}: {validation}")


def _callbacks(
    config: Config, stage: StageConfig, run: StageRun, data: ClipData, metadata: dict[str, Any]
) -> list[Callback]:
    """Callbacks in order of execution at the end of a batch: the counter first, saving last."""
    settings = config.trainer
    steps = StepCounter(stage.max_steps, settings.accumulate)
    averaging: list[Callback] = []
    if stage.ema:
        averaging = [Ema(stage.ema)]

    def fixed() -> tuple[Batch, Path]:
        split = "val" if data.validates else "train"
        batch = data.dataset(split).batch(0, range(min(4, stage.batch_size)))
        store = data.stores[split]
        clip = next(c for c in store.clips if c.id == batch.ids[0])
        return batch, store.root / clip.video

    return [
        steps,
        *averaging,
        NanGuard(steps, settings.log_every, settings.checkpoint_every),
        Throughput(steps, settings.log_every),
        ProgressBar(steps, run.name, settings.log_every, settings.progress),
        SampleVideos(steps, settings.sample_every, run.folder, fixed),
        Checkpoints(run, steps, settings.checkpoint_every, metadata),
    ]
