"""Scores videos against a reference: pair, extract, measure, summarise.

``score`` takes any folder of videos, made here or elsewhere. What happens to a clip that is not as
it should be:

    no partner, or no file        listed, not scored
    unreadable, not square        the pair is left out and listed with the reason
    a feature is NaN              the same
    another length                both are cut to the shorter one, and counted
    one frame, no face, no sound  metrics that are not defined on it have no value there: counted
    nothing left                  an error
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from metrics.base import BenchMetric, ClipMetric
from metrics.intervals import bootstrap_mean, jackknife
from metrics.weights import WeightsMissing, WeightsUnreadable
from thbench.config import content_hash
from thbench.data.files import write_atomic
from thbench.errors import UserError
from thbench.features import FeatureStore, build_extractors, default_cache
from thbench.pairing import Pair, find_reference, find_videos, pair_up
from thbench.predict import costs
from thbench.protocol import Protocol, build_metric
from thbench.results import (
    GROUND_TRUTH,
    Coverage,
    Figure,
    ProtocolRef,
    Result,
    finite,
    provenance,
)

Features = Mapping[str, Tensor]


def score(
    generated: Path,
    reference: Path,
    protocol: Protocol,
    *,
    run: str,
    strategy: str,
    title: str | None = None,
    origin: str = "measured",
    split: str = "test",
    limit: int | None = None,
    data: str | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
    **row: Any,
) -> Result:
    """Score a folder of videos.

    Args:
        generated: videos named by the reference's ids, in subfolders ``seed-<n>`` or not.
        reference: a prepared data set, or any folder of videos.
        protocol: how.
        run: names the result.
        strategy: what made the videos.
        title: of the row; the strategy's name by default.
        origin: ``measured``, or ``smoke`` for tiny models.
        split: of a prepared data set.
        limit: only the first so many clips of the reference.
        data: what the reference is called; by default as its folder.
        cache: folder of features; ``thbench.features.default_cache`` by default.
        device: where extractors run.
        progress: show a bar.
        row: further fields of ``Result``.

    Raises:
        UserError: a folder is missing, or no pair can be scored.
    """
    truth = find_reference(reference, split, limit, data)
    pairs, unpaired, absent = pair_up(find_videos(generated), truth.videos)
    if not pairs:
        raise UserError(
            f"No video in {generated} is named like a clip of {reference}:"
            f" name them '<clip id>.mp4', such as '{next(iter(truth.videos))}.mp4'."
        )
    scorer = _Scorer(protocol, cache or default_cache(), device)
    scorer.add_all(pairs, progress)
    return Result(
        run=run,
        strategy=strategy,
        title=title or strategy,
        origin=origin,
        data=truth.data,
        cost=costs([pair.generated for pair in pairs]),
        seeds=tuple(sorted({pair.seed for pair in pairs})),
        **scorer.outcome(len(truth.videos), unpaired, absent),
        **{**provenance(), **row},
    )


def score_ground_truth(
    reference: Path,
    protocol: Protocol,
    *,
    split: str = "test",
    limit: int | None = None,
    data: str | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Result:
    """The row of the reference itself, as papers show it above the others.

    It has the figures that say something of a video alone, such as LSE-C or blinks; those that
    compare with the reference are null, for they would compare it with itself.

    Args: as for ``score``.

    Raises:
        UserError: the folder is missing, or none of its videos can be scored.
    """
    truth = find_reference(reference, split, limit, data)
    scorer = _Scorer(protocol, cache or default_cache(), device, alone=True)
    scorer.add_all([Pair(name, 0, path, path) for name, path in truth.videos.items()], progress)
    return Result(
        run=f"{GROUND_TRUTH}-{truth.data.name}-{protocol.name}",
        strategy=GROUND_TRUTH,
        title="Ground truth",
        origin="measured",
        data=truth.data,
        **scorer.outcome(len(truth.videos)),
        **provenance(),
    )


@dataclass
class _Scorer:
    """Takes in pairs one by one and knows the figures in the end.

    ``alone``: the pairs' generated videos are measured without a reference.
    """

    protocol: Protocol
    cache: Path
    device: torch.device | str = "cpu"
    alone: bool = False
    rows: list[dict[str, Any]] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    shorter: int = 0

    def __post_init__(self) -> None:
        self.metrics: list[BenchMetric] = self.protocol.build()
        extractors, self.missing = build_extractors(self.metrics, self.device)
        self.unprepared = dict(self._unprepared())
        self.store = FeatureStore(extractors, self.protocol.size, self.protocol.frames, self.cache)
        usable = [m for m in self.metrics if not self._why_not(m)]
        self.per_clip = [m for m in usable if isinstance(m, ClipMetric)]
        # All of them compare two sets.
        self.over_sets = [m for m in usable if not isinstance(m, ClipMetric) and not self.alone]
        # Features of set metrics, by clip, for leaving clips out afterwards.
        self.sets: list[tuple[str, Features, Features | None]] = []
        fingerprints = sorted(e.fingerprint for e in extractors.values())
        names = [m.name for m in self.per_clip]
        self.values_key = content_hash([self.protocol.hash, fingerprints, names, self.alone])

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
        """Score a pair, or note why it cannot be."""
        try:
            paths = [pair.generated] if self.alone else [pair.generated, pair.reference]
            videos = [self.store.open(path) for path in paths]
            lengths = [self.store.length(video) for video in videos]
            length = min(lengths)
            key = content_hash([*(v.digest for v in videos), self.values_key, length], 32)
            values = self._known(key)
            wanted = _needs(self.over_sets if values else [*self.over_sets, *self.per_clip])
            mine, *rest = (self.store.features(video, wanted, length) for video in videos)
        except UserError as error:
            self.unreadable[pair.name] = _impersonal(str(error), pair)
            return
        theirs = rest[0] if rest else None
        if values is None:
            values = {m.name: m.measure_clip(mine, theirs) for m in self.per_clip}
            self._keep(key, values)
        self.shorter += len(set(lengths)) > 1
        self._take_in(pair, values, mine, theirs)
        self.rows.append(
            {
                "id": pair.id,
                "seed": pair.seed,
                "frames": length,
                "lengths": lengths,
                "metrics": {name: finite(value) for name, (value, _) in values.items()},
                "reference": {
                    m.name: finite(values[m.name][1])
                    for m in self.per_clip
                    if m.direction == "reference"
                },
            }
        )

    def figures(self) -> dict[str, Figure]:
        """The figure of each metric, in the protocol's order."""
        return {m.name: self._figure(i, m) for i, m in enumerate(self.metrics)}

    def outcome(
        self, expected: int, unpaired: Sequence[str] = (), absent: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The fields of ``Result`` that scoring fills."""
        return {
            "protocol": ProtocolRef(self.protocol.name, self.protocol.hash),
            "metrics": self.figures(),
            "coverage": Coverage(
                expected=expected,
                scored=len(self.rows),
                shorter=self.shorter,
                unpaired=tuple(unpaired),
                absent=tuple(absent),
                unreadable=self.unreadable,
            ),
            "per_clip": tuple(self.rows),
        }

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
        needs = _needs(self.over_sets)
        new = None if seen or theirs is None else {k: theirs[k] for k in needs}
        kept = {k: mine[k] for k in needs}, new
        for metric in self.over_sets:
            metric.update(*kept)
        self.sets.append((pair.id, *kept))

    def _figure(self, index: int, metric: BenchMetric) -> Figure:
        empty = Figure(None, metric.direction, unit=metric.unit, version=metric.version)
        reason = self._why_not(metric)
        if reason:
            return replace(empty, unavailable=reason)
        extractors = [e for name, e in self.store.extractors.items() if name in metric.needs]
        empty = replace(empty, extractors=tuple(e.fingerprint for e in extractors))
        if self.alone and not isinstance(metric, ClipMetric):
            return empty
        value = float(metric.compute())
        n, reference = len(self.rows), None
        if isinstance(metric, ClipMetric):
            n = sum(row["metrics"][metric.name] is not None for row in self.rows)
            own = self.alone and metric.direction == "reference"
            reference = finite(value if own else float(metric.compute_reference()))
        return replace(
            empty,
            value=finite(value),
            interval=self._interval(index, metric, value),
            n=n,
            # Alone, a metric without any value is one that compares.
            missing=len(self.rows) - n if n or not self.alone else 0,
            reference=reference,
            notes=tuple(metric.notes()),
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

    def _why_not(self, metric: BenchMetric) -> str | None:
        reasons = [self.missing[need] for need in metric.needs if need in self.missing]
        return reasons[0] if reasons else self.unprepared.get(metric.name)

    def _unprepared(self) -> Iterator[tuple[str, str]]:
        for metric in self.metrics:
            try:
                metric.prepare(self.device)
            except (WeightsMissing, WeightsUnreadable) as error:
                yield metric.name, str(error)

    def _known(self, key: str) -> dict[str, tuple[float, float]] | None:
        try:
            found = json.loads(self._values_path(key).read_text())
        except (OSError, ValueError):
            return None
        return {k: (_number(a), _number(b)) for k, (a, b) in found.items()}

    def _keep(self, key: str, values: Mapping[str, tuple[float, float]]) -> None:
        path = self._values_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = {k: (finite(a), finite(b)) for k, (a, b) in values.items()}
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
