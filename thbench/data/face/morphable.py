"""The landmark morphable model: PCA of aligned Face Mesh vertices, or a user's BFM file.

The 3-D morphable model of FD2Talk (Yao et al. 2024, section 3.1.1) is Deep3D's, whose basis is
licence-locked. By default the bases are found here: vertices are freed of the rigid head pose,
what differs between clips gives identity, what differs within a clip gives expression. The
mathematics is in ``metrics.morphable``, which the metrics use too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from scipy.io import loadmat
from scipy.io.matlab import MatReadError, matfile_version
from scipy.linalg import eigh
from torch import Tensor, nn

from metrics.landmarks import IBUG_68, MOUTH
from metrics.morphable import Basis, align, fit, fit_expression, from_tensors, place, shape
from metrics.weights import WeightsUnreadable, load_state
from thbench.core.errors import UserError
from thbench.core.files import replacing
from thbench.data.face.pose import RIGID, to_mean_face
from thbench.diffusion.losses import counted_mean
from thbench.nn import regions

N_MESH = 468
"""Face Mesh's vertices; its ten points of the irises, which follow the gaze, are no part of it."""
N_KEYS = len(IBUG_68)
POSE_COEFFICIENTS = 6
HDF5 = 2
"""Major version of .mat files (7.3) that scipy does not read."""


