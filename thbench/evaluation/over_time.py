"""Metric values over bins of frames: the curves that Degradation Rate sums up in two numbers.

A metric of single clips is measured within each bin, on the frames of generated and reference clip
there. A metric of sets compares the bin's frames of all clips with all frames of the reference, so
that all bins are compared with the same (Cheng et al. 2025, section 4.1, for its first and last
bin).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from torch import Tensor

from metrics.base import BenchMetric, ClipMetric, FrameMetric, part_of
from thbench.core.errors import UserError
from thbench.evaluation.results import Curve, finite

Features = Mapping[str, Tensor]
Clips = Sequence[tuple[str, Features, Features | None]]
"""Id, features of the generated video, and of the reference where it has not been given yet."""


def bins(length: int, frames: int) -> Iterator[slice]:
    """Whole bins of ``frames`` frames in a clip of ``length``; what is left over is in none."""
    for start in range(0, length - frames + 1, frames):
        yield slice(start, start + frames)


def cut(features: Features, needs: Iterable[str], part: slice, length: int) -> dict[str, Tensor]:
    """A part of some of a clip's features.

    Args:
        features: of a clip of ``length`` frames.
        needs: names of those wanted.
        part: frames to keep.
        length: frames of the clip.

    Raises:
        UserError: a feature has no row per frame.
    """
    return {name: _cut(name, features[name], part, length) for name in needs}


def measure(
    metrics: Sequence[ClipMetric],
    generated: Features,
    reference: Features | None,
    length: int,
    frames: int,
) -> dict[str, list[float]]:
    """Values of one clip in each of its bins.

    Args:
        metrics: of single clips, no ``FrameMetric``.
        generated: features of the generated clip.
        reference: those of the reference clip, or None.
        length: frames of both.
        frames: of a bin.

    Returns:
        By the metric's name, a value per bin, NaN where it is not defined.

    Raises:
        UserError: a feature has no row per frame.
    """
    values: dict[str, list[float]] = {metric.name: [] for metric in metrics}
    for part, metric in itertools.product(bins(length, frames), metrics):
        here = cut(generated, metric.needs, part, length)
        there = None if reference is None else cut(reference, metric.needs, part, length)
        values[metric.name].append(metric.measure(here, there))
    return values


def bin_values(metric: FrameMetric, values: Tensor, length: int, frames: int) -> list[float]:
    """Values of one clip in each of its bins, of a metric of pixels.

    Args:
        metric: that has the values. No frame looks back beyond its bin.
        values: of each frame but the first ``metric.before``.
        length: frames of the clip.
        frames: of a bin.

    Returns:
        A value per bin, NaN where no frame has one.
    """
    return [
        metric.clip_value(values[part.start : part.stop - metric.before])
        for part in bins(length, frames)
    ]


def clip_curve(metric: BenchMetric, rows: Iterable[Sequence[float]], frames: int) -> Curve | None:
    """The curve of a metric of single clips: in each bin, the mean over clips with a value there.

    Args:
        metric: names direction and unit.
        rows: of each clip, its values by bin, NaN where it has none.
        frames: of a bin.

    Returns:
        The curve; None where no clip has a value.
    """
    held = list(rows)
    columns = [
        [row[k] for row in held if k < len(row) and not math.isnan(row[k])]
        for k in range(max(map(len, held), default=0))
    ]
    means = [math.fsum(c) / len(c) if c else math.nan for c in columns]
    return _curve(metric, means, [len(c) for c in columns], frames)


def set_curve(
    make: Callable[[], BenchMetric], clips: Clips, lengths: Sequence[int], frames: int
) -> Curve | None:
    """The curve of a metric of sets.

    Args:
        make: a new metric, for each bin.
        clips: features that it needs.
        lengths: frames of each.
        frames: of a bin.

    Returns:
        The curve; None where no bin has a value.
    """
    values, counts = [], []
    for part in bins(max(lengths, default=0), frames):
        metric, count = make(), 0
        for (_, generated, reference), length in zip(clips, lengths, strict=True):
            here = slice(0, 0) if part.stop > length else part
            metric.update(cut(generated, metric.needs, here, length), reference)
            count += part.stop <= length
        values.append(float(metric.compute()))
        counts.append(count)
    return _curve(make(), values, counts, frames)


def _curve(
    metric: BenchMetric, values: Sequence[float], clips: Sequence[int], frames: int
) -> Curve | None:
    shown = tuple(map(finite, values))
    if not any(value is not None for value in shown):
        return None
    return Curve(frames, shown, tuple(clips), metric.direction, metric.unit)


def _cut(name: str, value: Tensor, part: slice, length: int) -> Tensor:
    try:
        return part_of(name, value, part, length)
    except ValueError as error:
        raise UserError(
            f"{error}: metrics that read it have no curve over time. Take them out of the"
            " protocol's over_time."
        ) from error
