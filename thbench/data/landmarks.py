"""Face landmarks: the 478 points of MediaPipe's Face Mesh, tracked over a clip."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from torch import Tensor

from thbench.contracts import N_LANDMARKS, Track
from thbench.data.pose import eye_ratio, pose


def track(frames: Iterable[Tensor] | Tensor) -> Track:
    """Landmarks, pose and eyes of the one face in a clip.

    Each clip gets a tracker of its own, so the result depends on nothing seen before. On a frame
    where the tracker loses the face, a detector looks for it afresh. Frames without a face are
    filled by linear interpolation, the ends by the nearest measurement, and flagged.

    Args:
        frames: uint8 (T, 3, H, W) RGB, square, or an iterable of such chunks.

    Returns:
        A track of T frames. If no face was ever found all of it is zero and invalid.
    """
    points: list[np.ndarray | None] = []
    with FaceMesh() as mesh:
        for chunk in [frames] if isinstance(frames, Tensor) else frames:
            points += [mesh(picture) for picture in chunk.permute(0, 2, 3, 1).numpy()]
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
    """One face per picture, 478 points, following it from picture to picture.

    A context manager; call it with uint8 (H, W, 3) RGB for float32 (478, 3) or None.

    Args:
        moving: follow the face; False detects it afresh in every picture.
    """

    def __init__(self, moving: bool = True) -> None:
        self._moving = moving
        self._stack = ExitStack()
        self._detector: Any = None
        self._greeted = False

    def __enter__(self) -> FaceMesh:
        self._tracker = self._make(static=not self._moving)
        return self

    def __exit__(self, *error: object) -> None:
        with quiet():
            self._stack.close()

    def __call__(self, picture: np.ndarray) -> np.ndarray | None:
        picture = np.ascontiguousarray(picture)
        if self._greeted:
            return self._find(picture)
        with quiet():  # MediaPipe prints a line at the first face that it finds
            found = self._find(picture)
        self._greeted = found is not None
        return found

    def _find(self, picture: np.ndarray) -> np.ndarray | None:
        found = _points(self._tracker, picture)
        if found is None and self._moving:
            self._detector = self._detector or self._make(static=True)
            found = _points(self._detector, picture)
        return found

    def _make(self, static: bool) -> Any:
        with quiet():
            from mediapipe.python.solutions.face_mesh import FaceMesh as Solution

            solution = Solution(
                static_image_mode=static,
                max_num_faces=1,
                refine_landmarks=True,
                min_detection_confidence=0.5,
                min_tracking_confidence=0.5,
            )
            # The delegates are made, and announced, at the first picture.
            solution.process(np.zeros((64, 64, 3), np.uint8))
        self._stack.callback(solution.close)
        return solution


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what C++ libraries write to the terminal's error stream off it."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _points(solution: Any, picture: np.ndarray) -> np.ndarray | None:
    faces = solution.process(picture).multi_face_landmarks
    if not faces:
        return None
    return np.array([(p.x, p.y, p.z) for p in faces[0].landmark], np.float32)
