"""Tables as data: which rows may be compared, and which is best in each column.

Rows share a table only if protocol, data and requested clips are the same, and no metric or
extractor has two versions among them. Best and second are found among rows of the same origin, so
that measured, reported and smoke results never compete.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from metrics.intervals import bootstrap, jackknife
from metrics.signed_rank import MIN_PAIRS
from thbench.config import content_hash
from thbench.evaluation.report import GIGA, damage, notes_of, timing_method
from thbench.evaluation.results import (
    GROUND_TRUTH,
    Control,
    CostSummary,
    Curve,
    Result,
    TimingSummary,
)

Interval = tuple[float, float]


@dataclass(frozen=True)
class Column:
    """A metric's name, unit and direction; a column without direction is not ranked."""

    name: str
    direction: str | None
    unit: str = ""


@dataclass(frozen=True)
class Cell:
    """A metric value in a row.

    Attributes:
        value: or None where there is none.
        interval: of the value, or None.
        reference: what the value should be near to, for direction ``reference``.
        text: as printed in a paper, where it comes from one.
        mark: ``best``, ``second`` or nothing.
        clips: value and reference (NaN where there is none) of each clip that has a value, mean
            over seeds; empty for metrics of sets.
        left_out: of metrics of sets, the values without each group of clips in turn.
        scored: ids of the clips that the row has; two rows have the same groups where these are
            the same.
    """

    value: float | None = None
    interval: Interval | None = None
    reference: float | None = None
    text: str | None = None
    mark: str = ""
    clips: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    left_out: tuple[float, ...] = ()
    scored: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Row:
    """A strategy's values.

    Attributes:
        title: of the row.
        origin: as ``Result.origin``.
        cells: by the column's name.
        ranked: whether the row competes, or is only shown.
        run: the name of the result.
    """

    title: str
    origin: str
    cells: Mapping[str, Cell]
    ranked: bool = True
    run: str = ""


@dataclass(frozen=True)
class Table:
    """Rows that may be compared.

    Attributes:
        slug: file name.
        title: for people.
        facts: name and text, such as protocol and data.
        notes: one line each, below the table.
        curves: metric values over time, by metric's name and row's title.
        controls: metrics with another clip's audio, likewise.
    """

    slug: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    curves: Mapping[str, Mapping[str, Curve]] = field(default_factory=dict)
    controls: Mapping[str, Mapping[str, Control]] = field(default_factory=dict)


def tables_of(results: Iterable[Result]) -> list[Table]:
    """Tables of all results, in a fixed order."""
    groups: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda r: r.run):
        key = content_hash([result.protocol, result.data])
        groups.setdefault(key, []).append(result)
    tables = []
    for key, members in groups.items():
        for i, compatible in enumerate(_compatible(members)):
            suffix = key[:6] + (f"-{i}" if i else "")
            tables.append(_table(compatible, suffix))
    return sorted(tables, key=lambda t: t.slug)


def ranked(table: Table) -> Table:
    """The table with best and second marked, rows in order of the first column."""
    rows = list(table.rows)
    for column in table.columns:
        if column.direction is None:
            continue
        for origin in {row.origin for row in rows}:
            rivals = [i for i, r in enumerate(rows) if r.origin == origin and r.ranked]
            marks = _marks({i: rows[i].cells.get(column.name, Cell()) for i in rivals}, column)
            for i, mark in marks.items():
                rows[i] = _marked(rows[i], column.name, mark)
    return replace(table, rows=tuple(rows))


def select_columns(table: Table, names: Iterable[str]) -> Table:
    """The table with only those of its columns that ``names`` lists, in that order."""
    known = {column.name: column for column in table.columns}
    return replace(table, columns=tuple(known[name] for name in names if name in known))


def rank_key(column: Column, cell: Cell) -> float | None:
    """What cells of a column are sorted by, least first; None where a cell cannot be ranked."""
    interval = _rank_interval(column, cell, None)
    return interval[0] if interval else None


def _rank_interval(column: Column, cell: Cell, interval: Interval | None) -> Interval | None:
    """The least and the greatest ``rank_key`` within an interval, by default that of the value."""
    if cell.value is None:
        return None
    low, high = interval or (cell.value, cell.value)
    if column.direction == "lower":
        return low, high
    if column.direction == "higher":
        return -high, -low
    target = 0.0 if column.direction == "zero" else cell.reference
    if target is None:
        return None
    ends = abs(low - target), abs(high - target)
    return (0.0 if low <= target <= high else min(ends)), max(ends)


