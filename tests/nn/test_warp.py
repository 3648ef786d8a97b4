import pytest
import torch

from thbench.nn.warp import (
    Deformation,
    identity_grid,
    product,
    resize_grid,
    resize_to,
    warp,
    warp_by_flow,
)


@pytest.fixture
def image():
    return torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))


def test_identity_grid_is_pixel_centres():
    grid = identity_grid(2, 4)
    assert grid.shape == (2, 4, 2)
    assert grid[0, :, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert grid[:, 0, 1].tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_the_identity_changes_nothing_at_any_resolution(image, scale):
    grid = identity_grid(12 // scale, 16 // scale).expand(2, -1, -1, -1)
    assert torch.allclose(warp(image, grid), image, atol=1e-5)
    assert torch.allclose(resize_grid(grid, 12, 16)[0], identity_grid(12, 16), atol=1e-6)


def test_a_flow_of_two_pixels_moves_by_two_pixels(image):
    flow = torch.zeros(2, 2, 12, 16)
    flow[:, 0] = 2 * 2 / 16  # two pixels of 2/16 each, to the right
    moved = warp_by_flow(image, flow)
    assert torch.allclose(moved[..., :-2], image[..., 2:], atol=1e-5)
    assert torch.allclose(moved[..., -1], image[..., -1], atol=1e-5)  # the border is repeated


def test_y_is_the_second_coordinate(image):
    flow = torch.zeros(2, 2, 12, 16)
    flow[:, 1] = -1 * 2 / 12
    assert torch.allclose(warp_by_flow(image, flow)[..., 1:, :], image[..., :-1, :], atol=1e-5)


def test_half_precision_places_samples_as_full_precision_does():
    x = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    grid = identity_grid(64, 64)[None] + 0.013
    assert torch.allclose(warp(x.bfloat16(), grid).float(), warp(x, grid), atol=4e-3)


def test_product_ignores_autocast():
    a = torch.rand(5, 7)
    with torch.autocast("cpu", torch.bfloat16):
        assert (a @ a.mT).dtype == torch.bfloat16
        inside = product(a, a.mT)
    assert torch.equal(inside, a @ a.mT)


def test_resize_to_keeps_means_downwards(image):
    small = resize_to(image, (3, 4))
    assert small.shape == (2, 3, 3, 4)
    assert torch.allclose(small[0, 0, 0, 0], image[0, 0, :4, :4].mean())
    assert resize_to(image, (12, 16)) is image


def test_deformation_without_deviation_is_the_identity(image):
    still = Deformation.random(image, affine=0.0, spline=0.0)
    points = torch.rand(2, 6, 2) * 2 - 1
    assert torch.allclose(still(points), points, atol=1e-6)
    assert torch.allclose(still.image(image), image, atol=1e-5)


def test_deformation_jacobian_is_its_derivative():
    torch.manual_seed(1)
    bend = Deformation.random(torch.zeros(3, 1, dtype=torch.float64), affine=0.1, spline=0.05)
    points = torch.rand(3, 4, 2, dtype=torch.float64) * 2 - 1
    step = 1e-6
    for axis in range(2):
        shift = torch.zeros(2, dtype=torch.float64)
        shift[axis] = step
        slope = (bend(points + shift) - bend(points - shift)) / (2 * step)
        assert torch.allclose(bend.jacobian(points)[..., axis], slope, atol=1e-5)


def test_deformation_takes_shared_points_and_moves_them_per_sample():
    torch.manual_seed(2)
    bend = Deformation.random(torch.zeros(3, 1))
    points = torch.rand(5, 2)
    moved = bend(points)
    assert moved.shape == (3, 5, 2)
    assert torch.allclose(moved[1], bend(points.expand(3, 5, 2))[1])
    assert not torch.allclose(moved[0], moved[1])


def test_a_deformed_picture_shows_x_at_f_of_p():
    """A bright spot at f(p) is seen at p: what equivariance builds on."""
    torch.manual_seed(3)
    bend = Deformation.random(torch.zeros(1, 1), affine=0.1, spline=0.01)
    p = torch.tensor([[[0.2, -0.3]]])
    grid = identity_grid(128, 128)
    spot = torch.exp(-(grid - bend(p)[0, 0]).square().sum(-1) / 2 / 0.05**2)[None, None]
    seen = bend.image(spot)[0, 0]
    centre = (seen[..., None] * grid).sum((0, 1)) / seen.sum()
    assert torch.allclose(centre, p[0, 0], atol=0.01)
