"""Writes all tables. The same results give the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from thbench.core.errors import UserError, did_you_mean
from thbench.core.files import write_atomic
from thbench.evaluation.results import read_folder
from thbench.leaderboard import published as papers
from thbench.leaderboard.plots import draw_curves
from thbench.leaderboard.rank import Table, select_columns, tables_of
from thbench.leaderboard.render import FORMATS, OVER_TIME, WRITTEN, curves_csv


def build(
    results: Path,
    out: Path,
    published: Path | None = None,
    *,
    columns: Sequence[str] = (),
    formats: Sequence[str] = WRITTEN,
) -> list[Path]:
    """Write every table in every format, and an index.

    Args:
        results: folder of result files.
        out: measured tables go here, those of papers into ``published`` below it.
        published: folder of papers' YAML files; ``published`` beside ``results`` by default.
        columns: as for ``tables``.
        formats: names of ``render.FORMATS``.

    Returns:
        The files, the index ``README.md`` first.

    Raises:
        UserError: there is nothing to show, a file is not valid, or no table has a column.
    """
    measured, reported = tables(results, published, columns)
    files = _write(measured, out, formats) + _write(reported, out / "published", formats)
    index = out / "README.md"
    write_atomic(index, _index(measured, reported))
    return [index, *files]


def tables(
    results: Path, published: Path | None = None, columns: Sequence[str] = ()
) -> tuple[list[Table], list[Table]]:
    """Measured tables, and those that papers print.

    Args:
        results: folder of result files.
        published: as for ``build``.
        columns: only these, in this order, and tables that have one of them; all by default. They
            are named as in the headings, without unit; case does not count.

    Raises:
        UserError: there is nothing to show, a file is not valid, or no table has a column.
    """
    published = published or results.parent / "published"
    measured = tables_of(read_folder(results))
    reported = [t for path in sorted(published.glob("*.yaml")) for t in papers.read(path)]
    if not measured and not reported:
        raise UserError(f"There are no results in {results}: run `thbench eval STRATEGY` first.")
    if not columns:
        return measured, reported
    known = {c.name.lower(): c.name for t in [*measured, *reported] for c in t.columns}
    for name in columns:
        if name.lower() not in known:
            hint = did_you_mean(name, known.values())
            raise UserError(f"No table has a column '{name}'.{hint}")
    return _with_columns(measured, columns), _with_columns(reported, columns)


def _with_columns(found: Iterable[Table], columns: Sequence[str]) -> list[Table]:
    chosen = (select_columns(table, columns) for table in found)
    return [table for table in chosen if table.columns]


def _write(found: Iterable[Table], folder: Path, formats: Sequence[str]) -> list[Path]:
    paths = []
    for table in found:
        for suffix in formats:
            paths.append(folder / f"{table.slug}.{suffix}")
            write_atomic(paths[-1], FORMATS[suffix](table))
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
