"""A protocol's metrics, sorted by how they are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metrics.base import BenchMetric, ClipMetric


@dataclass(frozen=True)
class Selection:
    """The metrics that are measured, each in the protocol's order.

    Attributes:
        clips: with a value per clip.
        sets: of all clips together.
        clip_bins: with a value per clip and bin.
        set_bins: of all clips together, bin by bin, with their blocks in the protocol.
    """

    clips: Sequence[ClipMetric]
    sets: Sequence[BenchMetric]
    clip_bins: Sequence[ClipMetric]
    set_bins: Sequence[tuple[BenchMetric, Mapping[str, Any]]]

    @property
    def clip_needs(self) -> list[str]:
        """Features that the metrics with a value per clip read."""
        return needs_of([*self.clips, *self.clip_bins])

    @property
    def set_needs(self) -> list[str]:
        """Features that the metrics of all clips together read."""
        return needs_of([*self.sets, *(metric for metric, _ in self.set_bins)])

    @property
    def needs(self) -> list[str]:
        """Features that any of them reads."""
        return sorted({*self.clip_needs, *self.set_needs})


def select(
    metrics: Sequence[BenchMetric],
    followed: Iterable[tuple[BenchMetric, Mapping[str, Any]]],
    available: Callable[[BenchMetric], bool],
    reference_free: bool,
) -> Selection:
    """Those of a protocol's metrics that are measured.

    Args:
        metrics: the protocol's.
        followed: those that it follows over time, with their blocks.
        available: whether a metric can be measured.
        reference_free: without a reference no metric of sets is, for all of them compare two.
    """
    usable = [metric for metric in metrics if available(metric)]
    over_time = [(metric, block) for metric, block in followed if available(metric)]
    per_clip = [m for m in usable if isinstance(m, ClipMetric)]
    others = [m for m in usable if not isinstance(m, ClipMetric)]
    bins_of_sets = [(m, block) for m, block in over_time if not isinstance(m, ClipMetric)]
    return Selection(
        clips=per_clip,
        sets=[] if reference_free else others,
        clip_bins=[m for m, _ in over_time if isinstance(m, ClipMetric)],
        set_bins=[] if reference_free else bins_of_sets,
    )


def needs_of(metrics: Iterable[BenchMetric]) -> list[str]:
    """The features that metrics read, each once, sorted."""
    return sorted({need for metric in metrics for need in metric.needs})