class Morphable(nn.Module):
    """A face as coefficients: identity, expression and rigid pose.

    Pose coefficients are ``p = [r, t]``: yaw, pitch and roll in radians as they are, and the
    translation relative to a portrait's, since where a face stands in its crop belongs to the crop:
    shifts in widths and heights of the frame, and the logarithm of the ratio of sizes, which is
    what depth is to an image.

    Args:
        identity: A, identity coefficients.
        expression: E, expression coefficients.
        keys: the vertices are the 68 points of iBUG 300-W, as a BFM file names them, in place of
            Face Mesh's 468.
    """

    corners: Tensor
    rigid: Tensor
    mouth: Tensor

    def __init__(self, identity: int = 80, expression: int = 64, *, keys: bool = False) -> None:
        super().__init__()
        n = N_KEYS if keys else N_MESH
        self.mean = nn.Parameter(torch.zeros(n, 3))
        self.identity = nn.Parameter(torch.zeros(3 * n, identity))
        self.expression = nn.Parameter(torch.zeros(3 * n, expression))
        self.noise = nn.Parameter(torch.ones(()))
        points = IBUG_68 if keys else [(i, i) for i in range(n)]
        lips = range(n)[MOUTH] if keys else sorted({*regions.LIPS, *regions.MOUTH})
        self.register_buffer("corners", torch.tensor(points))
        self.register_buffer("rigid", torch.tensor(list(RIGID)))
        self.register_buffer("mouth", torch.tensor(list(lips)), persistent=False)

    @property
    def n_identity(self) -> int:
        return self.identity.shape[1]

    @property
    def n_expression(self) -> int:
        return self.expression.shape[1]

    @property
    def basis(self) -> Basis:
        return Basis(
            self.mean, self.identity, self.expression, self.noise, self.corners, self.rigid
        )

    def align(self, landmarks: Tensor, pose: Tensor) -> Tensor:
        """Landmarks (..., 478, 3) and pose (..., 6) to upright vertices (..., N, 3)."""
        return align(landmarks, pose, self.corners, self.rigid)

    def fit(self, landmarks: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Identity (..., A) and expression (..., E) of faces, each frame on its own."""
        return fit(self.align(landmarks, pose), self.basis)

    def follow(self, landmarks: Tensor, pose: Tensor, identity: Tensor) -> Tensor:
        """Expression (..., E) of frames of a person whose identity (..., A) is known.

        All that moves is expression then; fitted frame by frame, some of it would pass for a change
        of person.
        """
        return fit_expression(self.align(landmarks, pose), identity, self.basis)

    def forward(self, identity: Tensor, expression: Tensor) -> Tensor:
        """Upright vertices (..., N, 3) of coefficients, which broadcast."""
        return shape(identity, expression, self.basis)

    def reconstruct(self, landmarks: Tensor, pose: Tensor) -> Tensor:
        """The model's version of faces, as landmarks (..., N, 3); z from the head's middle."""
        return place(self(*self.fit(landmarks, pose)), pose)

    def mouths(self, identity: Tensor, expression: Tensor) -> Tensor:
        """Upright vertices (..., M, 3) of the lips alone, broadcasting."""
        part = torch.cat([3 * self.mouth[:, None] + i for i in range(3)], 1).flatten()
        offset = identity @ self.identity[part].T + expression @ self.expression[part].T
        return self.mean[self.mouth] + offset.unflatten(-1, (-1, 3))

    @torch.no_grad()
    def set(self, basis: Basis) -> None:
        """Copy a basis into the parameters.

        Raises:
            UserError: it has other sizes.
        """
        for name, value in basis.tensors().items():
            own = getattr(self, name)
            if own.shape != value.shape:
                raise UserError(
                    f"The morphable model's {name} is {tuple(own.shape)} here, the file's is"
                    f" {tuple(value.shape)}: set identity and expression to the file's columns."
                )
            own.copy_(value)


def pose_coefficients(pose: Tensor, portrait: Tensor) -> Tensor:
    """Poses (..., 6) as coefficients (..., 6) relative to a portrait's pose (..., 6).

    ``Morphable`` lists them.
    """
    shift = pose[..., 4:] - portrait[..., 4:]
    grown = pose[..., 3:4].clamp(min=1e-3).log() - portrait[..., 3:4].clamp(min=1e-3).log()
    return torch.cat([pose[..., :3], shift, grown], -1)


def to_pose(coefficients: Tensor, portrait: Tensor) -> Tensor:
    """Coefficients (..., 6) and a portrait's pose (6,) or (..., 6) to poses (..., 6).

    The inverse of ``pose_coefficients``.
    """
    size = coefficients[..., 5:].exp() * portrait[..., 3:4]
    return torch.cat([coefficients[..., :3], size, coefficients[..., 3:5] + portrait[..., 4:]], -1)


class Moments(nn.Module):
    """First and second moments of aligned vertices, accumulated clip by clip.

    Buffers, so that they are saved with a run; under DDP each rank adds its own clips and all
    have the same sums. A window of a clip counts once as a person and by its frames as expressions.
    """

    people: Tensor
    frames: Tensor
    total: Tensor
    between: Tensor
    within: Tensor

    def __init__(self, vertices: int = N_MESH) -> None:
        super().__init__()
        size = 3 * vertices
        for name, of in {
            "people": (), "frames": (), "total": (size,),
            "between": (size, size), "within": (size, size),
        }.items():  # fmt: skip
            self.register_buffer(name, torch.zeros(of, dtype=torch.float64))

    @torch.no_grad()
    def update(self, vertices: Tensor, valid: Tensor) -> None:
        """Add windows of vertices (B, T, N, 3), of which the frames ``valid`` (B, T) count."""
        x, weight = vertices.double().flatten(2), valid.double()
        count = weight.sum(1)
        mean = (x * weight[..., None]).sum(1) / count.clamp(min=1)[:, None]
        seen = (count > 0).double()[:, None]
        mean, away = mean * seen, ((x - mean[:, None]) * weight[..., None]).flatten(0, 1)
        sums = (seen.sum(), count.sum(), mean.sum(0), mean.T @ mean, away.T @ away)
        names = ("people", "frames", "total", "between", "within")
        for name, value in zip(names, sums, strict=True):
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(value)
            getattr(self, name).add_(value)

    def solve(self, identity: int, expression: int, corners: Tensor, rigid: Tensor) -> Basis:
        """The bases: principal directions, scaled to coefficients of unit variance.

        Directions that the data do not have, as with a handful of clips, are zero.
        """
        mean = self.total / self.people.clamp(min=1)
        between = self.between / self.people.clamp(min=1) - mean[:, None] * mean
        within = self.within / self.frames.clamp(min=1)
        who, left = _principal(between, identity)
        what, rest = _principal(within, expression)
        # A floor far below what Face Mesh resolves, or data of low rank would have no noise.
        noise = ((left + rest) / len(mean)).clamp(min=1e-8)
        vertices = mean.unflatten(0, (-1, 3))
        return Basis(vertices.float(), who.float(), what.float(), noise.float(), corners, rigid)


def _principal(covariance: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The ``n`` largest principal directions times their deviations, and the variance left over."""
    size = len(covariance)
    # LAPACK by way of scipy: of 1404 directions it finds some, torch only all.
    found = eigh(covariance.cpu().numpy(), subset_by_index=[size - n, size - 1])
    values, vectors = (torch.from_numpy(x).flip(-1).to(covariance.device) for x in found)
    values = torch.where(values > 1e-9 * values[0], values, 0.0)
    biggest = vectors.abs().argmax(0, keepdim=True)
    vectors = vectors * vectors.gather(0, biggest).sign()  # which is left open
    return vectors * values.sqrt(), (covariance.trace() - values.sum()).clamp(min=0)


def read(path: Path) -> Morphable:
    """A model from a file: ``.safetensors`` as ``write`` makes it, or a BFM in ``.mat``.

    Raises:
        UserError: no such file, or it holds something else.
    """
    basis = read_bfm(path) if path.suffix == ".mat" else read_basis(path)
    sizes = basis.identity.shape[1], basis.expression.shape[1]
    model = Morphable(*sizes, keys=len(basis.mean) == N_KEYS)
    model.set(basis)
    return model.eval().requires_grad_(False)


def read_basis(path: Path) -> Basis:
    """A basis that ``write`` wrote.

    Raises:
        UserError: no such file, or it holds something else.
    """
    try:
        return from_tensors(load_state(path))
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.") from error
    except (ValueError, WeightsUnreadable) as error:
        raise UserError(f"{path} holds no morphable model: {error}.") from error


def write(model: Morphable, path: Path) -> None:
    """Write a model to a file (safetensors)."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.basis.tensors().items()}
    with replacing(path) as part:
        save_file(tensors, part)


def read_bfm(path: Path, noise: float = 1e-4) -> Basis:
    """The Basel Face Model as Deep3D's ``BFM_model_front.mat`` has it, at its 68 key points.

    Keys: ``meanshape`` (1, 3 V), ``idBase`` (3 V, A), ``exBase`` (3 V, E), scaled to coefficients
    of unit variance, and ``keypoints`` (1, 68), from 1. There x points to the right of the image,
    y up and z to the camera, in decimetres. A similarity of points that hardly move, on nose and
    eye corners, brings the mean face upright; the rest of its vertices has no partner in Face Mesh.

    Args:
        path: the file.
        noise: variance of a coordinate that no coefficient explains; by default the square of a
            hundredth of the face's height.

    Raises:
        UserError: no such file, or it holds something else.
    """
    keys = ("meanshape", "idBase", "exBase", "keypoints")
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    try:
        if matfile_version(path)[0] == HDF5:
            raise UserError(f"{path} is in MATLAB's format 7.3: save it again with '-v7'.")
        file = loadmat(path)
        found = {key: np.asarray(file[key], np.float64) for key in keys}
    except (KeyError, ValueError, TypeError, MatReadError) as error:
        raise UserError(f"{path} is no BFM file with {', '.join(keys)} ({error}).") from error
    at = found["keypoints"].ravel().astype(int) - 1
    if len(at) != N_KEYS:
        raise UserError(f"{path} names {len(at)} key points, not {N_KEYS}.")
    flip = np.array([1.0, -1.0, -1.0])
    points = found["meanshape"].reshape(-1, 3)[at] * flip
    shared = [k for k, (a, b) in enumerate(IBUG_68) if a == b and a in RIGID]
    turn, scale, centre = to_mean_face(points[shared], [IBUG_68[k][0] for k in shared])

    def columns(base: np.ndarray) -> Tensor:
        moved = base.reshape(-1, 3, base.shape[1])[at] * flip[:, None]
        upright = scale * np.einsum("ij,njk->nik", turn, moved)
        return torch.from_numpy(upright.reshape(-1, base.shape[1])).float()

    mean = scale * (points - centre[0]) @ turn.T + centre[1]
    return Basis(
        torch.from_numpy(mean).float(),
        columns(found["idBase"]),
        columns(found["exBase"]),
        torch.tensor(noise),
        torch.tensor(IBUG_68),
        torch.tensor(list(RIGID)),
    )


def vertex_error(model: Morphable, landmarks: Tensor, pose: Tensor, valid: Tensor) -> Tensor:
    """Mean distance of reconstructed vertices to the measured ones, over valid frames.

    Args:
        model: of these faces or others.
        landmarks: (..., 478, 3).
        pose: (..., 6).
        valid: (...,) bool.

    Returns:
        (), as a fraction of the face's height; 0 where nothing is valid.
    """
    upright = model.align(landmarks, pose)
    distance = (model(*fit(upright, model.basis)) - upright).norm(dim=-1).mean(-1)
    return counted_mean(distance, valid)
