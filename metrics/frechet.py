r"""The Frechet distance between Gaussians fitted to two sets of features, exact, in float64.

.. math:: d^2 = |m_1 - m_2|^2 + Tr(S_1) + Tr(S_2) - 2 Tr(S_1 S_2)^{1/2}

(Dowson and Landau 1982; Heusel et al. 2017 for FID.) The trace of the root needs no matrix square
root: it is the sum of the roots of the eigenvalues of ``S1 S2``, which are those of the symmetric
``R' S2 R`` for any ``R R' = S1``. With fewer samples than dimensions, S = A'A has the thin root
A' and the problem shrinks to the number of samples; with few samples on both sides the sum is the
nuclear norm of ``A B'``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metrics.base import Features, SetMetric


@dataclass(frozen=True)
class Gaussian:
    """A mean and a covariance, the latter as a matrix or as a thin root.

    Attributes:
        mean: (d,) float64.
        cov: (d, d), or None where ``root`` is given.
        root: (n, d) with ``root' root`` the covariance, n < d, or None.
    """

    mean: Tensor
    cov: Tensor | None = None
    root: Tensor | None = None

    def trace(self) -> Tensor:
        """Trace of the covariance."""
        return self.cov.trace() if self.cov is not None else self._thin().square().sum()

    def _thin(self) -> Tensor:
        if self.root is None:
            raise ValueError("a Gaussian needs a covariance or a root of it")
        return self.root

    def factor(self) -> Tensor:
        """Rows R' (k, d) with ``R R'`` the covariance."""
        if self.cov is None:
            return self._thin()
        lower, failed = torch.linalg.cholesky_ex(self.cov)
        if not failed:  # several times as fast as what a singular matrix needs
            return lower.T
        values, vectors = torch.linalg.eigh(self.cov)
        return (vectors * values.clamp(min=0).sqrt()).T


def fit(features: Tensor, ddof: int = 1) -> Gaussian:
    """The Gaussian of features (n, d), with its covariance as a thin root where n < d.

    Raises:
        ValueError: NaN or infinite features, or no more than ``ddof`` of them.
    """
    features = checked(features)
    n, d = features.shape
    _enough(n, ddof)
    mean = features.mean(0)
    centred = (features - mean) / math.sqrt(n - ddof)
    if n < d:
        return Gaussian(mean, root=centred)
    return Gaussian(mean, cov=centred.T @ centred)


def from_sums(count: int, total: Tensor, outer: Tensor, ddof: int = 1) -> Gaussian:
    """The Gaussian of ``count`` features with sum (d,) and sum of outer products (d, d)."""
    _enough(count, ddof)
    mean = total / count
    return Gaussian(mean, cov=(outer - count * torch.outer(mean, mean)) / (count - ddof))


def distance(first: Gaussian, second: Gaussian) -> Tensor:
    """Squared Frechet distance of two Gaussians, a float64 scalar, never below zero."""
    apart = (first.mean - second.mean).square().sum()
    spread = first.trace() + second.trace() - 2 * trace_root(first, second)
    return (apart + spread).clamp(min=0)


def trace_root(first: Gaussian, second: Gaussian) -> Tensor:
    """Trace of the square root of the product of both covariances."""
    if first.root is not None and second.root is not None:
        return torch.linalg.svdvals(first.root @ second.root.T).sum()
    if second.root is not None:
        first, second = second, first
    factor = first.factor()
    if second.cov is None:
        raise ValueError("a Gaussian needs a covariance or a root of it")
    return torch.linalg.eigvalsh(factor @ second.cov @ factor.T).clamp(min=0).sqrt().sum()


def frechet_distance(first: Tensor, second: Tensor, ddof: int = 1) -> Tensor:
    """Frechet distance of two sets of features, (n, d) and (m, d)."""
    return distance(fit(first, ddof), fit(second, ddof))


class GaussianMetric(SetMetric):
    """Gaussians of several sets of features, each over all clips.

    Features are held until there are as many as dimensions and folded into float64 sums then, so
    memory is bounded and few samples keep the thin path. Sums and rows merge over processes in
    any order. A subclass names the feature, its dimension and the sets.

    Args:
        ddof: 1 divides covariances by n - 1, 0 by n.
    """

    feature: str
    dim: int
    sides: tuple[str, ...] = ("generated", "reference")

    def __init__(self, ddof: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ddof = ddof
        for side in self.sides:
            # Rows are kept flat: a process without clips then gathers an empty list of one shape.
            self.add_state(f"{side}_rows", default=[], dist_reduce_fx="cat")
            self.add_state(f"{side}_count", torch.zeros((), dtype=torch.int64), "sum")
            self.add_state(f"{side}_sum", torch.zeros(self.dim), "sum")
            # Flat too, and empty at first: most metrics are built to be asked their name alone.
            self.add_state(f"{side}_outer", default=[], dist_reduce_fx="cat")
        self.set_dtype(torch.float64)

    def distance(self, first: str, second: str) -> Tensor:
        """Frechet distance of two sets; NaN where one has no more than ``ddof`` features."""
        if min(self._count(first), self._count(second)) <= self.ddof:
            return torch.tensor(math.nan).double()
        return distance(self._gaussian(first), self._gaussian(second))

    def notes(self) -> list[str]:
        n = min(map(self._count, self.sides))
        if n >= self.dim:
            return []
        return [f"{n} samples for {self.dim} dimensions: biased upwards"]

    def _add(self, side: str, rows: Tensor) -> None:
        rows = checked(rows)
        if rows.shape[-1] != self.dim:
            raise ValueError(f"{self.feature} has {rows.shape[-1]} dimensions, not {self.dim}")
        held = getattr(self, f"{side}_rows")
        held.append(rows.flatten())
        if sum(map(torch.numel, held)) >= self.dim * self.dim:
            self._fold(side, torch.cat(held))
            held.clear()

    def _fold(self, side: str, flat: Tensor) -> None:
        count, total, outer = self._with(side, flat)
        setattr(self, f"{side}_count", count)
        setattr(self, f"{side}_sum", total)
        setattr(self, f"{side}_outer", [outer.flatten()])

    def _with(self, side: str, flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = flat.reshape(-1, self.dim)
        return (
            getattr(self, f"{side}_count") + len(rows),
            getattr(self, f"{side}_sum") + rows.sum(0),
            self._flat(f"{side}_outer").reshape(-1, self.dim, self.dim).sum(0) + rows.T @ rows,
        )

    def _held(self, side: str) -> Tensor:
        return self._flat(f"{side}_rows")

    def _flat(self, state: str) -> Tensor:
        """A list of tensors as one; after a sync it is one already, of all processes."""
        parts = getattr(self, state)
        if isinstance(parts, Tensor):
            return parts
        return torch.cat(parts) if parts else torch.zeros(0).double()

    def _count(self, side: str) -> int:
        return int(getattr(self, f"{side}_count")) + self._held(side).numel() // self.dim

    def _gaussian(self, side: str) -> Gaussian:
        held = self._held(side)
        if not int(getattr(self, f"{side}_count")):
            return fit(held.reshape(-1, self.dim), self.ddof)
        count, total, outer = self._with(side, held)
        return from_sums(int(count), total, outer, self.ddof)


class FrechetMetric(GaussianMetric):
    """Frechet distance between the features of all generated and of all reference clips."""

    direction = "lower"
    bounds = (0.0, math.inf)

    def rows(self, features: Features) -> Tensor:
        """What counts of one clip, (n, dim): all rows of ``feature``."""
        return features[self.feature]

    def update(self, generated: Features, reference: Features | None = None) -> None:
        self._add("generated", self.rows(generated))
        if reference is not None:
            self._add("reference", self.rows(reference))

    def compute(self) -> Tensor:
        return self.distance("generated", "reference")


def checked(features: Tensor) -> Tensor:
    """Features (n, ...) as (n, d) float64 on the CPU.

    Raises:
        ValueError: some are NaN or infinite.
    """
    features = features.flatten(1).to("cpu", torch.float64)
    if not torch.isfinite(features).all():
        bad = int((~torch.isfinite(features)).any(1).sum())
        raise ValueError(f"{bad} of {len(features)} features are NaN or infinite")
    return features


def _enough(n: int, ddof: int) -> None:
    if n <= ddof:
        raise ValueError(f"a covariance with ddof {ddof} needs more than {n} features")