def _marks(cells: Mapping[int, Cell], column: Column) -> dict[int, str]:
    """Marks by row. Rows that tie with the best share its mark."""
    scored = {i: value for i, c in cells.items() if (value := rank_key(column, c)) is not None}
    if len(scored) < 2:
        return {}
    order = sorted(scored, key=lambda i: scored[i])
    best = [i for i in order if _tied(column, cells[order[0]], cells[i])]
    marks = dict.fromkeys(best, "best")
    rest = [i for i in order if i not in marks]
    if len(best) == 1 and rest:
        second = [i for i in rest if _tied(column, cells[rest[0]], cells[i])]
        marks |= dict.fromkeys(second, "second")
    # A mark that all rows carry says nothing.
    return {} if len(best) == len(order) else marks


def _tied(column: Column, first: Cell, second: Cell) -> bool:
    """Whether the paired interval of the difference covers zero.

    That is a bootstrap over clips; for metrics of sets, such as Frechet distances, a jackknife over
    groups of them. Values with fewer than ``MIN_PAIRS`` clips in common, or of other clips, tie
    where their own intervals overlap.
    """
    if paired := _paired_sets(column, first, second):
        return paired[0] <= 0 <= paired[1]
    both = sorted(first.clips.keys() & second.clips.keys())
    pairs = [(first.clips[i][0], *second.clips[i]) for i in both]
    known = _columns(pairs, column)
    apart = bootstrap(known, lambda means: _behind(column, means))
    if apart is not None and len(known) >= MIN_PAIRS:
        return apart[0] <= 0 <= apart[1]
    a, b = (_rank_interval(column, c, c.interval) for c in (first, second))
    return a is not None and b is not None and a[0] <= b[1] and b[0] <= a[1]


def _paired_sets(column: Column, first: Cell, second: Cell) -> Interval | None:
    """The jackknife interval of the difference of a metric of sets; None where it has none."""
    if first.scored != second.scored or len(first.left_out) != len(second.left_out):
        return None
    if first.value is None or second.value is None or column.direction == "reference":
        return None  # the reference has values of its own without each group
    signed = np.abs if column.direction == "zero" else np.asarray
    values = signed([[first.value, *first.left_out], [second.value, *second.left_out]])
    apart = values[0] - values[1]
    return jackknife(float(apart[0]), apart[1:].tolist())


def _columns(
    pairs: Sequence[tuple[float, float, float]], column: Column
) -> list[tuple[float, ...]]:
    """Pairs with the reference's value only for direction ``reference``: elsewhere it is NaN."""
    return [p if column.direction == "reference" else p[:2] for p in pairs]


