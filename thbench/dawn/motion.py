"""Motion between two images, unsupervised: regions, background, dense flow (MRAA).

Siarohin et al., "Motion Representations for Articulated Animation" (2021), section 3, which DAWN's
flow predictor follows. A network marks K regions as heat maps; the mean of a heat map is where its
region is and its covariance how it lies and how large it is, so two images give an affine map
per region. A dense network decides, per pixel, which of these maps (or the background's) holds.

Coordinates are those of ``thbench.nn.warp``. Everything here runs at the latent's resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thbench.nn.hourglass import Contraction, Hourglass
from thbench.nn.warp import Deformation, grid_like, product, warp, warp_by_flow
from thbench.nn.zero_init import zero_init

REACH = 0.2  # how far, in [-1, 1] units, a refinement moves what the regions do not
LEAST_VARIANCE = 1e-4  # a region is never thinner than about half a pixel in a hundred
ISOTROPY = 0.05  # a region rounder than about this (0 a circle, 1 a line) has no direction


@dataclass(frozen=True)
class Switches:
    """In what MRAA's released code differs from these networks, whose ways are the defaults.

    Attributes:
        norm: see ``thbench.nn.hourglass.normalise``.
        corners: see ``thbench.nn.warp``.
        svd: regions have the covariances that are found, with no least variance, and maps between
            them are those of ``affine_by_svd``.
    """

    norm: str = "group"
    corners: bool = False
    svd: bool = False


@dataclass(frozen=True)
class Motion:
    """What a latent flow generator finds between two images.

    Attributes:
        flow: (B, 2, h, w), sampling grid minus identity grid, in [-1, 1] units.
        occlusion: (B, 1, h, w) in [0, 1], 1 where the warped source can be shown.
        regions: of the driving image.
    """

    flow: Tensor
    occlusion: Tensor
    regions: Regions


@dataclass(frozen=True)
class Regions:
    """Where K regions are.

    Attributes:
        mean: (B, K, 2).
        covariance: (B, K, 2, 2), symmetric and positive definite.
    """

    mean: Tensor
    covariance: Tensor

    def repeat(self, times: int) -> Regions:
        """Each image's regions ``times`` times, those of one image before those of the next."""
        return Regions(*(x.repeat_interleave(times, 0) for x in (self.mean, self.covariance)))

    def gaussians(self, grid: Tensor) -> Tensor:
        """``exp(-d^2 / 2)`` of the Mahalanobis distance to each region: (B, K, h, w)."""
        offset = grid - self.mean[:, :, None, None]
        a, b, d = _entries(self.covariance[:, :, None, None])
        x, y = offset.unbind(-1)
        square = (d * x * x - 2 * b * x * y + a * y * y) / (a * d - b * b)
        return torch.exp(-square / 2)


def moments(heatmap: Tensor, corners: bool = False, least: float = LEAST_VARIANCE) -> Regions:
    """Mean and covariance of heat maps (B, K, h, w) whose sums are 1 (MRAA, eqs. 2 and 4).

    Args:
        heatmap: (B, K, h, w).
        corners: see ``thbench.nn.warp``.
        least: variance that is added along both axes.
    """
    points = grid_like(heatmap, heatmap.dtype, corners).reshape(-1, 2)
    weight = heatmap.flatten(2)
    mean = product(weight, points)
    offset = points - mean[:, :, None]
    covariance = product((weight[..., None] * offset).mT, offset)
    floor = least * torch.eye(2, device=mean.device, dtype=mean.dtype)
    return Regions(mean, covariance + floor)


def affine_between(source: Tensor, driving: Tensor) -> Tensor:
    """The maps ``U_s S_s^1/2 S_d^-1/2 U_d^T`` between covariances U S U^T: (..., 2, 2) each.

    They carry a region in the driving image onto itself in the source (MRAA, eqs. 5-7). A
    singular value decomposition leaves the signs and the order of the axes open and has no bounded
    gradient near equal variances; for two dimensions it has a closed form without both faults.
    With z = ((a-d)/2, b) of each covariance, as a complex number whose argument is twice the angle
    of the main axis, the turn is half the argument of ``z_s conj(z_d)``, so never above a quarter
    turn, and it fades out where a region has no direction.
    """
    (mean_s, radius_s, z_s), (mean_d, radius_d, z_d) = _axes(source), _axes(driving)
    long = torch.sqrt((mean_s + radius_s) / (mean_d + radius_d))
    short = torch.sqrt(((mean_s - radius_s) / (mean_d - radius_d)).clamp(min=1e-6))
    z_s, z_d = z_s / mean_s[..., None], z_d / mean_d[..., None]
    length = torch.sqrt(z_d.square().sum(-1, keepdim=True) + ISOTROPY**2)
    cos2, sin2 = (z_d / length).unbind(-1)
    half, centre = (long - short) / 2, (long + short) / 2
    stretch = _matrix(centre + half * cos2, half * sin2, half * sin2, centre - half * cos2)
    cross = z_s[..., 1] * z_d[..., 0] - z_s[..., 0] * z_d[..., 1]
    turn = torch.atan2(cross, (z_s * z_d).sum(-1) + ISOTROPY**2) / 2
    cos, sin = turn.cos(), turn.sin()
    return product(_matrix(cos, -sin, sin, cos), stretch)


