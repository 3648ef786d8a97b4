"""``thbench reproduce``: the rows of a paper's table, run and put beside the print."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from thbench import api
from thbench import config as configs
from thbench.config import Config
from thbench.config.tables import TableRow, TableSpec, command, read_table
from thbench.core.errors import UserError, did_you_mean
from thbench.data import manifest
from thbench.evaluation import pipeline, yardsticks
from thbench.evaluation.protocol import Protocol
from thbench.evaluation.results import GROUND_TRUTH, Result, read_folder
from thbench.generation import plans
from thbench.leaderboard import published, terminal
from thbench.leaderboard.rank import Column, Table, select_columns, tables_of
from thbench.preflight import checks
from thbench.preflight.report import duration
from thbench.training.runs import locate, stage_run, training_order

STAND_INS = {"FID": "FD-pyramid", "Time (s)": "Timed (s)"}
"""Ours of another name that are nearest to a paper's column, where that itself is not measured."""


@dataclass(frozen=True)
class Job:
    """A row and what of it there is.

    Attributes:
        row: of the table.
        words: ``key=value``, all of them.
        config: of these words.
        missing: stages to be trained, with the steps that they have and that they need.
        result: the row's, where it is finished.
    """

    row: TableRow
    words: tuple[str, ...]
    config: Config
    missing: dict[str, tuple[int, int]] = field(default_factory=dict)
    result: Result | None = None


def reproduce(arguments: argparse.Namespace) -> None:
    """Run what a table lacks and print ours beside the published; or only say what is there."""
    if arguments.list:
        list_rows()
        return
    if arguments.table is None:
        raise UserError("Name a table: `thbench reproduce --list` has them all.")
    spec = read_table(arguments.table)
    printed = published_table(spec)
    if spec.why:
        raise UserError(f"{printed.title} cannot be run here: {spec.why}.")
    rows = choose_rows(spec, arguments.rows)
    if arguments.dry_run:
        trained_for: dict[str, str] = {}
        for row in rows:
            job = plan_job(spec, row, arguments.overrides)
            print("\n".join(preview(job, trained_for)), flush=True)
        return
    jobs = [plan_job(spec, row, arguments.overrides) for row in rows if not row.why]
    if not jobs:
        raise UserError("None of these rows can be run here: see --dry-run.")
    for i, job in enumerate(jobs, 1):
        head = f"\n[{i}/{len(jobs)}] {job.row.name}"
        if job.result:
            print(f"{head}: there, {job.result.run}", flush=True)
            continue
        print(head, *command(replace_words(job)), sep="\n  $ ", flush=True)
        run_job(job)
    done = [plan_job(spec, job.row, arguments.overrides) for job in jobs]
    print()
    for table in [printed, *ours(spec, printed, done)]:
        terminal.show(table)
    without_code = [row.name for row in spec.rows if row.why]
    if without_code:
        print(
            f"Not run, since there is no code of them here: {', '.join(without_code)}. Score their"
        )
        print(
            f"videos: thbench score VIDEOS --reference DATA --protocol {spec.protocol} --name NAME"
        )


def list_rows() -> None:
    """Print every table, row by row: how it is run, or why not."""
    tables = [read_table(name) for name in configs.names("tables")]
    covered = {spec.published for spec in tables}
    for spec in tables:
        print(f"{spec.name}: {spec.why}" if spec.why else spec.name)
        for row in spec.rows:
            used = (f"data={spec.data}", f"eval.protocol={spec.protocol}")
            print(f"  {row.name}: {row.why or command(row, used)[-1]}")
    for table in published_tables():
        if table.slug not in covered:
            print(f"{table.slug}: published only")
    rows = [row for spec in tables for row in spec.rows]
    whole = [spec for spec in tables if spec.why]
    without = sum(bool(row.why) for row in rows)
    print(
        f"\n{len(tables)} tables: {len(rows) - without} rows can be run, {without} are of methods"
        f" without code here, {len(whole)} tables are studies with people."
    )


