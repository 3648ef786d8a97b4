"""Writes all tables. The same results give the same bytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from thbench.core.errors import UserError
from thbench.core.files import write_atomic
from thbench.evaluation.results import read_folder
from thbench.leaderboard import published as papers
from thbench.leaderboard.plots import draw_curves
from thbench.leaderboard.rank import Table, tables_of
from thbench.leaderboard.render import FORMATS, OVER_TIME, curves_csv


def build(results: Path, out: Path, published: Path | None = None) -> list[Path]:
    """Write every table in every format, and an index.

    Args:
        results: folder of result files.
        out: measured tables go here, those of papers into ``published`` below it.
        published: folder of papers' YAML files; ``published`` beside ``results`` by default.

    Returns:
        The files, the index ``README.md`` first.

    Raises:
        UserError: there is nothing to show, or a file is not valid.
    """
    published = published or results.parent / "published"
    measured = tables_of(read_folder(results))
    reported = [t for path in sorted(published.glob("*.yaml")) for t in papers.read(path)]
    if not measured and not reported:
        raise UserError(f"There are no results in {results}: run `thbench eval STRATEGY` first.")
    files = _write(measured, out) + _write(reported, out / "published")
    index = out / "README.md"
    write_atomic(index, _index(measured, reported))
    return [index, *files]


def _write(tables: Iterable[Table], folder: Path) -> list[Path]:
    paths = []
    for table in tables:
        for suffix, render in FORMATS.items():
            paths.append(folder / f"{table.slug}.{suffix}")
            write_atomic(paths[-1], render(table))
        if table.curves:
            paths.append(folder / f"{table.slug}{OVER_TIME}.csv")
            write_atomic(paths[-1], curves_csv(table))
            paths.append(draw_curves(table.curves, paths[-1].with_suffix(".png")))
    return paths


def _index(measured: Iterable[Table], reported: Iterable[Table]) -> str:
    lines = ["# Leaderboards", ""]
    lines += [f"- [{t.title}]({t.slug}.md)" for t in measured] or ["No measured results yet."]
    lines += ["", "## Published tables", ""]
    lines += [f"- [{t.title}](published/{t.slug}.md)" for t in reported]
    return "\n".join(lines).rstrip() + "\n"
