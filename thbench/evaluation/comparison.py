"""Two results of the same clips compared, metric by metric and clip by clip."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from metrics.intervals import Interval, bootstrap_mean
from thbench.evaluation.protocol import Intervals
from thbench.evaluation.results import Result


@dataclass(frozen=True)
class Difference:
    """How far two results' values of a metric lie apart, over the clips that both have values for.

    Attributes:
        name: of the metric.
        unit: of the values.
        first: mean of the first result over these clips.
        second: mean of the second.
        value: mean over clips of first minus second.
        interval: bootstrap interval of ``value`` over clips, None with fewer than two.
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


def compare(first: Result, second: Result, how: Intervals) -> list[Difference]:
    """Paired differences of all metrics with values per clip, in the first result's order.

    Clips are paired by id and seed. Seeds of a clip are averaged before clips are drawn, for they
    are not independent. A metric without a clip in common is left out.

    Args:
        first: a result.
        second: another by the same protocol, which is not checked.
        how: confidence and draws.
    """
    return [found for name in first.metrics if (found := _difference(name, first, second, how))]


def _difference(name: str, first: Result, second: Result, how: Intervals) -> Difference | None:
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


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)
