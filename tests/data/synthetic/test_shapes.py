import pytest
import torch

from thbench.data.synthetic.shapes import (
    Rays,
    blend,
    bump,
    cover,
    ellipsoid,
    segment,
    smooth_min,
)


def points(*xyz):
    return tuple(torch.tensor([value]) for value in xyz)


def test_distance_to_a_sphere_is_exact():
    p = tuple(torch.randn(200) * 2 for _ in range(3))
    found = ellipsoid(p, (0.1, -0.2, 0.3), (0.7, 0.7, 0.7))
    true = ((p[0] - 0.1) ** 2 + (p[1] + 0.2) ** 2 + (p[2] - 0.3) ** 2).sqrt() - 0.7
    torch.testing.assert_close(found, true, atol=1e-4, rtol=1e-4)


def test_distance_to_an_ellipsoid_has_the_right_sign_and_first_order():
    radii = (0.5, 1.0, 2.0)
    assert ellipsoid(points(0.0, 0.99, 0.0), (0, 0, 0), radii) < 0
    for step in (-0.01, 0.01):
        found = ellipsoid(points(0.5 + step, 0.0, 0.0), (0, 0, 0), radii)
        assert found.item() == pytest.approx(step, rel=0.05)


def test_smooth_min_is_below_the_minimum_only_near_the_crease():
    a = torch.linspace(-1, 1, 101)
    b = torch.zeros(101)
    found = smooth_min(a.clone(), b, 0.2)
    low = torch.minimum(a, b)
    assert (found <= low + 1e-6).all()
    far = (a - b).abs() > 0.2
    torch.testing.assert_close(found[far], low[far])
    assert found[50].item() == pytest.approx(-0.05)


def test_soft_edges():
    assert cover(torch.tensor([-1.0, 0.0, 1.0]), 0.5).tolist() == [0, 0.5, 1]
    assert segment(torch.tensor([0.0, 0.5, 1.0]), 0, 1).tolist() == [0, 0.5, 1]
    assert segment(torch.tensor([0.0, 1.0]), 1, 0).tolist() == [1, 0]
    value = bump(torch.tensor([0.3]), torch.tensor([0.4]), 0.3, 0.4)
    assert value.item() == pytest.approx(torch.tensor(-2.0).exp().item())


def test_blend_mixes_in_place():
    image = torch.zeros(1, 3, 1, 2)
    blend(image, (0.2, 0.4, 0.6), torch.tensor([[[1.0, 0.5]]]), torch.tensor([[[2.0, 1.0]]]))
    torch.testing.assert_close(image[0, :, 0, 0], torch.tensor([0.4, 0.8, 1.2]))
    torch.testing.assert_close(image[0, :, 0, 1], torch.tensor([0.1, 0.2, 0.3]))


def test_rays_meet_the_ellipsoid():
    x, y = torch.meshgrid(torch.linspace(-1, 1, 21), torch.linspace(-1, 1, 21), indexing="xy")
    d = torch.tensor([0.2, -0.3, 0.9])
    d = (d / d.norm())[:, None, None, None]
    rays = Rays((x[None], y[None], torch.zeros(1, 21, 21)), (d[0], d[1], d[2]), torch.ones(1, 1, 1))
    centre, radii = (0.1, 0.0, -0.2), (0.4, 0.7, 0.5)
    near, far, miss = rays.ellipsoid(centre, radii)
    assert (near >= far).all()
    for depth in (near, far):
        gap = ellipsoid(rays.at(depth), centre, radii)
        assert gap[miss < -0.02].abs().max() < 1e-3
    assert (ellipsoid(rays.at(near), centre, radii)[miss > 0.02] > 0).all()
    assert 20 < (miss < 0).sum() < 400
