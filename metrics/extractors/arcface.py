"""ArcFace embeddings (Deng et al. 2019) of aligned faces, by insightface's published network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from metrics import weights
from metrics.extractors.base import NetworkExtractor
from metrics.frames import Frames, as_frames

SIZE = 112

TEMPLATE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
"""Where insightface puts the five points, in pixels of the aligned face, the first pixel's centre
being 0: the eye on the left of the image, the other, tip of the nose, mouth corners."""

FIVE_POINTS = ((33, 133), (362, 263), (1, 1), (61, 61), (291, 291))
"""The same points among Face Mesh's: an eye's centre is midway between its corners."""


def five_points(landmarks: Tensor) -> Tensor:
    """(T, 478, >=2) landmarks to (T, 5, 2), in the same unit."""
    return landmarks[:, torch.tensor(FIVE_POINTS), :2].mean(2)


def similarity(source: Tensor, target: Tensor) -> Tensor:
    """Rotation, scale and shift that bring points nearest to others (Umeyama 1991, eq. 40-42).

    Args:
        source: (T, n, 2).
        target: (n, 2) or (T, n, 2).

    Returns:
        (T, 2, 3) in the points' type: A with target ~ A [source, 1], least squares, no reflection.
        Points that coincide give NaN.
    """
    target = target.expand_as(source)
    from_mean, to_mean = source.mean(-2, keepdim=True), target.mean(-2, keepdim=True)
    a, b = source - from_mean, target - to_mean
    u, values, vt = torch.linalg.svd(b.transpose(-1, -2) @ a)
    sign = torch.ones_like(values)
    sign[..., -1] = torch.det(u @ vt).sign()
    scale = (values * sign).sum(-1) / a.square().sum((-1, -2))
    turn = scale[..., None, None] * ((u * sign[..., None, :]) @ vt)
    shift = to_mean.transpose(-1, -2) - turn @ from_mean.transpose(-1, -2)
    return torch.cat([turn, shift], -1)


def align(frames: Tensor, landmarks: Tensor) -> Tensor:
    """Faces turned, scaled and shifted so that their five points lie on the template.

    Args:
        frames: (n, 3, H, W) uint8.
        landmarks: (n, 478, >=2), x and y as fractions of width and height.

    Returns:
        (n, 3, 112, 112) float in 0 to 255: bilinear, black outside the frame.
    """
    height, width = frames.shape[-2:]
    # Pixel i reaches from i to i + 1 in the landmarks' measure; in the template's its centre is i.
    points = five_points(landmarks).double() * torch.tensor([float(width), float(height)]) - 0.5
    template = torch.tensor(TEMPLATE, dtype=torch.float64)
    ahead = similarity(points, template)
    turn = torch.linalg.inv(ahead[..., :2])
    shift = -turn @ ahead[..., 2:]
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(SIZE))] * 2, indexing="xy"), -1)
    where = (grid.double().view(-1, 2) @ turn.transpose(-1, -2)) + shift.transpose(-1, -2)
    where = (2 * where + 1) / torch.tensor([float(width), float(height)]) - 1
    where = where.view(-1, SIZE, SIZE, 2).float().to(frames.device)
    return F.grid_sample(frames.float(), where, align_corners=False)


class ArcFace(NetworkExtractor):
    """Embeddings (T, 512) of length 1, zeros on frames without a face.

    Aligned faces in RGB, scaled to [-1, 1], through onnxruntime; on a GPU where onnxruntime has
    one, without TF32.

    Args:
        device: where it runs.
        batch_size: faces at a time.
        path: a network (.onnx, input (n, 3, 112, 112)) to use unchecked; by default the official
            one, checked.

    Raises:
        metrics.weights.WeightsMissing: the official file or the package is not here.
    """

    name = "arcface"
    needs = ("landmarks", "valid")

    def find(self) -> Path:
        return weights.find("arcface")

    def load(self, path: Path) -> None:
        self._session = _session(path, self.device)

    def extract(self, frames: Frames | Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        """Embeddings (T, 512) of a clip; see the class."""
        given = given or {}
        seen, landmarks = given["valid"].bool().cpu(), given["landmarks"].cpu()
        width = self._session.get_outputs()[0].shape[-1]
        rows = torch.zeros(len(frames), width)
        at = 0
        for part in as_frames(frames).split(self.batch_size):
            here = at + seen[at : at + len(part)].nonzero()[:, 0]
            if len(here):
                rows[here] = self.forward(align(part[here - at], landmarks[here]))
            at += len(part)
        return rows

    def forward(self, frames: Tensor) -> Tensor:
        """Embeddings (n, 512) of aligned faces (n, 3, 112, 112), 0 to 255."""
        scaled = (frames.float() / 255 - 0.5) / 0.5
        entry = self._session.get_inputs()[0].name
        (found,) = self._session.run(None, {entry: scaled.cpu().numpy()})
        return F.normalize(torch.from_numpy(found), dim=1)


def _session(path: Path, device: torch.device) -> Any:
    runtime = weights.onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in runtime.get_available_providers():
        index = device.index or 0
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": index, "use_tf32": 0}))
    return runtime.InferenceSession(str(path), options, providers=providers)
