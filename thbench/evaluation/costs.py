"""The cost of generated videos, averaged over the records beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from statistics import fmean

from thbench.core.types import Cost
from thbench.evaluation.results import CostSummary
from thbench.generation.writer import read_record


def summarize_costs(videos: Sequence[Path]) -> CostSummary | None:
    """Means of what the records beside the videos say; None where there are no records."""
    known = {f.name for f in fields(Cost)}
    records = [r for r in map(read_record, videos) if r and known <= r.get("cost", {}).keys()]
    timed = [r for r in records if r.get("warm")] or records
    if not timed:
        return None

    def mean(key: str) -> float:
        return fmean(float(r["cost"][key]) for r in timed)

    return CostSummary(
        seconds=mean("seconds"),
        first_frame=mean("first_frame"),
        frames=fmean(float(r["frames"]) for r in timed),
        depth=mean("depth"),
        calls=mean("calls"),
        evaluations=mean("evaluations"),
        hardware=" + ".join(sorted({str(r["hardware"]) for r in timed})),
        clips=len(timed),
    )
