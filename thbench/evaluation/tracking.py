"""What a tracker is told of an evaluation: figures, each clip with its video, curves, weights used.

In Weights & Biases the run also keeps the result's own files, so that ``thbench compare`` reads a
run from there as it reads one from here. The weights that were used are inputs of the run
(artifacts) where W&B is online; ``use_artifact`` does not exist offline, so there they stand only
in the configuration, under ``weights_used``, each with the id of the run that trained it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

from thbench.config import Config
from thbench.core.console import quiet, rank_zero_print
from thbench.core.errors import UserError
from thbench.evaluation import results
from thbench.evaluation.results import ClipRow, Result
from thbench.training import zoo
from thbench.training.tracking import About, forgiven, has_key, tracker, weights_artifact

if TYPE_CHECKING:
    import wandb

KEPT = "result"
"""Folder of a W&B run's files that holds the result's."""
MAX_ROWS = 10_000
"""That a W&B table shows."""


def track(config: Config, result: Result) -> None:
    """Tell the tracker of a result that is written. What fails is printed, and no more.

    Args:
        config: of the evaluation; ``config.tracking`` has been checked.
        result: whose ``videos`` are shown, as many as ``tracking.videos`` says.
    """
    about = About(
        id=result.run,
        name=result.run,
        group=config.tracking.group or f"{result.protocol.name}/{result.data.name}",
        job="eval",
        tags=(
            *(result.strategy, config.scale, result.data.name),
            *(result.protocol.name, result.origin),
        ),
        config={**asdict(config), "weights_used": _links(result)},
        folder=Path(config.runs) / f"tracking-{result.run}",
    )
    with forgiven(result.run), quiet():
        logger = tracker(config.tracking, about)
        if isinstance(logger, WandbLogger):
            _to_wandb(logger, config, result, about.folder)
        elif logger is not None:
            _to_other(logger, result)


def flat(result: Result) -> dict[str, Any]:
    """A result's figures by name, without those that it has not: ``metric/PSNR``, ``cost/depth``.

    Reasons for which there is no figure stand under ``unavailable/``.
    """
    figures: dict[str, Any] = {}
    for name, found in result.metrics.items():
        figures[f"metric/{name}"] = found.value
        figures[f"reference/{name}"] = found.reference
        figures[f"unavailable/{name}"] = found.unavailable
        if found.interval:
            figures[f"interval/{name}/low"], figures[f"interval/{name}/high"] = found.interval
    for kind, summary in (("cost", result.cost), ("timed", result.timed)):
        figures |= {f"{kind}/{k}": v for k, v in asdict(summary).items()} if summary else {}
    covered = result.coverage
    figures |= {f"coverage/{k}": getattr(covered, k) for k in ("expected", "scored", "shorter")}
    figures |= {
        f"coverage/{k}": len(getattr(covered, k)) for k in ("unpaired", "absent", "unreadable")
    }
    figures["samples_seen"] = result.samples_seen
    return {name: value for name, value in figures.items() if value is not None}


def curve_points(result: Result) -> list[tuple[int, dict[str, float]]]:
    """(first frame of a bin, values there by ``over_time/<metric>``), in order of frames."""
    points: dict[int, dict[str, float]] = {}
    for name, curve in result.over_time.items():
        for k, value in enumerate(curve.values):
            if value is not None:
                points.setdefault(k * curve.frames, {})[f"over_time/{name}"] = value
    return sorted(points.items())


def fetch(path: str, folder: Path) -> Path:
    """Download the result that a W&B run of an evaluation keeps.

    Args:
        path: of the run, ``entity/project/id``.
        folder: where its files go.

    Returns:
        The result's JSON file; what stands beside it lies beside it.

    Raises:
        UserError: there is no key, W&B does not answer or has no such run, or it keeps no result.
    """
    import wandb

    if not has_key():
        raise UserError("--wandb needs a key: run `wandb login`, or set WANDB_API_KEY.")
    try:
        files = [f for f in wandb.Api().run(path).files() if f.name.startswith(f"{KEPT}/")]
        for file in files:
            file.download(root=str(folder), replace=True)
    except (wandb.errors.Error, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: W&B says: {reason}. Name a run as entity/project/id.") from error
    found = sorted((folder / KEPT).glob("*.json"))
    if not found:
        raise UserError(f"{path} keeps no result: name a run of `thbench eval`.")
    return found[0]


def _links(result: Result) -> dict[str, dict[str, Any]]:
    """The weights that were used, by stage. The run's id is that of the W&B run of ``fit``."""
    return {
        stage: {"run": f"{stage}-{used.hash}", **asdict(used)}
        for stage, used in result.weights.items()
    }


