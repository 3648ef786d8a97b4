"""Whether each stage can be built, fed and trained."""

from __future__ import annotations

import json
from typing import Any

from thbench.config import Config
from thbench.core.errors import UserError
from thbench.data.datamodule import RankShard
from thbench.generation import assemble
from thbench.preflight.compute import check_cost
from thbench.preflight.context import Preflight
from thbench.preflight.data import count_clips
from thbench.preflight.report import ERROR, WARNING, StageReport
from thbench.training.runs import stage_run
from thbench.training.stage import Stage, StageContext


def check_stage(run: Preflight, name: str, estimates: bool) -> None:
    """Add a stage to the report, with all findings about it.

    Args:
        run: the run of the checks.
        name: the stage.
        estimates: trace a step for memory and time.
    """
    settings = run.config.stages[name]
    found = StageReport(name, settings.max_steps, _is_done(run.config, name))
    run.report.stages.append(found)
    if found.trained:
        return
    found.train, found.val = (count_clips(run, name, split) for split in ("train", "val"))
    part = _clips_per_device(run, name)
    try:
        stage = run.networks.stage(name)
        if settings.max_steps:
            stage.check_draw(settings.draw)
            if part * run.world * run.config.trainer.accumulate == settings.batch_size:
                stage.check_part(part)
    except UserError as error:
        run.add_error(name, error)
        return
    except Exception as error:  # a third party's class that needs real numbers
        reason = " ".join(str(error).split()) or type(error).__name__
        run.add(WARNING, name, f"could not be checked on fake tensors: {reason}")
        return
    _check_init_from(run, name)
    for missing in stage.missing(settings.max_steps):
        run.add(ERROR if missing.is_fatal else WARNING, name, missing.what, local=True)
    if not stage.automatic_optimization and run.config.trainer.accumulate > 1:
        run.add(
            ERROR,
            name,
            "takes its optimiser steps itself, so it cannot accumulate: set trainer.accumulate=1.",
        )
    found.need = run.networks.need(name, part, trace=estimates)
    if estimates:
        check_cost(run, found)


def _clips_per_device(run: Preflight, name: str) -> int:
    """Clips that a device computes at once; 1 where the batch cannot be divided evenly."""
    size, parts = run.config.stages[name].batch_size, run.config.trainer.accumulate
    try:
        return len(RankShard(size, 0, run.world, parts).slots(0))
    except UserError as error:
        run.add_error(name, error)
        return 1


def _check_init_from(run: Preflight, name: str) -> None:
    """Check that a stage has the same weights as the one that it starts from."""
    origin = run.config.stages[name].init_from
    if not origin:
        return
    try:
        theirs, ours = (_shapes(run.networks.stage(n)) for n in (origin, name))
    except Exception:  # reported by the check of that stage
        return
    differ = sorted(k for k in {*theirs, *ours} if theirs.get(k) != ours.get(k))
    if differ:
        run.add(
            ERROR,
            name,
            f"starts from stage '{origin}', whose network is another one ({len(differ)} weights"
            f" differ, such as {differ[0]}): give both the same model.net.",
        )


def _is_done(config: Config, name: str) -> bool:
    """Whether a stage's record says that it is trained; its checkpoint is not opened."""
    stage, record = stage_run(config, name), {}
    path = stage.folder / "stage.json"
    if path.is_file() and stage.last.is_file():
        record = json.loads(path.read_text())
    return (
        record.get("status") == "done" and record.get("steps", 0) >= config.stages[name].max_steps
    )


def _shapes(stage: Stage) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in stage.net.state_dict().items()}


def check_assembly(run: Preflight, only: str | None) -> None:
    """Check that the strategy can be built of its stages' networks.

    Nothing is checked where one stage alone is, or where a stage has errors already.
    """
    config = run.config
    if only or any(f.where in config.stages for f in run.report.of(ERROR)):
        return
    kind = assemble.check(config)
    options: dict[str, Any] = {"plan": config.plan, "sampler": config.sampler, **config.options}
    try:
        nets = {role: run.networks.stage(stage).net for role, stage in config.nets.items()}
        with run.networks.tracing():
            kind(nets, StageContext(config.size, run.audio_dim, seed=config.seed), **options)
    except UserError as error:
        run.add_error("strategy", error)
    except KeyError as error:
        run.add(ERROR, "strategy", f"nets lacks the role {error}: name the stage that plays it.")
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        run.add(WARNING, "strategy", f"could not be put together without weights: {reason}")