def choose_rows(spec: TableSpec, names: Sequence[str]) -> list[TableRow]:
    """The rows that are named, else all.

    Raises:
        UserError: the table has no such row.
    """
    known = {row.name: row for row in spec.rows}
    for name in names:
        if name not in known:
            raise UserError(f"{spec.name} has no row '{name}'.{did_you_mean(name, known)}")
    return [known[name] for name in names] if names else list(spec.rows)


def plan_job(spec: TableSpec, row: TableRow, overrides: Sequence[str]) -> Job:
    """A row with the user's words, and what of it there is.

    Words of the user's come last. Recordings are scored by the table's protocol, rendered faces by
    theirs, unless the words say otherwise.
    """
    if row.why:
        return Job(row, (), Config())
    words = [*row.words, *overrides]
    given = {word.partition("=")[0] for word in words}
    words = ([] if "data" in given else [f"data={spec.data}"]) + words
    config = configs.load(row.strategy, words)
    if "eval.protocol" not in given and not manifest.is_synthetic(Path(config.eval_data.root)):
        words.append(f"eval.protocol={spec.protocol}")
        config = configs.load(row.strategy, words)
    job = Job(row, tuple(words), config)
    if not _is_there(config):
        return job
    return replace(job, missing=_missing(job), result=find_result(job))


def run_job(job: Job) -> None:
    """Train what is missing and evaluate. Both go on where they were stopped."""
    if job.row.yardstick is None:
        api.fit_config(job.config, None)
    api.evaluate_config(job.config, False, job.row.yardstick)


def find_result(job: Job) -> Result | None:
    """The row's result, if there is one of this configuration, data, protocol and weights."""
    config, protocol = job.config, pipeline.protocol_of(job.config)
    strategy = job.row.yardstick or config.strategy
    for result in read_folder(Path(config.results)):
        same = result.strategy == strategy and result.protocol.name == protocol.name
        same = same and result.data.digest == manifest.digest(config.eval_data.root)
        if strategy == GROUND_TRUTH:
            same = same and result.run == yardsticks.ground_truth_run(config, protocol)
        else:
            same = same and result.config_hash == configs.content_hash(config)
        if same and (job.row.yardstick or _has_weights(config, result)):
            return result
    return None


def ours(spec: TableSpec, printed: Table, jobs: Iterable[Job]) -> list[Table]:
    """Tables of the jobs' results, with the paper's names of rows and its columns' counterparts.

    One, unless rows are of different data or protocols, as where a row has another resolution.
    """
    names: dict[str, str] = {}
    results: dict[str, Result] = {}
    scales: dict[str, None] = {}
    for job in jobs:
        if job.result:
            both = names.get(job.result.run)
            names[job.result.run] = f"{both} / {job.row.name}" if both else job.row.name
            results[job.result.run] = job.result
            scales[job.config.scale] = None
    made = []
    for table in tables_of(results.values()):
        rows = tuple(
            replace(row, title=f"{names[row.run]} ({results[row.run].title})") for row in table.rows
        )
        table = replace(
            table,
            title=f"Ours for {printed.title}",
            rows=rows,
            facts={"Scale": ", ".join(scales), **table.facts},
            curves={},
            controls={},
        )
        made.append(select_columns(table, counterparts(spec, printed, table.columns)))
    return made


def counterparts(spec: TableSpec, printed: Table, columns: Sequence[Column]) -> list[str]:
    """Names of our columns that measure what the paper's do, or come nearest to it.

    A name may go on in brackets, as "BAS (pose)", or behind a hyphen, as "FVD16-synthetic".
    """
    found: dict[str, None] = {}
    for column in printed.columns:
        own = spec.columns.get(column.name, column.name)
        for wanted in (own, STAND_INS.get(own, own)):
            alike = [
                c.name
                for c in columns
                if c.name == wanted or c.name.startswith((f"{wanted} (", f"{wanted}-"))
            ]
            if alike:
                found |= dict.fromkeys(alike)
                break
    return list(found)


