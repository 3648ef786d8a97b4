"""What stands behind and below a head: the wall, the shoulders, the clothes and the neck."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from thbench.data.synthetic.identity import Identity, scaled
from thbench.data.synthetic.shapes import blend, cover, segment


def screen(size: int) -> tuple[Tensor, Tensor]:
    """Coordinates of the pixels' centres: x (1, S) to the right, y (S, 1) up, both in [-1, 1]."""
    line = (torch.arange(size, dtype=torch.float32) + 0.5) * (2 / size) - 1
    return line[None, :], -line[:, None]


def backdrop(who: Identity, size: int) -> Tensor:
    """The room, out of focus: (3, S, S) in [0, 1]."""
    rng = np.random.default_rng(who.backdrop_seed)
    x, y = screen(size)
    x, y = x.expand(size, size), y.expand(size, size)
    image = torch.tensor(who.wall)[:, None, None].repeat(1, size, size)[None]
    if who.backdrop == "gradient":
        angle = rng.uniform(-1, 1)
        blend(image, who.accent, segment(y + angle * x, 1.2, -1.2))
    elif who.backdrop == "blobs":
        for _ in range(9):
            cx, cy, r = rng.uniform(-1, 1), rng.uniform(-0.6, 1), rng.uniform(0.10, 0.34)
            d = r - ((x - cx).square() + (y - cy).square()).sqrt()
            blend(image, scaled(who.accent, rng.uniform(0.8, 1.35)), segment(d, -0.07, 0.07) * 0.6)
    elif who.backdrop == "panels":
        edge, width = rng.uniform(-0.8, 0.8), rng.uniform(0.35, 0.8)
        blend(image, who.accent, cover((width - (x - edge).abs()), 0.06))
        blend(image, scaled(who.accent, 0.7), cover(0.03 - (x - edge - width).abs(), 0.05))
        blend(image, scaled(who.wall, 0.75), cover(-0.2 - y + 0.1 * rng.uniform(-1, 1), 0.08))
    else:
        cx = float(rng.choice((-0.62, 0.62)))
        box = torch.minimum(0.34 - (x - cx).abs(), 0.55 - (y - 0.35).abs())
        blend(image, (0.93, 0.95, 0.97), segment(box, -0.05, 0.05) * 0.85)
        blend(image, scaled(who.wall, 0.8), cover(0.025 - (x - cx).abs(), 0.05) * (box > 0))
    grain = torch.from_numpy(rng.normal(0, 1, (1, 1, 5, 5)).astype(np.float32))
    image.mul_(1 + 0.035 * F.interpolate(grain, (size, size), mode="bicubic"))
    image.mul_(1 - 0.16 * (x.square() + y.square())[None, None])
    return image[0].clamp_(0, 1)


def body(who: Identity, image: Tensor, x: Tensor, y: Tensor, chin: Tensor) -> None:
    """Neck, shoulders and clothes onto ``image`` (N, 3, S, S), in place.

    Args:
        who: whose body.
        image: what is there already.
        x: (N, S, S) distance from the root of the neck to the right, in head units.
        y: (N, S, S) upwards.
        chin: (N, 1, 1, 2) where the chin is, in the same units; it throws a shadow on the neck.
    """
    pixel = 2 / image.shape[-1] / who.head_size
    side = x.abs()
    light = 1 + 0.14 * who.light_x * x
    neck = 0.88 * who.neck_width + 0.35 * (0.15 - y).clamp(min=0).square()
    mask = cover(neck - side, pixel) * cover(0.66 - y - 1.6 * x.square(), pixel)
    tone = (1.0 - 0.30 * (side / who.neck_width).square()).clamp_(0.35, 1) * light
    shadow = segment(y - chin[..., 1] + 0.9 * (x - chin[..., 0]).square(), -0.52, 0.02)
    tone = tone * (0.90 - 0.45 * shadow)
    blend(image, who.skin, mask, tone)
    top = _shoulders(who, side)
    opening = _neckline(who, side)
    cloth = torch.minimum(top - y, (opening - y) if opening is not None else top - y)
    fold = 1 + 0.05 * torch.sin(x * 5 + 3 * y) * segment(side, 0.3, 0.9)
    tone = (0.95 - 0.16 * (side - 0.2).square() + 0.10 * (y + 0.3)) * light * fold
    if who.stripes:
        tone = tone * (1 - 0.16 * segment(torch.sin(y * who.stripes * 2.2), -0.3, 0.3))
    blend(image, who.cloth, cover(torch.minimum(top - y, cloth), pixel), tone)
    band = 0.075 if who.neckline in ("shirt", "hood") else 0.035
    rim = cover(band - (opening - y - band).abs(), pixel) * cover(top - y + 0.02, pixel)
    colour = (0.92, 0.92, 0.93) if who.neckline == "shirt" else who.trim
    blend(image, colour, rim * segment(side, 0.8, 0.7), tone)


def _shoulders(who: Identity, side: Tensor) -> Tensor:
    s = (side / who.shoulder - 0.30).clamp(min=0)
    return 0.20 - 0.42 * s - 0.55 * (s - 0.45).clamp(min=0).square()


def _neckline(who: Identity, side: Tensor) -> Tensor:
    if who.neckline == "vee":
        return -0.34 + 1.35 * side
    if who.neckline == "shirt":
        return -0.16 + 0.95 * side
    if who.neckline == "hood":
        return 0.02 + 1.1 * side.square()
    return -0.12 + 2.0 * side.square()
