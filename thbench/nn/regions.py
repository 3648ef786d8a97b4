"""Regions of the face as pixel masks, from Face Mesh landmarks."""

from __future__ import annotations

import torch
from torch import Tensor

from thbench.nn.warp import identity_grid

LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
MOUTH = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
FACE = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
RIGHT_EYE = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
LEFT_EYE = (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466)

POLYGONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "lips": (LIPS,),  # the lips' outer outline: lips and what is between them
    "mouth": (MOUTH,),  # their inner outline: the opening alone
    "face": (FACE,),
    "eyes": (RIGHT_EYE, LEFT_EYE),
}


def region_mask(landmarks: Tensor, region: str, size: int, margin: float = 0.0) -> Tensor:
    """Pixels whose centre lies in a region of the face.

    Args:
        landmarks: (..., 478, 3), x and y as fractions of width and height.
        region: ``lips`` (outer outline), ``mouth`` (the opening, inner outline), ``face`` (oval)
            or ``eyes`` (both).
        size: the mask is size x size pixels.
        margin: pixels up to this distance outside count too, as a fraction of the frame's width.

    Returns:
        (..., 1, size, size), 0 or 1, float32 (float64 for landmarks in float64).

    Raises:
        ValueError: no such region.
    """
    if region not in POLYGONS:
        raise ValueError(f"no region '{region}' among {', '.join(POLYGONS)}")
    flat = landmarks.reshape(-1, *landmarks.shape[-2:])[..., :2]
    flat = flat if flat.dtype == torch.float64 else flat.float()
    points = (identity_grid(size, size, flat.device, flat.dtype).reshape(-1, 2) + 1) / 2
    inside = torch.zeros(len(flat), len(points), dtype=torch.bool, device=flat.device)
    for ring in POLYGONS[region]:
        inside |= _covered(points, flat[:, list(ring)], margin)
    return inside.to(flat.dtype).reshape(*landmarks.shape[:-2], 1, size, size)


def box_mask(
    landmarks: Tensor, region: str, size: int, margin: float = 0.0, *, touched: bool = False
) -> Tensor:
    """Pixels whose centre lies in the upright box around a region of the face.

    Args:
        landmarks: (..., 478, 3), x and y as fractions of width and height.
        region: see ``region_mask``; ``eyes`` is one box around both.
        size: the mask is size x size pixels.
        margin: added to the box on each side, as a fraction of the frame.
        touched: every pixel that the box reaches into counts, not its centre alone, so that on a
            coarse grid a small region is not lost.

    Returns:
        (..., 1, size, size), 0 or 1, float32.

    Raises:
        ValueError: no such region.
    """
    low, high = region_box(landmarks, region)
    return fill_box(low - margin, high + margin, size, touched=touched)


def region_box(landmarks: Tensor, region: str) -> tuple[Tensor, Tensor]:
    """The upright box around a region of the face.

    Args:
        landmarks: (..., 478, 2 or more), x and y as fractions of width and height.
        region: see ``region_mask``; ``eyes`` is one box around both.

    Returns:
        Its least and its greatest x and y, (..., 2) each, float32.

    Raises:
        ValueError: no such region.
    """
    if region not in POLYGONS:
        raise ValueError(f"no region '{region}' among {', '.join(POLYGONS)}")
    members = [i for ring in POLYGONS[region] for i in ring]
    points = landmarks[..., members, :2].float()
    return points.amin(-2), points.amax(-2)


def fill_box(low: Tensor, high: Tensor, size: int, *, touched: bool = False) -> Tensor:
    """Pixels whose centre lies in upright boxes.

    Args:
        low: (..., 2), least x and y, as fractions of width and height.
        high: (..., 2), the greatest.
        size: the mask is size x size pixels.
        touched: every pixel that the box reaches into counts.

    Returns:
        (..., 1, size, size), 0 or 1, float32; nothing of a box beyond the image.
    """
    reach = 0.5 / size if touched else 0.0
    centres = (torch.arange(size, device=low.device) + 0.5) / size
    inside = (centres >= low[..., None] - reach) & (centres <= high[..., None] + reach)
    across, down = inside.unbind(-2)
    return (down[..., :, None] & across[..., None, :])[..., None, :, :].float()


def soft_box(low: Tensor, high: Tensor, size: int, deviation: float) -> Tensor:
    """The visible part of upright boxes, blurred by a Gaussian and scaled to a greatest value of 1.

    Args:
        low: (..., 2), least x and y, as fractions of width and height.
        high: (..., 2), the greatest.
        size: the mask is size x size pixels.
        deviation: of the Gaussian, as a fraction of the frame.

    Returns:
        (..., 1, size, size) in [0, 1], float32; 0 of a box beyond the image.
    """
    low, high = low.clamp(0, 1), high.clamp(0, 1)
    centres = (torch.arange(size, device=low.device) + 0.5) / size
    inside = torch.special.ndtr((centres - low[..., None]) / deviation)
    across, down = (inside - torch.special.ndtr((centres - high[..., None]) / deviation)).unbind(-2)
    mask = (down[..., :, None] * across[..., None, :])[..., None, :, :].float()
    return mask / mask.amax((-2, -1), keepdim=True).clamp(min=1e-6)


def _covered(points: Tensor, polygon: Tensor, margin: float) -> Tensor:
    """Which ``points`` (P, 2) lie in, or within ``margin`` of, each ``polygon`` (N, V, 2): (N, P).

    One pass per edge keeps memory at (N, P) for any number of vertices.
    """
    crossings = torch.zeros(len(polygon), len(points), dtype=torch.bool, device=points.device)
    near = torch.zeros_like(crossings)
    for start, end in zip(polygon.unbind(1), polygon.roll(-1, 1).unbind(1), strict=True):
        crossings ^= _crosses(points, start[:, None], end[:, None])
        if margin > 0:
            near |= _square_distance(points, start[:, None], end[:, None]) <= margin**2
    return crossings | near


def _crosses(points: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Whether a ray from each point to the right crosses the edge (even-odd rule)."""
    x, y = points.unbind(-1)
    spans = (start[..., 1] > y) != (end[..., 1] > y)
    rise = end[..., 1] - start[..., 1]
    rise = torch.where(rise == 0, torch.ones_like(rise), rise)  # level edges span nothing
    at = start[..., 0] + (y - start[..., 1]) / rise * (end[..., 0] - start[..., 0])
    return spans & (x < at)


def _square_distance(points: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Squared distance of each point to the segment.

    Coordinate by coordinate: reducing an axis of length two is several times slower.
    """
    x, y = (points - start).unbind(-1)
    along_x, along_y = (end - start).unbind(-1)
    length = (along_x.square() + along_y.square()).clamp(min=torch.finfo(points.dtype).tiny)
    share = ((x * along_x + y * along_y) / length).clamp(0, 1)
    return (x - share * along_x).square() + (y - share * along_y).square()
