"""Aligned faces: every frame turned, scaled and moved so that eyes and nose stay in one place.

As Diffused Heads' videos are prepared by SDA's tools (DinoMan/face-processor): a similarity from
five points that speech leaves in place, averaged over a few frames, to those of a mean face.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from thbench.core.types import Track
from thbench.data.face.crop import Square

PLACES = {
    33: (0.312, 0.342),
    133: (0.419, 0.345),
    362: (0.581, 0.345),
    263: (0.688, 0.342),
    2: (0.500, 0.565),
}
"""Where corners of the eyes and the base of the nose (Face Mesh's points) come to lie, in fractions
of the square. From the tool's mean face, made symmetric, with .335 of its height (brows to chin)
above it and .155 below, as the tool's page sets them; SDA's frames are as high and narrower."""
WINDOW = 7
"""Frames, from the own one on, over which the five points are averaged; the tool's number."""


def similarities(points: np.ndarray, size: int) -> np.ndarray:
    """The similarity of each frame that brings its face to ``PLACES``.

    The last frames, after which no whole window follows, have the last window's.

    Args:
        points: (T, 478, 2) in pixels of the frame.
        size: of the aligned square, in pixels.

    Returns:
        float64 (T, 2, 3): from (x, y, 1) in the frame to (x, y) in the square.
    """
    stable = points[:, list(PLACES)].astype(np.float64)
    n, window = len(stable), min(WINDOW, len(stable))
    means = np.stack([stable[t : t + window].mean(0) for t in range(n - window + 1)])
    found = [_similarity(mean, np.array(list(PLACES.values())) * size) for mean in means]
    return np.stack([found[min(t, len(found) - 1)] for t in range(n)])


def align(frames: Iterator[Tensor], seen: Track, square: Square, size: int) -> Iterator[Tensor]:
    """Aligned frames, uint8 (n, 3, size, size), in chunks as they come; black beyond the edges.

    Args:
        frames: uint8 (n, 3, H, W), as many in all as ``seen`` has.
        seen: measured in ``square``.
        square: of the frames.
        size: of the result, in pixels.
    """
    points = seen.landmarks[..., :2] * square.side + (square.x, square.y)
    matrices, done = similarities(points, size), 0
    for chunk in frames:
        yield warp(chunk, matrices[done : done + len(chunk)], size)
        done += len(chunk)


def warp(frames: Tensor, matrices: np.ndarray, size: int) -> Tensor:
    """Frames uint8 (n, 3, H, W) by their similarities (n, 2, 3): uint8 (n, 3, size, size)."""
    warped = []
    for frame, matrix in zip(frames, matrices, strict=True):
        # Where the face shrinks, more pixels are taken and averaged, so that nothing flickers.
        times = max(1, int(np.ceil(1 / np.hypot(*matrix[:, 0]) - 1e-6)))
        inner = times * matrix
        # OpenCV counts from the middle of the first pixel, landmarks from its corner.
        inner[:, 2] += inner[:, :2].sum(1) / 2 - 0.5
        image = frame.permute(1, 2, 0).contiguous().numpy()
        large = cv2.warpAffine(image, inner, (times * size, times * size), flags=cv2.INTER_LINEAR)
        warped.append(torch.from_numpy(large).permute(2, 0, 1))
        if times > 1:
            warped[-1] = F.interpolate(
                warped[-1][None], (size, size), mode="bilinear", antialias=True
            )[0]
    return torch.stack(warped)


def _similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The least-squares similarity (2, 3) between two sets of points (n, 2)."""
    a, b = source - source.mean(0), target - target.mean(0)
    # As complex numbers a rotation with a scale is one factor.
    z = np.vdot(a @ [1, 1j], b @ [1, 1j]) / np.square(a).sum()
    turn = np.array([[z.real, -z.imag], [z.imag, z.real]])
    return np.concatenate([turn, (target.mean(0) - turn @ source.mean(0))[:, None]], 1)
