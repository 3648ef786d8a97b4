"""DAWN's latent flow generator: a portrait and a motion to an image (section 3.2 of the paper).

A flow (where each latent pixel samples the portrait) and an occlusion map (how far it can) describe
a frame relative to the portrait. This network estimates both between two frames of a clip, and
reconstructs the second frame from the first and them. A diffusion model later generates them from
audio.

The nets are those of MRAA (Siarohin et al., 2021). The decoder also warps its skip connections and
ends with a blend of what it painted and the warped portrait, which DAWN's Eq. 4 leaves out and its
released model has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from thbench.core.errors import UserError
from thbench.core.signatures import Blocks
from thbench.core.types import Batch
from thbench.dawn.lfg_losses import pixel_weight, psnr, variation
from thbench.dawn.motion import (
    BackgroundPredictor,
    FlowPredictor,
    Motion,
    Refinement,
    RegionPredictor,
    Switches,
    equivariance,
)
from thbench.nn.hourglass import Down, Residual, Same, Up
from thbench.nn.perceptual import pyramid_l1
from thbench.nn.warp import blurred_downsample, resize_to, warp_by_flow
from thbench.training.reconstruction import ReconstructionStage, pairs
from thbench.training.stage import StageContext

FLOW_GAIN = 10.0  # brings flows, a tenth of the image or less, to about +-1
EXACT = 1e-4  # an occlusion nearer to 0 or 1 than this has no finite logit worth moving


@dataclass(frozen=True)
class SourceFeatures:
    """What a portrait contributes to every frame.

    Attributes:
        image: (B, 3, H, W) in [0, 1].
        levels: features, finest first; the last is the latent (B, C, h, w).
    """

    image: Tensor
    levels: tuple[Tensor, ...]

    @property
    def latent(self) -> Tensor:
        """(B, C, h, w), the coarsest features."""
        return self.levels[-1]

    def expand(self, n: int) -> SourceFeatures:
        """One portrait for ``n`` frames, without copying. ``n`` portraits stay as they are."""
        if len(self.image) == n:
            return self
        if len(self.image) != 1:
            raise ValueError(f"{len(self.image)} portraits for {n} frames")
        image, *levels = (x.expand(n, *x.shape[1:]) for x in (self.image, *self.levels))
        return SourceFeatures(image, tuple(levels))


class Encoder(nn.Module):
    """Images (B, 3, H, W) to features at 1, 1/2, ... of their size."""

    def __init__(self, widths: Sequence[int], kernel: int, norm: str = "group") -> None:
        super().__init__()
        self.stem = Same(3, widths[0], kernel, norm)
        self.down = nn.ModuleList(Down(a, b, norm=norm) for a, b in pairwise(widths))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Features (B, widths[i], H / 2**i, W / 2**i), finest first."""
        levels = [self.stem(image)]
        for block in self.down:
            levels.append(block(levels[-1]))
        return tuple(levels)


