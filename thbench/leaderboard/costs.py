"""What quality costs, for plots: a cost against a quality, and cost against length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thbench.evaluation.results import Result
from thbench.leaderboard.paired import Cell, Column, rank_key
from thbench.leaderboard.rank import Row, Table

SECONDS = ("Time (s)", "First frame (s)", "Timed (s)", "Timed first frame (s)")
"""Columns of time. Others are in seconds too, such as how long a blink lasts."""
COUNTS = ("Depth", "Calls", "Frames evaluated")
"""Columns that say what generating costs before any clock is read."""
FOOTPRINT = ("Peak memory (GB)", "GPU memory (GB)", "Timed frames", "Samples seen")
"""Columns that are neither quality nor time, ours and the papers'."""


@dataclass(frozen=True)
class Point:
    """What a row of clips of one length costs.

    Attributes:
        frames: of a clip.
        seconds: to generate it; None where no time was taken.
        depth: network calls in sequence.
        hardware: of the time.
    """

    frames: float
    seconds: float | None
    depth: float
    hardware: str


@dataclass(frozen=True)
class Line:
    """A strategy at several lengths, with the same weights."""

    title: str
    origin: str
    points: tuple[Point, ...]


def is_cost(column: Column) -> bool:
    """Whether a column is one of time or of network calls."""
    return column.name in SECONDS or column.name in COUNTS


def is_comparable(column: Column) -> bool:
    """Whether rows may be compared by a cost: seconds of several machines have no direction."""
    return column.name in COUNTS or column.direction is not None


def is_quality(column: Column) -> bool:
    """Whether a column says how good videos are."""
    return column.direction is not None and not is_cost(column) and column.name not in FOOTPRINT


def front(rows: Sequence[Row], cost: Column, quality: Column) -> list[Row]:
    """Rows that no other beats in both a cost and a quality, from the cheapest on.

    Qualities are compared as the table ranks them. Whether rows differ by more than chance, its
    marks say.
    """
    found = []
    for row in rows:
        price = row.cells.get(cost.name, Cell()).value
        rank = rank_key(quality, row.cells.get(quality.name, Cell()))
        if row.ranked and price is not None and rank is not None:
            found.append((price, rank, row))
    beats = [(price, rank) for price, rank, _ in found]
    kept = [
        (price, row)
        for price, rank, row in found
        if not any(p <= price and r <= rank and (p, r) != (price, rank) for p, r in beats)
    ]
    return [row for _, row in sorted(kept, key=lambda pair: pair[0])]


def plotted(table: Table) -> tuple[Column, list[Column]] | None:
    """The cost and the qualities that two rows or more have; None where there are none.

    The cost is the first column of seconds that compare, else the first of network calls.
    """
    known = [c for c in table.columns if _values(table, c) > 1]
    costs = [c for c in known if is_cost(c) and is_comparable(c)]
    costs.sort(key=lambda c: c.name not in SECONDS)
    qualities = [c for c in known if is_quality(c)]
    return (costs[0], qualities) if costs and qualities else None


def lengths(results: Sequence[Result]) -> list[Line]:
    """What rows cost at several lengths, for strategies of which there is more than one length."""
    groups: dict[tuple[object, ...], list[Result]] = {}
    for result in results:
        if result.cost and result.weights:
            weights = tuple((stage, own.hash) for stage, own in result.weights.items())
            key = (result.strategy, result.title, result.origin, weights)
            groups.setdefault(key, []).append(result)
    lines = []
    for members in groups.values():
        points: dict[float, Point] = {}
        for result in members:
            cost, timed = result.cost, result.timed
            assert cost is not None
            seconds = timed.seconds if timed else cost.seconds
            if cost.frames not in points or points[cost.frames].seconds is None:
                points[cost.frames] = Point(cost.frames, seconds, cost.depth, cost.hardware)
        if len(points) > 1:
            found = tuple(points[n] for n in sorted(points))
            lines.append(Line(members[0].title, members[0].origin, found))
    return lines


def _values(table: Table, column: Column) -> int:
    """How many of the rows that compete have a value."""
    cells = (row.cells.get(column.name, Cell()) for row in table.rows if row.ranked)
    return sum(cell.value is not None for cell in cells)
