"""Confidence intervals of metric values, as a protocol wants them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from metrics.base import BenchMetric
from metrics.intervals import Interval, bootstrap_mean, jackknife
from thbench.evaluation.protocol import Intervals
from thbench.evaluation.results import ClipRow
from thbench.evaluation.set_features import SetFeatures


def clip_interval(rows: Sequence[ClipRow], metric: BenchMetric, how: Intervals) -> Interval | None:
    """Bootstrap interval of the mean over clips, within the metric's bounds.

    Args:
        rows: with the metric's values.
        metric: of single clips.
        how: the protocol's.

    Returns:
        The interval; None with fewer than two clips that have a value.
    """
    return _bounded(
        bootstrap_mean(clip_means(rows, metric.name), how.confidence, how.draws), metric
    )


def set_interval(
    value: float,
    sets: SetFeatures,
    metric: BenchMetric,
    make: Callable[[], BenchMetric],
    how: Intervals,
) -> tuple[Interval | None, tuple[float, ...]]:
    """Jackknife interval of a metric of sets, over groups of clips, within the metric's bounds.

    Args:
        value: of all clips.
        sets: the clips.
        metric: that has the value.
        make: a new metric of the same options, without any clip.
        how: the protocol's.

    Returns:
        The interval, and the values without each group that it comes from; None and nothing with
        fewer than three groups, or where a value is not finite.
    """
    left_out = tuple(sets.leave_out(make, how.groups))
    interval = _bounded(jackknife(value, left_out, how.confidence), metric)
    return interval, left_out if interval else ()


def clip_means(rows: Sequence[ClipRow], name: str) -> list[float]:
    """A value per clip id: clips are drawn, their seeds are not independent."""
    by_id: dict[str, list[float]] = {}
    for row in rows:
        value = row.metrics[name]
        if value is not None:
            by_id.setdefault(row.id, []).append(value)
    return [math.fsum(values) / len(values) for values in by_id.values()]


def _bounded(interval: Interval | None, metric: BenchMetric) -> Interval | None:
    if interval is None:
        return None
    low, high = metric.bounds
    return max(low, interval[0]), min(high, interval[1])
