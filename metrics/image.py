"""Frame against frame: PSNR, SSIM and MSE, the mean over a clip's frames."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from metrics.base import Features, FrameMetric

PSNR_CEILING = 100.0
"""Decibels given to identical frames, whose PSNR is infinite."""

SSIM_WINDOW = 11


def psnr(generated: Tensor, reference: Tensor) -> Tensor:
    """PSNR of each frame in dB, at most ``PSNR_CEILING``.

    Args:
        generated: (T, 3, H, W) uint8, or float in [0, 1].
        reference: the same.

    Returns:
        (T,) float. The data range is 1, over pixels in [0, 1].
    """
    values = peak_signal_noise_ratio(
        _unit(generated), _unit(reference), data_range=1.0, reduction="none", dim=(1, 2, 3)
    )
    return values.clamp(max=PSNR_CEILING)


def ssim(generated: Tensor, reference: Tensor) -> Tensor:
    """SSIM of each frame (Wang et al. 2004): Gaussian window of 11 pixels, sigma 1.5, mean of RGB.

    Args:
        generated: (T, 3, H, W) uint8, or float in [0, 1]; H and W at least 11.
        reference: the same.

    Returns:
        (T,) float in [-1, 1].
    """
    pairs = zip(_unit(generated).split(32), _unit(reference).split(32), strict=True)
    values = [
        structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
        for a, b in pairs
    ]
    return torch.cat([torch.atleast_1d(v) for v in values])


def mse(generated: Tensor, reference: Tensor) -> Tensor:
    """Mean squared error of each frame over pixels and channels, in levels of 0 to 255.

    Args:
        generated: (T, 3, H, W) uint8.
        reference: the same.

    Returns:
        (T,) float64 in [0, 65025].
    """
    pairs = zip(generated, reference, strict=True)
    return torch.stack([(a.double() - b.double()).square().mean() for a, b in pairs])


class PSNR(FrameMetric):
    """Peak signal-to-noise ratio, mean over frames, then clips. See ``psnr``."""

    unit = "dB"
    direction = "higher"
    bounds = (0.0, PSNR_CEILING)
    needs = ("frames",)

    @property
    def name(self) -> str:
        return "PSNR"

    def measure_frames(self, generated: Features, reference: Features | None) -> Tensor:
        frames = generated["frames"]
        return undefined(frames) if reference is None else psnr(frames, reference["frames"])


class SSIM(FrameMetric):
    """Structural similarity, mean over frames, then clips. See ``ssim``."""

    direction = "higher"
    bounds = (-1.0, 1.0)
    needs = ("frames",)

    @property
    def name(self) -> str:
        return "SSIM"

    def measure_frames(self, generated: Features, reference: Features | None) -> Tensor:
        frames = generated["frames"]
        if reference is None or min(frames.shape[-2:]) < SSIM_WINDOW:
            return undefined(frames)
        return ssim(frames, reference["frames"])


class MSE(FrameMetric):
    """Mean squared error in levels of 0 to 255, mean over frames, then clips. See ``mse``."""

    unit = "grey levels squared"
    direction = "lower"
    bounds = (0.0, 255.0**2)
    needs = ("frames",)

    @property
    def name(self) -> str:
        return "MSE"

    def measure_frames(self, generated: Features, reference: Features | None) -> Tensor:
        frames = generated["frames"]
        return undefined(frames) if reference is None else mse(frames, reference["frames"])


def undefined(frames: Tensor) -> Tensor:
    """NaN for each frame (n, 3, H, W), as (n,)."""
    return torch.full((len(frames),), math.nan)


def _unit(frames: Tensor) -> Tensor:
    return frames.float() / 255 if frames.dtype == torch.uint8 else frames
