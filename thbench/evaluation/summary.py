"""From measured clips to a result: metric values with intervals, curves over time, coverage."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from metrics.base import BenchMetric, ClipMetric
from metrics.extractors.base import Extractor
from thbench.evaluation import over_time
from thbench.evaluation.availability import Availability
from thbench.evaluation.clip_values import number
from thbench.evaluation.intervals import clip_interval, set_interval
from thbench.evaluation.protocol import Protocol, build_metric
from thbench.evaluation.results import ClipRow, Control, Curve, Damage, MetricValue, finite
from thbench.evaluation.selection import Selection
from thbench.evaluation.set_features import SetFeatures


@dataclass(frozen=True)
class Summary:
    """Sums up measured clips.

    Attributes:
        protocol: by which they were measured.
        availability: which of its metrics can be measured.
        extractors: by the name of their feature.
        rows: the clips' values.
        sets: the features of the same clips that metrics of sets need, in the same order.
        reference_free: the clips were measured without a reference.
        controls: with another clip's audio, by the metric's name.
    """

    protocol: Protocol
    availability: Availability
    extractors: Mapping[str, Extractor]
    rows: Sequence[ClipRow]
    sets: SetFeatures
    reference_free: bool = False
    controls: Mapping[str, Control] = field(default_factory=dict)

    def metric_values(self, metrics: Sequence[BenchMetric]) -> dict[str, MetricValue]:
        """The value of each metric over all clips, its interval, or why there is none.

        Args:
            metrics: the protocol's, in its order, which have taken in all clips.
        """
        return {m.name: self._metric_value(i, m) for i, m in enumerate(metrics)}

    def curves(self, selection: Selection, order: Iterable[str]) -> dict[str, Curve]:
        """Metric values over bins of frames, by the metric's name; those that have any.

        Args:
            selection: the metrics that were measured.
            order: the names of those that the protocol follows over time.
        """
        frames = self.protocol.over_time.frames
        found = {
            m.name: over_time.clip_curve(
                m, [[*map(number, row.over_time[m.name])] for row in self.rows], frames
            )
            for m in selection.clip_bins
        }
        lengths = [row.frames for row in self.rows]
        for metric, block in selection.set_bins:
            make = functools.partial(build_metric, block)
            found[metric.name] = over_time.set_curve(make, self.sets.clips, lengths, frames)
        return {name: curve for name in order if (curve := found.get(name)) is not None}

    def damage(self) -> Damage | None:
        """Damaged frames of all clips, None where there are none."""
        damaged = [row.damaged for row in self.rows if row.damaged]
        if not damaged:
            return None
        sides = 1 if self.reference_free else 2
        compared = sides * sum(row.frames for row in self.rows)
        return Damage(len(damaged), sum(sum(row.values()) for row in damaged), compared)

    def _metric_value(self, index: int, metric: BenchMetric) -> MetricValue:
        empty = MetricValue(None, metric.direction, unit=metric.unit, version=metric.version)
        reason = self.availability.reason(metric)
        if reason:
            return replace(empty, unavailable=reason)
        used = [e.fingerprint for name, e in self.extractors.items() if name in metric.needs]
        empty = replace(empty, extractors=tuple(used))
        if isinstance(metric, ClipMetric):
            found = self._of_clips(metric, empty)
        elif self.reference_free:
            return empty
        else:
            found = self._of_sets(index, metric, empty)
        notes = tuple(self.availability.cautions(metric))
        return replace(found, notes=notes, control=self.controls.get(metric.name))

    def _of_clips(self, metric: ClipMetric, empty: MetricValue) -> MetricValue:
        value = float(metric.compute())
        n = sum(row.metrics[metric.name] is not None for row in self.rows)
        # Without a reference, the videos measured are those that others are to come near to.
        is_reference = self.reference_free and metric.direction == "reference"
        return replace(
            empty,
            value=finite(value),
            interval=clip_interval(self.rows, metric, self.protocol.intervals),
            n=n,
            # Without a reference, a metric without any value is one that compares.
            missing=len(self.rows) - n if n or not self.reference_free else 0,
            reference=finite(value if is_reference else float(metric.compute_reference())),
        )

    def _of_sets(self, index: int, metric: BenchMetric, empty: MetricValue) -> MetricValue:
        value = float(metric.compute())
        make = functools.partial(build_metric, self.protocol.metrics[index])
        interval, left_out = set_interval(value, self.sets, metric, make, self.protocol.intervals)
        return replace(
            empty, value=finite(value), interval=interval, left_out=left_out, n=len(self.rows)
        )
