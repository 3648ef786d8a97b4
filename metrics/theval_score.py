"""THEval's score: how near a method's metrics are to the ground truth's, in one number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metrics.base import ClipMetric, Features, SetMetric, frame_mean
from metrics.speech import SILERO
from metrics.theval import (
    EyebrowDynamics,
    HeadMotionDynamics,
    LipDynamics,
    LipSync,
    SilentLipStability,
)

PARTS = (
    "lip-dynamics",
    "head-motion-dynamics",
    "eyebrow-dynamics",
    "silent-lip-stability",
    "lip-sync",
)
ALL = 8
"""Metrics in THEval's own score: with ``PARTS`` three of image quality, which are not here."""
MIN_GROUND_TRUTH = 1e-9
"""A ground truth nearer to 0 is no measure of anything."""


def nearness(values: Sequence[float], ground_truth: Sequence[float]) -> list[float]:
    """1 - |value - ground truth| / |ground truth| of each metric.

    Args:
        values: a method's, means over clips.
        ground_truth: the reference's, in the same order.

    Returns:
        At most 1, without a lower limit; NaN where either is NaN or the ground truth is 0.
    """
    return [
        1 - abs(value - truth) / abs(truth) if abs(truth) > MIN_GROUND_TRUTH else math.nan
        for value, truth in zip(values, ground_truth, strict=True)
    ]


class THEvalScore(SetMetric):
    """The unweighted mean of ``nearness`` over the five of THEval's eight metrics that are here.

    The published score averages eight, so this is not it, and the name says how many there are.
    Each metric is averaged over the clips that have a value, the method's and the reference's
    apart. There is no score where one of the metrics has no value, however many have one: a
    method would otherwise gain by having no pause, or no face.

    Args:
        parts: which metrics count, by their names in protocols; all five by default.
        speech: what tells speech from silence, as for ``lip-sync``.

    Raises:
        ValueError: no such metric, none at all, or one named twice.
    """

    direction = "higher"
    bounds = (-math.inf, 1.0)
    needs: tuple[str, ...] = ("landmarks", "pose", SILERO, "size", "valid", "waveform")
    values: Any  # list[Tensor], or one Tensor after merging over processes

    def __init__(self, parts: Sequence[str] = PARTS, speech: str = SILERO, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        wrong = [part for part in parts if part not in PARTS or list(parts).count(part) > 1]
        if wrong or not parts:
            raise ValueError(f"parts are some of {', '.join(PARTS)}, each once, not {list(parts)}")
        self.parts = tuple(part for part in PARTS if part in parts)
        self.speech = speech
        self._metrics = [_metric(part, speech) for part in self.parts]
        self.needs = tuple(sorted({need for metric in self._metrics for need in metric.needs}))
        self.own_motion = "pose" if "head-motion-dynamics" in parts else ""
        # Clips are kept flat: a process without any then gathers an empty list of one shape.
        self.add_state("values", default=[], dist_reduce_fx="cat")
        self.set_dtype(torch.float64)

    @property
    def name(self) -> str:
        left_out = [part for part in PARTS if part not in self.parts]
        marks = [f"{len(self.parts)} of {ALL}", *(f"without {part}" for part in left_out)]
        marks += [] if self.speech == SILERO else [self.speech]
        return f"THEval score ({', '.join(marks)})"

    def update(self, generated: Features, reference: Features | None = None) -> None:
        row = [metric.measure(generated, None) for metric in self._metrics]
        row += [
            math.nan if reference is None else metric.measure(reference, None)
            for metric in self._metrics
        ]
        self.values.append(torch.tensor(row, dtype=torch.float64))

    def compute(self) -> Tensor:
        scores = self.scores()
        return torch.tensor(math.fsum(scores) / len(scores), dtype=torch.float64)

    def scores(self) -> list[float]:
        """``nearness`` of each of ``parts``, NaN where there is none."""
        merged = isinstance(self.values, Tensor)
        flat = self.values if merged else torch.cat([torch.zeros(0).double(), *self.values])
        means = [frame_mean(column) for column in flat.reshape(-1, 2 * len(self.parts)).T]
        return nearness(means[: len(self.parts)], means[len(self.parts) :])

    def notes(self) -> list[str]:
        scores = zip(self.parts, self.scores(), strict=True)
        return [
            "not the published score, which has three metrics of image quality more: "
            + ", ".join(f"{part} {score:.3f}" for part, score in scores)
        ]


def _metric(part: str, speech: str) -> ClipMetric:
    if part == "silent-lip-stability":
        return SilentLipStability(speech)
    if part == "lip-sync":
        return LipSync(speech)
    silent: dict[str, type[ClipMetric]] = {
        "lip-dynamics": LipDynamics,
        "head-motion-dynamics": HeadMotionDynamics,
        "eyebrow-dynamics": EyebrowDynamics,
    }
    return silent[part]()
