import math

import pytest
import torch

from tests import face_mesh as mesh
from thbench.nn import regions
from thbench.nn.regions import POLYGONS, box_mask, region_mask
from thbench.nn.warp import identity_grid


def outline(ring, points):
    """Landmarks (478, 3) whose ``ring`` lies on ``points``; all others far outside."""
    landmarks = torch.full((478, 3), -5.0)
    landmarks[list(ring), :2] = torch.tensor(points)
    return landmarks


def circle(ring, x, y, radius):
    angles = [2 * math.pi * i / len(ring) for i in range(len(ring))]
    return [[x + radius * math.cos(a), y + radius * math.sin(a)] for a in angles]


def pixels(size):
    return (identity_grid(size, size) + 1) / 2


def test_a_circle_is_filled_to_its_radius():
    landmarks = outline(regions.FACE, circle(regions.FACE, 0.4, 0.55, 0.3))
    mask = region_mask(landmarks, "face", 64)[0]
    distance = (pixels(64) - torch.tensor([0.4, 0.55])).norm(dim=-1)
    assert mask[distance < 0.295].all()
    assert not mask[distance > 0.3].any()


def test_a_concave_outline_keeps_its_notch():
    ring = regions.LIPS  # 20 points: a U, open at the top
    u = [[0.1, 0.1], [0.3, 0.1], [0.3, 0.7], [0.7, 0.7], [0.7, 0.1], [0.9, 0.1], [0.9, 0.9]]
    corners = [*u, *[[0.1, 0.9]] * (len(ring) - len(u))]
    mask = region_mask(outline(ring, corners), "lips", 10)[0]
    expected = torch.zeros(10, 10)
    expected[1:9, 1:9] = 1
    expected[1:7, 3:7] = 0
    assert torch.equal(mask, expected)


def test_margin_grows_the_region_by_that_distance():
    landmarks = outline(regions.LIPS, circle(regions.LIPS, 0.5, 0.5, 0.2))
    mask = region_mask(landmarks, "lips", 128, margin=0.1)[0]
    distance = (pixels(128) - 0.5).norm(dim=-1)
    assert mask[distance < 0.295].all()  # the outline is a polygon within its circle
    assert not mask[distance > 0.3].any()
    assert region_mask(landmarks, "lips", 128).sum() < mask.sum()


def test_a_closed_mouth_has_no_opening_but_a_margin_around_it():
    line = [[0.3 + 0.4 * i / 19, 0.5] for i in range(20)]
    landmarks = outline(regions.MOUTH, line)
    assert region_mask(landmarks, "mouth", 32).sum() == 0
    assert region_mask(landmarks, "mouth", 32, margin=0.05).sum() > 0


def test_eyes_are_two_and_each_sample_has_its_own():
    landmarks = outline(regions.RIGHT_EYE, circle(regions.RIGHT_EYE, 0.3, 0.4, 0.1))
    left = torch.tensor(circle(regions.LEFT_EYE, 0.7, 0.4, 0.1))
    landmarks[list(regions.LEFT_EYE), :2] = left
    moved = landmarks.clone()
    moved[:, 1] += 0.2
    mask = region_mask(torch.stack([landmarks, moved]).reshape(2, 1, 478, 3), "eyes", 40)
    assert mask.shape == (2, 1, 1, 40, 40)
    one, two = mask[:, 0, 0]
    assert one[16, 12] == one[16, 28] == 1
    assert one[16, 20] == 0
    assert torch.equal(one[:-8], two[8:])


def test_half_precision_landmarks_and_unknown_names():
    landmarks = outline(regions.FACE, circle(regions.FACE, 0.5, 0.5, 0.3)).half()
    assert region_mask(landmarks, "face", 16).dtype == torch.float32
    with pytest.raises(ValueError, match="no region 'nose'"):
        region_mask(landmarks, "nose", 16)


def test_outlines_are_face_meshs_own():
    known = {
        "lips": mesh.edges(mesh.LIPS_OUTSIDE),
        "mouth": mesh.edges(mesh.LIPS_INSIDE),
        "face": mesh.edges(mesh.FACE_OVAL),
        "eyes": mesh.edges(mesh.RIGHT_EYE, mesh.LEFT_EYE),
    }
    for region, edges in known.items():
        for ring in POLYGONS[region]:
            steps = zip(ring, (*ring[1:], ring[0]), strict=True)
            assert all(frozenset(step) in edges for step in steps), region


def test_a_box_holds_the_cells_whose_centre_it_holds_or_that_it_reaches_into():
    landmarks = torch.full((2, 478, 3), -5.0)
    ring = list(regions.LIPS)
    landmarks[:, ring, 0] = torch.linspace(0.30, 0.36, len(ring))
    landmarks[:, ring, 1] = torch.linspace(0.52, 0.61, len(ring))
    landmarks[1, ring, 0] += 0.44
    centre = box_mask(landmarks, "lips", 8)[:, 0]
    assert centre[0].nonzero().tolist() == [[4, 2]]  # its centre is (.3125, .5625)
    assert not centre[1].any()  # from .74 to .80 across there is no centre: .6875, .8125
    touched = box_mask(landmarks, "lips", 8, touched=True)[:, 0]
    assert touched[0].nonzero().tolist() == [[4, 2]]
    assert touched[1].nonzero().tolist() == [[4, 5], [4, 6]]
    assert box_mask(landmarks, "lips", 8, 0.125)[0].sum() == 9
    with pytest.raises(ValueError, match="no region"):
        box_mask(landmarks, "nose", 8)
