"""Metric values of single clips: measured, and kept on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metrics.base import ClipMetric, FrameMetric, FrameValues, by_frame
from thbench.config import content_hash
from thbench.core.files import write_atomic
from thbench.data.media import video
from thbench.evaluation import over_time
from thbench.evaluation.results import finite

Features = Mapping[str, Any]
"""By name: tensors, and frames as ``metrics.frames.Frames``."""

VALUES_VERSION = 3
"""Of the files of values per clip; raised with ``features.READER_VERSION`` too."""


@dataclass(frozen=True)
class ClipValues:
    """Metric values of one clip.

    Attributes:
        values: by metric, the generated clip's value and, for direction ``reference``, the
            reference clip's own; NaN where there is none.
        bins: by metric, a value per bin of frames, NaN where there is none.
    """

    values: Mapping[str, tuple[float, float]]
    bins: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class ClipMeter:
    """Measures clips.

    Attributes:
        metrics: those of whole clips.
        binned: those within bins.
        bin: frames of a bin.
    """

    metrics: Sequence[ClipMetric]
    binned: Sequence[ClipMetric]
    bin: int

    def measure(self, generated: Features, reference: Features | None, length: int) -> ClipValues:
        """The values of one clip, all metrics of pixels in one pass over its frames.

        Args:
            generated: its features.
            reference: those of the reference clip, or None.
            length: frames of both.
        """
        per_frame = self._per_frame(generated, reference)
        values = {
            m.name: _of_frames(m, per_frame[m.name])
            if isinstance(m, FrameMetric)
            else m.measure_clip(generated, reference)
            for m in self.metrics
        }
        others = [m for m in self.binned if m.name not in per_frame]
        bins = over_time.measure(others, generated, reference, length, self.bin)
        for m in self.binned:
            if isinstance(m, FrameMetric):
                frames = per_frame[m.name].values
                bins[m.name] = over_time.bin_values(m, frames, length, self.bin)
        return ClipValues(values, {m.name: bins[m.name] for m in self.binned})

    def _per_frame(self, generated: Features, reference: Features | None) -> dict[str, FrameValues]:
        metrics = {m.name: m for m in (*self.metrics, *self.binned) if isinstance(m, FrameMetric)}
        found = by_frame(list(metrics.values()), generated, reference)
        return dict(zip(metrics, found, strict=True))


class ValueCache:
    """Keeps the values of clips, a file for each pair of videos.

    Args:
        folder: values are kept in its subfolder ``values``.
        meter: names the metrics whose values are kept.
        protocol_hash: of the protocol.
        fingerprints: of the extractors.
        reference_free: the generated videos are measured without a reference.
    """

    def __init__(
        self,
        folder: Path,
        meter: ClipMeter,
        protocol_hash: str,
        fingerprints: Iterable[str],
        reference_free: bool,
    ) -> None:
        self._folder = folder / "values"
        self._meter = meter
        names = [m.name for m in (*meter.metrics, *meter.binned)]
        reader = [reference_free, video.decoder()]
        determined_by = [VALUES_VERSION, protocol_hash, sorted(fingerprints), names, *reader]
        self._key = content_hash(determined_by)

    def key(self, digests: Sequence[str], length: int) -> str:
        """Names the values of the first ``length`` frames of videos with these SHA-256."""
        return content_hash([*digests, self._key, length], 32)

    def read(self, key: str) -> ClipValues | None:
        """None where there is no such file, or a damaged one, which is then written anew."""
        try:
            found = json.loads(self._path(key).read_text())
            values = {m.name: found["figures"][m.name] for m in self._meter.metrics}
            bins = {m.name: found["bins"][m.name] for m in self._meter.binned}
            return ClipValues(
                {name: (number(a), number(b)) for name, (a, b) in values.items()},
                {name: [*map(number, row)] for name, row in bins.items()},
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def write(self, key: str, measured: ClipValues) -> None:
        """Keep values.

        Raises:
            DiskError: there is no room, or no permission.
        """
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = {
            "figures": {k: [*map(finite, pair)] for k, pair in measured.values.items()},
            "bins": {k: [*map(finite, row)] for k, row in measured.bins.items()},
        }
        write_atomic(path, json.dumps(plain))

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


def number(value: float | None) -> float:
    """The value, NaN for None: the inverse of ``results.finite``."""
    return math.nan if value is None else float(value)


def _of_frames(metric: FrameMetric, found: FrameValues) -> tuple[float, float]:
    return metric.clip_value(found.values), metric.clip_value(found.references)
