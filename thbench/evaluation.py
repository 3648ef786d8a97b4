"""Scores videos against a reference: pair, extract, measure, summarise.

``score`` takes any folder of videos, made here or elsewhere. What happens to a clip that is not as
it should be:

    no partner, or no file        listed, not scored
    unreadable, not square        the pair is left out and listed with the reason
    another length                both are cut to the shorter one, and counted
    one frame, no face, ...       metrics that are not defined on it have no value there: counted
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
from thbench.config import content_hash
from thbench.data.files import write_atomic
from thbench.errors import UserError
from thbench.features import FeatureStore, build_extractors, default_cache
from thbench.pairing import Pair, find_reference, find_videos, pair_up
from thbench.predict import costs
from thbench.protocol import Protocol, build_metric
from thbench.results import (
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
    for pair in tqdm(pairs, "score", unit="clip", disable=None if progress else True):
        scorer.add(pair)
    if not scorer.rows:
        reason = next(iter(scorer.unreadable.values()))
        raise UserError(f"None of the {len(pairs)} pairs could be scored; the first: {reason}")
    return Result(
        run=run,
        strategy=strategy,
        title=title or strategy,
        origin=origin,
        protocol=ProtocolRef(protocol.name, protocol.hash),
        data=truth.data,
        metrics=scorer.figures(),
        coverage=Coverage(
            expected=len(truth.videos),
            scored=len(scorer.rows),
            shorter=scorer.shorter,
            unpaired=tuple(unpaired),
            absent=tuple(absent),
            unreadable=scorer.unreadable,
        ),
        cost=costs([pair.generated for pair in pairs]),
        seeds=tuple(sorted({pair.seed for pair in pairs})),
        per_clip=tuple(scorer.rows),
        **{**provenance(), **row},
    )


@dataclass
class _Scorer:
    """Takes in pairs one by one and knows the figures in the end."""

    protocol: Protocol
    cache: Path
    device: torch.device | str = "cpu"
    rows: list[dict[str, Any]] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    shorter: int = 0

    def __post_init__(self) -> None:
        self.metrics: list[BenchMetric] = self.protocol.build()
        extractors, self.missing = build_extractors(self.metrics, self.device)
        self.store = FeatureStore(extractors, self.protocol.size, self.protocol.frames, self.cache)
        usable = [m for m in self.metrics if not self._why_not(m)]
        self.per_clip = [m for m in usable if isinstance(m, ClipMetric)]
        self.over_sets = [m for m in usable if not isinstance(m, ClipMetric)]
        # Features of set metrics, by clip, for leaving clips out afterwards.
        self.sets: list[tuple[str, Features, Features | None]] = []
        fingerprints = sorted(e.fingerprint for e in extractors.values())
        self.values_key = content_hash([self.protocol.hash, fingerprints])

    def add(self, pair: Pair) -> None:
        """Score a pair, or note why it cannot be."""
        try:
            generated, reference = (self.store.open(p) for p in (pair.generated, pair.reference))
            lengths = self.store.length(generated), self.store.length(reference)
            length = min(lengths)
            key = content_hash([generated.digest, reference.digest, self.values_key, length], 32)
            values = self._known(key)
            wanted = _needs(self.over_sets if values else [*self.over_sets, *self.per_clip])
            mine, theirs = (self.store.features(v, wanted, length) for v in (generated, reference))
        except UserError as error:
            self.unreadable[pair.name] = _impersonal(str(error), pair)
            return
        if values is None:
            values = {m.name: m.measure_clip(mine, theirs) for m in self.per_clip}
            self._keep(key, values)
        self.shorter += lengths[0] != lengths[1]
        self._take_in(pair, values, mine, theirs)
        self.rows.append(
            {
                "id": pair.id,
                "seed": pair.seed,
                "frames": length,
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

    def _take_in(
        self,
        pair: Pair,
        values: Mapping[str, tuple[float, float]],
        mine: Features,
        theirs: Features,
    ) -> None:
        for clip_metric in self.per_clip:
            clip_metric.record(*values[clip_metric.name])
        # With several seeds the reference clip still counts once.
        seen = any(clip == pair.id for clip, _, _ in self.sets[-1:])
        needs = _needs(self.over_sets)
        kept = {k: mine[k] for k in needs}, None if seen else {k: theirs[k] for k in needs}
        for metric in self.over_sets:
            metric.update(*kept)
        self.sets.append((pair.id, *kept))

    def _figure(self, index: int, metric: BenchMetric) -> Figure:
        empty = Figure(None, metric.direction, unit=metric.unit, version=metric.version)
        reason = self._why_not(metric)
        if reason:
            return replace(empty, unavailable=reason)
        value = float(metric.compute())
        n, reference = len(self.rows), None
        if isinstance(metric, ClipMetric):
            n = sum(row["metrics"][metric.name] is not None for row in self.rows)
            reference = finite(float(metric.compute_reference()))
        extractors = [e for name, e in self.store.extractors.items() if name in metric.needs]
        return replace(
            empty,
            value=finite(value),
            interval=self._interval(index, metric, value),
            n=n,
            missing=len(self.rows) - n,
            reference=reference,
            extractors=tuple(e.fingerprint for e in extractors),
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
        return reasons[0] if reasons else None

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
