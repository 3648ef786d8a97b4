"""Hair: a shell over the skull, cut at the hairline, and what hangs from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thbench.data.synthetic.head import BOUND
from thbench.data.synthetic.identity import Identity
from thbench.data.synthetic.shapes import Point, Rays, cover, segment

_VOLUME = {"crop": 0.35, "short": 0.9, "curly": 1.9, "afro": 4.0, "bald": 0.0}
_TUFTS = {
    "short": (0.84, (0.46, 0.20, 0.46)),
    "parted": (0.80, (0.56, 0.26, 0.48)),
    "curly": (0.88, (0.60, 0.26, 0.46)),
}
_FINE = 97.0
_HANGING = {"long": ((0.80, 1.12, 0.42), -0.42), "bob": ((0.80, 0.86, 0.48), -0.10)}


@dataclass(frozen=True)
class Layer:
    """Something to blend: share of the pixel and brightness, both (N, H, W)."""

    alpha: Tensor
    shade: Tensor


def bound(who: Identity) -> tuple[float, float, float]:
    """Radii of an ellipsoid around the origin that holds head and hair."""
    if who.style in _HANGING:
        return (1.1, 1.60, 1.2)
    centre, radii = _shell(who)
    top = 1.34 if who.style in ("bun", *_TUFTS) else 0.0
    grown = [1.02 * (radii[i] + abs(centre[i])) for i in range(3)]
    return max(grown[0], BOUND[0]), max(grown[1], BOUND[1], top), max(grown[2], BOUND[2])


def hanging(who: Identity, rays: Rays) -> list[Layer]:
    """What hangs down behind the neck, or stands behind the skull."""
    layers = []
    if who.style in _HANGING:
        radii, y = _HANGING[who.style]
        wide = (radii[0] * who.head_width, radii[1], radii[2])
        layers.append(_solid(who, rays, (0.0, y, -0.28), wide, 0.72))
    if who.style == "bun":
        layers.append(_solid(who, rays, (0.0, 0.98, -0.42), (0.30, 0.28, 0.30), 1.0))
    return layers


def behind(who: Identity, rays: Rays) -> list[Layer]:
    """The far side of the hair on the skull."""
    if who.style == "bald":
        return []
    _, far, miss = rays.ellipsoid(*_shell(who))
    p = rays.at(far)
    mask = cover(-_ragged(who, p, miss), rays.pixel) * cover(_grown(who, p), rays.pixel)
    return [Layer(mask, _strands(who, rays, p) * 0.62)]


def sides(who: Identity, rays: Rays, depth: Tensor) -> list[Layer]:
    """Locks that hang beside the face, hidden where the head, at ``depth``, is nearer."""
    if who.style not in _HANGING:
        return []
    length = 0.78 if who.style == "long" else 0.52
    y = -0.36 if who.style == "long" else -0.06
    layers = []
    for side in (-1.0, 1.0):
        centre = (side * 0.70 * who.head_width, y, -0.06)
        layer = _solid(who, rays, centre, (0.17, length, 0.30), 0.92)
        near, _, _ = rays.ellipsoid(centre, (0.17, length, 0.30))
        seen = ((near - depth) / (3 * rays.pixel) + 0.5).clamp_(0, 1)
        layers.append(Layer(layer.alpha * seen, layer.shade))
    return layers


def cap(who: Identity, rays: Rays, depth: Tensor) -> list[Layer]:
    """Hair on the skull, above and behind the hairline, and a tuft above the forehead."""
    if who.style == "bald":
        return []
    layers = [_lock(who, rays, depth, *_shell(who), grown=True)]
    if who.style in _TUFTS:
        height, radii = _TUFTS[who.style]
        centre = (0.5 * who.part, height, 0.26)
        layers.append(_lock(who, rays, depth, centre, radii, grown=False))
    return layers


def _lock(
    who: Identity,
    rays: Rays,
    depth: Tensor,
    centre: tuple[float, float, float],
    radii: tuple[float, float, float],
    *,
    grown: bool,
) -> Layer:
    """The near side of an ellipsoid of hair, where nothing at ``depth`` hides it."""
    near, _, miss = rays.ellipsoid(centre, radii)
    p = rays.at(near)
    mask = cover(-_ragged(who, p, miss), rays.pixel)
    if grown:
        mask = mask * cover(_grown(who, p), rays.pixel * 1.5)
    mask = mask * ((near - depth) / (2 * rays.pixel) + 0.5).clamp_(0, 1)
    round_ = (1 - (miss + 1).clamp(0, 1).square() * 0.75).clamp_(min=0.05).sqrt_()
    light = 0.62 + 0.5 * round_ if grown else 0.92 + 0.2 * round_
    return Layer(mask, _strands(who, rays, p) * light)


def _ragged(who: Identity, p: Point, miss: Tensor) -> Tensor:
    """The outline of curls."""
    if who.style not in ("curly", "afro"):
        return miss
    x, y, z = p
    return miss + 0.03 * (torch.sin(x * 17 + 5 * who.part) * torch.sin(y * 15 + z * 5) + 1)


def _shell(who: Identity) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    t = who.hair_thickness * _VOLUME.get(who.style, 1.1)
    lift = 0.5 * t
    return (0.0, 0.28 + lift, -0.12), (0.70 * who.head_width + t, 0.73 + t, 0.82 + t)


def _grown(who: Identity, p: Point) -> Tensor:
    """Positive where hair grows: a plane from the forehead down to the nape, then the style."""
    x, y, z = p
    front = segment(z, 0.15, 0.75)
    slope = 0.95 if who.style in ("short", "crop", "curly", "afro", "bun") else 1.05
    edge = who.hairline + slope * (z - 0.68).clamp(-1.4, 0.2) + 0.30 * x.square() * front
    if who.style == "parted":
        edge = edge - front * 0.20 * ((x - who.part) * (-1 if who.part > 0 else 1)).clamp(-0.5, 0.6)
        edge = edge + front * 0.10 * torch.exp(-((x - who.part) * 12).square())
    elif who.style == "fringe":
        edge = edge - front * (0.20 - 0.05 * torch.cos(x * 9 + who.part * 20))
    elif who.style in ("long", "bob", "bun"):
        edge = edge + front * 0.10 * torch.exp(-((x - 0.4 * who.part) * 7).square())
    if who.style in ("curly", "afro"):
        edge = edge + 0.035 * torch.sin(x * 19 + 1) * torch.sin(z * 17 + y * 13)
    else:
        edge = edge + 0.012 * torch.sin(x * 31 + who.part * 50)
    return y - edge


def _solid(
    who: Identity,
    rays: Rays,
    centre: tuple[float, float, float],
    radii: tuple[float, float, float],
    brightness: float,
) -> Layer:
    near, _, miss = rays.ellipsoid(centre, radii)
    p = rays.at(near)
    return Layer(cover(-miss, rays.pixel), _strands(who, rays, p, hanging=True) * brightness)


def _strands(who: Identity, rays: Rays, p: Point, hanging: bool = False) -> Tensor:
    """Brightness of hair: streaks along the strands, or curls, and a band of shine."""
    x, y, z = p
    amount = 0.10 * who.texture
    if who.style in ("curly", "afro"):
        curls = torch.sin(x * 21 + 2 * torch.sin(y * 15)) * torch.sin(y * 19 + z * 9)
        return 0.95 + 1.4 * amount * curls
    along = x if hanging else (x - who.part) * (1.3 - 0.5 * y.clamp(0, 1)) + 0.35 * z
    bend = torch.sin(y * 5 + 9 * who.part)
    streak = 0.7 * torch.sin(along * 41 + 1.5 * bend) * torch.sin(along * 9 + 2 * y)
    fine = torch.sin(along * _FINE + 2.5 * bend)
    streak.addcmul_(fine, torch.exp(-0.12 * (rays.pixel * _FINE).square()), value=0.7)
    shine = torch.exp(-((y - 0.72 + 0.35 * z) * 5).square())
    return 0.92 + amount * streak + 0.22 * shine
