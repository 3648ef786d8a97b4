"""Expression coefficients of a landmark morphable model, for E-FID.

Papers take them from Deep3D's model of the face, which is licence-locked. A model of Face Mesh's
vertices stands in, made by ``thbench data morphable``. Coefficients of two models have nothing in
common; the file's digest stands in every result.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from metrics import weights
from metrics.extractors.base import NetworkExtractor, full_precision
from metrics.extractors.synthetic import FOLDER
from metrics.frames import Frames
from metrics.morphable import align, fit, fit_expression, from_tensors


class LandmarkExpression(NetworkExtractor):
    """Expression (T, ``dim``) of each frame; of a clip's person, who is its valid frames' mean.

    Rows of frames without a face are of interpolated landmarks; without any face they are zero.
    The basis is a file of the user's own data, ``landmark-basis.safetensors`` among the weights.
    """

    name = "landmark-expression"
    needs = ("landmarks", "pose", "valid")
    file = "landmark-basis.safetensors"
    dim = 64

    def find(self) -> Path:
        path = weights.folder() / self.file
        if not path.is_file():
            raise weights.WeightsMissing(
                f"run `thbench data morphable DATA --out {self.file}` on a prepared data set of"
                " real faces and put the file into ~/.cache/thbench/weights, or where"
                " THBENCH_WEIGHTS says"
            )
        return path

    def load(self, path: Path) -> None:
        try:
            self.basis = from_tensors(weights.load_state(path))
        except ValueError as error:
            raise weights.WeightsUnreadable(
                f"{path.name} holds no morphable model ({error}): make it anew"
            ) from error
        found = self.basis.expression.shape[1]
        if found != self.dim:
            raise weights.WeightsUnreadable(
                f"{path.name} has {found} expression coefficients, not {self.dim}: make it with"
                f" --expression {self.dim}"
            )

    def extract(self, frames: Frames | Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        """Coefficients of a clip; see the class. The frames themselves are not looked at."""
        given, basis = given or {}, self.basis
        valid = given["valid"].bool().cpu()
        if not valid.any():
            return torch.zeros(len(valid), self.dim)
        with torch.inference_mode(), full_precision():
            points, pose = (given[key].cpu().float() for key in ("landmarks", "pose"))
            upright = align(points, pose, basis.corners, basis.rigid)
            person = fit(upright[valid], basis)[0].mean(0)
            return fit_expression(upright, person, basis)

    def forward(self, frames: Tensor) -> Tensor:
        """Not defined on frames alone."""
        raise TypeError("expressions are read from landmarks")


class SyntheticExpression(LandmarkExpression):
    """``LandmarkExpression`` by a basis of rendered faces, which is part of the package."""

    name = "synthetic-expression"
    domain = "synthetic"
    file = "expression.safetensors"
    dim = 16

    def find(self) -> Path:
        return FOLDER / self.file
