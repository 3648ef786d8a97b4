"""Rotated squares of an image, and sampling them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

ENLARGED = 1.5  # of the face's longer side, as Face Mesh's graph has it


@dataclass(frozen=True)
class Region:
    """A square: its centre and side in pixels, its turn in radians, clockwise in the image."""

    x: float
    y: float
    side: float
    turn: float = 0.0

    def matrix(self, size: int = 1) -> np.ndarray:
        """From places in the square, ``size`` long, to places in the image: (2, 3)."""
        scale = self.side / size
        cos, sin = scale * math.cos(self.turn), scale * math.sin(self.turn)
        linear = np.array([[cos, -sin], [sin, cos]])
        return np.c_[linear, (self.x, self.y) - linear @ (size / 2, size / 2)]

    def cut(self, image: np.ndarray, size: int, border: int) -> np.ndarray:
        """The square of a uint8 (H, W, 3), resized to uint8 (size, size, 3).

        A pixel is what lies at its corner, not at its middle, as in MediaPipe.

        Args:
            image: the image.
            size: of the result.
            border: OpenCV's code for what lies beyond the edge.
        """
        # By way of the corners in 32 bits, so that what lies between two of OpenCV's steps of 1/32
        # pixel is rounded to the same as there.
        corners = cv2.boxPoints(((self.x, self.y), (self.side, self.side), math.degrees(self.turn)))
        onto = np.array([[0, size], [0, 0], [size, 0], [size, size]], np.float32)
        matrix = cv2.getPerspectiveTransform(corners, onto)
        return cv2.warpPerspective(
            image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border
        )


def whole(image: np.ndarray) -> Region:
    """The square around an image (H, W, 3)."""
    height, width = image.shape[:2]
    return Region(width / 2, height / 2, max(height, width))


def around(low: np.ndarray, high: np.ndarray, eyes: np.ndarray) -> Region:
    """The square in which Face Mesh looks for a face, level with its eyes.

    Args:
        low: the upper left corner (2,) of a box around the face, in pixels.
        high: its lower right corner.
        eyes: the left and the right eye in the image (2, 2), in pixels.
    """
    x, y = (low + high) / 2
    along = eyes[1] - eyes[0]
    turn = math.atan2(along[1], along[0])
    return Region(float(x), float(y), ENLARGED * float((high - low).max()), turn)
