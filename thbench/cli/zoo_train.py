"""``thbench zoo train``: the shipped weights made anew on this machine, and compared."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from thbench import api
from thbench import config as configs
from thbench.cli.zoo import used_by
from thbench.config import SHIPPED_SCALE, Config
from thbench.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from thbench.evaluation.results import Result
    from thbench.training.zoo import Shipped

SHARED = "leaderboards/results"
"""Where results of the shipped weights lie, and results of one's own training do not belong."""
RENDER = ["thbench", "data", "synth"]


@dataclass(frozen=True)
class Job:
    """A strategy that is trained anew.

    Attributes:
        config: its own.
        shipped: the zoo's weights of the stages that it generates with, by stage.
    """

    config: Config
    shipped: Mapping[str, Shipped]


def train(arguments: argparse.Namespace) -> None:
    """Render, train, evaluate and compare what the zoo ships; what is there is kept."""
    names = [word for word in arguments.strategies if "=" not in word]
    words = [word for word in arguments.strategies if "=" in word] + arguments.overrides
    jobs = plan_jobs(names, words, arguments.clips)
    against = [] if arguments.no_eval else read_results(Path(arguments.against))
    if arguments.dry_run:
        for job in jobs:
            print("\n".join(preview(job, against, evaluates=not arguments.no_eval)))
        return
    for job in jobs:
        render_missing(job.config)
        print(f"{job.config.strategy}: {job.config.title}", flush=True)
        api.fit_config(job.config, None)
        print("\n".join(hash_lines(job)), flush=True)
        if not arguments.no_eval:
            _evaluate(job, against, arguments.against)


def plan_jobs(names: Sequence[str], words: Sequence[str], clips: int | None) -> list[Job]:
    """The strategies that are named, else all that the zoo ships whole.

    Args:
        names: of strategies.
        words: ``key=value``, for each of them.
        clips: evaluate on so many.

    Raises:
        UserError: a strategy is not shipped, or a word does not fit here.
    """
    keys = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    if keys.get("scale", SHIPPED_SCALE) != SHIPPED_SCALE:
        raise UserError(
            f"scale={keys['scale']}: weights are shipped at scale={SHIPPED_SCALE} alone."
        )
    if keys.get("weights", "runs") != "runs":
        raise UserError("zoo train evaluates your own runs: leave out weights=.")
    if "results" in keys and Path(keys["results"]).resolve() == Path(SHARED).resolve():
        raise UserError(f"{SHARED} is for results of the shipped weights: name another results=.")
    shipped = shipped_strategies()
    for name in names:
        if name not in shipped:
            known = ", ".join(shipped) or "none"
            raise UserError(
                f"No whole '{name}' is shipped at scale={SHIPPED_SCALE}, but {known}."
                f"{did_you_mean(name, shipped)}"
                f" To train it: thbench fit {name} scale={SHIPPED_SCALE}."
            )
    if not shipped:
        raise UserError(
            f"No strategy is shipped whole at scale={SHIPPED_SCALE}: see `thbench zoo list`."
        )
    limit = [] if clips is None else [f"eval.limit={clips}"]
    given = [f"scale={SHIPPED_SCALE}", "eval.protocol=synthetic-64", *words, *limit]
    jobs = []
    for name in names or shipped:
        config = replace(configs.load(name, given), weights="runs")
        if config.eval.limit is not None and config.eval.limit < 1:
            raise UserError(f"--clips {config.eval.limit}: evaluate on 1 or more, or --no-eval.")
        if "results" not in keys:
            config.results = str(Path(config.runs) / "zoo-results")
        jobs.append(Job(config, shipped[name]))
    return jobs


def shipped_strategies() -> dict[str, dict[str, Shipped]]:
    """Strategies of which the zoo has every stage that they generate with, and these by stage."""
    from thbench.training import zoo, zoo_add

    found = {each.path.stem: each for each in zoo.entries()}
    stages: dict[str, dict[str, Shipped]] = {}
    for name, users in used_by(found.values()).items():
        for strategy in users.get(SHIPPED_SCALE, ()):
            stages.setdefault(strategy, {})[found[name].stage] = found[name]
    return {
        strategy: stages[strategy]
        for strategy in sorted(stages)
        if set(zoo_add.used_stages(_small(strategy))) <= stages[strategy].keys()
    }


def _small(strategy: str) -> Config:
    return configs.load(strategy, [f"scale={SHIPPED_SCALE}"])


def render_missing(config: Config) -> None:
    """Render the data set where it is not here, as its file in configs/data says.

    Raises:
        UserError: it is not here, and nothing says how to render it.
    """
    from thbench.cli.data import synth
    from thbench.cli.parser import parse
    from thbench.data.datamodule import check_root

    words = recipe(config)
    if not words:
        check_root(config.data.root)
        return
    print(f"$ {shlex.join(words)}", flush=True)
    synth(parse(words[1:]))


def recipe(config: Config) -> list[str]:
    """The words of the command that renders the data set; none where it is here, or unknown."""
    from thbench.data import manifest

    if (Path(config.data.root) / manifest.NAME).is_file():
        return []
    words = shlex.split(configs.made_by(config.data.root))
    return words if words[: len(RENDER)] == RENDER else []


