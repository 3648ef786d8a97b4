"""Where the audio acts: lip, expression and pose regions of a clip (paper, eq. 7 to 10).

The paper's boxes come from "activity ranges in training videos": in training the union over the
clip's frames. At generation only the portrait is known, and its boxes are enlarged about their
centres instead, as far as heads move (``benchmarks/regions.py`` measures it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from thbench.core.errors import UserError, did_you_mean
from thbench.nn.regions import fill_box, region_box, soft_box

REGIONS = ("lip", "expression", "pose", "full")
KINDS = ("paper", "disjoint")
BOXES = ("clip", "portrait", "released")
PARTS = {"lip": "lips", "face": "face"}
"""The boxes, in this order, and what they are around."""
ENLARGED = {"lip": 2.0, "face": 1.2}
"""By what width and height of the portrait's boxes are multiplied at generation."""
RELEASED_UNION = {"lip": 2.0, "face": 1.0}
RELEASED_BLUR = {"lip": 5 / 64, "face": 8 / 64}
"""Deviations of the released code's Gaussians, as fractions of the frame."""


def boxes_around(points: Tensor) -> Tensor:
    """The boxes of ``PARTS``, each around all of its landmarks in all K frames.

    Args:
        points: (B, K, 478, 2 or more), or the least and the greatest place of each landmark over
            the frames, as ``Batch.extent`` has it.

    Returns:
        (B, 2, 2, 2): lip and face; low and high; x and y.
    """
    found = []
    for region in PARTS.values():
        low, high = region_box(points, region)
        found.append(torch.stack([low.amin(1), high.amax(1)], dim=1))
    return torch.stack(found, dim=1)


def enlarge_boxes(boxes: Tensor, by: Mapping[str, float]) -> Tensor:
    """Boxes (B, 2, 2, 2) whose width and height are multiplied, about the same centres."""
    middle = boxes.mean(2, keepdim=True)
    factors = torch.tensor([by[part] for part in PARTS], device=boxes.device)
    return middle + (boxes - middle) * factors[:, None, None]


def region_masks(
    boxes: Tensor, size: int, regions: Sequence[str], kind: str, *, blurred: bool = False
) -> Tensor:
    """One mask per region on a grid of ``size`` x ``size`` cells.

    A cell belongs to the box of a region if the box reaches into it, so that the coarse levels of
    a U-Net do not lose the lips. Of a box beyond the image nothing is left.

    Args:
        boxes: (B, 2, 2, 2), see ``boxes_around``.
        size: of the grid.
        regions: names among ``REGIONS``; ``full`` is everywhere (Table 4).
        kind: ``paper``: pose is everything outside the expression region (eq. 10), so it holds the
            lips as well. ``disjoint``, as the released code has it: pose holds neither.
        blurred: the boxes have soft edges, as the released code's at generation.

    Returns:
        (B, len(regions), size, size), 0 or 1; in between where blurred.
    """
    lip, face = (
        soft_box(box[:, 0], box[:, 1], size, RELEASED_BLUR[part])
        if blurred
        else fill_box(box[:, 0], box[:, 1], size, touched=True)
        for part, box in zip(PARTS, boxes.unbind(1), strict=True)
    )
    expression = (face - lip).clamp(min=0)
    pose = 1 - expression if kind == "paper" else 1 - torch.maximum(face, lip)
    found = {"lip": lip, "expression": expression, "pose": pose, "full": torch.ones_like(lip)}
    return torch.cat([found[region] for region in regions], dim=1)


def check_regions(regions: Sequence[str], kind: str) -> None:
    """Raise a UserError for unknown, repeated or missing regions, or an unknown kind of mask."""
    for region in regions:
        if region not in REGIONS:
            raise UserError(f"No region '{region}'.{did_you_mean(region, REGIONS)}")
    if not regions or len(set(regions)) < len(regions):
        raise UserError("net.regions must name one region or more, each once.")
    if kind not in KINDS:
        raise UserError(f"net.masks must be 'paper' or 'disjoint', not '{kind}'.")


def check_boxes(boxes: str) -> None:
    """Raise a UserError for an unknown kind of boxes."""
    if boxes not in BOXES:
        raise UserError(f"net.boxes must be one of {', '.join(BOXES)}, not '{boxes}'.")


def check_enlarged(enlarged: Mapping[str, float]) -> None:
    """Raise a UserError for an unknown box, or a factor below 1."""
    for part, factor in enlarged.items():
        if part not in PARTS:
            raise UserError(f"options.enlarge has no box '{part}'.{did_you_mean(part, PARTS)}")
        if isinstance(factor, bool) or not isinstance(factor, int | float) or factor < 1:
            raise UserError(f"options.enlarge.{part} must be a number of 1 or more, not {factor}.")
