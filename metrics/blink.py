"""Blinks from the eye aspect ratio, averaged over both eyes.

A blink is a peak of the ratio's negative derivative: the moment at which the eye closes fastest.
It lasts from the nearest open eye before that moment to the nearest one after, an open eye being
a local maximum of the ratio (of a plateau, the nearer edge) not below ``open_level`` times the
clip's median. Frames without a face are missing, not closed: they split the clip into runs, are
searched for no blinks, and do not count as observed time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.signal import find_peaks

from metrics.base import ClipMetric, Features

LEAST_FRAMES = 3


@dataclass(frozen=True)
class Blink:
    """Frame indices: open eye before, last frame before the fastest closing, open eye after."""

    start: int
    closing: int
    end: int


def find_blinks(
    ratio: np.ndarray,
    valid: np.ndarray | None = None,
    *,
    height: float = 0.072,
    distance: int = 4,
    open_level: float = 0.8,
) -> list[Blink]:
    """The blinks of a clip.

    Args:
        ratio: (T,) eye aspect ratio (height over width).
        valid: (T,) bool, False where no face was found; all True by default.
        height: least fall of the ratio from one frame to the next.
        distance: least number of frames between two closings.
        open_level: an open eye's least ratio, as a fraction of the clip's median.
    """
    valid = np.ones(len(ratio), bool) if valid is None else np.asarray(valid, bool)
    if not valid.any():
        return []
    level = open_level * float(np.median(ratio[valid]))
    found = []
    for a, b in _runs(valid):
        if b - a >= LEAST_FRAMES:
            found += _blinks_of_run(np.asarray(ratio[a:b], float), a, height, distance, level)
    return found


def _blinks_of_run(
    ratio: np.ndarray, offset: int, height: float, distance: int, level: float
) -> list[Blink]:
    # A peak must have neighbours: the ends get some that are lower than any fall looked for.
    falls = np.pad(-np.diff(ratio), 1)
    closings, _ = find_peaks(falls, height=height, distance=distance)
    padded = np.pad(ratio, 1, constant_values=-np.inf)
    _, maxima = find_peaks(padded, height=level, plateau_size=1)
    shuts, opens = maxima["right_edges"] - 1, maxima["left_edges"] - 1
    blinks = []
    for closing in closings - 1:
        before, after = shuts[shuts <= closing], opens[opens > closing]
        start = int(before[-1]) if len(before) else 0
        end = int(after[0]) if len(after) else len(ratio) - 1
        blinks.append(Blink(start + offset, int(closing) + offset, end + offset))
    return blinks


def _runs(valid: np.ndarray) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.pad(valid.astype(int), 1)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def blink_rate(
    ratio: np.ndarray, valid: np.ndarray | None = None, *, fps: float, **how: Any
) -> float:
    """Blinks per second of observed time; NaN where fewer than three frames show a face."""
    observed = len(ratio) if valid is None else int(np.sum(valid))
    if observed < LEAST_FRAMES:
        return math.nan
    return len(find_blinks(ratio, valid, **how)) / (observed / fps)


def blink_duration(
    ratio: np.ndarray, valid: np.ndarray | None = None, *, fps: float, **how: Any
) -> float:
    """Median duration of the clip's blinks in seconds; NaN where there are none."""
    blinks = find_blinks(ratio, valid, **how)
    return float(np.median([(b.end - b.start) / fps for b in blinks])) if blinks else math.nan


class _BlinkMetric(ClipMetric):
    """Args: as for ``find_blinks``; ``fps`` is the frame rate of the features."""

    direction = "reference"
    bounds = (0.0, math.inf)
    needs = ("eyes", "valid")

    def __init__(
        self,
        fps: float = 25.0,
        height: float = 0.072,
        distance: int = 4,
        open_level: float = 0.8,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.fps = fps
        self.how: dict[str, Any] = {
            "height": height,
            "distance": distance,
            "open_level": open_level,
        }

    def _signal(self, features: Features) -> tuple[np.ndarray, np.ndarray]:
        eyes = features["eyes"].double().mean(-1).cpu().numpy()
        return eyes, features["valid"].bool().cpu().numpy()


class BlinkRate(_BlinkMetric):
    """Blinks per second of observed time, better the nearer to the reference's. See the module."""

    unit = "1/s"

    @property
    def name(self) -> str:
        return "Blink/s"

    def measure(self, generated: Features, reference: Features | None) -> float:
        return blink_rate(*self._signal(generated), fps=self.fps, **self.how)


class BlinkDuration(_BlinkMetric):
    """Median duration of a clip's blinks, better the nearer to the reference's. See the module."""

    unit = "s"

    @property
    def name(self) -> str:
        return "Blink duration"

    def measure(self, generated: Features, reference: Features | None) -> float:
        return blink_duration(*self._signal(generated), fps=self.fps, **self.how)
