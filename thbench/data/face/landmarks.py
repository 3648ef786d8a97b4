"""Face landmarks: the 478 points of MediaPipe's Face Mesh, tracked over a clip."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from thbench.core.types import N_LANDMARKS, Track
from thbench.data.face.pose import eye_ratio, pose
from thbench.data.face.tracker.detection import Detection, FaceDetector
from thbench.data.face.tracker.mesh import Mesh, following
from thbench.data.face.tracker.region import Region, around


def track(frames: Iterable[Tensor] | Tensor) -> Track:
    """Landmarks, pose and eyes of the one face in a clip.

    Each clip gets a tracker of its own, so the result does not depend on other clips. On a frame
    where the tracker loses the face, it is detected anew. Frames without a face are filled by
    linear interpolation, the ends by the nearest measurement, and flagged.

    Args:
        frames: uint8 (T, 3, H, W) RGB, square, or an iterable of such chunks.

    Returns:
        A track of T frames. If no face was ever found all of it is zero and invalid.
    """
    points: list[np.ndarray | None] = []
    mesh = FaceMesh()
    for chunk in [frames] if isinstance(frames, Tensor) else frames:
        points += [mesh(image) for image in chunk.permute(0, 2, 3, 1).contiguous().numpy()]
    valid = np.array([found is not None for found in points], bool)
    landmarks = interpolate(points)
    if not valid.any():
        return Track(landmarks, np.zeros((len(valid), 6), np.float32),
                     np.zeros((len(valid), 2), np.float32), valid)  # fmt: skip
    return Track(landmarks, pose(landmarks), eye_ratio(landmarks), valid)


def interpolate(points: list[np.ndarray | None]) -> np.ndarray:
    """Fill missing frames linearly in time; (T, 478, 3) float32, zeros if all are missing."""
    known = [t for t, found in enumerate(points) if found is not None]
    if not known:
        return np.zeros((len(points), N_LANDMARKS, 3), np.float32)
    values = np.stack([found for found in points if found is not None])
    times = np.arange(len(points)).clip(known[0], known[-1])
    right = np.searchsorted(known, times).clip(max=len(known) - 1)
    left = np.where(np.asarray(known)[right] > times, right - 1, right)
    a, b = np.asarray(known)[left], np.asarray(known)[right]
    share = ((times - a) / np.maximum(b - a, 1))[:, None, None].astype(np.float32)
    return values[left] * (1 - share) + values[right] * share


class FaceMesh:
    """Tracks one face from image to image, as 478 points.

    Call it with uint8 (H, W, 3) RGB for float32 (478, 3) or None. Its state is cleared where a
    ``with`` block ends.

    Args:
        moving: track the face; False detects it anew in every image.
        device: where the networks run; results agree to a few thousandths of a pixel.
    """

    def __init__(self, moving: bool = True, device: str | torch.device = "cpu") -> None:
        self._moving = moving
        self._detector, self._mesh = FaceDetector("near", device=device), Mesh(device)
        self._followed: Region | None = None

    def __enter__(self) -> FaceMesh:
        return self

    def __exit__(self, *error: object) -> None:
        self._followed = None

    def __call__(self, image: np.ndarray) -> np.ndarray | None:
        followed, self._followed = self._followed, None
        if followed is None:
            (points,) = self.batch([image])
        else:
            (points,) = self._mesh([image], [followed])
            if points is None:  # lost: it may have jumped
                return self.batch([image])[0]
        if self._moving and points is not None:
            self._followed = following(points, image)
        return points

    def batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray | None]:
        """Landmarks (478, 3) or None of the face in each of several images, detected anew."""
        found = {k: faces[0] for k, faces in enumerate(self._detector.batch(images)) if faces}
        regions = [_region(face, images[k]) for k, face in found.items()]
        points = self._mesh([images[k] for k in found], regions)
        by_index = dict(zip(found, points, strict=True))
        return [by_index.get(k) for k in range(len(images))]


def _region(face: Detection, image: np.ndarray) -> Region:
    """The region of a detected face in which the mesh measures it."""
    height, width = image.shape[:2]
    low, high = face.box.reshape(2, 2) * (width, height)
    return around(low, high, face.points[:2] * (width, height))
