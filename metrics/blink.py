"""Blinks from the eye aspect ratio, averaged over both eyes.

A blink is a peak of the ratio's negative derivative: the moment at which the eye closes fastest.
It lasts from the nearest open eye before that moment to the nearest one after. There are two modes.

``open-level``: an eye is open at a local maximum of the ratio (of a plateau, the nearer edge) that
is not below ``open_level`` times the clip's median; a clip may begin and end within a blink. Frames
without a face are missing, not closed: they split the clip into runs, are searched for no blinks,
and do not count as observed time.

``as-published``: as the program ``blink-detector`` by Vougioukas and Tinaz (2019) does. An
eye is open at a local maximum (of a plateau, the middle) that is not below half way from the clip's
least to its greatest ratio. Where the ratio has not fallen yet as the closing begins, the blink
begins there; without an open eye before, at the clip's first frame. Without one after, it ends with
the clip if it is the last blink, and is dropped if another closing follows. Neither the clip's
first fall nor its last is a peak. Where no face is found, the program looks into the last face's
box, or sets 0 before the first; here the ratio stays as it was, or is 0. All frames count as time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from scipy.signal import find_peaks

from metrics.base import ClipMetric, Features

Mode = Literal["open-level", "as-published"]
MODES = ("open-level", "as-published")
MIN_FRAMES = 3


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
    mode: Mode = "open-level",
    height: float = 0.072,
    distance: int = 4,
    open_level: float = 0.8,
) -> list[Blink]:
    """The blinks of a clip.

    Args:
        ratio: (T,) eye aspect ratio (height over width).
        valid: (T,) bool, False where no face was found; all True by default.
        mode: what counts as an open eye; the module describes both.
        height: least fall of the ratio from one frame to the next.
        distance: least number of frames between two closings.
        open_level: an open eye's least ratio, as a fraction of the clip's median; for mode
            ``open-level`` only.

    Returns:
        In order of time.
    """
    valid = np.ones(len(ratio), bool) if valid is None else np.asarray(valid, bool)
    if not valid.any():
        return []
    if mode == "as-published":
        return _blinks_as_published(_held(ratio, valid), height, distance)
    level = open_level * float(np.median(ratio[valid]))
    found = []
    for a, b in _runs(valid):
        if b - a >= MIN_FRAMES:
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


def _blinks_as_published(ratio: np.ndarray, height: float, distance: int) -> list[Blink]:
    closings, _ = find_peaks(-np.diff(ratio), height=height, distance=distance)
    level = (ratio.min() + ratio.max()) / 2
    blinks = []
    for closing, following in pairwise([*closings.tolist(), len(ratio)]):
        # The search stops at the next closing, and neither end of what is searched is a peak.
        after, _ = find_peaks(ratio[closing:following], height=level)
        if len(after):
            end = closing + int(after[0])
        elif following == len(ratio):
            end = len(ratio) - 1
        else:
            continue
        blinks.append(Blink(_start_as_published(ratio, closing, level), closing, end))
    return blinks


def _start_as_published(ratio: np.ndarray, closing: int, level: float) -> int:
    if ratio[closing - 1] <= ratio[closing]:
        return closing
    before, _ = find_peaks(ratio[: closing + 1], height=level)
    return int(before[-1]) if len(before) else 0


def _held(ratio: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(T,) with the last valid ratio in place of those that are not, 0 before the first."""
    last = np.maximum.accumulate(np.where(valid, np.arange(len(valid)), -1))
    return np.where(last < 0, 0.0, np.asarray(ratio, float)[last])


def _runs(valid: np.ndarray) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.pad(valid.astype(int), 1)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def blink_rate(
    ratio: np.ndarray,
    valid: np.ndarray | None = None,
    *,
    fps: float,
    mode: Mode = "open-level",
    **how: Any,
) -> float:
    """Blinks per second.

    Args:
        ratio: (T,) eye aspect ratio.
        valid: (T,) bool, False where no face was found; all True by default.
        fps: frame rate.
        mode: as for ``find_blinks``.
        how: further arguments of ``find_blinks``.

    Returns:
        The rate over the seconds in which a face was seen; in mode ``as-published``, over those of
        the clip. NaN where fewer than three frames show a face.
    """
    observed = len(ratio) if valid is None else int(np.sum(valid))
    if observed < MIN_FRAMES:
        return math.nan
    counted = len(ratio) if mode == "as-published" else observed
    return len(find_blinks(ratio, valid, mode=mode, **how)) / (counted / fps)


def blink_duration(
    ratio: np.ndarray, valid: np.ndarray | None = None, *, fps: float, **how: Any
) -> float:
    """Median duration of the clip's blinks.

    Args:
        ratio: (T,) eye aspect ratio.
        valid: (T,) bool, False where no face was found; all True by default.
        fps: frame rate.
        how: further arguments of ``find_blinks``.

    Returns:
        Seconds; NaN without blinks.
    """
    blinks = find_blinks(ratio, valid, **how)
    return float(np.median([(b.end - b.start) / fps for b in blinks])) if blinks else math.nan


class _BlinkMetric(ClipMetric):
    """A metric of blinks, read from the aspect ratio of both eyes.

    Args:
        fps: frame rate of the features.
        height: least fall of the ratio from one frame to the next.
        distance: least number of frames between two closings.
        open_level: an open eye's least ratio, as a fraction of the clip's median; for mode
            ``open-level`` only.
        mode: what counts as an open eye; the module describes both.

    Raises:
        ValueError: no such mode.
    """

    direction = "reference"
    bounds = (0.0, math.inf)
    own_motion = "eyes"
    needs = ("eyes", "valid")
    title: str

    def __init__(
        self,
        fps: float = 25.0,
        height: float = 0.072,
        distance: int = 4,
        open_level: float = 0.8,
        mode: Mode = "open-level",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(MODES)}, not '{mode}'")
        self.fps = fps
        self.how: dict[str, Any] = {
            "mode": mode,
            "height": height,
            "distance": distance,
            "open_level": open_level,
        }

    @property
    def name(self) -> str:
        mode = self.how["mode"]
        return self.title if mode == "open-level" else f"{self.title} ({mode})"

    def _signal(self, features: Features) -> tuple[np.ndarray, np.ndarray]:
        eyes = features["eyes"].double().mean(-1).cpu().numpy()
        return eyes, features["valid"].bool().cpu().numpy()


class BlinkRate(_BlinkMetric):
    """Blinks per second, better the nearer to the reference's."""

    unit = "1/s"
    title = "Blink/s"

    def measure(self, generated: Features, reference: Features | None) -> float:
        return blink_rate(*self._signal(generated), fps=self.fps, **self.how)


class BlinkDuration(_BlinkMetric):
    """Median duration of a clip's blinks, better the nearer to the reference's."""

    unit = "s"
    title = "Blink duration"

    def measure(self, generated: Features, reference: Features | None) -> float:
        return blink_duration(*self._signal(generated), fps=self.fps, **self.how)
