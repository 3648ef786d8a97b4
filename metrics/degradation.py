"""How much worse the end of a video is than its beginning."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from metrics.base import Features
from metrics.frechet import GaussianMetric

DIMS = {"inception": 2048, "pyramid": 240}

Reference = Literal["all", "position"]
REFERENCES = ("all", "position")


def degradation_rate(last: float, first: float) -> float:
    """``last / first - 1`` of two distances, NaN where ``first`` is 0 or one is NaN."""
    return last / first - 1 if first > 0 else math.nan


class DegradationRate(GaussianMetric):
    """DR = FID(last n frames) / FID(first n frames) - 1 (Cheng et al. 2025, section 4.1).

    Both sets are taken over all clips. Positive where errors build up in the course of a video. A
    clip of fewer than 2n frames (after ``skip_first``) counts on neither side; such clips are
    counted. NaN where no clip is long enough or the first frames are the reference's own.

    Args:
        frames: n.
        reference: ``all`` compares both sets with all frames of the reference clips; ``position``
            the last with their last n and the first with their first n.
        skip_first: so many frames at the start belong to neither set: frames near the portrait
            deflate the denominator.
        feature: of every frame; FID's by default.
        dim: of the feature, needed unless it is ``inception`` or ``pyramid``.
        ddof: of the covariances.

    Raises:
        ValueError: a number out of range, or an unknown feature without ``dim``.
    """

    direction = "zero"
    bounds = (-1.0, math.inf)
    clips: Any
    short_clips: Any

    def __init__(
        self,
        frames: int = 25,
        reference: Reference = "all",
        skip_first: int = 0,
        feature: str = "inception",
        dim: int | None = None,
        ddof: int = 1,
        **kwargs: Any,
    ) -> None:
        if frames < 1 or skip_first < 0:
            raise ValueError("frames is at least 1 and skip_first at least 0")
        if reference not in REFERENCES:
            raise ValueError(f"reference is one of {', '.join(REFERENCES)}, not '{reference}'")
        self.dim = dim or DIMS.get(feature, 0)
        if self.dim < 1:
            raise ValueError(f"dim says how many numbers '{feature}' has")
        self.sides = ("last", "first", *_against(reference))
        super().__init__(ddof=ddof, **kwargs)
        self.frames, self.reference, self.skip_first = frames, reference, skip_first
        self.least_frames = skip_first + 2 * frames
        self.feature = feature
        self.needs = (feature,)
        for counter in ("clips", "short_clips"):
            self.add_state(counter, torch.zeros((), dtype=torch.int64), "sum")

    @property
    def name(self) -> str:
        parts = []
        if self.feature != "inception":
            parts.append(self.feature)
        if self.reference == "position":
            parts.append("same position")
        if self.skip_first:
            parts.append(f"without the first {self.skip_first}")
        if self.ddof != 1:
            parts.append(f"ddof {self.ddof}")
        return f"DR{self.frames}" + (f" ({', '.join(parts)})" if parts else "")

    def update(self, generated: Features, reference: Features | None = None) -> None:
        rows = generated[self.feature]
        self.clips = self.clips + 1
        if len(rows) < self.skip_first + 2 * self.frames:
            self.short_clips = self.short_clips + 1
            return
        self._add("last", self._end(rows))
        self._add("first", self._start(rows))
        if reference is not None:
            self._add_reference(reference[self.feature])

    def compute(self) -> Tensor:
        last, first = _against(self.reference) * (2 if self.reference == "all" else 1)
        rate = degradation_rate(
            float(self.distance("last", last)), float(self.distance("first", first))
        )
        return torch.tensor(rate, dtype=torch.float64)

    def notes(self) -> list[str]:
        short = int(self.short_clips)
        if not short:
            return super().notes()
        least = self.skip_first + 2 * self.frames
        return [
            f"{short} of {int(self.clips)} clips have under {least} frames: left out",
            *super().notes(),
        ]

    def _add_reference(self, rows: Tensor) -> None:
        if self.reference == "all":
            self._add("reference", rows)
            return
        self._add("reference_last", self._end(rows))
        self._add("reference_first", self._start(rows))

    def _end(self, rows: Tensor) -> Tensor:
        return rows[-self.frames :]

    def _start(self, rows: Tensor) -> Tensor:
        return rows[self.skip_first : self.skip_first + self.frames]


def _against(reference: str) -> tuple[str, ...]:
    """The reference sets that the last and the first frames are compared with."""
    return ("reference",) if reference == "all" else ("reference_last", "reference_first")
