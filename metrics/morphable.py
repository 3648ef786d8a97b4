"""A linear model of faces, ``S = mean + B_id a + B_exp b`` (FD2Talk, eq. 1), in pure functions.

Shapes live in a frame of their own, the *upright face*: x to the right, y down, z away from the
camera, the height from forehead to chin 1, the middle of the rigid points at the origin. A head
pose (``metrics.base``) leads from there to the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Basis:
    """The parts of a morphable model.

    Attributes:
        mean: (N, 3), vertices of the mean face.
        identity: (3 N, A), a column per coefficient, each of unit variance over people.
        expression: (3 N, E), a column per coefficient, each of unit variance over frames.
        noise: (), variance of a coordinate that no coefficient explains.
        corners: (N, 2) int64, the Face Mesh points that each vertex lies midway between.
        rigid: (K,) int64, the Face Mesh points whose mean is the origin.
    """

    mean: Tensor
    identity: Tensor
    expression: Tensor
    noise: Tensor
    corners: Tensor
    rigid: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """By name, as a file holds them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def from_tensors(tensors: Mapping[str, Tensor]) -> Basis:
    """The basis that a file's tensors make.

    Raises:
        ValueError: one is missing, or their sizes do not fit together.
    """
    names = [f.name for f in fields(Basis)]
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ValueError(f"no tensor '{missing[0]}'")
    basis = Basis(**{name: tensors[name] for name in names})
    n = len(basis.mean)
    if not len(basis.identity) == len(basis.expression) == 3 * n or len(basis.corners) != n:
        raise ValueError("the bases have another number of vertices than the mean")
    return basis


def rotation(angles: Tensor) -> Tensor:
    """Yaw, pitch and roll (..., 3) in radians as matrices (..., 3, 3) that turn columns."""
    (sa, sb, sr), (ca, cb, cr) = angles.sin().unbind(-1), angles.cos().unbind(-1)
    one, zero = torch.ones_like(sa), torch.zeros_like(sa)

    def matrix(*rows: Tensor) -> Tensor:
        return torch.stack(rows, -1).unflatten(-1, (3, 3))

    about_y = matrix(ca, zero, -sa, zero, one, zero, sa, zero, ca)
    about_x = matrix(one, zero, zero, zero, cb, sb, zero, -sb, cb)
    about_z = matrix(cr, -sr, zero, sr, cr, zero, zero, zero, one)
    return about_z @ about_y @ about_x


def align(landmarks: Tensor, pose: Tensor, corners: Tensor, rigid: Tensor) -> Tensor:
    """Vertices as the upright face shows them: the pose undone.

    The pose is the least-squares similarity (Procrustes) of the rigid points, so speech and blinks
    stay in the vertices.

    Args:
        landmarks: (..., 478, 3), of a square image.
        pose: (..., 6).
        corners: (N, 2) int64, the Face Mesh points that each vertex lies midway between.
        rigid: (K,) int64, the Face Mesh points whose mean is the origin.

    Returns:
        (..., N, 3) float32.
    """
    points = landmarks.float()
    depth = points[..., rigid, 2].mean(-1)
    centre = torch.stack([pose[..., 4] + 0.5, pose[..., 5] + 0.5, depth], -1)
    size = pose[..., 3].clamp(min=1e-3)[..., None, None]
    vertices = points[..., corners, :].mean(-2)
    return (vertices - centre[..., None, :]) @ rotation(pose[..., :3]) / size


def place(vertices: Tensor, pose: Tensor) -> Tensor:
    """Vertices (..., N, 3) of the upright face as landmarks of that pose (..., 6).

    Depth is counted from the rigid points' middle.
    """
    turned = vertices @ rotation(pose[..., :3]).transpose(-1, -2)
    centre = torch.stack([pose[..., 4] + 0.5, pose[..., 5] + 0.5, 0 * pose[..., 5]], -1)
    return turned * pose[..., 3, None, None] + centre[..., None, :]


def fit(vertices: Tensor, basis: Basis) -> tuple[Tensor, Tensor]:
    """The likeliest coefficients of aligned vertices (..., N, 3), each frame on its own.

    Coefficients have a standard normal prior and coordinates the basis' noise, so this is ridge
    regression on both bases together: what one frame cannot tell apart, who it is and what they
    do, is shared out by how much people and expressions differ.

    Returns:
        identity (..., A) and expression (..., E).
    """
    joint = torch.cat([basis.identity, basis.expression], dim=1)
    found = _ridge((vertices - basis.mean).flatten(-2), joint, basis.noise)
    sizes = [basis.identity.shape[1], basis.expression.shape[1]]
    identity, expression = found.split(sizes, dim=-1)
    return identity, expression


def fit_expression(vertices: Tensor, identity: Tensor, basis: Basis) -> Tensor:
    """The likeliest expression (..., E) of vertices (..., N, 3) of a known person (..., A)."""
    who = identity @ basis.identity.T
    return _ridge((vertices - basis.mean).flatten(-2) - who, basis.expression, basis.noise)


def _ridge(offsets: Tensor, base: Tensor, noise: Tensor) -> Tensor:
    """Coefficients (..., K) of offsets (..., 3 N) in a base (3 N, K)."""
    base = base.double()
    gram = base.T @ base + noise.double() * torch.eye(base.shape[1], device=base.device)
    solve = torch.linalg.solve(gram, base.T).to(offsets.dtype)
    return offsets @ solve.T


def shape(identity: Tensor, expression: Tensor, basis: Basis) -> Tensor:
    """Vertices (..., N, 3) of coefficients (..., A) and (..., E), which broadcast (eq. 1)."""
    offset = identity @ basis.identity.T + expression @ basis.expression.T
    return basis.mean + offset.unflatten(-1, (-1, 3))
