"""LMD: how far the generated face's landmarks lie from the reference's."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from metrics.base import ClipMetric, Features

Mode = Literal["raw", "mouth-centred"]
Unit = Literal["pixels", "normalised"]

IBUG_68: tuple[tuple[int, int], ...] = (
    # 0-16: jaw, from the ear on the left of the image
    (127, 127), (234, 234), (93, 93), (132, 58), (58, 172), (136, 136), (150, 150), (176, 176),
    (152, 152), (400, 400), (379, 379), (365, 365), (397, 288), (288, 361), (323, 323),
    (454, 454), (356, 356),
    # 17-26: brows
    (70, 70), (63, 63), (105, 105), (66, 66), (107, 107),
    (336, 336), (296, 296), (334, 334), (293, 293), (300, 300),
    # 27-35: nose, bridge then nostrils
    (168, 6), (197, 195), (5, 5), (4, 4), (75, 75), (97, 97), (2, 2), (326, 326), (305, 305),
    # 36-47: eyes
    (33, 33), (160, 160), (158, 158), (133, 133), (153, 153), (144, 144),
    (362, 362), (385, 385), (387, 387), (263, 263), (373, 373), (380, 380),
    # 48-59: outer lips, 60-67: inner lips
    (61, 61), (39, 39), (37, 37), (0, 0), (267, 267), (269, 269), (291, 291),
    (321, 321), (314, 314), (17, 17), (84, 84), (91, 91),
    (78, 78), (82, 82), (13, 13), (312, 312), (308, 308), (317, 317), (14, 14), (87, 87),
)  # fmt: skip
"""For each of the 68 points of iBUG 300-W, the two Face Mesh points that it lies between.

After P. Yan's table (github.com/PeizhiYan/Mediapipe_2_Dlib_Landmarks), but for jaw point 13, where
his takes 361 alone: here it mirrors point 3, so that a mirrored face has the mirrored points."""

MOUTH = slice(48, 68)
EYE_CORNERS = (36, 45)
"""The outer corners of the eyes."""


def to_68(landmarks: Tensor) -> Tensor:
    """Face Mesh landmarks (T, 478, >=2) as the 68 points (T, 68, 2), in the same unit."""
    return landmarks[:, torch.tensor(IBUG_68, device=landmarks.device), :2].mean(2)


def landmark_distance(generated: Tensor, reference: Tensor, mode: Mode = "raw") -> Tensor:
    """Mean distance between corresponding points, in each frame.

    Args:
        generated: (T, 68, 2).
        reference: (T, 68, 2).
        mode: ``raw`` takes all points where they lie; ``mouth-centred`` the 20 of the lips, after
            moving each mouth's mean to the origin (LMD of Chen et al., "Lip Movements Generation
            at a Glance", 2018, Section 4.1).

    Returns:
        (T,), in the unit of the points.
    """
    a, b = generated, reference
    if mode == "mouth-centred":
        a, b = (x[:, MOUTH] - x[:, MOUTH].mean(1, keepdim=True) for x in (a, b))
    return (a - b).norm(dim=-1).mean(-1)


def eye_span(points: Tensor) -> Tensor:
    """Distance (T,) between the outer corners of the eyes of 68 points (T, 68, 2)."""
    left, right = EYE_CORNERS
    return (points[:, left] - points[:, right]).norm(dim=-1)


class LMD(ClipMetric):
    """Landmark distance, mean over the frames in which both videos show a face.

    Without any such frame a clip has no value.

    Args:
        mode: ``raw`` takes all 68 points; ``mouth-centred`` those of the lips, each
            mouth's mean moved to the origin.
        scale: ``pixels`` at the scoring resolution, or ``normalised`` by the distance between the
            outer eye corners of the reference (the error of 300-W), frame by frame.
    """

    direction = "lower"
    bounds = (0.0, math.inf)
    needs = ("size", "landmarks", "valid")

    def __init__(self, mode: Mode = "raw", scale: Unit = "pixels", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if mode not in ("raw", "mouth-centred") or scale not in ("pixels", "normalised"):
            raise ValueError(
                f"mode is raw or mouth-centred, scale pixels or normalised, not {mode}, {scale}"
            )
        self.mode: Mode = mode
        self.scale: Unit = scale
        self.unit = "px" if scale == "pixels" else ""

    @property
    def name(self) -> str:
        return f"LMD ({self.mode}, {'px' if self.scale == 'pixels' else 'normalised'})"

    def measure(self, generated: Features, reference: Features | None) -> float:
        if reference is None:
            return math.nan
        mine, theirs = self.points(generated, reference)
        return float(self.distances(mine, theirs).mean()) if len(mine) else math.nan

    def points(self, generated: Features, reference: Features) -> tuple[Tensor, Tensor]:
        """The 68 points in pixels, (n, 68, 2), in the n frames where both videos show a face."""
        both = generated["valid"].bool() & reference["valid"].bool()
        size = generated["size"].cpu().flip(0).double()
        mine, theirs = (
            to_68(f["landmarks"][both].cpu().double()) * size for f in (generated, reference)
        )
        return mine, theirs

    def distances(self, mine: Tensor, theirs: Tensor) -> Tensor:
        """Distance (n,) of each face from the reference's, from points (n, 68, 2) in pixels."""
        distance = landmark_distance(mine, theirs, self.mode)
        return distance if self.scale == "pixels" else distance / eye_span(theirs)
