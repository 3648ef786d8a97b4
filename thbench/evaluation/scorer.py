"""Takes in pairs of videos one by one, and gives the metric values of all of them in the end.

Whatever is costly is kept on disk: features by video, values by pair and protocol.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from metrics.base import BenchMetric, ClipMetric
from thbench.core.errors import UserError
from thbench.core.files import DiskError
from thbench.evaluation import encodings
from thbench.evaluation.availability import Availability, unprepared
from thbench.evaluation.clip_values import ClipMeter, ClipValues, Features, ValueCache
from thbench.evaluation.control import AudioControl
from thbench.evaluation.features import FeatureStore, Video, build_extractors, sizes_of
from thbench.evaluation.pairing import Pair
from thbench.evaluation.protocol import Protocol
from thbench.evaluation.results import (
    ClipRow,
    Coverage,
    Curve,
    MetricValue,
    ProtocolRef,
    finite,
)
from thbench.evaluation.selection import needs_of, select
from thbench.evaluation.set_features import SetFeatures
from thbench.evaluation.summary import Summary

SIDES = ("generated", "reference")
MAX_DAMAGED = 0.5
"""A clip with a larger share of damaged frames is not scored: its values would be of the damage."""


@dataclass(frozen=True)
class Outcome:
    """The fields of ``Result`` that scoring fills, by their names."""

    protocol: ProtocolRef
    metrics: dict[str, MetricValue]
    over_time: dict[str, Curve]
    over_time_unavailable: dict[str, str]
    coverage: Coverage
    per_clip: tuple[ClipRow, ...]


@dataclass(frozen=True)
class _MeasuredPair:
    """Of a pair its values, the lengths of both videos, damaged frames by side, and features."""

    values: ClipValues
    lengths: tuple[int, ...]
    damaged: dict[str, int]
    generated: Features
    reference: Features | None


@dataclass
class Scorer:
    """Scores pairs of videos.

    Attributes:
        protocol: how.
        cache: the folder of what is kept.
        device: where extractors run.
        reference_free: the pairs' generated videos are measured without a reference.
        follows: which of the reference's ``pose`` and ``eyes`` the generated videos follow.
        out_of_domain: as in ``Availability``.
        identities: who is seen, by clip id; empty where that is not known.
        rows: the values of each clip that was scored.
        unreadable: why pairs were left out, by the pair's name.
        shorter: pairs of different length that were scored.
    """

    protocol: Protocol
    cache: Path
    device: torch.device | str = "cpu"
    reference_free: bool = False
    follows: Collection[str] = ()
    out_of_domain: str = ""
    identities: Mapping[str, str] = field(default_factory=dict)
    rows: list[ClipRow] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    shorter: int = 0

    def __post_init__(self) -> None:
        self.metrics: list[BenchMetric] = self.protocol.build()
        self.followed: list[BenchMetric] = self.protocol.over_time.build()
        extractors, missing = build_extractors([*self.metrics, *self.followed], self.device)
        self.availability = Availability(
            missing=missing,
            unprepared=unprepared([*self.metrics, *self.followed], self.device),
            follows=self.follows,
            own_motion=self.protocol.own_motion,
            out_of_domain=self.out_of_domain,
        )
        followed = zip(self.followed, self.protocol.over_time.metrics, strict=True)
        self.selection = select(self.metrics, followed, self.availability.has, self.reference_free)
        self.sets = SetFeatures(self.selection.set_needs)
        self.store = FeatureStore(
            extractors,
            self.protocol.size,
            self.protocol.frames,
            self.cache,
            sizes=sizes_of(self.selection.needs),
        )
        self.meter = ClipMeter(
            self.selection.clips, self.selection.clip_bins, self.protocol.over_time.frames
        )
        self.control = AudioControl(self._controlled(), self.identities)
        self.scored: list[Pair] = []
        fingerprints = [e.fingerprint for e in extractors.values()]
        self.values = ValueCache(
            self.cache, self.meter, self.protocol.hash, fingerprints, self.reference_free
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
        if self.control.metrics:
            self._exchange_audio(progress)

    def add(self, pair: Pair) -> None:
        """Score a pair, or list it with the reason why it cannot be.

        Raises:
            DiskError: what is kept cannot be written; the pair is not to blame.
        """
        try:
            measured = self._measure(pair)
        except DiskError:
            raise
        except UserError as error:
            self.unreadable[pair.name] = _without_paths(str(error), pair)
        else:
            self._take_in(pair, measured)

    def metric_values(self) -> dict[str, MetricValue]:
        """The value of each metric, in the protocol's order."""
        return self._summary().metric_values(self.metrics)

    def outcome(
        self, expected: int, unpaired: Sequence[str] = (), absent: Sequence[str] = ()
    ) -> Outcome:
        """What was found.

        Args:
            expected: clips of the reference.
            unpaired: names of generated videos without a reference.
            absent: ids of reference clips without a generated video.
        """
        summary = self._summary()
        reasons = {m.name: self.availability.reason(m) for m in self.followed}
        return Outcome(
            protocol=ProtocolRef(self.protocol.name, self.protocol.hash),
            metrics=summary.metric_values(self.metrics),
            over_time=summary.curves(self.selection, [m.name for m in self.followed]),
            over_time_unavailable={name: reason for name, reason in reasons.items() if reason},
            coverage=Coverage(
                expected=expected,
                scored=len(self.rows),
                shorter=self.shorter,
                unpaired=tuple(unpaired),
                absent=tuple(absent),
                unreadable=self.unreadable,
                damaged=summary.damage(),
                encodings=encodings.of_videos(self._videos()),
            ),
            per_clip=tuple(self.rows),
        )

    def _summary(self) -> Summary:
        return Summary(
            self.protocol,
            self.availability,
            self.store.extractors,
            self.rows,
            self.sets,
            self.reference_free,
            self.control.controls(),
        )

    def _videos(self) -> dict[str, list[Path]]:
        """The videos that were scored, by side."""
        reference = [pair.reference for pair in self.scored]
        if self.reference_free:
            return {"reference": reference}
        return {"generated": [pair.generated for pair in self.scored], "reference": reference}

    def _controlled(self) -> list[ClipMetric]:
        """Those of the metrics measured that the protocol's ``control`` names."""
        blocks = zip(self.metrics, self.protocol.metrics, strict=True)
        names = {m.name for m, block in blocks if block["metric"] in self.protocol.control}
        return [m for m in self.selection.clips if m.name in names]

    def _exchange_audio(self, progress: bool) -> None:
        """Measure the clips that were scored with another clip's audio.

        Features come from where they are kept, so that no frame is decoded again.
        """
        needs = needs_of(self.control.metrics)
        rows = tuple(self.rows)

        def load(place: int) -> Features:
            video = self.store.open(self.scored[place].generated)
            return self.store.features(video, needs, rows[place].frames)

        made = self.control.measure(rows, load)
        hidden = None if progress else True
        self.rows[:] = tqdm(made, "control", len(rows), unit="clip", disable=hidden)

    def _measure(self, pair: Pair) -> _MeasuredPair:
        """The values of a pair, from the cache where they are known.

        Raises:
            UserError: the pair cannot be scored, or values cannot be written.
        """
        paths = [pair.generated] if self.reference_free else [pair.generated, pair.reference]
        videos = [self.store.open(path) for path in paths]
        lengths = [self.store.length(video) for video in videos]
        length = min(lengths)
        damaged = self._damaged(videos, length)
        key = self.values.key([video.digest for video in videos], length)
        values = self.values.read(key)
        needs = {*self.selection.set_needs, *(() if values else self.selection.clip_needs)}
        generated, *rest = (self.store.features(v, sorted(needs), length) for v in videos)
        reference = rest[0] if rest else None
        if values is None:
            values = self.meter.measure(generated, reference, length)
            self.values.write(key, values)
        return _MeasuredPair(values, tuple(lengths), damaged, generated, reference)

    def _take_in(self, pair: Pair, measured: _MeasuredPair) -> None:
        values = measured.values
        for metric in self.selection.clips:
            metric.record(*values.values[metric.name])
        self.sets.add(pair.id, measured.generated, measured.reference)
        self.sets.update(self.selection.sets)
        self.shorter += len(set(measured.lengths)) > 1
        compared = [m.name for m in self.selection.clips if m.direction == "reference"]
        row = ClipRow(
            id=pair.id,
            seed=pair.seed,
            frames=min(measured.lengths),
            lengths=measured.lengths,
            metrics={name: finite(value) for name, (value, _) in values.values.items()},
            reference={name: finite(values.values[name][1]) for name in compared},
            over_time={name: tuple(map(finite, bins)) for name, bins in values.bins.items()},
            damaged=measured.damaged,
        )
        self.rows.append(row)
        self.scored.append(pair)

    def _damaged(self, videos: Sequence[Video], length: int) -> dict[str, int]:
        """Damaged frames among the first ``length``, by side, where there are any.

        Raises:
            UserError: they are more than ``MAX_DAMAGED`` of a video.
        """
        found = {}
        for side, video in zip(SIDES[-len(videos) :], videos, strict=True):
            if count := self.store.damaged(video, length):
                found[side] = count
            if count > MAX_DAMAGED * length:
                raise UserError(
                    f"{video.path}: {count} of {length} frames are damaged: make or copy it again."
                )
        return found


def _without_paths(message: str, pair: Pair) -> str:
    """The message without the machine's paths, since results are published."""
    message = message.replace(str(pair.generated), "the video")
    return message.replace(str(pair.reference), "its reference")
