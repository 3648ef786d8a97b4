"""Writes all tables. The same results give the same bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from thbench.core.errors import UserError, did_you_mean
from thbench.core.files import write_atomic
from thbench.evaluation.results import read_folder
from thbench.leaderboard import published as papers
from thbench.leaderboard.costs import Line, lengths
from thbench.leaderboard.plots import draw_costs, draw_curves, draw_lengths
from thbench.leaderboard.rank import Table, select_columns, tables_of
from thbench.leaderboard.render import COSTS, FORMATS, OVER_TIME, SVG, WRITTEN, curves_csv

LENGTHS = "cost-by-length"
"""Name of the plot of all results of an origin."""


class Tables(NamedTuple):
    """Measured tables, those that papers print, and what rows cost at several lengths."""

    measured: list[Table]
    reported: list[Table]
    lengths: list[Line]


def build(
    results: Path,
    out: Path,
    published: Path | None = None,
    *,
    columns: Sequence[str] = (),
    formats: Sequence[str] = WRITTEN,
    found: Tables | None = None,
) -> list[Path]:
    """Write every table in every format, and an index.

    Args:
        results: folder of result files.
        out: measured tables go here, those of papers into ``published`` below it.
        published: folder of papers' YAML files; ``published`` beside ``results`` by default.
        columns: as for ``tables``.
        formats: names of ``render.FORMATS``. Plots are PNG files; with ``svg``, SVG as well.
        found: what ``tables`` returned for these, where it has been asked already.

    Returns:
        The files, the index ``README.md`` first.

    Raises:
        UserError: there is nothing to show, a file is not valid, or no table has a column.
    """
    measured, reported, lines = found or tables(results, published, columns)
    files = _write(measured, out, formats) + _write(reported, out / "published", formats)
    drawn = _draw_lengths(lines, out, formats)
    index = out / "README.md"
    write_atomic(index, _index(measured, reported, drawn))
    return [index, *files, *(path for _, path in drawn)]


def tables(results: Path, published: Path | None = None, columns: Sequence[str] = ()) -> Tables:
    """Measured tables, those that papers print, and what rows cost at several lengths.

    Args:
        results: folder of result files.
        published: as for ``build``.
        columns: only these, in this order, and tables that have one of them; all by default. They
            are named as in the headings, without unit; case does not count.

    Raises:
        UserError: there is nothing to show, a file is not valid, or no table has a column.
    """
    published = published or results.parent / "published"
    read = read_folder(results)
    measured, lines = tables_of(read), lengths(read)
    reported = [t for path in sorted(published.glob("*.yaml")) for t in papers.read(path)]
    if not measured and not reported:
        raise UserError(f"There are no results in {results}: run `thbench eval STRATEGY` first.")
    if not columns:
        return Tables(measured, reported, lines)
    known = {c.name.lower(): c.name for t in [*measured, *reported] for c in t.columns}
    for name in columns:
        if name.lower() not in known:
            hint = did_you_mean(name, known.values())
            raise UserError(f"No table has a column '{name}'.{hint}")
    return Tables(_with_columns(measured, columns), _with_columns(reported, columns), lines)


def _with_columns(found: Iterable[Table], columns: Sequence[str]) -> list[Table]:
    chosen = (select_columns(table, columns) for table in found)
    return [table for table in chosen if table.columns]


def _write(found: Iterable[Table], folder: Path, formats: Sequence[str]) -> list[Path]:
    paths: list[Path | None] = []
    for table in found:
        for suffix in formats:
            if suffix != SVG:
                paths.append(folder / f"{table.slug}.{suffix}")
                write_atomic(folder / f"{table.slug}.{suffix}", FORMATS[suffix](table))
        if table.curves:
            numbers = folder / f"{table.slug}{OVER_TIME}.csv"
            write_atomic(numbers, curves_csv(table))
            paths.append(numbers)
        for suffix in _plots(formats):
            if table.curves:
                path = folder / f"{table.slug}{OVER_TIME}{suffix}"
                paths.append(draw_curves(table.curves, path))
            paths.append(draw_costs(table, folder / f"{table.slug}{COSTS}{suffix}"))
    return [path for path in paths if path is not None]


def _draw_lengths(
    lines: Sequence[Line], folder: Path, formats: Sequence[str]
) -> list[tuple[str, Path]]:
    """Plots for each origin of the lines, with the origin."""
    found = []
    for origin in dict.fromkeys(line.origin for line in lines):
        own = [line for line in lines if line.origin == origin]
        name = "-".join([LENGTHS, *re.findall(r"\w+", origin)])
        for suffix in _plots(formats):
            found.append((origin, draw_lengths(own, folder / f"{name}{suffix}")))
    return found


def _plots(formats: Sequence[str]) -> list[str]:
    return [".png", ".svg"] if SVG in formats else [".png"]


def _index(
    measured: Iterable[Table], reported: Iterable[Table], drawn: Iterable[tuple[str, Path]]
) -> str:
    lines = ["# Leaderboards", ""]
    lines += [f"- [{t.title}]({t.slug}.md)" for t in measured] or ["No measured results yet."]
    for origin, path in drawn:
        if path.suffix == ".svg":
            continue  # the same once more
        lines += ["", f"What clips cost by their length, {origin}:", ""]
        lines += [f"![network calls by frames of the clip]({path.name})"]
    lines += ["", "## Published tables", ""]
    lines += [f"- [{t.title}](published/{t.slug}.md)" for t in reported]
    return "\n".join(lines).rstrip() + "\n"
