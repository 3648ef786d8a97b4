r"""PSNR, LMD and Mouth r over a soft alignment in time, instead of frame by frame.

Zhang et al., "Temporally-Aligned Evaluation for Audio-Driven Talking Head Generation"
(arXiv 2606.01031), replace frame-wise metrics by Soft Dynamic Time Warping (Cuturi and Blondel
2017) with a bounded misalignment: a mouth that opens two frames late is then not wrong throughout.
Their text could not be read here, so all that follows and all constants are ours, and no published
value compares.

Frame i of the generated clip may be paired with frame j of the reference where ``|i - j|`` is at
most ``reach``. A path goes from the first pair to the last in steps of one frame in either clip or
in both; no step goes back. Its cost is the sum of its pairs' costs, those reached by a step in both
clips counted twice: then all paths weigh 2 T, T the clip's frames, and none gains by being short
(Sakoe and Chiba 1978, symmetric form). A path of cost c has the probability exp(-c / gamma) over
that of all paths: soft-DTW's distribution, under which the expected pairs are the gradient of its
soft minimum. The value is the mean over the pairs of a path, expected over all paths (sharp
soft-DTW, Blondel et al. 2021), because the soft minimum itself is biased: below 0 for equal clips.

So the value lies between those of the best and the worst pairs. With ``reach`` 0 it is the
frame-wise metric; as ``gamma`` goes to 0, that of the best path, from which it is never further
than gamma log 3 in the unit of the cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metrics.base import ClipMetric, Features, FrameMetric
from metrics.image import PSNR_CEILING, psnr
from metrics.landmarks import LMD, Mode, Unit
from metrics.motion import correlation, seen_in_both

REACH = 5
"""Frames: a fifth of a second, as far as lips may lag before viewers mind."""
GAMMAS = {"psnr": 0.1, "pixels": 0.02, "normalised": 0.0005, "mouth": 0.01}
"""In dB, pixels, spans of the eyes, squared deviations: little against the difference between
neighbouring frames, so that equal clips are paired frame by frame."""


def band(pair: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, reach: int) -> Tensor:
    """What all pairs of frames within reach give, by the later of both frames.

    Args:
        pair: from rows of ``a`` and as many of ``b`` to a value for each, (n,).
        a: (T, ...).
        b: (T, ...).
        reach: how far apart they may be.

    Returns:
        (T, 2 reach + 1) float64. Row t has a[t] with b[t], then a[t] with b[t - 1] to
        b[t - reach], then a[t - 1] to a[t - reach] with b[t]; infinity where there is no such row.
    """
    length = len(a)
    table = torch.full((length, 2 * reach + 1), math.inf, dtype=torch.float64)
    for lag in range(min(reach + 1, length)):
        table[lag:, lag] = pair(a[lag:], b[: length - lag]).double()
        if lag:
            table[lag:, reach + lag] = pair(a[: length - lag], b[lag:]).double()
    return table


@dataclass(frozen=True)
class _Paths:
    """All paths to a pair: the soft minimum of their costs, and expected sums over their pairs."""

    cost: float
    sums: NDArray[np.float64]


def soft_means(costs: Tensor, values: Tensor, gamma: float) -> NDArray[np.float64]:
    """Means of values over the pairs of a path, expected over all paths.

    Args:
        costs: (T, 2 reach + 1), as ``band`` gives them; pairs of infinite cost are on no path.
        values: (T, 2 reach + 1, q), of the same pairs.
        gamma: how much more than the best a path may cost, in the costs' unit.

    Returns:
        (q,); NaN without frames.
    """
    length, width = costs.shape
    reach = width // 2
    offsets = sorted(range(-reach, reach + 1), key=abs, reverse=True)
    rows, table = costs.tolist(), values.double().numpy()
    paths = {0: _Paths(0.0, np.zeros(values.shape[-1]))}
    for t, row in enumerate(rows):
        before, paths = paths, {}
        for offset in offsets:
            column = offset if offset >= 0 else reach - offset
            # A clip cut out of another has no pairs with frames before its first.
            if abs(offset) <= t and not math.isinf(row[column]):
                steps = list(_steps(before, paths, offset))
                paths[offset] = _joined(steps, row[column], table[t, column], gamma)
    return paths[0].sums / (2 * length) if length else np.full(values.shape[-1], math.nan)


def _steps(
    before: dict[int, _Paths], here: dict[int, _Paths], offset: int
) -> Iterator[tuple[int, _Paths]]:
    """Weights and beginnings of the paths to a pair whose frames are ``offset`` apart.

    Args:
        before: paths to pairs whose later frame is the one before, by offset.
        here: those with the same later frame that are further apart.
        offset: of the generated frame from the reference's.
    """
    steps = (
        (2, before, offset),
        (1, before if offset > 0 else here, offset - 1),
        (1, before if offset < 0 else here, offset + 1),
    )
    for weight, paths, place in steps:
        if place in paths:
            yield weight, paths[place]


def _joined(
    steps: list[tuple[int, _Paths]], cost: float, value: NDArray[np.float64], gamma: float
) -> _Paths:
    totals = [paths.cost + weight * cost for weight, paths in steps]
    least = min(totals)
    shares = [math.exp((least - total) / gamma) for total in totals]
    whole = math.fsum(shares)
    sums = np.zeros_like(value)
    for share, (weight, paths) in zip(shares, steps, strict=True):
        sums += share / whole * (paths.sums + weight * value)
    return _Paths(least - gamma * math.log(whole), sums)


def aligned_correlation(
    first: Tensor, second: Tensor, times: Tensor, reach: int = REACH, gamma: float = GAMMAS["mouth"]
) -> float:
    """Pearson's r of two series over the pairs of a soft alignment.

    A pair costs half the squared difference of its values, each in standard deviations from its
    series' mean; frame by frame that averages to 1 - r.

    Args:
        first: (n,).
        second: (n,).
        times: (n,) frame numbers, ascending.
        reach: how far apart paired frames may be, in frames.
        gamma: of ``soft_means``.

    Returns:
        In [-1, 1]; NaN with fewer than three values or a constant series.
    """
    if math.isnan(correlation(first, second)):
        return math.nan
    a, b = (
        (x.double() - x.double().mean()) / x.double().std(correction=0) for x in (first, second)
    )
    costs = _within(band(lambda x, y: (x - y).square() / 2, a, b, reach), times, reach)
    moments = (lambda x, y: x, lambda x, y: y, lambda x, y: x * x, lambda x, y: y * y, torch.mul)
    values = torch.stack([band(moment, a, b, reach) for moment in moments], -1)
    m, n, mm, nn, mn = soft_means(costs, values, gamma).tolist()
    return max(-1.0, min(1.0, (mn - m * n) / math.sqrt((mm - m * m) * (nn - n * n))))


def _within(costs: Tensor, times: Tensor, reach: int) -> Tensor:
    """Costs, infinite where frames between two were left out and they are too far apart."""
    apart = band(lambda x, y: (x - y).abs(), times, times, reach)
    return costs.masked_fill(apart > reach, math.inf)


def _checked(reach: int, gamma: float) -> None:
    if reach < 0 or not gamma > 0:
        raise ValueError(f"reach is at least 0 and gamma above 0, not {reach}, {gamma}")


def _marks(reach: int, gamma: float, usual: float) -> str:
    return f"soft-DTW, ±{reach}" + ("" if gamma == usual else f", gamma {gamma:g}")


class SoftPSNR(FrameMetric):
    """PSNR over a soft alignment; the module describes it. A pair costs minus its PSNR.

    Only the pairs within reach are compared, part by part.

    Args:
        reach: how far apart paired frames may be, in frames.
        gamma: in dB, .1 by default.

    Raises:
        ValueError: a number out of range.
    """

    unit = "dB"
    direction = "higher"
    bounds = (0.0, PSNR_CEILING)
    needs = ("frames",)

    def __init__(self, reach: int = REACH, gamma: float = GAMMAS["psnr"], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _checked(reach, gamma)
        self.reach, self.gamma = reach, gamma
        self.context = reach

    @property
    def name(self) -> str:
        return f"PSNR ({_marks(self.reach, self.gamma, GAMMAS['psnr'])})"

    def measure_frames(self, generated: Features, reference: Features | None) -> Tensor:
        """Minus the PSNR of all pairs within reach, (n, 2 reach + 1), as ``band`` gives them."""
        frames = generated["frames"].cpu()
        if reference is None:
            return torch.full((len(frames), 2 * self.reach + 1), math.nan)
        return band(lambda a, b: -psnr(a, b), frames, reference["frames"].cpu(), self.reach)

    def clip_value(self, values: Tensor) -> float:
        if not len(values) or values.isnan().any():
            return math.nan
        return float(soft_means(values, -values[..., None], self.gamma)[0])


class SoftLMD(LMD):
    """LMD over a soft alignment; the module describes it. A pair costs its distance.

    Frames in which either video shows no face are left out; those around them stay as far apart as
    they were.

    Args:
        mode: of LMD.
        scale: of LMD.
        reach: how far apart paired frames may be, in frames.
        gamma: in the metric's unit; by default .02 px, .0005 where normalised.

    Raises:
        ValueError: a number out of range, no such mode or scale.
    """

    def __init__(
        self,
        mode: Mode = "raw",
        scale: Unit = "pixels",
        reach: int = REACH,
        gamma: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(mode, scale, **kwargs)
        self.gamma = GAMMAS[scale] if gamma is None else gamma
        _checked(reach, self.gamma)
        self.reach = reach

    @property
    def name(self) -> str:
        marks = _marks(self.reach, self.gamma, GAMMAS[self.scale])
        return f"{super().name.removesuffix(')')}, {marks})"

    def measure(self, generated: Features, reference: Features | None) -> float:
        if reference is None:
            return math.nan
        mine, theirs = self.points(generated, reference)
        times = seen_in_both(generated, reference).nonzero().flatten().cpu()
        distances = band(self.distances, mine, theirs, self.reach)
        costs = _within(distances, times, self.reach)
        return float(soft_means(costs, distances[..., None], self.gamma)[0])


class SoftMouthCorrelation(ClipMetric):
    """Mouth r over a soft alignment; see ``aligned_correlation``.

    Frames in which either video shows no face are left out; those around them stay as far apart as
    they were.

    Args:
        reach: how far apart paired frames may be, in frames.
        gamma: in squared standard deviations, .01 by default.

    Raises:
        ValueError: a number out of range.
    """

    direction = "higher"
    bounds = (-1.0, 1.0)
    needs = ("mouth", "valid")

    def __init__(self, reach: int = REACH, gamma: float = GAMMAS["mouth"], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _checked(reach, gamma)
        self.reach, self.gamma = reach, gamma

    @property
    def name(self) -> str:
        return f"Mouth r ({_marks(self.reach, self.gamma, GAMMAS['mouth'])})"

    def measure(self, generated: Features, reference: Features | None) -> float:
        if reference is None:
            return math.nan
        both = seen_in_both(generated, reference)
        mine, theirs = (f["mouth"][both].cpu() for f in (generated, reference))
        times = both.nonzero().flatten().cpu()
        return aligned_correlation(mine, theirs, times, self.reach, self.gamma)
