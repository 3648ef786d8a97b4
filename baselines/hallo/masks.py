"""Where the sound acts: lip, expression and pose regions of the portrait (paper, eq. 7 to 10)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thbench.errors import UserError, did_you_mean
from thbench.nn.regions import box_mask

REGIONS = ("lip", "expression", "pose", "full")
KINDS = ("paper", "disjoint")


def region_masks(landmarks: Tensor, size: int, regions: Sequence[str], kind: str) -> Tensor:
    """One mask per region on a grid of ``size`` x ``size`` cells.

    A cell belongs to the box of a region if the box reaches into it, so that the coarse levels of
    a U-Net do not lose the lips.

    Args:
        landmarks: (B, 478, 3) of the portrait.
        size: of the grid.
        regions: names among ``REGIONS``; ``full`` is everywhere (Table 4).
        kind: ``paper``: pose is everything outside the expression region (eq. 10), so it holds the
            lips as well. ``disjoint``, as the released code has it: pose holds neither.

    Returns:
        (B, len(regions), size, size), 0 or 1.
    """
    lip = box_mask(landmarks, "lips", size, touched=True)
    face = box_mask(landmarks, "face", size, touched=True)
    expression = (1 - lip) * face
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