def preview(job: Job, trained_for: dict[str, str]) -> list[str]:
    """What a row would run, what of it is there, and what the rest costs.

    Args:
        job: of the row.
        trained_for: rows before it by the folders of the stages that they train; those of this one
            are added.
    """
    row = job.row
    if row.why:
        return [f"{row.name}: {row.why}"]
    if job.result:
        return [f"{row.name}: there, {job.result.run}"]
    lines = [f"{row.name}: missing", *(f"  $ {text}" for text in command(replace_words(job)))]
    if not _is_there(job.config):
        made_by = configs.made_by(job.config.eval_data.root)
        how = f": {made_by}" if made_by else ", or name another: data=FOLDER"
        return [*lines, f"  the data set is not in {job.config.eval_data.root}{how}"]
    if row.yardstick is None:
        lines += _training_lines(job, trained_for)
    return [*lines, f"  {_generation_line(job)}"]


def replace_words(job: Job) -> TableRow:
    """The row with all words that it is run with."""
    return replace(job.row, words=job.words)


def published_tables() -> list[Table]:
    """All tables that papers print."""
    return [t for path in sorted(published.FOLDER.glob("*.yaml")) for t in published.read(path)]


def published_table(spec: TableSpec) -> Table:
    """The paper's own.

    Raises:
        UserError: there is none of that name, or it lacks one of the rows.
    """
    known = {table.slug: table for table in published_tables()}
    if spec.published not in known:
        hint = did_you_mean(spec.published, known)
        raise UserError(f"{spec.name}: no published table '{spec.published}'.{hint}")
    table = known[spec.published]
    titles = [row.title for row in table.rows]
    for row in spec.rows:
        if row.name not in titles:
            hint = did_you_mean(row.name, titles)
            raise UserError(f"{spec.name}: '{row.name}' is no row of {spec.published}.{hint}")
    return table


def _is_there(config: Config) -> bool:
    """Whether the data sets are here."""
    return all((Path(d.root) / "manifest.jsonl").is_file() for d in (config.data, config.eval_data))


def _missing(job: Job) -> dict[str, tuple[int, int]]:
    if job.row.yardstick is not None:
        return {}
    found = {}
    for name in training_order(job.config)[0]:
        steps, wanted = stage_run(job.config, name).steps, job.config.stages[name].max_steps
        if steps < wanted:
            found[name] = (steps, wanted)
    return found


def _has_weights(config: Config, result: Result) -> bool:
    """Whether a result is of the weights that generation would take now."""
    for name in set(config.nets.values()):
        run, known = locate(config, name), result.weights.get(name)
        if known is None or (known.hash, known.steps) != (run.hash, run.steps):
            return False
    return True


def _training_lines(job: Job, trained_for: dict[str, str]) -> list[str]:
    if not job.missing:
        return ["  trained"]
    folders = {name: str(stage_run(job.config, name).folder) for name in job.missing}
    shared = [name for name in job.missing if folders[name] in trained_for]
    lines = [f"  train {name}: as for {trained_for[folders[name]]}" for name in shared]
    own = [name for name in job.missing if name not in shared]
    trained_for |= {folders[name]: job.row.name for name in own}
    # Traces a step of each stage.
    report = checks.check(job.config, files=False, metrics=False) if own else None
    seconds = {found.name: found.seconds for found in report.stages} if report else {}
    for name in own:
        steps, wanted = job.missing[name]
        whole = seconds.get(name)
        taken = (
            "" if whole is None else f", about {duration(whole * (wanted - steps) / wanted)} here"
        )
        lines.append(f"  train {name}: {steps} of {wanted} steps{taken}")
    return lines


def _generation_line(job: Job) -> str:
    """What generation costs by the plan: of each clip as if it were as long as the longest."""
    protocol: Protocol = pipeline.protocol_of(job.config)
    requests = pipeline.requests_of(job.config, protocol)
    said = (
        f"{len(requests)} videos of at most {requests.longest} frames by protocol {protocol.name}"
    )
    if job.row.yardstick is not None:
        return f"score {said}"
    plan = plans.build(n=requests.longest, **job.config.plan)
    cost = plans.cost(plan, job.config.sampler.steps)
    return (
        f"generate {said}: each {cost.evaluations:,} frames through the network, in"
        f" {cost.depth:,} calls one after another"
    )
