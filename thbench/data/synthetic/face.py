"""The features of a face, painted on the surface of the head.

A feature is drawn in the frontal plane of the head and projected on the surface along z, so that
it moves with the head, foreshortens and hides as a real one does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thbench.data.synthetic.head import JAW_DROP, nose_tip
from thbench.data.synthetic.identity import Colour, Identity, scaled
from thbench.data.synthetic.shapes import blend, bump, cover, segment

OPENING = 0.34
"""Height of the fully open mouth between the lips, in head units."""


@dataclass(frozen=True)
class Canvas:
    """The skin that is painted on.

    Attributes:
        image: (N, 3, H, W) albedo, changed in place.
        x, y: (N, H, W) frontal coordinates.
        front: (N, H, W), 1 on the front of the head, 0 on its back.
        pixel: (N, 1, 1) width of a pixel in head units.
    """

    image: Tensor
    x: Tensor
    y: Tensor
    front: Tensor
    pixel: Tensor

    def paint(self, colour: Colour, alpha: Tensor) -> None:
        """Blend a colour onto the skin."""
        blend(self.image, colour, alpha * self.front)


def skin(who: Identity, canvas: Canvas) -> None:
    """Blush, sockets, the shadow of the nose, and a beard."""
    x, y = canvas.x, canvas.y
    side = x.abs()
    warm = (who.skin[0], who.skin[1] * 0.72, who.skin[2] * 0.70)
    canvas.paint(warm, bump(side - 0.36, y + 0.20, 0.16, 0.13) * (0.6 * who.blush))
    canvas.paint(warm, bump(x, y - nose_tip(who), 0.11, 0.09) * 0.25)
    dark = scaled(who.skin, 0.62)
    canvas.paint(dark, bump(side - 0.9 * who.eye_x, y - who.eye_y - 0.03, 0.19, 0.15) * 0.35)
    tip = nose_tip(who)
    canvas.paint(dark, bump(x, y - tip + 0.10, 0.13 * who.nose_width, 0.05) * 0.5)
    fold = bump(side - 0.19 - 0.35 * (tip - y), y - tip + 0.13, 0.025, 0.12)
    canvas.paint(dark, fold * 0.25)


def beard(who: Identity, canvas: Canvas, opening: Tensor) -> None:
    """Hair around the mouth and along the jaw."""
    if not (who.beard or who.moustache):
        return
    x, y = canvas.x, canvas.y
    side = x.abs()
    if who.beard:
        edge = who.mouth_y + 0.01 + 1.1 * (side - 0.24).clamp(min=0)
        jaw = segment(y - edge, 0.03, -0.07) * segment(side, 0.74, 0.68)
        bare = bump(x, y - who.mouth_y + 0.03 + 0.12 * opening, 0.33, 0.18)
        canvas.paint(who.brow, (jaw - segment(bare, 0.35, 0.6)).clamp_(0, 1) * who.beard)
    if who.moustache:
        lip = who.mouth_y + who.upper_lip + 0.075 + 0.25 * OPENING * opening
        arc = lip - 0.9 * x.square()
        hair = segment((y - arc).abs(), 0.058, 0.03) * segment(side, 0.27, 0.22)
        canvas.paint(who.brow, hair * who.moustache)


def glasses(who: Identity, canvas: Canvas) -> None:
    """Thin frames around the eyes, with a bridge and temples."""
    if not who.glasses:
        return
    side, pixel = canvas.x.abs(), canvas.pixel
    u, v = (side - who.eye_x - 0.005).abs(), (canvas.y - who.eye_y + 0.01).abs()
    power = 4.0 if who.glasses > 1 else 2.3
    radius = ((u / 0.235).pow(power) + (v / 0.205).pow(power)).pow(1 / power)
    ring = cover(0.017 - (radius - 1).abs() * 0.22, pixel)
    bar = cover(0.015 - (canvas.y - who.eye_y - 0.05).abs(), pixel)
    bar = bar * (radius > 1) * ((side < who.eye_x) | (side > who.eye_x + 0.2))
    canvas.paint(who.rim, torch.maximum(ring, bar))


def nostrils(who: Identity, canvas: Canvas) -> None:
    """Two dark dots below the tip of the nose, and the shade beside its wings."""
    side, y = canvas.x.abs(), canvas.y - nose_tip(who)
    dots = bump(side - 0.052 * who.nose_width, y + 0.055, 0.030, 0.020)
    canvas.paint(scaled(who.skin, 0.28), dots * 0.85)
    canvas.paint(scaled(who.skin, 0.6), bump(side - 0.145 * who.nose_width, y, 0.03, 0.05) * 0.4)


def brows(who: Identity, canvas: Canvas, lift: Tensor) -> None:
    """Two tapering strokes."""
    u = canvas.x.abs() - who.eye_x - 0.01
    width = who.eye_width * 1.25
    q = (1 - (u / width).square()).clamp_(min=0)
    middle = who.brow_y + 0.03 * lift + who.brow_arch * q + who.brow_tilt * u
    half = who.brow_thickness * q.sqrt() * (1 - 0.35 * (u / width).clamp(-1, 1))
    stroke = cover(half - (canvas.y - middle).abs(), canvas.pixel * 1.3)
    canvas.paint(who.brow, stroke * (q > 0) * 0.92)


def eyes(who: Identity, canvas: Canvas, closure: Tensor, gaze: tuple[Tensor, Tensor]) -> None:
    """Lids, white, iris, pupil, highlight and lashes, closed by ``closure`` (N, 1, 1) in [0, 1]."""
    sign = canvas.x.sign()
    u = canvas.x.abs() - who.eye_x
    v = canvas.y - who.eye_y - who.eye_tilt * u
    pixel = canvas.pixel
    r = u / who.eye_width
    q = 1 - r.square()
    top, low = 0.60 * who.eye_height, 0.40 * who.eye_height
    upper = q * (top - (top + low) * closure)
    lower = q * -low
    socket = cover(torch.minimum(q * (top + 0.035) - v, v - lower), pixel)
    canvas.paint(scaled(who.skin, 0.86), socket * 0.8)
    canvas.paint(scaled(who.skin, 0.55), _line(v - q.clamp(min=0) * (top + 0.045), q, 0.012, pixel))
    opened = cover(torch.minimum(upper - v, v - lower), pixel) * (q > 0)
    canvas.paint((0.93, 0.92, 0.90), opened)
    canvas.paint((0.55, 0.48, 0.46), opened * segment(upper - v, 0.06, 0.0) * 0.5)
    gx, gy = u - gaze[0] * sign, v - gaze[1]
    radius = (gx.square() + gy.square()).sqrt_()
    canvas.paint(scaled(who.iris, 0.45), opened * cover(who.iris_size - radius, pixel))
    canvas.paint(who.iris, opened * cover(who.iris_size * 0.84 - radius, pixel * 1.5))
    canvas.paint((0.03, 0.03, 0.03), opened * cover(who.iris_size * 0.45 - radius, pixel))
    glint = ((gx * sign + 0.030).square() + (gy - 0.035).square()).sqrt_()
    canvas.paint((1.0, 1.0, 1.0), opened * cover(0.020 - glint, pixel) * 0.9)
    canvas.paint(scaled(who.skin, 0.5), _line(v - lower, q, 0.008, pixel) * 0.6)
    canvas.paint(scaled(who.brow, 0.5), _line(v - upper, q + 0.05, 0.024, pixel) * 0.95)


def _line(offset: Tensor, inside: Tensor, half: float, pixel: Tensor) -> Tensor:
    return cover(half - offset.abs(), pixel) * (inside > 0)


def mouth(who: Identity, canvas: Canvas, opening: Tensor, width: Tensor) -> None:
    """Lips around a dark interior with teeth and tongue.

    Args:
        who: whose mouth.
        canvas: the skin.
        opening: (N, 1, 1), 0 closed to 1 fully open.
        width: (N, 1, 1), -1 rounded to 1 spread.
    """
    x, pixel = canvas.x, canvas.pixel
    half = who.mouth_width * (1 + 0.24 * width)
    r2 = (x / half).square()
    v = canvas.y - who.mouth_y - who.smile * r2
    q = 1 - r2
    inner = q.clamp(min=0).sqrt() * 0.35 + q * 0.65
    gap = OPENING * opening
    top, low = 0.28 * gap * inner, -0.72 * gap * inner
    full = 1 - 0.22 * width
    cupid = 1 - 0.35 * torch.exp(-(x * (1 / 0.045)).square())
    q_lip = 1 - r2 * 0.88
    up = top + who.upper_lip * full * q_lip * cupid + 0.008
    down = low - who.lower_lip * full * q_lip
    dark = scaled(who.skin, 0.6)
    canvas.paint(dark, bump(x, v + 0.72 * gap + who.lower_lip + 0.05, half * 0.6, 0.035) * 0.45)
    lips = cover(torch.minimum(up - v, v - down), pixel) * cover((1.06 - r2.sqrt()) * 0.3, pixel)
    canvas.paint(who.lips, lips)
    canvas.paint(scaled(who.lips, 0.8), lips * segment(v - top, 0.0, 0.03))
    shine = bump(x, v - low + 0.45 * who.lower_lip, half * 0.45, 0.02)
    canvas.paint(scaled(who.lips, 1.35), lips * shine * 0.5)
    inside = cover(torch.minimum(top - v, v - low), pixel) * (q > 0)
    inside = inside * (gap / pixel).clamp(max=1)
    canvas.paint((0.16, 0.035, 0.04), inside)
    tongue = bump(x, v + 0.72 * gap + 0.005, half * 0.62, 0.10)
    canvas.paint((0.66, 0.26, 0.27), inside * segment(tongue, 0.45, 0.8) * segment(gap, 0.08, 0.2))
    teeth = cover(v - (top - 0.065), pixel) * segment(r2, 0.8, 0.5) * segment(gap, 0.05, 0.12)
    canvas.paint((0.93, 0.91, 0.87), inside * teeth)
    seam = _line(v - 0.5 * (top + low), 1.0 - r2, 0.012, pixel)
    canvas.paint(scaled(who.lips, 0.38), seam * (1 - 12 * gap).clamp(0, 1) * 0.9)


def jaw_drop(opening: Tensor) -> Tensor:
    """How far the chin falls."""
    return JAW_DROP * opening
