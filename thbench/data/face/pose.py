"""Head pose, eyes and mouth from Face Mesh landmarks, in numpy.

Signs, as seen in the image: yaw > 0, the face is turned towards the right edge; pitch > 0,
towards the upper edge; roll > 0, the head leans clockwise. Face Mesh's z is relative, in units of
the width, and grows away from the camera, so (x, y, z) of a square image is a right-handed,
isotropic frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Points of the skull, which speech and blinks leave in place, on a mean face: x to the right, y
# down, z away from the camera, from forehead (10) to chin (152) of length 1 and upright. Mean by
# generalised Procrustes analysis (Gower 1975) of Face Mesh's output on talking people, each person
# of equal weight, made symmetric.
RIGID: dict[int, tuple[float, float, float]] = {
    33: (-0.2648, -0.0166, 0.0251),
    133: (-0.1046, -0.0095, -0.0088),
    362: (0.1046, -0.0095, -0.0088),
    263: (0.2648, -0.0166, 0.0251),
    168: (0.0000, -0.0470, -0.1045),
    6: (0.0000, -0.0014, -0.1341),
    197: (0.0000, 0.0387, -0.1666),
    195: (0.0000, 0.0755, -0.2010),
    5: (0.0000, 0.1148, -0.2369),
    4: (0.0000, 0.1641, -0.2561),
    10: (0.0000, -0.3349, -0.0544),
    109: (-0.1099, -0.3314, -0.0436),
    338: (0.1099, -0.3314, -0.0436),
    67: (-0.2041, -0.3133, -0.0064),
    297: (0.2041, -0.3133, -0.0064),
    151: (0.0000, -0.2428, -0.0827),
    9: (0.0000, -0.1437, -0.1061),
    8: (0.0000, -0.0929, -0.1030),
    127: (-0.4158, 0.0322, 0.3121),
    356: (0.4158, 0.0322, 0.3121),
    234: (-0.4127, 0.1214, 0.3317),
    454: (0.4127, 0.1214, 0.3317),
    98: (-0.1017, 0.2384, -0.1103),
    327: (0.1017, 0.2384, -0.1103),
}
# Outer corner (right eye) or inner corner (left), two on the upper lid, other corner, two on the
# lower lid, as p1..p6 of Soukupova and Cech (2016).
RIGHT_EYE = (33, 160, 158, 133, 153, 144)
LEFT_EYE = (362, 385, 387, 263, 373, 380)
INNER_LIPS = (13, 14)

_INDEX = np.array(list(RIGID))
_FACE = np.array(list(RIGID.values()))


def pose(landmarks: np.ndarray, aspect: float = 1.0) -> np.ndarray:
    """Yaw, pitch, roll, scale, tx, ty of a head.

    A least-squares similarity (Umeyama 1991) of a mean face's rigid points to the landmarks, so
    that neither turning the head nor opening the mouth changes the scale.

    Args:
        landmarks: (..., 478, 3), x and y as fractions of width and height, z in widths.
        aspect: height over width of the image.

    Returns:
        (..., 6) float32: radians; height of the face, forehead to chin, in widths of the image;
        offset of its rigid points' centre from the image's, in widths and heights.
    """
    points = landmarks[..., _INDEX, :].astype(np.float64) * (1, aspect, 1)
    rotation, scale, centre = _similarity(points)
    angles = _angles(rotation)
    offset = centre[..., :2] / (1, aspect) - 0.5
    return np.concatenate([angles, scale[..., None], offset], -1).astype(np.float32)


def eye_ratio(landmarks: np.ndarray, aspect: float = 1.0) -> np.ndarray:
    """Eye aspect ratio (|p2 p6| + |p3 p5|) / (2 |p1 p4|) (Soukupova and Cech 2016, eq. 1).

    Distances are taken in 3-D, so that turning the head does not look like opening the eyes.

    Args:
        landmarks: (..., 478, 3).
        aspect: height over width of the image.

    Returns:
        (..., 2) float32, the person's right eye, then the left; about 0.3 open, 0.1 closed.
    """
    points = landmarks.astype(np.float64) * (1, aspect, 1)
    eyes = points[..., np.array([RIGHT_EYE, LEFT_EYE]), :]
    p1, p2, p3, p4, p5, p6 = np.moveaxis(eyes, -2, 0)
    height = np.linalg.norm(p2 - p6, axis=-1) + np.linalg.norm(p3 - p5, axis=-1)
    width = np.maximum(np.linalg.norm(p1 - p4, axis=-1), 1e-6)
    return (height / (2 * width)).astype(np.float32)


def mouth_opening(landmarks: np.ndarray, aspect: float = 1.0) -> np.ndarray:
    """Distance between the inner lips' middles over the height of the face, (...,) float32."""
    points = landmarks.astype(np.float64) * (1, aspect, 1)
    upper, lower = (points[..., i, :] for i in INNER_LIPS)
    size = np.maximum(pose(landmarks, aspect)[..., 3], 1e-6)
    return (np.linalg.norm(upper - lower, axis=-1) / size).astype(np.float32)


def to_mean_face(
    points: np.ndarray, names: Sequence[int]
) -> tuple[np.ndarray, float, tuple[np.ndarray, np.ndarray]]:
    """The similarity that maps points (n, 3) to those of the mean face with indices ``names``.

    Returns:
        Rotation (3, 3), scale, and the centres (3,) of the points and of their targets, whose
        origin is the middle of all rigid points.
    """
    face = np.array([RIGID[name] for name in names])
    rotation, scale, centre = _similarity(points, face)
    return rotation.T, float(1 / scale), (centre, face.mean(0) - _FACE.mean(0))


def _similarity(
    points: np.ndarray, face: np.ndarray = _FACE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotation (..., 3, 3), scale (...,) and centre (..., 3) that map the mean face to points."""
    centre = points.mean(-2)
    face = face - face.mean(0)
    covariance = np.swapaxes(points - centre[..., None, :], -1, -2) @ face
    u, values, vt = np.linalg.svd(covariance)
    signs = np.ones_like(values)
    signs[..., 2] = np.sign(np.linalg.det(u @ vt))  # a rotation, never a reflection
    rotation = (u * signs[..., None, :]) @ vt
    return rotation, (values * signs).sum(-1) / (face**2).sum(), centre


def _angles(rotation: np.ndarray) -> np.ndarray:
    yaw = np.arcsin(rotation[..., 2, 0].clip(-1, 1))
    pitch = -np.arctan2(rotation[..., 2, 1], rotation[..., 2, 2])
    roll = np.arctan2(rotation[..., 1, 0], rotation[..., 0, 0])
    return np.stack([yaw, pitch, roll], -1)
