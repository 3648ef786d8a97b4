"""The command ``thbench ls``: strategies, metrics, protocols, data sets, plans, papers' tables."""

from __future__ import annotations

import argparse
from pathlib import Path

from thbench import config as configs
from thbench.core.errors import UserError

Rows = list[tuple[str, ...]]
"""A table's cells, row by row; the first row holds the columns' names."""


def ls(arguments: argparse.Namespace) -> None:
    """Print a table of what is to be had of one kind."""
    if arguments.draw is not None:
        if arguments.kind != "plans":
            raise UserError(f"--draw draws plans: thbench ls plans --draw, not {arguments.kind}.")
        _draw_plans(arguments.draw)
        return
    if arguments.params and arguments.kind != "strategies":
        raise UserError(
            f"--params counts networks: thbench ls strategies --params, not {arguments.kind}."
        )
    from rich.table import Table

    from thbench.evaluation.report import printer

    rows = {
        "strategies": _parameters if arguments.params else _strategies,
        "metrics": _metrics,
        "protocols": _protocols,
        "data": _data,
        "plans": _plans,
        "tables": _tables,
    }[arguments.kind]()
    head, *body = rows
    table = Table(*head, box=None, pad_edge=False, header_style="bold")
    for column, name in zip(table.columns, head, strict=True):
        column.justify = "right" if name in configs.SCALES else "left"
    for row in body:
        table.add_row(*row)
    printer().print(table)


def _strategies() -> Rows:
    rows: Rows = [("name", "title", "plan", "stages", "from")]
    for name in configs.names("strategy"):
        origin = configs.origin("strategy", name)
        try:
            content = configs.read_yaml(configs.find("strategy", name))
        except UserError as error:
            rows.append((name, f"unusable: {error}", "", "", origin))
            continue
        plan = content.get("plan", {}).get("name", "nar")
        stages = ", ".join(content.get("stages", {}))
        rows.append((name, content.get("title", ""), plan, stages, origin))
    return rows


def _tables() -> Rows:
    from thbench.config.tables import read_table

    rows: Rows = [("name", "data", "protocol", "rows", "from")]
    for name in configs.names("tables"):
        origin = configs.origin("tables", name)
        try:
            spec = read_table(name)
        except UserError as error:
            rows.append((name, f"unusable: {error}", "", "", origin))
            continue
        count = spec.why or f"{len(spec.runnable)} of {len(spec.rows)} can be run"
        rows.append((name, spec.data, spec.protocol, count, origin))
    return rows


def _parameters() -> Rows:
    from thbench.training import params

    return params.table()


def _metrics() -> Rows:
    from thbench.evaluation.protocol import metric_registry

    rows: Rows = [("name", "unit", "better", "needs", "what it is", "from")]
    for name in sorted(metric_registry):
        try:
            kind, package = metric_registry.load(name), metric_registry.package(name)
        except UserError as error:
            rows.append((name, "", "", "", f"unusable: {error}", ""))
            continue
        text = (kind.__doc__ or "").strip().partition("\n")[0]
        rows.append((name, kind.unit, kind.direction, ", ".join(kind.needs), text, package))
    return rows


def _protocols() -> Rows:
    from thbench.evaluation import protocol

    rows: Rows = [("name", "title", "hash", "metrics", "from")]
    for name in configs.names("protocol"):
        origin = configs.origin("protocol", name)
        try:
            loaded = protocol.load(name)
        except UserError as error:
            rows.append((name, f"unusable: {error}", "", "", origin))
            continue
        listed = ", ".join(metric.name for metric in loaded.build())
        rows.append((name, loaded.title, loaded.hash, listed, origin))
    return rows


def _data() -> Rows:
    rows: Rows = [("name", "root", "audio", "here", "from")]
    for name in configs.names("data"):
        root = Path(configs.read_data(name).get("root", ""))
        here = (root / "manifest.jsonl").is_file()
        folders = (root / "audio").glob("*") if here else ()
        encoders = ",".join(sorted(path.name for path in folders if path.is_dir()))
        origin = configs.origin("data", name)
        rows.append((name, str(root), encoders, "yes" if here else "no", origin))
    return rows


DRAWN_OPTIONS: dict[str, dict[str, int]] = {
    "sar": {"segment": 8, "overlap": 3},
    "ttr": {"stride": 6},
    "rolling": {"window": 4, "context": 2},
}
"""Options of plans in drawings, which have few frames; the others have their defaults."""


def _draw_plans(folder: str) -> None:
    """Print a drawing of each plan, or write it to ``<folder>/<name>.png``."""
    from thbench.generation import plan_drawing, plans
    from thbench.leaderboard.plots import draw_plan

    for name in plans.BUILDERS:
        options = DRAWN_OPTIONS.get(name, {})
        frames = 8 if name == "ar" else 24
        plan = plans.build(name, frames, **options)
        title = f"{plans.describe({'name': name, **options})}, {frames} frames"
        if folder:
            print(draw_plan(plan, Path(folder) / f"{name}.png", title))
            continue
        print(f"\n{title}", *(f"  |{line}|" for line in plan_drawing.text(plan)), sep="\n")
    if not folder:
        print(f"\n{plan_drawing.LEGEND}")


def _plans() -> Rows:
    from thbench.generation import plans

    rows: Rows = [("name", "options", "calls for 200 frames, 20 steps", "what it is")]
    for name, builder in plans.BUILDERS.items():
        steps = 20 if name != "rolling" else 32
        cost = plans.cost(builder(200), steps)
        options = ", ".join(plans.options_of(name))
        text = (builder.__doc__ or "").strip().splitlines()[0]
        rows.append((name, options, f"{cost.depth} in sequence, {cost.evaluations} frames", text))
    return rows