def affine_by_svd(source: Tensor, driving: Tensor) -> Tensor:
    """The maps of ``affine_between`` as MRAA's eqs. 5-7 stand, (..., 2, 2).

    The order of the axes and their signs are those that LAPACK's singular value decomposition
    happens to give, which weights that were trained with it have seen; as in the released code, a
    map whose first entry is negative is turned by half a turn.
    """
    roots = []
    for covariance in (source, driving):
        # The CPU's routine: a GPU's chooses other signs.
        axes, variance, _ = torch.linalg.svd(covariance.cpu())
        roots.append((axes * variance.sqrt()[..., None, :]).to(covariance.device))
    affine = product(roots[0], torch.linalg.inv(roots[1]))
    return affine * affine[..., :1, :1].sign()


def region_maps(source: Regions, driving: Regions, svd: bool = False) -> Tensor:
    """Each region's affine map ``[A | t]`` from the driving image to the source: (B, K, 2, 3).

    ``svd`` takes ``affine_by_svd`` in place of ``affine_between``.
    """
    between = affine_by_svd if svd else affine_between
    affine = between(source.covariance, driving.covariance)
    shift = source.mean[..., None] - product(affine, driving.mean[..., None])
    return torch.cat([affine, shift], dim=-1)


class RegionPredictor(nn.Module):
    """Picture to regions: hourglass, then a soft-max over pixels for each region.

    Args:
        regions: K.
        size: (expansion, max_features, blocks) of the hourglass.
        temperature: of the soft-max; a lower one makes regions tighter.
        kernel: of the last convolution.
        switches: how moments are taken, and the norm.
    """

    def __init__(
        self,
        regions: int,
        size: tuple[int, int, int],
        temperature: float,
        kernel: int = 7,
        switches: Switches | None = None,
    ) -> None:
        super().__init__()
        self.temperature, self.switches = temperature, switches or Switches()
        self.hourglass = Hourglass(3, *size, norm=self.switches.norm)
        self.head = nn.Conv2d(self.hourglass.outputs, regions, kernel, padding=kernel // 2)

    def forward(self, image: Tensor) -> Regions:
        """``image``: (B, 3, h, w) in [0, 1], at the latent's resolution."""
        logits = self.head(self.hourglass(image)).float()
        flat = (logits.flatten(2) / self.temperature).softmax(-1)
        least = 0.0 if self.switches.svd else LEAST_VARIANCE
        return moments(flat.reshape(logits.shape), self.switches.corners, least)


def equivariance(predictor: nn.Module, image: Tensor, found: Regions) -> tuple[Tensor, Tensor]:
    """How far regions are from moving as the image does: errors of mean and of covariance.

    Args:
        predictor: of regions; it is asked again, on the deformed image.
        image: (B, 3, h, w), at the latent's resolution.
        found: the regions of ``image``.

    Returns:
        Mean absolute difference of positions; mean absolute difference from the identity of the
        carried covariance, whitened by the one found, which no choice of axes changes.
    """
    deformation = Deformation.random(image.float())
    again = predictor(deformation.image(image))
    shift = (found.mean - deformation(again.mean)).abs().mean()
    carried = deformation.jacobian(again.mean)
    with torch.autocast(image.device.type, enabled=False):
        covariance = carried @ again.covariance @ carried.mT
        root = torch.linalg.cholesky(found.covariance)
        half = torch.linalg.solve_triangular(root, covariance, upper=False)
        whitened = torch.linalg.solve_triangular(root, half.mT, upper=False)
    return shift, (whitened - torch.eye(2, device=whitened.device)).abs().mean()


class BackgroundPredictor(nn.Module):
    """Two images to the affine motion of what lies behind: (B, 2, 3), at first the identity."""

    def __init__(self, size: tuple[int, int, int], norm: str = "group") -> None:
        super().__init__()
        self.contract = Contraction(6, *size, norm=norm)
        self.head = nn.Linear(self.contract.widths[-1], 6)
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.bias.copy_(torch.eye(2, 3).flatten())

    def forward(self, source: Tensor, driving: Tensor) -> Tensor:
        """Affine maps (B, 2, 3) from driving to source, both (B, 3, h, w) in [0, 1]."""
        features = self.contract(torch.cat([source, driving], dim=1))[-1]
        return self.head(features.mean((2, 3))).float().reshape(-1, 2, 3)


class Refinement(nn.Module):
    """What the regions' flow leaves: a dense offset, found with both images in sight.

    Not in MRAA. Regions the size of an eye are found late, if ever, by a small net, so lids and
    lips would not move. This net sees the portrait as the regions' flow warps it and the image
    that is wanted, every pixel of both, and adds at most ``REACH`` to the flow. It has no say in
    the occlusion: a net that has paints the wanted image into that map.

    Args:
        size: (expansion, max_features, blocks) of the hourglass.
        factor: side of the images over the side of the flow.
    """

    def __init__(self, size: tuple[int, int, int], factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.hourglass = Hourglass(6 * factor**2, *size)
        self.head = zero_init(nn.Conv2d(self.hourglass.outputs, 2, 3, padding=1))

    def forward(self, source: Tensor, driving: Tensor, flow: Tensor) -> Tensor:
        """The better flow, (B, 2, h, w).

        Args:
            source: (B, 3, H, W) in [0, 1].
            driving: (B, 3, H, W) in [0, 1].
            flow: (B, 2, h, w), what the regions say.
        """
        images = torch.cat([warp_by_flow(source, flow), driving], dim=1)
        cells = F.pixel_unshuffle(2 * images - 1, self.factor)
        return flow + REACH * torch.tanh(self.head(self.hourglass(cells)).float())


class FlowPredictor(nn.Module):
    """Regions of both images and the source to a dense flow and an occlusion map.

    Args:
        regions: K.
        size: (expansion, max_features, blocks) of the hourglass.
        kernel: of the last convolution.
        switches: the norm, the grid, and how regions' maps are found.
    """

    def __init__(
        self,
        regions: int,
        size: tuple[int, int, int],
        kernel: int = 7,
        switches: Switches | None = None,
    ) -> None:
        super().__init__()
        self.splits, self.switches = [regions + 1, 1], switches or Switches()
        self.hourglass = Hourglass((regions + 1) * 4, *size, norm=self.switches.norm)
        self.head = nn.Conv2d(self.hourglass.outputs, sum(self.splits), kernel, padding=kernel // 2)

    def forward(
        self, image: Tensor, of: Regions, to: Regions, background: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Flow and occlusion from the source to the driving image.

        Args:
            image: (B, 3, h, w), the source at the latent's resolution.
            of: regions of the source.
            to: regions of the driving image.
            background: (B, 2, 3).

        Returns:
            flow (B, 2, h, w); occlusion (B, 1, h, w), 1 where the warped source can be shown.
        """
        grid = grid_like(image, of.mean.dtype, self.switches.corners)
        maps = torch.cat([background[:, None], region_maps(of, to, self.switches.svd)], dim=1)
        features = self.hourglass(self._inputs(image, of, to, maps, grid))
        mask, occlusion = self.head(features).float().split(self.splits, dim=1)
        mask = mask.softmax(1)
        # A mean of affine maps is an affine map: mixing the six entries needs no grid per region.
        mixed = product(maps.flatten(2).mT, mask.flatten(2)).unflatten(-1, grid.shape[:2])
        flow = mixed[:, 0::3] * grid[..., 0] + mixed[:, 1::3] * grid[..., 1] + mixed[:, 2::3]
        flow = flow - grid_like(image, grid.dtype).movedim(-1, 0)
        return flow, torch.sigmoid(occlusion)

    def _inputs(
        self, image: Tensor, of: Regions, to: Regions, maps: Tensor, grid: Tensor
    ) -> Tensor:
        """Source warped by each motion, and where each region was and is."""
        (h, w), k = grid.shape[:2], maps.shape[1]
        points = product(grid.reshape(-1, 2), maps[..., :2].mT) + maps[..., None, :, 2]
        points = points.reshape(-1, h, w, 2)
        moved = warp(image.repeat_interleave(k, dim=0), points, self.switches.corners)
        heat = F.pad(to.gaussians(grid) - of.gaussians(grid), (0, 0, 0, 0, 1, 0))
        return torch.cat([moved.reshape(len(image), -1, h, w), heat.to(image.dtype)], dim=1)


def _entries(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 1]


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([torch.stack([a, b], -1), torch.stack([c, d], -1)], -2)


def _axes(covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean variance, half the difference of the two variances, and z (see ``affine_between``)."""
    a, b, d = _entries(covariance)
    z = torch.stack([(a - d) / 2, b], dim=-1)
    return (a + d) / 2, torch.sqrt(z.square().sum(-1) + _TINY), z


_TINY = 1e-12
