"""Which metrics of a protocol can be measured on given videos, and what is missing for the rest."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from metrics.base import BenchMetric
from metrics.weights import WeightsMissing, WeightsUnreadable
from thbench.evaluation.features import domain_of

MOTION = {"pose": "head motion", "eyes": "blinks"}


@dataclass(frozen=True)
class Availability:
    """Why metrics cannot be measured, and what must be said beside the values of those that can.

    Attributes:
        missing: features that cannot be extracted, with the remedy.
        unprepared: names of metrics whose own networks cannot be loaded, with the remedy.
        follows: which of the reference's ``pose`` and ``eyes`` the generated videos follow.
        own_motion: as in ``Protocol``.
        out_of_domain: what becomes of metrics whose network was trained on synthetic faces only:
            they are measured (``""``), since the videos show such faces; measured with a note
            (``"noted"``); or unavailable (``"refused"``).
    """

    missing: Mapping[str, str] = field(default_factory=dict)
    unprepared: Mapping[str, str] = field(default_factory=dict)
    follows: Collection[str] = ()
    own_motion: str = "unavailable"
    out_of_domain: str = ""

    def reason(self, metric: BenchMetric) -> str | None:
        """Why the metric cannot be measured and how to get it; None where it can."""
        if metric.own_motion in self.follows and self.own_motion != "noted":
            what = MOTION[metric.own_motion]
            return (
                f"the clips follow the reference's {what}, so this would be the reference's own"
                " figure: take a protocol with `pose: generated` or `own_motion: generated`"
            )
        if self.out_of_domain == "refused" and domain_of(metric) == "synthetic":
            return (
                "its expert knows drawn faces only, and these are recordings: name the protocol to"
                " measure all the same"
            )
        reasons = [self.missing[need] for need in metric.needs if need in self.missing]
        return reasons[0] if reasons else self.unprepared.get(metric.name)

    def has(self, metric: BenchMetric) -> bool:
        """Whether the metric can be measured."""
        return self.reason(metric) is None

    def cautions(self, metric: BenchMetric) -> Iterator[str]:
        """Notes on the value of a metric that was measured, the metric's own ones last."""
        if metric.own_motion in self.follows:
            yield f"of the reference's own {MOTION[metric.own_motion]}, which the clips follow"
        if self.out_of_domain and domain_of(metric) == "synthetic":
            yield "by an expert that knows drawn faces only, on recordings of real ones"
        yield from metric.notes()


def unprepared(metrics: Sequence[BenchMetric], device: torch.device | str) -> dict[str, str]:
    """Load the networks that metrics run themselves.

    Returns:
        The names of metrics whose weights are missing or unreadable, with the remedy.
    """
    found = {}
    for metric in metrics:
        try:
            metric.prepare(device)
        except (WeightsMissing, WeightsUnreadable) as error:
            found[metric.name] = str(error)
    return found
