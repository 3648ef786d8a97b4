"""Sampling grids and warping, with one convention everywhere.

Coordinates are (x, y) in [-1, 1], where -1 and 1 are the outer edges of the first and last pixel
(``align_corners=False``); outside of the image, its border is repeated. A *flow* is a sampling
grid minus the identity grid: output pixel p shows the input at p + flow(p).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def identity_grid(
    h: int,
    w: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The centres (x, y) of the pixels of an h x w image, (h, w, 2) in [-1, 1]."""
    y = (torch.arange(h, device=device, dtype=dtype) * 2 + 1) / h - 1
    x = (torch.arange(w, device=device, dtype=dtype) * 2 + 1) / w - 1
    return torch.stack([x.expand(h, w), y[:, None].expand(h, w)], dim=-1)


def resize_grid(grid: Tensor, h: int, w: int) -> Tensor:
    """A sampling grid (B, H, W, 2) at another resolution, (B, h, w, 2).

    What is interpolated is its flow: to interpolate the grid would bend even the identity at the
    borders, where there is nothing to interpolate with.
    """
    if grid.shape[1:3] == (h, w):
        return grid
    here = identity_grid(*grid.shape[1:3], device=grid.device, dtype=grid.dtype)
    flow = (grid - here).movedim(-1, 1)
    flow = F.interpolate(flow, size=(h, w), mode="bilinear", align_corners=False)
    return flow.movedim(1, -1) + identity_grid(h, w, device=grid.device, dtype=grid.dtype)


def warp(x: Tensor, grid: Tensor) -> Tensor:
    """Sample ``x`` (B, C, H, W) bilinearly at ``grid`` (B, h, w, 2): (B, C, H, W).

    A grid of another resolution than ``x`` is resized to it first.
    """
    grid = resize_grid(grid, *x.shape[-2:]).to(x.dtype)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def warp_by_flow(x: Tensor, flow: Tensor) -> Tensor:
    """``warp`` by a flow (B, 2, h, w)."""
    here = identity_grid(*flow.shape[-2:], device=flow.device, dtype=flow.dtype)
    return warp(x, flow.movedim(1, -1) + here)


def resize_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``x`` (B, C, H, W) at (h, w): bilinear upwards, area means downwards."""
    if x.shape[-2:] == torch.Size(size):
        return x
    if x.shape[-1] > size[1]:
        return F.interpolate(x, size=size, mode="area")
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Deformation:
    """Smooth known maps of the plane, one per sample: affine plus thin-plate splines.

    ``f(p) = A p + t + sum_i w_i U(|p - c_i|)`` with ``U(r) = r^2 log(r^2)`` (Bookstein 1989), the
    family under which MRAA asks its regions to be equivariant.

    Attributes:
        matrix: (B, 2, 3), the affine part ``[A | t]``.
        centres: (N, 2).
        weights: (B, N, 2).
    """

    matrix: Tensor
    centres: Tensor
    weights: Tensor

    @classmethod
    def random(
        cls, like: Tensor, *, affine: float = 0.05, spline: float = 0.005, points: int = 5
    ) -> Deformation:
        """Normal deviates of deviation ``affine`` and ``spline`` around the identity.

        Args:
            like: (B, ...), gives batch size, device and data type.
            affine: deviation of the six affine entries.
            spline: deviation of the spline weights.
            points: the centres are a regular points x points grid.
        """
        options = {"device": like.device, "dtype": like.dtype}
        b = len(like)
        matrix = torch.eye(2, 3, **options) + affine * torch.randn(b, 2, 3, **options)
        centres = identity_grid(points, points, **options).reshape(-1, 2)
        return cls(matrix, centres, spline * torch.randn(b, len(centres), 2, **options))

    def __call__(self, points: Tensor) -> Tensor:
        """Where ``points`` (B, ..., 2), or (..., 2) for all samples, go to."""
        flat = self._flat(points)
        square = (flat[:, :, None] - self.centres).square().sum(-1)
        bent = (square * _log(square)) @ self.weights
        moved = flat @ self.matrix[:, :, :2].mT + self.matrix[:, None, :, 2] + bent
        return moved.reshape(len(self.matrix), *self._middle(points), 2)

    def jacobian(self, points: Tensor) -> Tensor:
        """Derivative of the map at ``points`` (B, N, 2): (B, N, 2, 2), row = output coordinate."""
        offset = self._flat(points)[:, :, None] - self.centres
        square = offset.square().sum(-1, keepdim=True)
        slope = 2 * offset * (_log(square) + square / (square + _TINY))
        bent = torch.einsum("bpni,bno->bpoi", slope, self.weights)
        jacobian = self.matrix[:, None, :, :2] + bent
        return jacobian.reshape(len(self.matrix), *self._middle(points), 2, 2)

    def image(self, x: Tensor) -> Tensor:
        """``x`` (B, C, H, W) seen through the map: pixel p of the result shows x at f(p)."""
        here = identity_grid(*x.shape[-2:], device=x.device, dtype=x.dtype)
        return warp(x, self(here))

    def _flat(self, points: Tensor) -> Tensor:
        shared = points.dim() < 3 or len(points) != len(self.matrix) or points.dim() == 3 and (
            points.shape[0] == points.shape[1] != len(self.matrix)
        )
        b = len(self.matrix)
        return points.reshape(1, -1, 2).expand(b, -1, 2) if shared else points.reshape(b, -1, 2)

    def _middle(self, points: Tensor) -> tuple[int, ...]:
        shared = len(points) != len(self.matrix)
        return tuple(points.shape[:-1] if shared else points.shape[1:-1])


_TINY = 1e-6


def _log(square: Tensor) -> Tensor:
    return torch.log(square + _TINY)
