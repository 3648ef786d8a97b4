"""Takes in pairs of videos one by one, and knows every figure in the end.

Whatever is costly is kept on disk: features by video, values by pair and protocol.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from metrics.base import BenchMetric, ClipMetric, FrameMetric, by_frame, frame_mean
from metrics.intervals import bootstrap_mean, jackknife
from metrics.weights import WeightsMissing, WeightsUnreadable
from thbench.config import content_hash
from thbench.core.errors import UserError
from thbench.core.files import DiskError, write_atomic
from thbench.data.media.video import decoder
from thbench.evaluation import over_time
from thbench.evaluation.features import FeatureStore, Video, build_extractors, domain_of, sizes_of
from thbench.evaluation.pairing import Pair
from thbench.evaluation.protocol import Protocol, build_metric
from thbench.evaluation.results import Coverage, Curve, Damage, MetricValue, ProtocolRef, finite

Features = Mapping[str, Any]  # tensors, and pictures as ``Frames``
MOTION = {"pose": "head motion", "eyes": "blinks"}
VALUES_VERSION = 3
"""Of the files that keep values by pair; raised with ``features.READER_VERSION`` too."""
SIDES = ("generated", "reference")
MOST_DAMAGED = 0.5
"""A clip with a larger share of damaged frames is not scored: its figures are of the damage."""


@dataclass(frozen=True)
class Values:
    """What figures per clip say of one clip.

    Attributes:
        figures: value and the reference's own (NaN where there is none), by metric.
        bins: values over time, by metric.
    """

    figures: Mapping[str, tuple[float, float]]
    bins: Mapping[str, Sequence[float]]


@dataclass
class Scorer:
    """Takes in pairs one by one and knows the figures in the end.

    ``beyond``: what becomes of figures of experts of drawn faces: they are taken (""), as on such
    faces; taken and noted (``noted``), or ``refused``, as on recordings of real ones.
    ``reference_free``: the pairs' generated videos are measured without a reference. ``follows``:
    which of the reference's ``pose`` and ``eyes`` the generated videos follow.
    """

    protocol: Protocol
    cache: Path
    device: torch.device | str = "cpu"
    reference_free: bool = False
    follows: Collection[str] = ()
    beyond: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    shorter: int = 0

    def __post_init__(self) -> None:
        self.metrics: list[BenchMetric] = self.protocol.build()
        self.followed: list[BenchMetric] = self.protocol.over_time.build()
        extractors, self.missing = build_extractors([*self.metrics, *self.followed], self.device)
        self.unprepared = dict(self._unprepared())
        usable = [m for m in self.metrics if not self._why_not(m)]
        self.per_clip = [m for m in usable if isinstance(m, ClipMetric)]
        # All of them compare two sets.
        self.over_sets = [
            m for m in usable if not isinstance(m, ClipMetric) and not self.reference_free
        ]
        specs = zip(self.followed, self.protocol.over_time.metrics, strict=True)
        followed = [(m, spec) for m, spec in specs if not self._why_not(m)]
        self.bins_per_clip = [m for m, _ in followed if isinstance(m, ClipMetric)]
        self.bins_over_sets = [
            (m, spec)
            for m, spec in followed
            if not isinstance(m, ClipMetric) and not self.reference_free
        ]
        self.set_needs = _needs([*self.over_sets, *(m for m, _ in self.bins_over_sets)])
        # Features of set metrics, by clip, for leaving clips out and for bins afterwards.
        self.sets: list[tuple[str, Features, Features | None]] = []
        self.store = FeatureStore(
            extractors,
            self.protocol.size,
            self.protocol.frames,
            self.cache,
            sizes=sizes_of(_needs([*usable, *self.bins_per_clip])),
        )
        fingerprints = sorted(e.fingerprint for e in extractors.values())
        names = [m.name for m in (*self.per_clip, *self.bins_per_clip)]
        self.values_key = content_hash(
            [
                VALUES_VERSION,
                self.protocol.hash,
                fingerprints,
                names,
                self.reference_free,
                decoder(),
            ]
        )

    def add_all(self, pairs: Sequence[Pair], progress: bool) -> None:
        """Score all pairs.

        Raises:
            UserError: none of them can be scored.
        """
        for pair in tqdm(pairs, "score", unit="clip", disable=None if progress else True):
            self.add(pair)
        if not self.rows:
            reason = next(iter(self.unreadable.values()))
            raise UserError(f"None of the {len(pairs)} pairs could be scored; the first: {reason}")

    def add(self, pair: Pair) -> None:
        """Score a pair, or note why it cannot be.

        Raises:
            DiskError: what is kept cannot be written, which says nothing of the pair.
        """
        try:
            paths = [pair.generated] if self.reference_free else [pair.generated, pair.reference]
            videos = [self.store.open(path) for path in paths]
            lengths = [self.store.length(video) for video in videos]
            length = min(lengths)
            damaged = self._damaged(videos, length)
            key = content_hash([*(v.digest for v in videos), self.values_key, length], 32)
            values = self._known(key)
            per_clip = () if values else _needs([*self.per_clip, *self.bins_per_clip])
            wanted = sorted({*self.set_needs, *per_clip})
            mine, *rest = (self.store.features(video, wanted, length) for video in videos)
            theirs = rest[0] if rest else None
            measured = None if values else self._measure(mine, theirs, length)
        except DiskError:
            raise
        except UserError as error:
            self.unreadable[pair.name] = _impersonal(str(error), pair)
            return
        if measured is not None:
            self._keep(key, measured)
        values = values or measured
        assert values is not None
        self.shorter += len(set(lengths)) > 1
        self._take_in(pair, values.figures, mine, theirs)
        self.rows.append(
            {
                "id": pair.id,
                "seed": pair.seed,
                "frames": length,
                "lengths": lengths,
                "metrics": {name: finite(value) for name, (value, _) in values.figures.items()},
                "reference": {
                    m.name: finite(values.figures[m.name][1])
                    for m in self.per_clip
                    if m.direction == "reference"
                },
                "over_time": {name: [*map(finite, row)] for name, row in values.bins.items()},
                **({"damaged": damaged} if damaged else {}),
            }
        )

    def _damaged(self, videos: Sequence[Video], length: int) -> dict[str, int]:
        """Damaged frames among the first ``length``, by side, where there are any.

        Raises:
            UserError: they are more than ``MOST_DAMAGED`` of a video.
        """
        found = {}
        for side, video in zip(SIDES[-len(videos) :], videos, strict=True):
            if count := self.store.damaged(video, length):
                found[side] = count
            if count > MOST_DAMAGED * length:
                raise UserError(
                    f"{video.path}: {count} of {length} frames are damaged: make or copy it again."
                )
        return found

    def _measure(self, mine: Features, theirs: Features | None, length: int) -> Values:
        of_pixels = {
            m.name: m for m in (*self.per_clip, *self.bins_per_clip) if isinstance(m, FrameMetric)
        }
        found = by_frame(list(of_pixels.values()), mine, theirs)
        seen = dict(zip(of_pixels, found, strict=True))
        figures = {
            m.name: (frame_mean(seen[m.name].values), frame_mean(seen[m.name].references))
            if m.name in seen
            else m.measure_clip(mine, theirs)
            for m in self.per_clip
        }
        others = [m for m in self.bins_per_clip if m.name not in seen]
        bins = over_time.measure(others, mine, theirs, length, self.bin) | {
            name: over_time.bin_means(seen[name].values, m.before, length, self.bin)
            for name, m in of_pixels.items()
        }
        return Values(figures, {m.name: bins[m.name] for m in self.bins_per_clip})

    @property
    def bin(self) -> int:
        """Frames of a bin of the figures over time."""
        return self.protocol.over_time.frames

    def figures(self) -> dict[str, MetricValue]:
        """The figure of each metric, in the protocol's order."""
        return {m.name: self._figure(i, m) for i, m in enumerate(self.metrics)}

    def curves(self) -> dict[str, Curve]:
        """Figures over time, those that have any."""
        rows = [row["over_time"] for row in self.rows]
        found = {
            m.name: over_time.clip_curve(m, [[*map(_number, r[m.name])] for r in rows], self.bin)
            for m in self.bins_per_clip
        }
        lengths = [row["frames"] for row in self.rows]
        for metric, spec in self.bins_over_sets:
            make = functools.partial(build_metric, spec)
            found[metric.name] = over_time.set_curve(make, self.sets, lengths, self.bin)
        return {m.name: c for m in self.followed if (c := found.get(m.name)) is not None}

    def outcome(
        self, expected: int, unpaired: Sequence[str] = (), absent: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The fields of ``Result`` that scoring fills."""
        return {
            "protocol": ProtocolRef(self.protocol.name, self.protocol.hash),
            "metrics": self.figures(),
            "over_time": self.curves(),
            "over_time_unavailable": {
                m.name: reason for m in self.followed if (reason := self._why_not(m))
            },
            "coverage": Coverage(
                expected=expected,
                scored=len(self.rows),
                shorter=self.shorter,
                unpaired=tuple(unpaired),
                absent=tuple(absent),
                unreadable=self.unreadable,
                damaged=self._damage(),
            ),
            "per_clip": tuple(self.rows),
        }

    def _damage(self) -> Damage | None:
        rows = [row["damaged"] for row in self.rows if "damaged" in row]
        if not rows:
            return None
        sides = 1 if self.reference_free else len(SIDES)
        of = sides * sum(row["frames"] for row in self.rows)
        return Damage(len(rows), sum(sum(row.values()) for row in rows), of)

    def _take_in(
        self,
        pair: Pair,
        values: Mapping[str, tuple[float, float]],
        mine: Features,
        theirs: Features | None,
    ) -> None:
        for clip_metric in self.per_clip:
            clip_metric.record(*values[clip_metric.name])
        # With several seeds the reference clip still counts once.
        seen = any(clip == pair.id for clip, _, _ in self.sets[-1:])
        new = None if seen or theirs is None else {k: theirs[k] for k in self.set_needs}
        kept = {k: mine[k] for k in self.set_needs}, new
        for metric in self.over_sets:
            metric.update(*kept)
        self.sets.append((pair.id, *kept))

    def _figure(self, index: int, metric: BenchMetric) -> MetricValue:
        empty = MetricValue(None, metric.direction, unit=metric.unit, version=metric.version)
        reason = self._why_not(metric)
        if reason:
            return replace(empty, unavailable=reason)
        extractors = [e for name, e in self.store.extractors.items() if name in metric.needs]
        empty = replace(empty, extractors=tuple(e.fingerprint for e in extractors))
        if self.reference_free and not isinstance(metric, ClipMetric):
            return empty
        value = float(metric.compute())
        n, reference = len(self.rows), None
        if isinstance(metric, ClipMetric):
            n = sum(row["metrics"][metric.name] is not None for row in self.rows)
            own = self.reference_free and metric.direction == "reference"
            reference = finite(value if own else float(metric.compute_reference()))
        return replace(
            empty,
            value=finite(value),
            interval=self._interval(index, metric, value),
            n=n,
            # Alone, a metric without any value is one that compares.
            missing=len(self.rows) - n if n or not self.reference_free else 0,
            reference=reference,
            notes=tuple(self._cautions(metric)),
        )

    def _interval(
        self, index: int, metric: BenchMetric, value: float
    ) -> tuple[float, float] | None:
        how = self.protocol.intervals
        if isinstance(metric, ClipMetric):
            found = bootstrap_mean(self._means(metric.name), how.confidence, how.draws)
        else:
            found = jackknife(value, list(self._left_out(index)), how.confidence)
        if found is None:
            return None
        low, high = metric.bounds
        return max(low, found[0]), min(high, found[1])

    def _means(self, name: str) -> list[float]:
        """A value per clip id: clips are drawn, their seeds are not independent."""
        by_id: dict[str, list[float]] = {}
        for row in self.rows:
            value = row["metrics"][name]
            if value is not None:
                by_id.setdefault(row["id"], []).append(value)
        return [math.fsum(values) / len(values) for values in by_id.values()]

    def _left_out(self, index: int) -> Iterator[float]:
        """The figure without each group of clips in turn."""
        ids = sorted({clip for clip, _, _ in self.sets})
        groups = min(self.protocol.intervals.groups, len(ids))
        for group in range(groups):
            out = set(ids[group::groups])
            metric = build_metric(self.protocol.metrics[index])
            for clip, mine, theirs in self.sets:
                if clip not in out:
                    metric.update(mine, theirs)
            yield float(metric.compute()) if metric.update_count else math.nan

    def _cautions(self, metric: BenchMetric) -> Iterator[str]:
        if metric.own_motion in self.follows:
            yield f"of the reference's own {MOTION[metric.own_motion]}, which the clips follow"
        if self.beyond and domain_of(metric) == "synthetic":
            yield "by an expert that knows drawn faces only, on recordings of real ones"
        yield from metric.notes()

    def _why_not(self, metric: BenchMetric) -> str | None:
        if metric.own_motion in self.follows and self.protocol.own_motion != "noted":
            what = MOTION[metric.own_motion]
            return (
                f"the clips follow the reference's {what}, so this would be the reference's own"
                " figure: take a protocol with `pose: generated` or `own_motion: generated`"
            )
        if self.beyond == "refused" and domain_of(metric) == "synthetic":
            return (
                "its expert knows drawn faces only, and these are recordings: name the protocol to"
                " measure all the same"
            )
        reasons = [self.missing[need] for need in metric.needs if need in self.missing]
        return reasons[0] if reasons else self.unprepared.get(metric.name)

    def _unprepared(self) -> Iterator[tuple[str, str]]:
        for metric in (*self.metrics, *self.followed):
            try:
                metric.prepare(self.device)
            except (WeightsMissing, WeightsUnreadable) as error:
                yield metric.name, str(error)

    def _known(self, key: str) -> Values | None:
        """None where there is no such file, or a damaged one, which is then made anew."""
        try:
            found = json.loads(self._values_path(key).read_text())
            figures = {m.name: found["figures"][m.name] for m in self.per_clip}
            bins = {m.name: found["bins"][m.name] for m in self.bins_per_clip}
            return Values(
                {name: (_number(a), _number(b)) for name, (a, b) in figures.items()},
                {name: [*map(_number, row)] for name, row in bins.items()},
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def _keep(self, key: str, values: Values) -> None:
        path = self._values_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = {
            "figures": {k: [*map(finite, pair)] for k, pair in values.figures.items()},
            "bins": {k: [*map(finite, row)] for k, row in values.bins.items()},
        }
        write_atomic(path, json.dumps(plain))

    def _values_path(self, key: str) -> Path:
        return self.cache / "values" / key[:2] / f"{key}.json"


def _impersonal(message: str, pair: Pair) -> str:
    """Without the machine's paths, since results are published."""
    message = message.replace(str(pair.generated), "the video")
    return message.replace(str(pair.reference), "its reference")


def _needs(metrics: Iterable[BenchMetric]) -> Sequence[str]:
    return sorted({need for metric in metrics for need in metric.needs})


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
