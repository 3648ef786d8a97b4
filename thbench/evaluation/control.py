"""The shuffled-audio control: a clip's metrics of audio, measured with another clip's audio.

A metric that finds the same with another clip's audio does not measure, on these videos, how well
lips or head go with what is heard.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch

from metrics.base import ClipMetric, Features
from metrics.signed_rank import signed_rank
from thbench.evaluation.results import ClipRow, Control, finite


@dataclass(frozen=True)
class Exchange:
    """A metric's values of one clip.

    Attributes:
        own: with its own audio, over the frames that both audios have; NaN where not defined.
        other: with another clip's audio.
        shorter: the other audio is shorter, so that fewer frames count than in the metric's value.
        same_audio: both clips have the same audio, so that nothing was exchanged.
    """

    own: float
    other: float
    shorter: bool = False
    same_audio: bool = False

    @property
    def counts(self) -> bool:
        """Whether both values are defined, and of different audio."""
        return not (self.same_audio or math.isnan(self.own) or math.isnan(self.other))


def partners(ids: Sequence[str], identities: Mapping[str, str]) -> dict[str, str]:
    """Whose audio each clip is given: each clip's goes to one other clip.

    Clips are sorted by person, then by id, and each takes the audio of the clip that lies as many
    places on as the most frequent person has clips: the next one where all are of different
    people. It is another person's wherever one person has no more than half of the clips.

    Args:
        ids: of the clips, in any order, each as often as it likes.
        identities: who speaks, by id; a clip without an entry counts as a person of its own.

    Returns:
        By id another id; empty with fewer than two clips.
    """
    order = sorted(set(ids), key=lambda clip: (_person(clip, identities), clip))
    if len(order) < 2:
        return {}
    most = max(Counter(_person(clip, identities) for clip in order).values())
    step = most if most < len(order) else 1
    return {clip: order[(i + step) % len(order)] for i, clip in enumerate(order)}


def exchange(metric: ClipMetric, clip: Features, other: Features) -> Exchange:
    """Measure a clip with its own audio and with another clip's.

    Args:
        metric: that reads audio.
        clip: the features that it needs.
        other: those of the other clip.
    """
    own, swapped = metric.exchange_audio(clip, other)
    first, second = (metric.measure(side, None) for side in (own, swapped))
    same = all(torch.equal(value, swapped[name]) for name, value in own.items())
    shorter = any(len(value) < len(clip[name]) for name, value in own.items())
    return Exchange(first, second, shorter, same and not math.isnan(first))


class AudioControl:
    """Measures clips with another clip's audio, one after another, and compares.

    Args:
        metrics: that read audio.
        identities: who speaks, by clip id; empty where that is not known.
    """

    def __init__(self, metrics: Sequence[ClipMetric], identities: Mapping[str, str]) -> None:
        self.metrics = metrics
        self._identities = identities
        self._others: dict[str, str] = {}
        self._found: dict[str, dict[str, list[Exchange]]] = {m.name: {} for m in metrics}

    def measure(
        self, rows: Sequence[ClipRow], load: Callable[[int], Features]
    ) -> Iterator[ClipRow]:
        """Measure all clips. Features of two at most are held.

        Args:
            rows: the clips.
            load: the features that the metrics need of the clip at a place of ``rows``.

        Yields:
            The rows with their values.
        """
        self._others = partners([row.id for row in rows], self._identities)
        places = {row.id: i for i, row in reversed([*enumerate(rows)])}
        for i, row in enumerate(rows):
            values = {}
            for metric in self.metrics:
                self._found[metric.name].setdefault(row.id, [])
            if row.id in self._others:
                clip, other = load(i), load(places[self._others[row.id]])
                for metric in self.metrics:
                    both = exchange(metric, clip, other)
                    self._found[metric.name][row.id].append(both)
                    values[metric.name] = (finite(both.own), finite(both.other))
            yield replace(row, control=values)

    def controls(self) -> dict[str, Control]:
        """What was found, by the metric's name."""
        return {
            name: summarize(found, self._others, self._identities)
            for name, found in self._found.items()
        }


def summarize(
    found: Mapping[str, Sequence[Exchange]],
    others: Mapping[str, str],
    identities: Mapping[str, str],
) -> Control:
    """Compare the values with own audio and with another's over clips.

    Args:
        found: by clip id, the values of each of its seeds, which are averaged first: they are not
            independent.
        others: by clip id, whose audio it was given.
        identities: who speaks, by id; empty where that is not known.
    """
    counted = {clip: kept for clip, rows in found.items() if (kept := _counted(rows))}
    same = sum(any(row.same_audio for row in rows) for rows in found.values())
    alike = sum(_person(k, identities) == _person(others[k], identities) for k in counted)
    control = Control(
        n=len(counted),
        missing=len(found) - len(counted) - same,
        same_audio=same,
        shorter=sum(any(row.shorter for row in rows) for rows in counted.values()),
        same_person=alike if identities else None,
    )
    if not counted:
        return control
    own = [fmean(row.own for row in rows) for rows in counted.values()]
    other = [fmean(row.other for row in rows) for rows in counted.values()]
    test = signed_rank(own, other)
    return replace(
        control,
        own=fmean(own),
        other=fmean(other),
        median=test.median,
        p=test.p,
        differ=test.differ,
    )


def _counted(rows: Sequence[Exchange]) -> list[Exchange]:
    return [row for row in rows if row.counts]


def _person(clip: str, identities: Mapping[str, str]) -> str:
    return identities.get(clip, clip)
