"""Fitting a morphable model to a prepared data set, and measuring it, clip by clip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from thbench.core.errors import UserError
from thbench.data import manifest
from thbench.data.face.morphable import Moments, Morphable, vertex_error


def find(root: Path, split: str, identity: int, expression: int) -> Morphable:
    """Fit a model to a split's faces.

    Args:
        root: a prepared data set.
        split: ``train``, ``val`` or ``test``.
        identity: number of identity coefficients.
        expression: number of expression coefficients.

    Raises:
        UserError: the split has no clips, or too few for so many coefficients.
    """
    model, moments = Morphable(identity, expression), Moments()
    people = 0
    for landmarks, pose, valid in tracks(root, split):
        moments.update(model.align(landmarks, pose)[None], valid[None])
        people += 1
    if people <= identity:
        raise UserError(
            f"{people} clips of split '{split}' tell fewer than {people} people apart: ask for"
            f" less than {identity} identity coefficients."
        )
    model.set(moments.solve(identity, expression, model.corners, model.rigid))
    return model.eval().requires_grad_(False)


def measure(model: Morphable, root: Path, split: str) -> list[float]:
    """The vertex error of each clip of a split, as a fraction of the face's height."""
    found = tracks(root, split)
    return [float(vertex_error(model, *track)) for track in found if track[2].any()]


def tracks(root: Path, split: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Landmarks (T, 478, 3), pose (T, 6) and valid (T,) of each clip of a split.

    Raises:
        UserError: it has none.
    """
    clips = [clip for clip in manifest.read(root) if clip.split == split]
    if not clips:
        raise UserError(f"{root} has no clips in its split '{split}'.")
    for clip in tqdm(clips, split, unit="clip", disable=None):
        with np.load(root / clip.track) as file:
            values = [file[key] for key in ("landmarks", "pose", "valid")]
        landmarks, pose, valid = (torch.from_numpy(value) for value in values)
        yield landmarks.float(), pose.float(), valid.bool()
