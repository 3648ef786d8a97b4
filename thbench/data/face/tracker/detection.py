"""Detecting faces in an image: MediaPipe's two detectors.

BlazeFace (Bazarevsky et al. 2019, arXiv:1907.05047): a network scores boxes at fixed anchors; those
above a score that overlap become one, their mean weighted by the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch

from thbench.data.face.tracker.network import shipped
from thbench.data.face.tracker.region import whole

OVERLAP = 0.3  # over the union: from there on, two boxes are of one face
N_POINTS = 6


@dataclass(frozen=True)
class _Model:
    file: str
    size: int
    anchors: tuple[tuple[int, int], ...]  # cells a side, anchors in each
    least: float  # score of a face: the graphs' own; MediaPipe 0.10.21 takes no other, asked or not


_MODELS = {
    "near": _Model("face_detection_short_range.tflite", 128, ((16, 2), (8, 6)), 0.5),
    "far": _Model("face_detection_full_range_sparse.tflite", 192, ((48, 1),), 0.6),
}


@dataclass(frozen=True)
class Detection:
    """A face.

    Attributes:
        box: x0, y0, x1, y1 as fractions of the image's width and height; float32 (4,). They may
            lie beyond its edges.
        score: from 0 to 1.
        points: both eyes (the left one in the image first), nose, mouth and both ears (6, 2), as
            fractions too.
    """

    box: np.ndarray
    score: float
    points: np.ndarray


class FaceDetector:
    """Detects faces.

    Call it with uint8 (H, W, 3) RGB for its faces, the highest score first.

    Args:
        range: ``near``, for faces that fill much of the image (within 2 m of a phone's camera),
            or ``far`` (5 m), which takes three times as long.
        device: where the network runs.
    """

    def __init__(
        self,
        range: Literal["near", "far"] = "near",
        device: str | torch.device = "cpu",
    ) -> None:
        model = _MODELS[range]
        self._size, self._least = model.size, model.least
        self._network = shipped(model.file, torch.device(device))
        self._anchors = np.concatenate([_anchors(*grid) for grid in model.anchors])

    def __call__(self, image: np.ndarray) -> list[Detection]:
        return self.batch([image])[0]

    def batch(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        """The faces of each of several images (H, W, 3), whose sizes may differ."""
        if not len(images):
            return []
        seen = [whole(p).cut(p, self._size, cv2.BORDER_CONSTANT) for p in images]
        found = self._network(torch.from_numpy(np.stack(seen)).float() / 127.5 - 1)
        by_width = {values.shape[-1]: values.cpu().numpy() for values in found.values()}
        return [
            self._faces(boxes, scores[:, 0], image.shape[:2])
            for boxes, scores, image in zip(
                by_width[4 + 2 * N_POINTS], by_width[1], images, strict=True
            )
        ]

    def _faces(
        self, raw: np.ndarray, scores: np.ndarray, shape: tuple[int, ...]
    ) -> list[Detection]:
        scores = 1 / (1 + np.exp(-scores.astype(np.float64).clip(-100, 100)))
        keep = (scores >= self._least) & (raw[:, 2:4] >= 0).all(1)
        raw, scores = raw[keep] / self._size, scores[keep]
        places = raw.reshape(len(raw), 2 + N_POINTS, 2)
        places[:, (0, *range(2, 2 + N_POINTS))] += self._anchors[keep, None]
        centre, half = places[:, 0], places[:, 1] / 2
        corners = np.stack([centre - half, centre + half], 1)
        places = np.concatenate([corners, places[:, 2:]], 1)
        height, width = shape
        share = max(height, width) / np.array([width, height], np.float32)
        merged = _merge(places, scores)
        faces = [(((at - 0.5) * share + 0.5).astype(np.float32), score) for at, score in merged]
        return [Detection(at[:2].ravel(), score, at[2:]) for at, score in faces]


def _anchors(cells: int, each: int) -> np.ndarray:
    """Middles (cells * cells * each, 2) of a grid's cells, row by row, x before y."""
    middles = (np.arange(cells, dtype=np.float32) + 0.5) / cells
    y, x = np.meshgrid(middles, middles, indexing="ij")
    return np.repeat(np.stack([x.ravel(), y.ravel()], 1), each, 0)


def _merge(places: np.ndarray, scores: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """Non-maximum suppression that averages: boxes that overlap the best one are merged with it.

    Args:
        places: boxes by two corners, then points (n, 2 + p, 2).
        scores: (n,).

    Returns:
        Faces (2 + p, 2) and the highest score of each, falling.
    """
    order = np.argsort(-scores, kind="stable")
    faces = []
    while len(order):
        alike = _overlap(places[order[0]], places[order]) > OVERLAP
        alike[0] = True  # also a box without any area
        some = order[alike]
        faces.append((np.average(places[some], 0, scores[some]), float(scores[order[0]])))
        order = order[~alike]
    return faces


def _overlap(one: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Intersection over union of a box with each of others, (n,)."""
    low, high = np.maximum(one[0], places[:, 0]), np.minimum(one[1], places[:, 1])
    shared = (high - low).clip(0).prod(1)
    union = (places[:, 1] - places[:, 0]).prod(1) + (one[1] - one[0]).prod() - shared
    return shared / np.maximum(union, 1e-12)