class Decoder(nn.Module):
    """Warped features to images.

    Args:
        widths: of the encoder's levels, finest first.
        blocks: residual blocks at the latent.
        kernel: of the last convolution.
        own_gate: the blend of painted and warped image is the occlusion moved by a map that the
            decoder draws at full resolution; else it is the occlusion itself, as in MRAA.
        sees_flow: flow and occlusion are among its inputs; else it must guess from what is warped,
            as in MRAA, that lips drawn apart want a mouth between them.
        switches: the norm, and the grid that warps.
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: int,
        kernel: int,
        own_gate: bool,
        sees_flow: bool,
        switches: Switches | None = None,
    ) -> None:
        super().__init__()
        switches = switches or Switches()
        self.corners, norm, last = switches.corners, switches.norm, widths[-1]
        self.entry = nn.Conv2d(last + 3, last, 3, padding=1) if sees_flow else None
        self.bottleneck = nn.Sequential(*(Residual(last, norm) for _ in range(blocks)))
        self.up = nn.ModuleList(Up(b, a, norm=norm) for a, b in reversed(list(pairwise(widths))))
        self.last = nn.Conv2d(widths[0], 4 if own_gate else 3, kernel, padding=kernel // 2)

    def forward(self, source: SourceFeatures, flow: Tensor, occlusion: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1].

        Args:
            source: features of one portrait per frame.
            flow: (B, 2, h, w), in [-1, 1] units.
            occlusion: (B, 1, h, w) in [0, 1].
        """
        *finer, latent = (warp_by_flow(level, flow, self.corners) for level in source.levels)
        x = latent * occlusion.to(latent.dtype)
        if self.entry is not None:
            seen = [x, FLOW_GAIN * flow.to(x.dtype), occlusion.to(x.dtype)]
            x = self.entry(torch.cat(seen, dim=1))
        x = self.bottleneck(x)
        x = _blend(latent, x, occlusion)
        for up, level in zip(self.up, reversed(finer), strict=True):
            x = _blend(level, up(x), occlusion)
        drawn = self.last(x).float()
        gate = resize_to(occlusion, (drawn.shape[-2], drawn.shape[-1]))
        if drawn.shape[1] == 4:
            gate = torch.sigmoid(torch.logit(gate, EXACT) + drawn[:, 3:])
        warped = warp_by_flow(source.image, flow, self.corners)
        return torch.lerp(drawn[:, :3].sigmoid(), warped, gate)


@dataclass(frozen=True, kw_only=True)
class LatentFlowGeneratorConfig:
    """The ``net:`` block of ``LFGStage``; the defaults are the paper's sizes.

    Attributes:
        regions: K, whose motions the flow is put together from.
        expansion, max_features: width of the generator's first level, and the most it grows to.
        down: halvings from image to latent; motion is looked for at the latent's resolution.
        bottleneck: residual blocks at the latent.
        region_net, background_net, flow_net: (expansion, max_features, blocks) of their hourglass.
        temperature: of the regions' soft-max.
        kernel: of the first and last convolutions and of the heads.
        refinement: (expansion, max_features, blocks) of ``Refinement``, which finds motion that
            regions are too coarse for; None for none, as MRAA.
        own_gate, sees_flow: see ``Decoder``.
        norm: ``group`` or ``batch``, which the released weights were trained with.
        corners, svd: see ``Switches``; True in the released code.
        blurred: images are reduced to the latent's resolution by a Gaussian, as in the released
            code, not by means.
        full_background: the background's net sees images at full resolution, as in the released
            code, not at the latent's.
    """

    regions: int = 10
    expansion: int = 64
    max_features: int = 512
    down: int = 2
    bottleneck: int = 6
    region_net: Sequence[int] = (32, 1024, 5)
    background_net: Sequence[int] = (32, 1024, 5)
    flow_net: Sequence[int] = (64, 1024, 5)
    temperature: float = 0.1
    kernel: int = 7
    refinement: Sequence[int] | None = None
    own_gate: bool = False
    sees_flow: bool = False
    norm: str = "group"
    corners: bool = False
    svd: bool = False
    blurred: bool = False
    full_background: bool = False