def preview(job: Job, against: Sequence[Result], *, evaluates: bool) -> list[str]:
    """What is there and what would be done, a line each.

    Raises:
        UserError: the data set is not here, and nothing says how to render it.
    """
    from thbench.data.datamodule import check_root
    from thbench.training.runs import order, stage_run

    config, words = job.config, recipe(job.config)
    lines = [f"{config.strategy}: {config.title}"]
    if words:
        lines.append(f"  data: {config.data.root} is not here, would run `{shlex.join(words)}`")
    else:
        check_root(config.data.root)
        lines.append(f"  data: {config.data.root} is here")
    for name in order(config):
        limit = config.stages[name].max_steps
        # Without the data set no run can be told by its hash.
        run = None if words else stage_run(config, name)
        done = run.steps if run else 0
        state = f"{max(0, limit - done)} of {limit} steps left"
        if run:
            lines.append(f"  {name}: {state}, {run.folder}")
        else:
            lines.append(f"  {name}: {state} (runs are found once the data set is here)")
    if not words:
        lines += [f"  {line}" for line in hash_lines(job)]
    if evaluates:
        clips = f"{config.eval.limit or 'all'} clips of '{config.eval.split}'"
        what = f"  eval: {clips} by protocol {config.eval.protocol}, result into {config.results}"
        theirs = [result for result in against if is_shipped(result, job)]
        named = ", ".join(result.run for result in theirs) or "none is there"
        lines += [what, f"  shipped figures: {named}"]
    return lines


def hash_lines(job: Job) -> list[str]:
    """For each shipped stage, whether the run here has its hash, and why not."""
    from thbench.training.runs import settings_hash, stage_run

    lines = []
    for stage, each in job.shipped.items():
        run = stage_run(job.config, stage)
        if run.hash == each.hash:
            lines.append(f"{stage}: {run.hash}, the shipped weights' hash")
        elif settings_hash(job.config, stage) != each.meta["settings"]:
            lines.append(f"{stage}: {run.hash}, shipped is {each.hash}: settings were changed")
        else:
            digests = f"{run.fingerprint['data'][:12]}, not {each.meta['fingerprint']['data'][:12]}"
            lines.append(
                f"{stage}: {run.hash}, shipped is {each.hash}: the same settings on other data"
                f" (digest {digests}), as another libx264 or processor renders them (docs/zoo.md)"
            )
    return lines


def read_results(path: Path) -> list[Result]:
    """The results of a folder, or the one of a file; none where there is no such folder.

    Raises:
        UserError: a result cannot be read.
    """
    from thbench.evaluation import results

    return [results.read(path)] if path.suffix == ".json" else results.read_folder(path)


def is_shipped(result: Result, job: Job) -> bool:
    """Whether a result is of the shipped weights of a strategy, by its own plan and audio."""
    hashes = {stage: each.hash for stage, each in job.shipped.items()}
    wanted = (job.config.strategy, job.config.title, Path(str(job.config.eval.protocol)).stem)
    return (
        (result.strategy, result.title, result.protocol.name) == wanted
        and result.data.name == job.config.data.name
        and bool(result.weights)
        and all(
            ref.shipped and ref.hash == hashes.get(stage) for stage, ref in result.weights.items()
        )
        and not any(note.startswith("zero-shot") for note in result.notes)
    )


def _evaluate(job: Job, against: Sequence[Result], where: str) -> None:
    written = api.evaluate_config(job.config, smoke=False)
    if written is None:
        return  # the first process says it
    ours, path = written
    theirs = [
        result
        for result in against
        if is_shipped(result, job)
        and (result.protocol, result.data.split) == (ours.protocol, ours.data.split)
    ]
    if len(theirs) == 1:
        _show_comparison(ours, theirs[0])
    else:
        from thbench.evaluation import report

        report.show(ours)
        print(_missing(job, theirs, where))
    print(f"\nresult: {path}", flush=True)


def _missing(job: Job, theirs: Sequence[Result], where: str) -> str:
    """Why there is nothing to compare with."""
    if theirs:
        named = ", ".join(result.run for result in theirs)
        return f"shipped figures: several fit ({named}): name one by --against {where}/RUN.json"
    return (
        f"shipped figures: no result in {where} is of the shipped {job.config.strategy} by this"
        " protocol on this data set, so these are yours alone"
    )


def _show_comparison(ours: Result, theirs: Result) -> None:
    from rich.table import Table

    from thbench.evaluation import report
    from thbench.evaluation.protocol import Intervals
    from thbench.leaderboard.paired import compare

    table = Table(
        "metric", "here", "shipped", "difference", "interval", "holds 0", "clips",
        box=None, pad_edge=False, header_style="bold",
    )  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    for found in compare(ours, theirs, Intervals()):
        interval = "{:+.3f} to {:+.3f}".format(*found.interval) if found.interval else ""
        holds = {True: "yes", False: "no", None: ""}[found.contains_zero]
        table.add_row(
            f"{found.name} ({found.unit})" if found.unit else found.name,
            f"{found.first:.3f}",
            f"{found.second:.3f}",
            f"{found.value:+.3f}",
            interval,
            holds,
            str(found.clips),
        )
    report.printer().print(table)
    print("\n".join(report.lines(ours)))
    print(f"shipped: {theirs.run}, {theirs.created}")
    if ours.data.digest != theirs.data.digest:
        print(
            f"The test clips are others by their bytes ({ours.data.digest[:12]}, not"
            f" {theirs.data.digest[:12]}); they are paired by id."
        )
