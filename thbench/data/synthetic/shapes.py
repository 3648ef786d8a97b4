"""Signed distances and soft edges on pixel grids, the alphabet of the renderer.

All functions are elementwise on tensors that broadcast against each other; distances are negative
inside a shape. Sources: Quilez, "Distance functions" (ellipsoid bound, polynomial smooth minimum);
Hart (1996), "Sphere tracing".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Point = tuple[Tensor, Tensor, Tensor]
Number = float | Tensor


def ellipsoid(
    p: Point, centre: tuple[Number, Number, Number], radii: tuple[float, float, float]
) -> Tensor:
    """First-order distance to an ellipsoid: ``k (k - 1) / |grad|`` with k the scaled radius."""
    squares = [(p[i] - centre[i]).square_() for i in range(3)]
    k = squares[0] * radii[0] ** -2
    k.add_(squares[1], alpha=radii[1] ** -2).add_(squares[2], alpha=radii[2] ** -2)
    g = squares[0].mul_(radii[0] ** -4)
    g.add_(squares[1], alpha=radii[1] ** -4).add_(squares[2], alpha=radii[2] ** -4)
    return (k - k.sqrt()).mul_(g.add_(1e-8).rsqrt_())


def smooth_min(a: Tensor, b: Tensor, k: float) -> Tensor:
    """The minimum, with the crease rounded over a width of ``k``."""
    h = (a - b).abs_().neg_().add_(k).clamp_(min=0)
    return torch.minimum(a, b).sub_(h.square_(), alpha=0.25 / k)


def bump(x: Tensor, y: Tensor, width: Number, height: float) -> Tensor:
    """``exp(-(x/width)^2 - (y/height)^2)``."""
    return (x.square() * (-(width**-2))).sub_(y.square(), alpha=height**-2).exp_()


def cover(inside: Tensor, pixel: Number) -> Tensor:
    """Share of a pixel that is covered, from the distance ``inside`` (positive within)."""
    return (inside / pixel + 0.5).clamp_(0, 1)


def blend(
    image: Tensor, colour: tuple[float, float, float], alpha: Tensor, tone: Tensor | None = None
) -> None:
    """Lay ``colour``, brightened by ``tone``, on ``image`` (N, 3, H, W) in place."""
    for channel, value in enumerate(colour):
        plane = image[:, channel]
        goal = value - plane if tone is None else tone * value - plane
        plane.addcmul_(alpha, goal)


def segment(x: Tensor, low: float, high: float) -> Tensor:
    """Smoothstep from 0 at ``low`` to 1 at ``high`` (either order)."""
    t = ((x - low) * (1 / (high - low))).clamp_(0, 1)
    return t * t * (3 - 2 * t)


@dataclass(frozen=True)
class Rays:
    """Parallel rays through pixels, in head units: ``origin + t * direction``.

    ``origin`` holds three (N, H, W) tensors, ``direction`` three (N, 1, 1); larger t is nearer to
    the camera. ``pixel`` is the width of a pixel in head units, (N, 1, 1).
    """

    origin: Point
    direction: Point
    pixel: Tensor

    def at(self, t: Tensor) -> Point:
        """The points at depth ``t``."""
        x, y, z = (torch.addcmul(o, t, d) for o, d in zip(self.origin, self.direction, strict=True))
        return x, y, z

    def ellipsoid(
        self, centre: tuple[Number, Number, Number], radii: tuple[float, float, float]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Where rays meet an ellipsoid: near depth, far depth, and the miss in head units.

        The miss is negative where the ray hits; both depths are that of closest approach where it
        does not.
        """
        o = [(self.origin[i] - centre[i]) / radii[i] for i in range(3)]
        d = [self.direction[i] / radii[i] for i in range(3)]
        dd = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
        middle = (o[0] * d[0]).addcmul_(o[1], d[1]).addcmul_(o[2], d[2]).div_(-dd)
        oo = (o[0] * o[0]).addcmul_(o[1], o[1]).addcmul_(o[2], o[2])
        closest = oo.sub_(middle.square() * dd)
        half = ((1 - closest).clamp_(min=0) / dd).sqrt_()
        size = sum(radii) / 3
        return middle + half, middle - half, (closest.clamp(min=1e-6).sqrt_() - 1) * size