class LatentFlowGenerator(nn.Module):
    """Portrait and motion to image, and two images to motion.

    Heights and widths of images must be divisible by ``multiple``, which is
    ``2 ** (down + blocks of the region and flow nets)``.

    Args:
        config: sizes and switches.

    Raises:
        UserError: an hourglass that is not three numbers.
    """

    def __init__(self, config: LatentFlowGeneratorConfig) -> None:
        super().__init__()
        c, regions = config, config.regions
        widths = [min(c.max_features, c.expansion * 2**i) for i in range(c.down + 1)]
        region_size, flow_size = _size(c.region_net), _size(c.flow_net)
        switches = Switches(c.norm, c.corners, c.svd)
        self.down, self.blurred, self.full_background = c.down, c.blurred, c.full_background
        self.multiple = 2 ** (c.down + max(region_size[2], flow_size[2]))
        self.latent_dim = widths[-1]
        self.encoder = Encoder(widths, c.kernel, c.norm)
        self.decoder = Decoder(widths, c.bottleneck, c.kernel, c.own_gate, c.sees_flow, switches)
        self.region_predictor = RegionPredictor(
            regions, region_size, c.temperature, c.kernel, switches
        )
        self.background_predictor = BackgroundPredictor(_size(c.background_net), c.norm)
        self.flow_predictor = FlowPredictor(regions, flow_size, c.kernel, switches)
        self.refine = Refinement(_size(c.refinement), 2**c.down) if c.refinement else None

    def latent_size(self, size: int) -> int:
        """Height and width of latent, flow and occlusion for images of ``size`` pixels."""
        return size // 2**self.down

    def encode(self, source: Tensor) -> SourceFeatures:
        """Features of portraits (B, 3, H, W) in [0, 1]."""
        return SourceFeatures(source, self.encoder(source))

    def downsample(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) at the latent's resolution, (B, 3, h, w)."""
        if self.blurred:
            return blurred_downsample(image, 2**self.down)
        h, w = image.shape[-2:]
        return resize_to(image, (self.latent_size(h), self.latent_size(w)))

    def flow(self, source: Tensor, driving: Tensor) -> tuple[Tensor, Tensor]:
        """The motion that turns portraits into frames.

        Args:
            source: (N, 3, H, W) in [0, 1], N portraits.
            driving: (B, 3, H, W) in [0, 1], B a multiple of N: B / N frames of the first portrait,
                then as many of the second, and so on.

        Returns:
            flow (B, 2, h, w), sampling grid minus identity grid, in [-1, 1] units; occlusion
            (B, 1, h, w) in [0, 1], 1 where the warped portrait can be shown.
        """
        found = self.motion(source, driving)
        return found.flow, found.occlusion

    def motion(self, source: Tensor, driving: Tensor) -> Motion:
        """Flow, occlusion and the driving images' regions, for training; arguments as ``flow``."""
        times, rest = divmod(len(driving), len(source))
        if rest:
            raise ValueError(f"{len(driving)} frames cannot be of {len(source)} portraits alike")
        small, wanted = self.downsample(source), self.downsample(driving)
        of, to = self.region_predictor(small).repeat(times), self.region_predictor(wanted)
        small = small.repeat_interleave(times, dim=0)
        if self.refine is not None or self.full_background:
            source = source.repeat_interleave(times, dim=0)
        pair = (source, driving) if self.full_background else (small, wanted)
        background = self.background_predictor(*pair)
        flow, occlusion = self.flow_predictor(small, of, to, background)
        if self.refine is not None:
            flow = self.refine(source, driving, flow)
        return Motion(flow, occlusion, to)

    def decode(self, features: SourceFeatures, flow: Tensor, occlusion: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1].

        Args:
            features: of one portrait, for all frames, or of one per frame.
            flow: (B, 2, h, w), sampling grid minus identity grid, in [-1, 1] units.
            occlusion: (B, 1, h, w) in [0, 1], 1 where the warped portrait can be shown.
        """
        return self.decoder(features.expand(len(flow)), flow, occlusion)

    def forward(self, source: Tensor, driving: Tensor) -> Tensor:
        """``driving`` reconstructed from ``source`` and the motion between them: (B, 3, H, W)."""
        return self.decode(self.encode(source), *self.flow(source, driving))


class LFGStage(ReconstructionStage):
    """Trains the latent flow generator to make frames of a clip from another frame of it.

    Loss: ``reconstruction`` x L1 of features on a pyramid (DAWN Eq. 5), plus ``equivariance`` x
    (shift, affine) of the regions (MRAA, section 3.5).

    Args:
        context: see ``Stage``.
        net: ``LatentFlowGeneratorConfig``, as a mapping; the paper's sizes where not given.
        perceptual: ``vgg`` (as the paper) or ``pixel`` (pixels and their differences).
        reconstruction, equivariance, scales: the paper's weights, and pyramid levels.
        motion_weight: pixels count ``1 + motion_weight * m`` times, with m the blurred difference
            between portrait and frame: most of a frame stands still, and a small net would learn
            that only.
        region_weight: that much is added in the mouth's and the eyes' regions, which hold what
            speech moves and few pixels.
        warp_weight: weight of the same loss on the warped portrait alone. A refinement judged by
            the decoded image only draws the wanted image into the flow, for the decoder to
            read, and does not warp.
        smoothness: weight of the flow's total variation, against the same.
        flow_noise: deviation, in [-1, 1] units, of white noise that the flow gets before decoding.
            Generated flows are never clean, and a decoder that sees the flow paints their noise;
            also, what survives noise is motion, not drawing.
        vgg: the features, in place of ImageNet's.
    """

    stable_name = "dawn.lfg"
    config_blocks: ClassVar[Blocks] = {"net": LatentFlowGeneratorConfig}
    version: ClassVar[int] = 2
    net: LatentFlowGenerator

    def __init__(
        self,
        context: StageContext,
        *,
        net: Mapping[str, Any] | None = None,
        perceptual: str = "vgg",
        reconstruction: float = 10.0,
        equivariance: Sequence[float] = (10.0, 10.0),
        scales: int = 4,
        motion_weight: float = 0.0,
        region_weight: float = 0.0,
        warp_weight: float = 0.0,
        smoothness: float = 0.0,
        flow_noise: float = 0.0,
        vgg: nn.Module | None = None,
    ) -> None:
        super().__init__(context, perceptual, vgg)
        self.net = LatentFlowGenerator(LatentFlowGeneratorConfig(**(net or {})))
        if context.size % self.net.multiple:
            raise UserError(
                f"size={context.size} does not divide by {self.net.multiple}, as the lfg stage's"
                " nets need: take another size, or fewer blocks in region_net and flow_net."
            )
        self.reconstruction = reconstruction
        self.shift_weight, self.affine_weight = equivariance
        self.scales = scales
        self.motion_weight = motion_weight
        self.region_weight = region_weight
        self.warp_weight = warp_weight
        self.smoothness = smoothness
        self.flow_noise = flow_noise

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        source, driving = pairs(batch)
        found = self.net.motion(source, driving)
        flow = found.flow + self.flow_noise * torch.randn_like(found.flow)
        made = self.net.decode(self.net.encode(source), flow, found.occlusion)
        weight = pixel_weight(
            batch, source, driving, motion=self.motion_weight, regions=self.region_weight
        )
        error = pyramid_l1(self.features(), made, driving, weight, self.scales)
        losses = {"reconstruction": error}
        total = self.reconstruction * error
        if self.warp_weight:
            warped = warp_by_flow(source, found.flow, self.net.decoder.corners)
            losses["warp"] = pyramid_l1(self.features(), warped, driving, weight, self.scales)
            total = total + self.warp_weight * losses["warp"]
        if self.smoothness:
            losses["variation"] = variation(found.flow)
            total = total + self.smoothness * losses["variation"]
        if self.shift_weight or self.affine_weight:
            shift, affine = equivariance(
                self.net.region_predictor, self.net.downsample(driving), found.regions
            )
            losses |= {"shift": shift, "affine": affine}
            total = total + self.shift_weight * shift + self.affine_weight * affine
        return {"loss": total, **losses, "psnr": psnr(made, driving)}

    @torch.no_grad()
    def samples(self, batch: Batch) -> dict[str, Tensor]:
        """Portrait, frame and reconstruction, side by side, of the first clip."""
        first = batch.first()
        source, driving = pairs(first)
        made = self.net(source, driving)
        return {"reconstruction": torch.cat([source, driving, made], dim=-1)}


def _blend(warped: Tensor, painted: Tensor, occlusion: Tensor) -> Tensor:
    """Warped features where they can be shown, painted ones elsewhere."""
    share = resize_to(occlusion, (warped.shape[-2], warped.shape[-1])).to(painted.dtype)
    return torch.lerp(painted, warped.to(painted.dtype), share)


def _size(hourglass: Sequence[int]) -> tuple[int, int, int]:
    if len(hourglass) != 3:
        raise UserError(
            f"An hourglass is written as [expansion, max_features, blocks], not {list(hourglass)}."
        )
    expansion, most, blocks = hourglass
    return expansion, most, blocks