def _to_wandb(logger: WandbLogger, config: Config, result: Result, folder: Path) -> None:
    run: Any = logger.experiment
    offline = bool(run.offline)
    try:
        with _staging(folder / "staging" if offline else None):
            for stage, used in result.weights.items() if not offline else ():
                place = (
                    zoo.path_of(stage, used.hash)
                    if used.shipped
                    else Path(config.runs) / f"{stage}-{used.hash}" / "last.ckpt"
                )
                run.use_artifact(weights_artifact(stage, used.hash, used.steps, place))
            run.define_metric("frame", hidden=True)
            for name in result.over_time:
                run.define_metric(f"over_time/{name}", step_metric="frame")
            for frame, values in curve_points(result):
                run.log({"frame": frame, **values})
            table, counts = _table(result, config.tracking.videos)
            run.log({"clips": table})
            run.summary.update({**flat(result), **counts})
            _keep_files(run, config, result)
    finally:
        run.finish(quiet=True)


def _to_other(logger: Logger, result: Result) -> None:
    """TensorBoard and MLflow take numbers: figures, and curves with the frame as their step."""
    for frame, values in curve_points(result):
        logger.log_metrics(_named(logger, values), frame)
    numbers = {k: float(v) for k, v in flat(result).items() if not isinstance(v, str)}
    logger.log_metrics(_named(logger, numbers), 0)
    logger.finalize("success")


def _named(logger: Logger, values: dict[str, float]) -> dict[str, float]:
    """MLflow's names have no brackets, commas or colons."""
    if not isinstance(logger, MLFlowLogger):
        return values
    allowed = "_-./ "
    return {
        "".join(c if c.isalnum() or c in allowed else "_" for c in name): value
        for name, value in values.items()
    }


def _table(result: Result, videos: int) -> tuple[wandb.Table, dict[str, int]]:
    """A row per clip, the first ones with their videos; and how many rows and videos there are."""
    import wandb

    rows = result.per_clip[:MAX_ROWS]
    of_clips = [name for name in result.metrics if any(name in r.metrics for r in rows)]
    judged = [name for name in result.metrics if any(name in r.reference for r in rows)]
    columns = ["id", "seed", "frames", "video", *of_clips, *(f"{n} (reference)" for n in judged)]
    table = wandb.Table(columns, allow_mixed_types=True)
    shown = 0
    for row in rows:
        path = _video(result, row) if shown < videos else None
        shown += path is not None
        video = wandb.Video(str(path), caption=f"{row.id}, seed {row.seed}") if path else None
        table.add_data(
            *(row.id, row.seed, row.frames, video),
            *(row.metrics.get(name) for name in of_clips),
            *(row.reference.get(name) for name in judged),
        )
    left = len(result.per_clip) - shown
    if left:
        rank_zero_print(
            f"tracking: {shown} of {len(result.per_clip)} videos are in the table (tracking.videos)"
        )
    return table, {
        "clip_table/rows": len(rows),
        "clip_table/rows_left_out": len(result.per_clip) - len(rows),
        "clip_table/videos": shown,
        "clip_table/videos_left_out": left,
    }


def _video(result: Result, row: ClipRow) -> Path | None:
    """The generated video of a clip, which has its sound; None where it is not there."""
    place = Path(result.videos or ".") / f"seed-{row.seed}" / f"{row.id}.mp4"
    return place if result.videos and place.is_file() else None


def _keep_files(run: Any, config: Config, result: Result) -> None:
    """Put the result's files among the run's; their names of videos' folders mean nothing there."""
    folder = Path(run.dir) / KEPT
    folder.mkdir(parents=True, exist_ok=True)
    results.write(replace(result, videos="", reference=""), folder)
    results.write_config(result.run, config, folder)
    run.save(str(folder / "*"), base_path=run.dir, policy="now")


@contextlib.contextmanager
def _staging(folder: Path | None) -> Iterator[None]:
    """Where W&B keeps a table's videos until they are sent, its own folder by default.

    An offline run is synced later, maybe from elsewhere: all that this takes stays in its folder.
    """
    if folder is None:
        yield
        return
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = str(folder.resolve())
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]
        else:
            os.environ["WANDB_DATA_DIR"] = before
