"""Whether two rows differ: values paired by clip, or by the groups of clips that are left out.

Means over clips are paired by clip; values of sets (Frechet distances, DR) by the groups of clips
that are left out in turn. Tables, ``thbench compare`` and the benchmarks all ask here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metrics.intervals import Interval, bootstrap, bootstrap_mean, jackknife
from metrics.signed_rank import MIN_PAIRS
from thbench.evaluation.results import Result

if TYPE_CHECKING:
    from thbench.evaluation.protocol import Intervals  # imports torch


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
        missing: why there is no value, where that is known.
    """

    value: float | None = None
    interval: Interval | None = None
    reference: float | None = None
    text: str | None = None
    mark: str = ""
    clips: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    left_out: tuple[float, ...] = ()
    scored: frozenset[str] = frozenset()
    missing: str = ""


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


def tied(column: Column, first: Cell, second: Cell) -> bool:
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


@dataclass(frozen=True)
class Difference:
    """How far two results' values of a metric lie apart, over the clips that both have values for.

    Attributes:
        name: of the metric.
        unit: of the values.
        first: mean of the first result over these clips; of a metric of sets, its value.
        second: that of the second.
        value: mean over clips of first minus second.
        interval: of ``value``, by a bootstrap over clips, or a jackknife over groups of them for a
            metric of sets; None with fewer than two clips or three groups.
        clips: how many.
    """

    name: str
    unit: str
    first: float
    second: float
    value: float
    interval: Interval | None
    clips: int

    @property
    def contains_zero(self) -> bool | None:
        """Whether the interval does; None where there is none."""
        return None if self.interval is None else self.interval[0] <= 0 <= self.interval[1]


TIE, BETTER, WORSE = "tie", "better", "worse"


def verdict(found: Difference, column: Column, first: Cell, second: Cell) -> str:
    """What a difference says of its first row: ``tie``, ``better``, ``worse``, or nothing.

    Where more or less is better, the interval of the difference decides, as it is shown. Elsewhere,
    and with fewer than ``MIN_PAIRS`` clips in common, the rule of tables does (``tied``).

    Args:
        found: the difference, of first less second.
        column: of the metric.
        first: its cell in the first row.
        second: that in the second.
    """
    one, other = (
        rank_key(column, Cell(value, reference=cell.reference))
        for value, cell in ((found.first, first), (found.second, second))
    )
    if (
        one is None
        or other is None
        or (found.interval is None and None in (first.interval, second.interval))
    ):
        return ""
    shown = column.direction in ("lower", "higher") and found.interval is not None
    if shown and (first.left_out or found.clips >= MIN_PAIRS):
        same = bool(found.contains_zero)
    else:
        same = tied(column, first, second)
    if same or one == other:
        return TIE
    return BETTER if one < other else WORSE


def compare(first: Result, second: Result, how: Intervals) -> list[Difference]:
    """Paired differences of all metrics that both results have, in the first result's order.

    Clips are paired by id and seed. Seeds of a clip are averaged before clips are drawn, for they
    are not independent. A metric without a clip in common is left out, and so is one of sets where
    the results do not hold the same clips.

    Args:
        first: a result.
        second: another by the same protocol, which is not checked.
        how: confidence and draws.
    """
    return [found for name in first.metrics if (found := _difference(name, first, second, how))]


def _difference(name: str, first: Result, second: Result, how: Intervals) -> Difference | None:
    if first.metrics[name].left_out:
        return _difference_of_sets(name, first, second, how)
    others = {(row.id, row.seed): row.metrics.get(name) for row in second.per_clip}
    pairs: dict[str, list[tuple[float, float]]] = {}
    for row in first.per_clip:
        one, other = row.metrics.get(name), others.get((row.id, row.seed))
        if one is not None and other is not None:
            pairs.setdefault(row.id, []).append((one, other))
    if not pairs:
        return None
    clips = [tuple(map(_mean, zip(*found, strict=True))) for found in pairs.values()]
    apart = [one - other for one, other in clips]
    return Difference(
        name=name,
        unit=first.metrics[name].unit,
        first=_mean(one for one, _ in clips),
        second=_mean(other for _, other in clips),
        value=_mean(apart),
        interval=bootstrap_mean(apart, how.confidence, how.draws),
        clips=len(clips),
    )


def _difference_of_sets(
    name: str, first: Result, second: Result, how: Intervals
) -> Difference | None:
    one, other = first.metrics[name], second.metrics.get(name)
    ids = {row.id for row in first.per_clip}
    if other is None or one.value is None or other.value is None:
        return None
    if ids != {row.id for row in second.per_clip} or len(one.left_out) != len(other.left_out):
        return None
    apart = one.value - other.value
    without = [a - b for a, b in zip(one.left_out, other.left_out, strict=True)]
    return Difference(
        name=name,
        unit=one.unit,
        first=one.value,
        second=other.value,
        value=apart,
        interval=jackknife(apart, without, how.confidence),
        clips=len(ids),
    )


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)
