"""Rotations of the head, as the contract's angles have them."""

import numpy as np


def rotation_matrix(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """The rotation (3, 3) of a frontal face, of points (x right, y down, z away)."""
    (sa, sb, sr), (ca, cb, cr) = np.sin((yaw, pitch, roll)), np.cos((yaw, pitch, roll))
    about_y = np.array([[ca, 0, -sa], [0, 1, 0], [sa, 0, ca]])
    about_x = np.array([[1, 0, 0], [0, cb, sb], [0, -sb, cb]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
