r"""KID: the kernel distance between the features of all generated and of all reference frames.

.. math:: MMD^2 = E\,k(x, x') + E\,k(y, y') - 2 E\,k(x, y), \quad k(x, y) = (x \cdot y / d + 1)^3

(Binkowski et al., "Demystifying MMD GANs", 2018.) Unlike FID's, this estimate is not biased by the
number of frames, so it serves where there are few.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from metrics.base import Features, SetMetric
from metrics.frechet import checked

DEGREE = 3
COEFFICIENT = 1.0
BLOCK = 2048
"""Rows of the kernel's matrix that are there at once, of as many columns."""


def kernel_distance(first: Tensor, second: Tensor) -> Tensor:
    """Unbiased estimate of the squared MMD over all pairs, a float64 scalar, possibly below zero.

    The same frame is never paired with itself, within either set.

    Args:
        first: (n, d), n at least 2.
        second: (m, d), m at least 2.

    Raises:
        ValueError: NaN or infinite features, or a set of fewer than 2.
    """
    first, second = checked(first), checked(second)
    n, m = len(first), len(second)
    if min(n, m) < 2:
        raise ValueError(f"the kernel distance needs at least 2 features of each set, not {n}, {m}")
    within = _within(first) / (n * (n - 1)) + _within(second) / (m * (m - 1))
    blocks = itertools.product(first.split(BLOCK), second.split(BLOCK))
    across = math.fsum(float(_kernel(a, b).sum()) for a, b in blocks)
    return torch.tensor(within - 2 * across / (n * m), dtype=torch.float64)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + COEFFICIENT) ** DEGREE


def _within(rows: Tensor) -> float:
    """The sum of the kernel over all pairs of different rows, (i, j) and (j, i) both."""
    blocks = rows.split(BLOCK)
    same = map(_kernel, blocks, blocks)
    sums = [float(kernel.sum() - kernel.diagonal().sum()) for kernel in same]
    sums += [2 * float(_kernel(a, b).sum()) for a, b in itertools.combinations(blocks, 2)]
    return math.fsum(sums)


class KID(SetMetric):
    """Kernel Inception Distance (Binkowski et al. 2018), of all pairs of frames.

    Published values are means over some 100 subsets of 1000 frames; their expectation is the same.
    All pairs have the least variance of such estimates and need no seed, so the value depends on
    nothing but the frames, and the jackknife over clips is not blurred by the draw of subsets. The
    price: time grows with the square of the number of frames, and all features are held.

    As with FID, frames of one clip are alike, so it is the jackknife over clips, not the number of
    frames, that says how certain a value is.

    Args:
        feature: of every frame; FID's by default.
    """

    direction = "lower"
    generated_rows: Any
    reference_rows: Any
    dim: Any

    def __init__(self, feature: str = "inception", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.feature = feature
        self.needs = (feature,)
        # Rows are kept flat: a process without clips then gathers an empty list of one shape.
        for side in ("generated", "reference"):
            self.add_state(f"{side}_rows", default=[], dist_reduce_fx="cat")
        self.add_state("dim", torch.zeros((), dtype=torch.int64), "max")
        self.set_dtype(torch.float64)

    @property
    def name(self) -> str:
        return "KID" if self.feature == "inception" else f"KID ({self.feature})"

    def update(self, generated: Features, reference: Features | None = None) -> None:
        self._add(self.generated_rows, generated)
        if reference is not None:
            self._add(self.reference_rows, reference)

    def compute(self) -> Tensor:
        """The distance; NaN where a set has fewer than 2 frames."""
        sides = [self._held(rows) for rows in (self.generated_rows, self.reference_rows)]
        if min(map(len, sides)) < 2:
            return torch.tensor(math.nan, dtype=torch.float64)
        return kernel_distance(*sides)

    def _add(self, held: list[Tensor], features: Features) -> None:
        rows = checked(features[self.feature])
        dim = rows.shape[1]
        if int(self.dim) not in (0, dim):
            raise ValueError(f"{self.feature} has {dim} dimensions, not {int(self.dim)}")
        self.dim = torch.full_like(self.dim, dim)
        held.append(rows.flatten())

    def _held(self, rows: list[Tensor] | Tensor) -> Tensor:
        flat = rows if isinstance(rows, Tensor) else torch.cat([torch.zeros(0).double(), *rows])
        return flat.reshape(-1, max(1, int(self.dim)))
