"""The 478 points of a face in a square of an image: MediaPipe's attention mesh.

Grishchenko et al. 2020 (arXiv:2006.10962): one network gives 468 points with depth, cuts lips and
eyes out of its own features by them, and refines them there; the irises' points come from there
alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from thbench.core.types import N_LANDMARKS
from thbench.data.face.tracker.network import shipped
from thbench.data.face.tracker.region import Region, around

MODEL = "face_landmark_with_attention.tflite"
SIZE = 192
PRESENCE = 0.5
OUTER_CORNERS = (33, 263)  # of the eyes

# The points that each refined output replaces, in its order. Left is left in the image. The first
# 16 of an eye are its rim.
LIPS = (
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409,
    78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415,
    76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306, 184, 74, 73, 72, 11, 302, 303, 304, 408,
    62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292, 183, 42, 41, 38, 12, 268, 271, 272, 407,
)  # fmt: skip
LEFT_EYE = (
    33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173,
    130, 25, 110, 24, 23, 22, 26, 112, 243, 247, 30, 29, 27, 28, 56, 190,
    226, 31, 228, 229, 230, 231, 232, 233, 244, 113, 225, 224, 223, 222, 221, 189,
    35, 124, 46, 53, 52, 65, 143, 111, 117, 118, 119, 120, 121, 128, 245,
    156, 70, 63, 105, 66, 107, 55, 193,
)  # fmt: skip
RIGHT_EYE = (
    263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398,
    359, 255, 339, 254, 253, 252, 256, 341, 463, 467, 260, 259, 257, 258, 286, 414,
    446, 261, 448, 449, 450, 451, 452, 453, 464, 342, 445, 444, 443, 442, 441, 413,
    265, 353, 276, 283, 282, 295, 372, 340, 346, 347, 348, 349, 350, 357, 465,
    383, 300, 293, 334, 296, 336, 285, 417,
)  # fmt: skip
REFINED = {
    "output_lips": LIPS,
    "output_left_eye": LEFT_EYE,
    "output_right_eye": RIGHT_EYE,
    "output_left_iris": range(468, 473),
    "output_right_iris": range(473, 478),
}
RIMS = {"output_left_iris": LEFT_EYE[:16], "output_right_iris": RIGHT_EYE[:16]}


class Mesh:
    """Measures the points of faces in known regions.

    Args:
        device: where the network runs.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self._network = shipped(MODEL, torch.device(device))

    def __call__(
        self, images: Sequence[np.ndarray], regions: Sequence[Region]
    ) -> list[np.ndarray | None]:
        """The points in each image's region.

        Args:
            images: uint8 (H, W, 3) RGB.
            regions: a square of each.

        Returns:
            float32 (478, 3): x and y as fractions of the image's width and height, z (towards
            the viewer below 0) in the scale of x. None where the network sees no face.
        """
        if not len(images):
            return []
        squares = [
            region.cut(image, SIZE, cv2.BORDER_REPLICATE)
            for image, region in zip(images, regions, strict=True)
        ]
        found = self._network(torch.from_numpy(np.stack(squares)).float() / 255)
        values = {name: v.flatten(1).cpu().numpy() for name, v in found.items()}
        present = 1 / (1 + np.exp(-values["conv_faceflag"][:, 0])) > PRESENCE
        return [
            _into_image(points, region, image) if seen else None
            for points, seen, region, image in zip(
                _refine(values), present, regions, images, strict=True
            )
        ]


def following(points: np.ndarray, image: np.ndarray) -> Region:
    """The region of the face in the next image, from its points (478, 3) in this one."""
    height, width = image.shape[:2]
    xy = points[:, :2] * (width, height)
    return around(xy.min(0), xy.max(0), xy[list(OUTER_CORNERS)])


def _refine(values: dict[str, np.ndarray]) -> np.ndarray:
    """All points (n, 478, 3) in the square's pixels."""
    mesh = values["output_mesh_identity"].reshape(-1, 468, 3)
    points = np.zeros((len(mesh), N_LANDMARKS, 3), np.float32)
    points[:, :468] = mesh
    for name, indices in REFINED.items():
        points[:, list(indices), :2] = values[name].reshape(len(mesh), -1, 2)
        if name in RIMS:
            points[:, list(indices), 2] = points[:, list(RIMS[name]), 2].mean(1, keepdims=True)
    return points


def _into_image(points: np.ndarray, region: Region, image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    matrix = region.matrix(SIZE)
    xy = (points[:, :2] @ matrix[:, :2].T + matrix[:, 2]) / (width, height)
    z = points[:, 2:] * (region.side / SIZE / width)
    return np.concatenate([xy, z], 1).astype(np.float32)
