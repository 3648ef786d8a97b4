"""What the page shows, as plain data: JSON of a page is a function of it alone.

Rows, columns, marks, notes and their order are the table's; nothing is ranked anew. A table with
rows of several origins becomes one for each: measured, reported and smoke never share a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from thbench.evaluation.results import Result
from thbench.leaderboard import costs
from thbench.leaderboard.cells import ARROWS, control_lines, heading, legend, number, texts
from thbench.leaderboard.page import plans, provenance
from thbench.leaderboard.rank import Cell, Column, Row, Table, rank_key

REPORTED = "reported"


def parts(table: Table) -> list[Table]:
    """A table for each origin of its rows."""
    origins = list(dict.fromkeys(row.origin for row in table.rows))
    if len(origins) == 1:
        return [table]
    found = []
    for origin in origins:
        rows = tuple(row for row in table.rows if row.origin == origin)
        own = {row.title for row in rows}
        slug = f"{table.slug}-{''.join(c if c.isalnum() else '-' for c in origin).strip('-')}"
        found.append(
            replace(
                table,
                slug=slug,
                rows=rows,
                curves=_of_rows(table.curves, own),
                controls=_of_rows(table.controls, own),
            )
        )
    return found


def _of_rows(by_name: Mapping[str, Mapping[str, Any]], titles: set[str]) -> dict[str, Any]:
    kept = {
        name: {title: found for title, found in rows.items() if title in titles}
        for name, rows in by_name.items()
    }
    return {name: rows for name, rows in kept.items() if rows}


def of_table(table: Table, results: Mapping[str, Result]) -> dict[str, Any]:
    """A table of one origin.

    Args:
        table: of ``parts``.
        results: of its rows, by run; none for a paper's table.
    """
    shown = texts(table)
    first = next((results[row.run] for row in table.rows if row.run in results), None)
    return {
        "id": table.slug,
        "title": table.title,
        "origin": table.rows[0].origin,
        "data": first.data.name if first else "",
        "protocol": first.protocol.name if first else table.title.partition(",")[0],
        "facts": [list(fact) for fact in table.facts.items()],
        "legend": legend(table),
        "notes": list(table.notes),
        "columns": [_column(column, table) for column in table.columns],
        "rows": [
            _row(row, table, [vars(text) for text in cells], results.get(row.run))
            for row, cells in zip(table.rows, shown, strict=True)
        ],
        "curves": _curves(table),
        "controls": control_lines(table),
        "gallery": {"clips": [], "missing": [], "of": 0},
    }


def of_clip(result: Result, clip: str) -> list[dict[str, Any]]:
    """The values of a clip by seed: of its metrics, and over time."""
    return [
        {
            "seed": row.seed,
            "frames": row.frames,
            "metrics": {
                name: [value, number(value)]
                for name, value in row.metrics.items()
                if value is not None
            },
            "over_time": {name: list(values) for name, values in row.over_time.items()},
        }
        for row in result.per_clip
        if row.id == clip
    ]


def _column(column: Column, table: Table) -> dict[str, Any]:
    return {
        "name": column.name,
        "heading": heading(column),
        "unit": column.unit,
        "direction": column.direction,
        "arrow": ARROWS[column.direction] if column.direction else "",
        "cost": costs.is_cost(column),
        "comparable": costs.is_comparable(column),
        "values": sum(row.cells.get(column.name, Cell()).value is not None for row in table.rows),
    }


def _row(
    row: Row, table: Table, shown: Sequence[dict[str, str]], result: Result | None
) -> dict[str, Any]:
    cells = []
    for column, text in zip(table.columns, shown, strict=True):
        cell = row.cells.get(column.name, Cell())
        # A column without direction has no ranks: its cells are sorted by their values.
        key = rank_key(column, cell) if column.direction else cell.value
        cells.append({**text, "key": key, "number": cell.value})
    return {
        "title": row.title,
        "run": row.run,
        "strategy": result.strategy if result else "",
        "origin": row.origin,
        "ranked": row.ranked,
        "cells": cells,
        "about": provenance.of_result(result) if result else provenance.of_paper(row, table.facts),
        "plan": plans.picture(result) if result else None,
    }


def _curves(table: Table) -> list[dict[str, Any]]:
    place = {row.title: i for i, row in enumerate(table.rows)}
    found = []
    for name, rows in table.curves.items():
        one = next(iter(rows.values()))
        lines = [
            {"row": place[title], "values": list(curve.values), "clips": list(curve.clips)}
            for title, curve in sorted(rows.items(), key=lambda item: place[item[0]])
        ]
        arrow = ARROWS.get(one.direction, "")
        named = f"{name} ({one.unit})" if one.unit else name
        found.append(
            {"name": name, "heading": f"{named} {arrow}", "frames": one.frames, "lines": lines}
        )
    return found


def lengths(results: Sequence[Result]) -> list[dict[str, Any]]:
    """``costs.lengths``, each point as frames, seconds, calls in sequence and hardware."""
    return [
        {
            "title": line.title,
            "origin": line.origin,
            "points": [[p.frames, p.seconds, p.depth, p.hardware] for p in line.points],
        }
        for line in costs.lengths(results)
    ]
