"""Results lined up against the first of them: figures, settings and curves over time.

Only results that may share a table are lined up, and what ties there ties here
(``thbench.leaderboard.paired``). Every difference is another result less the first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from metrics.intervals import Interval, bootstrap_mean
from metrics.signed_rank import MIN_PAIRS
from thbench.core.errors import UserError
from thbench.evaluation.protocol import Intervals
from thbench.evaluation.results import Curve, Result
from thbench.leaderboard.paired import Cell, Column, Difference, compare, verdict
from thbench.leaderboard.rank import Row, Table, tables_of, versions_of


@dataclass(frozen=True)
class Figure:
    """A figure of two results.

    Attributes:
        name: of the metric, or of a cost.
        unit: of the values.
        direction: which way is better, None where neither is.
        first: the first result's value, of a metric of clips over the clips that both have.
        second: that of the other.
        difference: second less first.
        interval: of the difference, paired; None for costs, and for too few clips.
        verdict: whether the second is ``better`` or ``worse``, or they ``tie``; "" where that
            cannot be said.
        clips: that the difference is over, 0 for costs.
    """

    name: str
    unit: str
    direction: str | None
    first: float
    second: float
    difference: float
    interval: Interval | None = None
    verdict: str = ""
    clips: int = 0


@dataclass(frozen=True)
class Bins:
    """A metric over time of two results.

    Attributes:
        name: of the metric.
        unit: of the values.
        frames: of a bin.
        difference: in each bin second less first, None where either has none; over the clips that
            both have there, where the metric is one of clips.
        intervals: of these; None for metrics of sets, and with fewer than ``MIN_PAIRS`` clips.
    """

    name: str
    unit: str
    frames: int
    difference: tuple[float | None, ...]
    intervals: tuple[Interval | None, ...]


@dataclass(frozen=True)
class Pair:
    """Another result against the first.

    Attributes:
        first: run of the first.
        second: run of the other.
        figures: in the table's order.
        left_out: figures that are not compared, and why.
        curves: of all metrics that both follow over time.
    """

    first: str
    second: str
    figures: tuple[Figure, ...]
    left_out: Mapping[str, str]
    curves: tuple[Bins, ...]


@dataclass(frozen=True)
class Comparison:
    """Results lined up.

    Attributes:
        results: as given.
        table: that they share.
        pairs: each other result against the first.
        settings: by dotted key, the values that differ by run; a run without the key is left out.
        unknown: runs whose settings were not kept.
        notes: cautions, a line each.
    """

    results: tuple[Result, ...]
    table: Table
    pairs: tuple[Pair, ...]
    settings: Mapping[str, Mapping[str, Any]]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]


def line_up(
    results: Sequence[Result], configs: Mapping[str, Mapping[str, Any] | None]
) -> Comparison:
    """Compare results with the first of them.

    Args:
        results: two or more, of different runs.
        configs: by run, the settings kept beside the result, None where there are none.

    Raises:
        UserError: they may not share a table.
    """
    first, *others = results
    for other in others:
        if reasons := why_not(first, other):
            raise UserError(
                f"{first.run} and {other.run} may not be compared: {'; '.join(reasons)}. Evaluate"
                " both by the same protocol on the same clips."
            )
    tables = tables_of(results)
    if len(tables) > 1:  # each fits the first, but two others do not fit each other
        raise UserError(
            "These results do not share a table: compare each with the first by itself."
        )
    rows = {row.run: row for row in tables[0].rows}
    notes = []
    if len({r.origin for r in results}) > 1:
        notes.append("origins differ: " + ", ".join(f"{r.run} is {r.origin}" for r in results))
    known = [r for r in results if configs.get(r.run) is not None]
    settings = differing({r.run: provenance_of(r) for r in results})
    settings = {**differing({r.run: configs[r.run] or {} for r in known}), **settings}
    return Comparison(
        results=tuple(results),
        table=tables[0],
        pairs=tuple(_pair(tables[0], rows, first, other) for other in others),
        settings=settings,
        unknown=tuple(r.run for r in results if r not in known),
        notes=tuple(notes),
    )


def why_not(first: Result, other: Result) -> list[str]:
    """What keeps two results from sharing a table, in words; empty where nothing does."""
    reasons = []
    one, two = first.protocol, other.protocol
    if one != two:
        reasons.append(f"protocol {one.name} ({one.hash}) and {two.name} ({two.hash})")
    named = {"name": "data", "digest": "digest of the data", "split": "split", "clips": "clips"}
    for key, what in named.items():
        a, b = getattr(first.data, key), getattr(other.data, key)
        if a != b:
            reasons.append(f"{what} {str(a)[:12]} and {str(b)[:12]}")
    mine, theirs = versions_of(first), versions_of(other)
    unlike = [name for name in mine if theirs.get(name, mine[name]) != mine[name]]
    if unlike:
        reasons.append(f"versions or networks of {', '.join(unlike)}")
    return reasons


def differing(trees: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Where nested mappings differ: by dotted key, the values by name of the mapping.

    A key that one of them lacks is named as a whole, with all that lies below it.
    """
    found: dict[str, dict[str, Any]] = {}
    keys = dict.fromkeys(key for tree in trees.values() for key in tree)
    for key in keys:
        values = {name: tree[key] for name, tree in trees.items() if key in tree}
        alike = len(values) == len(trees)
        if alike and all(isinstance(value, Mapping) for value in values.values()):
            found |= {f"{key}.{below}": v for below, v in differing(values).items()}
        elif not alike or any(value != next(iter(values.values())) for value in values.values()):
            found[str(key)] = values
    return found


