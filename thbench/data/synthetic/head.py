"""The shape of a head: a signed distance, and where rays meet it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thbench.data.synthetic.identity import Identity
from thbench.data.synthetic.shapes import Point, Rays, bump, ellipsoid, smooth_min

STEPS = 6
"""Of sphere tracing; few, because rays start close: 1 pixel in 800 differs from 60 steps."""

BOUND = (0.93, 1.07, 0.96)
"""Radii of an ellipsoid around every head."""

JAW_DROP = 0.10
"""How far the chin falls when the mouth is fully open."""


@dataclass(frozen=True)
class Surface:
    """What rays see of a head. All (N, H, W).

    Attributes:
        point: in head units.
        depth: along the ray, larger is nearer.
        alpha: share of the pixel that the head covers.
        shade: light received, about 1 where it falls straight on.
    """

    point: Point
    depth: Tensor
    alpha: Tensor
    shade: Tensor


def distance(who: Identity, p: Point, drop: Tensor) -> Tensor:
    """Signed distance to the head with its jaw lowered by ``drop`` (N, 1, 1), to first order."""
    x, y, z = p
    side = x.abs()
    skull = ellipsoid(p, (0.0, 0.28, -0.10), (0.70 * who.head_width, 0.72, 0.80))
    jaw_size = (0.53 * who.jaw_width * who.head_width, 0.66, 0.60)
    jaw = ellipsoid(p, (0.0, -0.32 - 0.5 * drop, 0.12), jaw_size)
    head = smooth_min(skull, jaw, 0.22)
    chin_y = -0.82 - drop
    head = smooth_min(head, ellipsoid(p, (0.0, chin_y, 0.36), (0.17, 0.14, 0.20)), 0.15)
    head.sub_(bump(side - 0.34, y + 0.16, 0.22, 0.20), alpha=0.035 * who.cheek)
    head.add_(bump(side - who.eye_x, y - who.eye_y, 0.17, 0.13), alpha=0.075)
    head.sub_(bump(x, y - who.brow_y + 0.04, 0.45, 0.09), alpha=0.025)
    head.sub_(bump(x, y - who.mouth_y + 0.4 * drop, 0.26, 0.13), alpha=0.05)
    tip = nose_tip(who)
    d = who.nose_depth
    slope = (y - tip) * (1 / (who.eye_y - tip + 0.10))
    ridge = ellipsoid(
        (x, y, z + 0.13 * d * slope.clamp(-0.3, 1.2)),
        (0.0, tip + 0.17, 0.66),
        (0.075 * who.nose_width, 0.27, 0.16 * d),
    )
    ball = ellipsoid(p, (0.0, tip, 0.69 + 0.07 * d), (0.085 * who.nose_width, 0.075, 0.10 * d))
    wing = ellipsoid((side, y, z), (0.082 * who.nose_width, tip - 0.01, 0.68), (0.055, 0.055, 0.09))
    nose = smooth_min(smooth_min(ridge, ball, 0.06), wing, 0.04)
    head = smooth_min(head, nose, 0.10)
    ear = ellipsoid(
        (side, y, z),
        (0.67 * who.head_width, 0.02, -0.10),
        (0.075, 0.17 * who.ear_size, 0.13),
    )
    return smooth_min(head, ear, 0.06)


def nose_tip(who: Identity) -> float:
    """Height of the tip of the nose."""
    return who.eye_y - who.nose_length


def trace(who: Identity, rays: Rays, drop: Tensor, light: tuple[float, float]) -> Surface:
    """Meet the head with rays, by sphere tracing from a bounding ellipsoid."""
    near, _, _ = rays.ellipsoid((0.0, 0.0, 0.02), BOUND)
    depth = near
    gap = distance(who, rays.at(depth), drop)
    nearest = gap
    step = gap.clamp(-0.2, 0.3)
    for _ in range(STEPS):
        depth = depth - step
        before, gap = gap, distance(who, rays.at(depth), drop)
        nearest = torch.minimum(nearest, gap)
        # At a grazing angle the distance falls slower than the ray advances: stretch the step by
        # the slope just seen (a secant step), never below sphere tracing.
        stretch = (step / (before - gap)).nan_to_num_(1.0).clamp_(1, 2.5)
        step = (gap * stretch).clamp_(-0.2, 0.3)
    alpha = (1.25 - nearest / rays.pixel).clamp_(0, 1)
    return Surface(rays.at(depth), depth, alpha, _light(depth, rays.pixel, light))


def _light(depth: Tensor, pixel: Tensor, light: tuple[float, float]) -> Tensor:
    """Wrapped Lambert shading from the slope of the depth image."""
    dy, dx = torch.gradient(depth, dim=(-2, -1))
    dx, dy = (dx / pixel).clamp_(-6, 6), (dy / pixel).clamp_(-6, 6)
    facing = (dx.square() + dy.square() + 1).rsqrt_()
    lx, ly = light
    lz = max(0.2, 1 - lx * lx - ly * ly) ** 0.5
    lambert = (lz - lx * dx + ly * dy) * facing
    return (0.52 + 0.56 * (lambert * 0.8 + 0.2).clamp_(0, 1.1)) * (0.80 + 0.20 * facing)
