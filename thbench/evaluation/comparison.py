"""Two results of the same clips compared, metric by metric and clip by clip.

Means over clips are paired by clip, values of sets (Frechet distances, DR) by the groups of clips
that are left out in turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from metrics.intervals import Interval, bootstrap_mean, jackknife
from thbench.evaluation.protocol import Intervals
from thbench.evaluation.results import Result


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
