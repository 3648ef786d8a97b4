"""Sampling grids and warping, with one convention everywhere.

Coordinates are (x, y) in [-1, 1], where -1 and 1 are the outer edges of the first and last pixel
(``align_corners=False``); outside of the image, its border is repeated. A *flow* is a sampling
grid minus the identity grid: output pixel p shows the input at p + flow(p).

``corners`` is for weights that were trained under the convention of the released code of FOMM and
MRAA: grids count from -1 and 1 at the *centres* of the first and last pixel but are sampled as
above, so that even their identity moves pixels near the border by half of one; outside of the image
is black, and grids are resized as they are.
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
    corners: bool = False,
) -> Tensor:
    """The centres (x, y) of the pixels of an h x w image, (h, w, 2) in [-1, 1]."""
    y = torch.arange(h, device=device, dtype=dtype)
    x = torch.arange(w, device=device, dtype=dtype)
    y, x = (2 * y / (h - 1), 2 * x / (w - 1)) if corners else ((y * 2 + 1) / h, (x * 2 + 1) / w)
    y, x = y - 1, x - 1
    return torch.stack([x.expand(h, w), y[:, None].expand(h, w)], dim=-1)


def grid_like(x: Tensor, dtype: torch.dtype, corners: bool = False) -> Tensor:
    """The identity grid of ``x`` (..., h, w), on its device."""
    return identity_grid(x.shape[-2], x.shape[-1], x.device, dtype, corners)


def resize_grid(grid: Tensor, h: int, w: int) -> Tensor:
    """A sampling grid (B, H, W, 2) at another resolution, (B, h, w, 2).

    What is interpolated is its flow: to interpolate the grid would bend even the identity at the
    borders, where there is nothing to interpolate with.
    """
    if grid.shape[1:3] == (h, w):
        return grid
    here = identity_grid(grid.shape[1], grid.shape[2], grid.device, grid.dtype)
    flow = (grid - here).movedim(-1, 1)
    flow = F.interpolate(flow, size=(h, w), mode="bilinear", align_corners=False)
    return flow.movedim(1, -1) + identity_grid(h, w, grid.device, grid.dtype)


def warp(x: Tensor, grid: Tensor, corners: bool = False) -> Tensor:
    """Sample ``x`` (B, C, H, W) bilinearly at ``grid`` (B, h, w, 2): (B, C, H, W).

    A grid of another resolution than ``x`` is resized to it first.
    """
    if corners:
        grid = resize_to(grid.movedim(-1, 1), (x.shape[-2], x.shape[-1])).movedim(1, -1)
    grid = resize_grid(grid, *x.shape[-2:])
    outside = "zeros" if corners else "border"
    # Half precision would place samples up to a pixel off, so sampling never happens in it.
    exact = torch.promote_types(x.dtype, torch.float32)
    sampled = F.grid_sample(
        x.to(exact), grid.to(exact), mode="bilinear", padding_mode=outside, align_corners=False
    )
    return sampled.to(x.dtype)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product that autocast leaves in full precision, as coordinates need."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def warp_by_flow(x: Tensor, flow: Tensor, corners: bool = False) -> Tensor:
    """``warp`` by a flow (B, 2, h, w), which is relative to the edges' grid in either case."""
    return warp(x, flow.movedim(1, -1) + grid_like(flow, flow.dtype), corners)


def resize_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``x`` (B, C, H, W) at (h, w): bilinear upwards, area means downwards."""
    if x.shape[-2:] == torch.Size(size):
        return x
    if x.shape[-1] > size[1]:
        return F.interpolate(x, size=size, mode="area")
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def blurred_downsample(x: Tensor, factor: int) -> Tensor:
    """``x`` (B, C, H, W) at a ``factor``-th of its size, from a Gaussian blur against aliasing.

    The blur's deviation is ``(factor - 1) / 2`` pixels, cut off at four deviations; outside of the
    image is black. This is how MRAA's released code reduces images.
    """
    if factor == 1:
        return x
    deviation = (factor - 1) / 2
    reach = round(4 * deviation)
    steps = torch.arange(-reach, reach + 1, device=x.device, dtype=torch.float32)
    bell = torch.exp(-((steps / deviation) ** 2) / 2)
    kernel = torch.outer(bell, bell)
    kernel = (kernel / kernel.sum()).to(x.dtype).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(x, kernel, stride=factor, padding=reach, groups=x.shape[1])


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
        b, centres = len(like), identity_grid(points, points).reshape(-1, 2)
        matrix = torch.eye(2, 3) + affine * torch.randn(b, 2, 3)
        weights = spline * torch.randn(b, len(centres), 2)
        return cls(matrix.to(like), centres.to(like), weights.to(like))

    def __call__(self, points: Tensor) -> Tensor:
        """Where ``points``, (B, N, 2) or (N, 2) for all samples alike, go to: (B, N, 2)."""
        square = self._offsets(points).square().sum(-1)
        bent = product(square * torch.log(square + _TINY), self.weights)
        return product(points, self.matrix[:, :, :2].mT) + self.matrix[:, None, :, 2] + bent

    def jacobian(self, points: Tensor) -> Tensor:
        """Derivative at ``points`` (B, N, 2): (B, N, 2, 2), rows are output coordinates."""
        offset = self._offsets(points)
        square = offset.square().sum(-1)
        radial = torch.log(square + _TINY) + square / (square + _TINY)
        slope = 2 * radial[..., None] * offset
        return self.matrix[:, None, :, :2] + product(self.weights.mT[:, None], slope)

    def image(self, x: Tensor) -> Tensor:
        """``x`` (B, C, H, W) seen through the map: pixel p of the result shows x at f(p)."""
        here = grid_like(x, self.matrix.dtype)
        return warp(x, self(here.reshape(-1, 2)).reshape(len(x), *here.shape))

    def _offsets(self, points: Tensor) -> Tensor:
        points = points.expand(len(self.matrix), *points.shape[-2:])
        return points[:, :, None] - self.centres


_TINY = 1e-6
