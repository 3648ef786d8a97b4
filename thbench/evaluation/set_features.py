"""Features of all clips together: what metrics of sets compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy

from metrics.base import BenchMetric
from thbench.evaluation.clip_values import Features


class SetFeatures:
    """Holds the features that metrics of sets need, for bins and for leaving clips out afterwards.

    Args:
        needs: names of the features to hold.

    Attributes:
        clips: id, features of the generated clip, and those of the reference clip; the latter are
            None where there is no reference, or it was given with an earlier seed.
    """

    def __init__(self, needs: Sequence[str]) -> None:
        self.needs = needs
        self.clips: list[tuple[str, Features, Features | None]] = []

    def add(self, clip_id: str, generated: Features, reference: Features | None) -> None:
        """Take in a clip. Those of one id, generated with several seeds, come one after another."""
        # With several seeds the reference clip still counts once.
        seen = any(known == clip_id for known, _, _ in self.clips[-1:])
        theirs = None if seen or reference is None else {k: reference[k] for k in self.needs}
        self.clips.append((clip_id, {k: generated[k] for k in self.needs}, theirs))

    def update(self, metrics: Sequence[BenchMetric]) -> None:
        """Feed metrics with the clip that was added last."""
        _, generated, reference = self.clips[-1]
        for metric in metrics:
            metric.update(generated, reference)

    def leave_out(self, make: Callable[[], BenchMetric], groups: int) -> Iterator[float]:
        """The value of a metric without each group of clips in turn.

        Args:
            make: a new metric, without any clip.
            groups: how many; no more than there are clip ids.

        Yields:
            The value without the group, NaN where no clip is left.
        """
        ids = sorted({clip for clip, _, _ in self.clips})
        groups = min(groups, len(ids))
        of_group = {clip: k % groups for k, clip in enumerate(ids)}
        # Each clip is taken in once, not once for each group: THEval's score reads its audio then.
        parts = [make() for _ in range(groups)]
        for clip, generated, reference in self.clips:
            parts[of_group[clip]].update(generated, reference)
        for out in range(groups):
            kept = [part for group, part in enumerate(parts) if group != out]
            if not kept:
                yield math.nan
                continue
            whole = deepcopy(kept[0])
            for part in kept[1:]:
                whole.merge_state(part)
            yield float(whole.compute())
