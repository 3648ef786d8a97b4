"""Finding faces in raw video, and choosing the one square that a clip is cropped to."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from thbench.data.face.landmarks import FaceMesh
from thbench.data.face.pose import mouth_opening
from thbench.data.face.tracker.detection import FaceDetector

MARGIN = 1.8  # side of the square over the height of the face: the whole head, some shoulder
TIGHT = 1.15  # the least that the square must leave around every place of the face
RISE = 0.08  # hair needs more room than the neck: the centre moves up by this share of the face
LOCATE_EVERY = 8  # frames of a video between two detections
DETECTION_SIZE = 640
MESH_SIZE = 256
THUMBNAIL = 32
SAME = 0.3  # two boxes of which less than this overlaps are two faces


@dataclass(frozen=True)
class Square:
    """A square of an image in whole pixels; it may reach beyond the edges."""

    x: int
    y: int
    side: int


@dataclass(frozen=True)
class Face:
    """A face found in one frame.

    Attributes:
        box: x0, y0, x1, y1 in pixels, from forehead to chin.
        mouth: its opening over the height of the face (``pose.mouth_opening``).
        thumbnail: (32, 32) uint8, the box's grey values.
    """

    box: np.ndarray
    mouth: float
    thumbnail: np.ndarray

    @property
    def size(self) -> float:
        """The longer side of the box."""
        return float(max(self.box[2] - self.box[0], self.box[3] - self.box[1]))

    @property
    def centre(self) -> np.ndarray:
        return _centre(self.box)


class FaceLocator:
    """Finds faces, also where they are small in the image.

    A context manager. Two detectors (near, then far) propose faces; Face Mesh then
    measures each face from forehead to chin. Called with a frame it returns one box: of several
    faces the one nearest to the last that it returned, at first the largest.
    """

    def __enter__(self) -> FaceLocator:
        self._mesh = FaceMesh(moving=False)
        self._detectors = FaceDetector("near"), FaceDetector("far")
        self._last: np.ndarray | None = None
        return self

    def __exit__(self, *error: object) -> None:
        self._last = None

    def __call__(self, frame: Tensor) -> np.ndarray | None:
        """Box (x0, y0, x1, y1) in pixels of a face in uint8 (3, H, W), or None."""
        for detector in self._detectors:
            rough = self._choose(self._detect(detector, frame))
            if rough is not None and (face := self._measure(frame, rough)) is not None:
                self._last = face.centre
                return face.box
        return None

    def faces(self, frame: Tensor, thorough: bool = False) -> list[Face]:
        """All faces in uint8 (3, H, W), the largest first.

        The detector of far faces runs where the other finds none, or if ``thorough``.
        """
        found: list[Face] = []
        for detector in self._detectors:
            if found and not thorough:
                break
            for rough in self._detect(detector, frame):
                if _is_among(rough, found):
                    continue  # measuring is the costliest step
                face = self._measure(frame, rough)
                if face is not None and not _is_among(face.box, found):
                    found.append(face)
        return sorted(found, key=lambda face: -face.size)

    def _detect(self, detector: FaceDetector, frame: Tensor) -> list[np.ndarray]:
        height, width = frame.shape[1:]
        share = min(1.0, DETECTION_SIZE / max(height, width))
        small = _resize(frame[None], max(1, round(height * share)), max(1, round(width * share)))
        return [face.box * (width, height, width, height) for face in detector(_to_array(small))]

    def _choose(self, boxes: list[np.ndarray]) -> np.ndarray | None:
        if not boxes:
            return None
        if self._last is None:
            return max(boxes, key=lambda box: box[2] - box[0])
        last = self._last
        return min(boxes, key=lambda box: float(np.linalg.norm(_centre(box) - last)))

    def _measure(self, frame: Tensor, rough: np.ndarray) -> Face | None:
        side = max(8, round(2 * max(rough[2] - rough[0], rough[3] - rough[1])))
        x, y = (_centre(rough) - side / 2).round().astype(int)
        image = _to_array(crop_square(frame[None], Square(int(x), int(y), side), MESH_SIZE))
        points = self._mesh(image)
        if points is None:
            return None
        box = np.concatenate([points[:468, :2].min(0), points[:468, :2].max(0)])
        return Face(box * side + (x, y, x, y), float(mouth_opening(points)), thumbnail(image, box))


def thumbnail(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Grey values, uint8 (32, 32), of a box (4,) in fractions of an image, uint8 (H, W, 3)."""
    height, width = image.shape[:2]
    size = np.array([width, height])
    low = np.minimum(np.clip(box[:2], 0, 1) * size, size - 1).astype(int)
    high = np.maximum(np.clip(box[2:], 0, 1) * size, low + 1).round().astype(int)
    (x0, y0), (x1, y1) = low, high
    part = cv2.resize(image[y0:y1, x0:x1], (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return part.mean(-1).round().astype(np.uint8)


def choose_square(boxes: np.ndarray, height: int, width: int) -> Square | None:
    """One square for a clip, from the face's boxes (n, 4) in it.

    It contains the face in all frames, with room for the whole head where the image has it; it
    is moved into the image, and reaches beyond the edge only where the face would not fit
    otherwise.

    Returns:
        The square, or None if the face is in places too far apart for one.
    """
    size = float(np.median(np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])))
    low = np.percentile(boxes[:, :2], 2, axis=0)
    high = np.percentile(boxes[:, 2:], 98, axis=0)
    need = TIGHT * float((high - low).max())
    if need > 3 * size:
        return None
    wanted = max(MARGIN * size, need)
    side = round(min(wanted, max(min(height, width), need)))
    x, y = (low + high) / 2 - side / 2 - (0, RISE * size)
    return Square(_inside(x, side, width), _inside(y, side, height), side)


def crop_square(frames: Tensor, square: Square, size: int, black: bool = False) -> Tensor:
    """Crop a square out of uint8 (n, 3, H, W) and resize it: uint8 (n, 3, size, size).

    Beyond the edges the outermost pixels are repeated, or it is ``black``.
    """
    height, width = frames.shape[-2:]
    right, bottom = square.x + square.side, square.y + square.side
    if square.x >= 0 and square.y >= 0 and right <= width and bottom <= height:
        frames = frames[:, :, square.y : bottom, square.x : right]  # a view: no copy
    else:
        rows = torch.arange(square.y, bottom).clamp(0, height - 1)
        columns = torch.arange(square.x, right).clamp(0, width - 1)
        frames = frames[:, :, rows][:, :, :, columns]
        if black:
            frames[:, :, torch.arange(square.y, bottom) != rows] = 0
            frames[:, :, :, torch.arange(square.x, right) != columns] = 0
    return _resize(frames, size, size)


def _inside(start: float, side: int, length: int) -> int:
    """The nearest start at which one of the two, square or image, covers the other."""
    return round(float(np.clip(start, min(0, length - side), max(0, length - side))))


def _resize(frames: Tensor, height: int, width: int) -> Tensor:
    if tuple(frames.shape[-2:]) == (height, width):
        return frames
    return F.interpolate(frames, (height, width), mode="bilinear", antialias=True)


def _centre(box: np.ndarray) -> np.ndarray:
    return (box[:2] + box[2:]) / 2


def _is_among(box: np.ndarray, found: list[Face]) -> bool:
    return any(_overlap(box, face.box) >= SAME for face in found)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    inner = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(inner / max(1e-9, (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inner))


def _to_array(frames: Tensor) -> np.ndarray:
    return np.ascontiguousarray(frames[0].permute(1, 2, 0).numpy())
