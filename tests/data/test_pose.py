from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import face_mesh
from tests.rotations import rotation_matrix
from thbench.data.face import pose

angle = st.floats(-0.7, 0.7)


def head(yaw: float, pitch: float, roll: float, scale: float = 0.5) -> np.ndarray:
    """A mean face of the given pose, its rigid points' centre at (0.55, 0.45)."""
    points = np.array(list(pose.RIGID.values()))
    points = (points - points.mean(0)) @ rotation_matrix(yaw, pitch, roll).T
    landmarks = np.zeros((478, 3))
    landmarks[list(pose.RIGID)] = scale * points + (0.55, 0.45, 0.1)
    return landmarks


@given(angle, angle, angle, st.floats(0.2, 1))
def test_planted_pose_is_recovered(yaw: float, pitch: float, roll: float, scale: float) -> None:
    noise = np.random.default_rng(0).normal(0, 0.005 * scale, (478, 3))
    found = pose.pose(head(yaw, pitch, roll, scale) + noise)
    assert np.abs(np.rad2deg(found[:3] - (yaw, pitch, roll))).max() < 2
    assert found[3] == pytest.approx(scale, rel=0.03)
    np.testing.assert_allclose(found[4:], (0.05, -0.05), atol=0.01)


def test_signs_as_one_looks_at_the_picture() -> None:
    nose, forehead, right_ear = 4, 10, 454
    front = head(0, 0, 0)
    assert head(0.3, 0, 0)[nose, 0] > front[nose, 0]  # to the right
    assert head(0, 0.3, 0)[nose, 1] < front[nose, 1]  # up
    assert head(0, 0, 0.3)[right_ear, 1] > front[right_ear, 1]  # clockwise
    assert head(0, 0, 0.3)[forehead, 0] > front[forehead, 0]


def test_aspect_and_batch() -> None:
    square = np.stack([head(0.2, 0.1, -0.3), head(-0.4, 0, 0.1)])
    wide = square / (1, 0.5, 1)
    found = pose.pose(wide, aspect=0.5)
    assert found.shape == (2, 6)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, :4], pose.pose(square)[:, :4], atol=1e-5)


@pytest.mark.parametrize(
    ("eye", "outline"),
    [(pose.RIGHT_EYE, face_mesh.RIGHT_EYE), (pose.LEFT_EYE, face_mesh.LEFT_EYE)],
)
def test_eye_points_are_corners_and_facing_pairs_of_face_meshs_own_outline(eye, outline) -> None:
    start = outline.index(eye[0])
    ring = [*outline[start:-1], *outline[:start]]
    at = [ring.index(point) for point in eye]
    half = len(ring) // 2
    assert (at[0], at[3]) == (0, half)  # two corners with as many points above as below
    for upper, lower in ((at[1], at[5]), (at[2], at[4])):
        assert upper == len(ring) - lower  # as far along the upper lid as along the lower
    sides = [{i > half for i in pair} for pair in (at[1:3], at[4:])]
    assert sides in ([{True}, {False}], [{False}, {True}])  # one pair on each lid
    assert (at[1] - at[2]) * (at[1] - half) > 0  # the first of a pair is nearer to its corner


def test_eyes_and_mouth_follow_what_is_planted() -> None:
    landmarks = head(0, 0, 0)
    for eye, height in ((pose.RIGHT_EYE, 0.03), (pose.LEFT_EYE, 0.01)):
        left, right = landmarks[eye[0]].copy(), landmarks[eye[3]].copy()
        for upper, lower, share in ((eye[1], eye[5], 1 / 3), (eye[2], eye[4], 2 / 3)):
            middle = left + share * (right - left)
            landmarks[upper], landmarks[lower] = (
                middle - (0, height / 2, 0),
                middle - (0, -height / 2, 0),
            )
    width = np.linalg.norm(landmarks[33] - landmarks[133])
    np.testing.assert_allclose(pose.eye_ratio(landmarks), [0.03 / width, 0.01 / width], rtol=1e-5)
    landmarks[13], landmarks[14] = (0.55, 0.6, 0), (0.55, 0.65, 0)
    assert pose.mouth_opening(landmarks) == pytest.approx(0.05 / 0.5, rel=1e-4)