def _behind(column: Column, means: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much worse the first is than the second, (draws,), from means (draws, 2 or 3)."""
    if column.direction in ("lower", "higher"):
        sign = 1 if column.direction == "lower" else -1
        return np.asarray(sign * (means[:, 0] - means[:, 1]))
    target = means[:, 2] if column.direction == "reference" else 0.0
    return np.asarray(np.abs(means[:, 0] - target) - np.abs(means[:, 1] - target))


def _marked(row: Row, column: str, mark: str) -> Row:
    return replace(row, cells={**row.cells, column: replace(row.cells[column], mark=mark)})


def _compatible(results: Sequence[Result]) -> list[list[Result]]:
    """Lists within which no metric has two versions or extractors."""
    lists: list[tuple[dict[str, tuple[object, ...]], list[Result]]] = []
    for result in results:
        versions = {
            name: (f.version, f.extractors)
            for name, f in result.metrics.items()
            if f.unavailable is None
        }
        for known, members in lists:
            if all(known.get(name, own) == own for name, own in versions.items()):
                known.update(versions)
                members.append(result)
                break
        else:
            lists.append((dict(versions), [result]))
    return [members for _, members in lists]


SAMPLES = "Samples seen"
"""Column: how much the networks were trained."""

_COSTS: dict[str, Callable[[CostSummary], float | None]] = {
    "Time (s)": lambda c: c.seconds,
    "First frame (s)": lambda c: c.first_frame,
    "Depth": lambda c: c.depth,
    "Calls": lambda c: c.calls,
    "Frames evaluated": lambda c: c.evaluations,
}


_TIMES: dict[str, Callable[[TimingSummary], float | None]] = {
    "Timed (s)": lambda t: t.seconds,
    "Timed first frame (s)": lambda t: t.first_frame,
    "Timed frames": lambda t: t.frames,
    "Peak memory (GB)": lambda t: None if t.memory is None else t.memory / GIGA,
}


def _table(results: Sequence[Result], suffix: str) -> Table:
    first = results[0]
    columns = [Column(name, found.direction, found.unit) for name, found in first.metrics.items()]
    hardware = sorted({r.cost.hardware for r in results if r.cost})
    if hardware:
        # Times of different machines are shown but not ranked.
        timed = "lower" if len(hardware) == 1 else None
        columns += [
            Column(name, timed if "(s)" in name else None)
            for name, get in _COSTS.items()
            if any(r.cost and get(r.cost) is not None for r in results)
        ]
    measured = [r.timed for r in results if r.timed]
    if measured:
        alike = len({(t.hardware, t.frames, t.memory_is) for t in measured}) == 1
        ranks = {"Timed frames": None} if alike else dict.fromkeys(_TIMES)
        columns += [Column(name, ranks.get(name, "lower")) for name in _TIMES]
    if any(r.samples_seen for r in results):
        columns.append(Column(SAMPLES, None))
    titles = _titles(results)
    rows = [_row(r, title) for r, title in zip(results, titles, strict=True)]
    split = f", split {first.data.split}" if first.data.split else ""
    facts = {
        "Protocol": f"{first.protocol.name} ({first.protocol.hash})",
        "Data": f"{first.data.name}{split} ({first.data.digest[:12]}),"
        f" {first.coverage.expected} clips",
        "Hardware": "; ".join(hardware),
        "Timed": "; ".join(sorted({f"{timing_method(t)}; {t.hardware}" for t in measured})),
        "Peak memory": "; ".join(sorted({t.memory_is for t in measured if t.memory_is})),
    }
    lead = columns[0]
    # What is not ranked, the ground truth, stands above the others, as in papers.
    rows.sort(key=lambda row: (row.ranked, _sort_key(lead, row), row.title, row.run))
    table = Table(
        slug=_slug([first.protocol.name, first.data.name, first.data.split or "", suffix]),
        title=f"{first.data.name}, protocol {first.protocol.name}",
        columns=tuple(columns),
        rows=tuple(rows),
        facts={k: v for k, v in facts.items() if v},
        notes=tuple(_notes(results)),
        curves=_curves(results, titles),
        controls=_controls(results, titles),
    )
    return ranked(table)


def _titles(results: Sequence[Result]) -> list[str]:
    """Of the rows: with the run's name where several have the same title."""
    own = [r.title for r in results]
    return [f"{r.title} ({r.run})" if own.count(r.title) > 1 else r.title for r in results]


def _curves(results: Sequence[Result], titles: Sequence[str]) -> dict[str, dict[str, Curve]]:
    names = dict.fromkeys(name for r in results for name in r.over_time)
    return {
        name: {
            t: r.over_time[name]
            for t, r in zip(titles, results, strict=True)
            if name in r.over_time
        }
        for name in names
    }


def _controls(results: Sequence[Result], titles: Sequence[str]) -> dict[str, dict[str, Control]]:
    found: dict[str, dict[str, Control]] = {}
    for title, result in zip(titles, results, strict=True):
        for name, value in result.metrics.items():
            if value.control:
                found.setdefault(name, {})[title] = value.control
    return found


def _row(result: Result, title: str) -> Row:
    scored = frozenset(row.id for row in result.per_clip)
    cells = {
        name: Cell(
            found.value,
            found.interval,
            found.reference,
            clips=_clips(result, name),
            left_out=found.left_out,
            scored=scored,
        )
        for name, found in result.metrics.items()
    }
    if result.cost:
        cells |= {name: Cell(get(result.cost)) for name, get in _COSTS.items()}
    if result.timed:
        cells |= {name: Cell(get(result.timed)) for name, get in _TIMES.items()}
    if result.samples_seen:
        cells[SAMPLES] = Cell(float(result.samples_seen))
    return Row(title, result.origin, cells, result.strategy != GROUND_TRUTH, result.run)


def _clips(result: Result, name: str) -> dict[str, tuple[float, float]]:
    values: dict[str, list[tuple[float, float]]] = {}
    for row in result.per_clip:
        value = row.metrics.get(name)
        if value is not None:
            reference = row.reference.get(name)
            one = (value, math.nan if reference is None else reference)
            values.setdefault(row.id, []).append(one)
    return {
        clip: (math.fsum(v for v, _ in found) / len(found), found[0][1])
        for clip, found in values.items()
    }


def _sort_key(column: Column, row: Row) -> tuple[bool, float]:
    value = rank_key(column, row.cells.get(column.name, Cell()))
    return value is None, value or 0.0


def _notes(results: Sequence[Result]) -> list[str]:
    notes: dict[str, None] = {}
    for r in sorted(results, key=lambda r: (r.title, r.run)):
        wanted = r.coverage.expected * max(1, len(r.seeds))
        if r.coverage.scored < wanted:
            notes[f"{r.title}: {r.coverage.scored} of {wanted} clips were scored."] = None
        if damaged := damage(r.coverage):
            notes[f"{r.title}: {damaged}."] = None
        for text in r.notes:
            notes[f"{r.title}: {text}"] = None
        for text, names in notes_of(r).items():
            notes[f"{r.title}, {', '.join(names)}: {text}."] = None
        for name, found in r.metrics.items():
            if found.unavailable:
                notes[f"{name} is unavailable: {found.unavailable}."] = None
            if found.missing:
                notes[f"{r.title}, {name}: not defined on {found.missing} clips."] = None
    return list(notes)


def _slug(words: Sequence[str]) -> str:
    text = "-".join(w for w in words if w).lower()
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in text)
