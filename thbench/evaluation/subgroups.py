"""Metric values within the clips that share a value of a column of the manifest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from metrics.base import BenchMetric, ClipMetric
from thbench.core.errors import UserError, did_you_mean
from thbench.core.types import Clip
from thbench.data import manifest
from thbench.evaluation.intervals import clip_interval
from thbench.evaluation.protocol import Intervals, Protocol
from thbench.evaluation.results import ClipRow, GroupValue, Result, Subgroups


def labels_of(root: Path, column: str) -> dict[str, str]:
    """What stands in a column of a data set's manifest, by clip id.

    Args:
        root: of the prepared data set.
        column: ``identity``, ``split`` or a key of the clips' ``extra``.

    Returns:
        Texts; clips without the column, or with null in it, are missing.

    Raises:
        UserError: no prepared data set, no such column, or one that holds lists or mappings.
    """
    columns = {clip.id: _columns(clip) for clip in manifest.read(root)}
    known = sorted({name for row in columns.values() for name in row})
    if column not in known:
        raise UserError(
            f"The manifest of {root} has no column '{column}': there are {', '.join(known)}."
            f"{did_you_mean(column, known)}"
        )
    found = {clip: row[column] for clip, row in columns.items() if row.get(column) is not None}
    if any(isinstance(value, list | dict) for value in found.values()):
        raise UserError(f"Column '{column}' of {root} holds lists or mappings: name another.")
    return {clip: str(value) for clip, value in found.items()}


def with_subgroups(
    result: Result, protocol: Protocol, column: str, labels: Mapping[str, str]
) -> Result:
    """A result with its metrics within each value of a column.

    Args:
        result: with its clips.
        protocol: by which it was scored.
        column: the column's name.
        labels: what stands in it, by clip id.
    """
    groups: dict[str, list[ClipRow]] = {}
    for row in result.per_clip:
        if row.id in labels:
            groups.setdefault(labels[row.id], []).append(row)
    measured = [m for m in protocol.build() if result.metrics[m.name].unavailable is None]
    per_clip = [m for m in measured if isinstance(m, ClipMetric)]
    values = {
        group: {m.name: _value(groups[group], m, protocol.intervals) for m in per_clip}
        for group in sorted(groups)
    }
    found = Subgroups(
        column=column,
        groups=values,
        clips={group: len(groups[group]) for group in sorted(groups)},
        without=sum(row.id not in labels for row in result.per_clip),
        left_out=tuple(m.name for m in measured if not isinstance(m, ClipMetric)),
    )
    return replace(result, by=found)


def _columns(clip: Clip) -> dict[str, Any]:
    return {**clip.extra, "identity": clip.identity, "split": clip.split}


def _value(rows: Sequence[ClipRow], metric: BenchMetric, how: Intervals) -> GroupValue:
    # A clip that could be read with own motion alone has no values of the other metrics.
    rows = [row for row in rows if metric.name in row.metrics]
    kept = [v for row in rows if (v := row.metrics[metric.name]) is not None]
    known = [v for row in rows if (v := row.reference.get(metric.name)) is not None]
    return GroupValue(_mean(kept), clip_interval(rows, metric, how), len(kept), _mean(known))


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return math.fsum(values) / len(values) if values else None