def provenance_of(result: Result) -> dict[str, Any]:
    """What a result says of how it came about, nested as settings are."""
    cost = result.cost
    about = {
        "strategy": result.strategy,
        "origin": result.origin,
        "weights": {stage: asdict(used) for stage, used in result.weights.items()},
        "samples_seen": result.samples_seen,
        "space": result.space,
        "seeds": list(result.seeds),
        "hardware": cost.hardware if cost else None,
        "git": result.git,
        "packages": dict(result.packages),
    }
    return {"result": about}


def _pair(table: Table, rows: Mapping[str, Row], first: Result, second: Result) -> Pair:
    one, other = rows[first.run].cells, rows[second.run].cells
    paired = {found.name: found for found in compare(second, first, Intervals())}
    figures, left_out = [], {}
    for column in table.columns:
        a, b = one.get(column.name, Cell()), other.get(column.name, Cell())
        lacking = [r.run for r, cell in ((first, a), (second, b)) if cell.value is None]
        if column.name in paired:
            figures.append(_metric(column, paired[column.name], a, b))
        elif len(lacking) == 1 or (lacking and column.name in first.metrics):
            left_out[column.name] = f"no value in {' and '.join(lacking)}"
        elif not lacking and column.name in first.metrics:
            left_out[column.name] = "not of the same clips"
        elif a.value is not None and b.value is not None:
            figures.append(
                Figure(
                    column.name, column.unit, column.direction, a.value, b.value, b.value - a.value
                )
            )
    names = [n for n in first.over_time if n in second.over_time]
    curves = [c for name in names if (c := _bins(name, first, second))]
    return Pair(first.run, second.run, tuple(figures), left_out, tuple(curves))


def _metric(column: Column, found: Difference, first: Cell, second: Cell) -> Figure:
    return Figure(
        name=column.name,
        unit=found.unit,
        direction=column.direction,
        first=found.second,
        second=found.first,
        difference=found.value,
        interval=found.interval,
        verdict=verdict(found, column, second, first),
        clips=found.clips,
    )


def _bins(name: str, first: Result, second: Result) -> Bins | None:
    one, other = first.over_time[name], second.over_time[name]
    if one.frames != other.frames:
        return None
    rows = {(row.id, row.seed): row.over_time.get(name, ()) for row in first.per_clip}
    both = [
        (row.id, rows[row.id, row.seed], row.over_time.get(name, ()))
        for row in second.per_clip
        if (row.id, row.seed) in rows
    ]
    found = [_bin(k, one, other, both) for k in range(min(len(one.values), len(other.values)))]
    return Bins(name, one.unit, one.frames, tuple(d for d, _ in found), tuple(i for _, i in found))


Rows = Sequence[tuple[str, Sequence[float | None], Sequence[float | None]]]


def _bin(k: int, one: Curve, other: Curve, both: Rows) -> tuple[float | None, Interval | None]:
    """The difference in a bin and its interval; seeds of a clip are averaged first."""
    apart: dict[str, list[float]] = {}
    for clip, mine, theirs in both:
        a = mine[k] if k < len(mine) else None
        b = theirs[k] if k < len(theirs) else None
        if a is not None and b is not None:
            apart.setdefault(clip, []).append(b - a)
    if apart:
        means = [math.fsum(values) / len(values) for values in apart.values()]
        interval = bootstrap_mean(means) if len(means) >= MIN_PAIRS else None
        return math.fsum(means) / len(means), interval
    a, b = one.values[k], other.values[k]
    return (None if a is None or b is None else b - a), None
