"""Tables as data: which rows may be compared, and which is best in each column.

Rows share a table only if protocol, data and requested clips are the same, and no metric or
extractor has two versions among them. Best and second are found among rows of the same origin, so
that measured, reported and smoke results never compete.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from thbench.config import content_hash
from thbench.evaluation.report import GIGA, damage, notes_of, timing_method
from thbench.evaluation.results import (
    GROUND_TRUTH,
    Control,
    CostSummary,
    Curve,
    MetricValue,
    Result,
    TimingSummary,
)
from thbench.leaderboard.paired import Cell, Column, rank_key, tied


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
            tables.append((_table(compatible, suffix), compatible))
    tables.sort(key=lambda pair: pair[0].slug)
    return [_with_apart(table, members, tables) for table, members in tables]


def _with_apart(
    table: Table, members: Sequence[Result], tables: Iterable[tuple[Table, Sequence[Result]]]
) -> Table:
    """The table, with why rows that one would look for in it stand in others of its title."""
    first, apart = members[0], []
    for other, theirs in tables:
        if other is table or other.title != table.title:
            continue
        second, reasons = theirs[0], []
        if second.data.split != first.data.split:
            continue
        if second.protocol.hash != first.protocol.hash:
            reasons.append(f"another definition of the protocol ({second.protocol.hash})")
        if second.data.digest != first.data.digest:
            reasons.append(f"another content of the data ({second.data.digest[:12]})")
        elif second.data.clips != first.data.clips:
            reasons.append(f"other clips ({second.coverage.expected})")
        own, others = _versions(members), _versions(theirs)
        changed = [name for name in own if name in others and own[name] != others[name]]
        if changed and not reasons:
            reasons.append(f"another version of {', '.join(changed)}")
        rows = " / ".join(row.title for row in other.rows)
        apart.append(f"{rows} ({' and '.join(reasons)})")
    return replace(table, facts={**table.facts, APART: "; ".join(apart)}) if apart else table


def _versions(results: Iterable[Result]) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {name: own for result in results for name, own in versions_of(result).items()}


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
    """The table with only those of its columns that ``names`` lists, in that order.

    Case does not count; names that it has not are passed over.
    """
    known = {column.name.lower(): column for column in table.columns}
    wanted = (name.lower() for name in names)
    return replace(table, columns=tuple(known[name] for name in wanted if name in known))


def _marks(cells: Mapping[int, Cell], column: Column) -> dict[int, str]:
    """Marks by row. Rows that tie with the best share its mark."""
    scored = {i: value for i, c in cells.items() if (value := rank_key(column, c)) is not None}
    if len(scored) < 2:
        return {}
    order = sorted(scored, key=lambda i: scored[i])
    best = [i for i in order if tied(column, cells[order[0]], cells[i])]
    marks = dict.fromkeys(best, "best")
    rest = [i for i in order if i not in marks]
    if len(best) == 1 and rest:
        second = [i for i in rest if tied(column, cells[rest[0]], cells[i])]
        marks |= dict.fromkeys(second, "second")
    # A mark that all rows carry says nothing.
    return {} if len(best) == len(order) else marks


def _marked(row: Row, column: str, mark: str) -> Row:
    return replace(row, cells={**row.cells, column: replace(row.cells[column], mark=mark)})


def versions_of(result: Result) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Version and extractors of each metric that a result has, by name."""
    return {
        name: (f.version, f.extractors)
        for name, f in result.metrics.items()
        if f.unavailable is None
    }


def _compatible(results: Sequence[Result]) -> list[list[Result]]:
    """Lists within which no metric has two versions or extractors."""
    lists: list[tuple[dict[str, tuple[int, tuple[str, ...]]], list[Result]]] = []
    for result in results:
        versions = versions_of(result)
        for known, members in lists:
            if all(known.get(name, own) == own for name, own in versions.items()):
                known.update(versions)
                members.append(result)
                break
        else:
            lists.append((dict(versions), [result]))
    return [members for _, members in lists]


ALL_ROWS = "all rows"
APART = "Not comparable, in tables of their own"
"""Fact of a table: rows of the same data and protocol by name, and why they stand elsewhere."""
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
        notes=tuple(_notes(results, titles)),
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
            missing=_why_missing(found),
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


def _why_missing(found: MetricValue) -> str:
    if found.value is not None:
        return ""
    return found.unavailable or ("not defined on any of its clips" if found.missing else "")


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


def _notes(results: Sequence[Result], titles: Sequence[str]) -> list[str]:
    """What is to be known of rows. What several rows have in common is said once."""
    said: dict[str, dict[str, str]] = {}
    absent: dict[str, dict[int, list[str]]] = {}
    for title, r in sorted(zip(titles, results, strict=True), key=lambda pair: pair[0]):
        wanted = r.coverage.expected * max(1, len(r.seeds))
        texts = []
        if r.coverage.scored < wanted:
            texts.append(f"{r.coverage.scored} of {wanted} clips were scored.")
        if damaged := damage(r.coverage):
            texts.append(f"{damaged}.")
        texts += r.notes
        texts += [f"{', '.join(names)}: {text}." for text, names in notes_of(r).items()]
        for text in texts:
            head, _, tail = text.rpartition(": ")
            said.setdefault(head or tail, {})[title] = tail if head else ""
        for name, found in r.metrics.items():
            if found.missing:
                absent.setdefault(name, {}).setdefault(found.missing, []).append(title)
    unavailable = [
        f"{name} is unavailable: {found.unavailable}."
        for r in results
        for name, found in r.metrics.items()
        if found.unavailable
    ]
    notes = [_note(head, tails, titles) for head, tails in said.items()]
    for name, counts in absent.items():
        parts = [f"{n} clips of {_these(rows, titles)}" for n, rows in sorted(counts.items())]
        notes.append(f"{name}: not defined on {'; on '.join(parts)}.")
    return list(dict.fromkeys([*unavailable, *notes]))


def _note(head: str, tails: Mapping[str, str], of: Sequence[str]) -> str:
    """What rows have in common, and what each has of its own behind the last colon."""
    rows, kinds = _these(list(tails), of), set(tails.values())
    rows = "A" + rows[1:] if rows.startswith(ALL_ROWS) else rows
    if len(kinds) == 1:
        (tail,) = kinds
        return f"{rows}: {head}{f': {tail}' if tail else ''}"
    own = "; ".join(f"{title}: {tail.rstrip('.')}" for title, tail in tails.items())
    return f"{rows}: {head}: {own}."


def _these(titles: Sequence[str], of: Sequence[str]) -> str:
    """Some of a table's rows in words. Titles have commas of their own."""
    others = [title for title in of if title not in titles]
    if len(of) > 1 and not others:
        return ALL_ROWS
    if len(others) < min(3, len(titles)):
        return f"{ALL_ROWS} but {' / '.join(others)}" if len(of) > 1 else titles[0]
    return " / ".join(titles)


def _slug(words: Sequence[str]) -> str:
    text = "-".join(w for w in words if w).lower()
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in text)
