"""LPIPS: distance in the features of an image classifier, weighted by human judgements."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, cast

import lpips
import torch
from torch import Tensor, nn

from metrics import weights
from metrics.base import Features, FrameMetric
from metrics.extractors.base import full_precision
from metrics.image import undefined

MIN_PIXELS = 31
"""Smaller frames leave AlexNet's second pooling nothing to pool."""


def build(state: Mapping[str, Tensor]) -> nn.Module:
    """LPIPS 0.1 over AlexNet: (n, 3, H, W) twice, in [-1, 1], to (n, 1, 1, 1).

    The heads come with the ``lpips`` package; its constructor would download the trunk, so the
    trunk is put in here.

    Args:
        state: of torchvision's AlexNet; the classifier may be missing.

    Raises:
        KeyError: a convolution is missing.
    """
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        net = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    for name, module in net.net.named_modules():
        if isinstance(module, nn.Conv2d):
            # "slice2.3" is the trunk's "features.3".
            source = f"features.{name.split('.')[1]}"
            module.load_state_dict({k: state[f"{source}.{k}"] for k in ("weight", "bias")})
    return cast(nn.Module, net.eval().requires_grad_(False))


def lpips_distance(
    net: nn.Module, generated: Tensor, reference: Tensor, batch_size: int = 32
) -> Tensor:
    """LPIPS of each frame.

    Args:
        net: from ``build``.
        generated: (T, 3, H, W) uint8, H and W at least ``MIN_PIXELS``.
        reference: the same.
        batch_size: frames at a time.

    Returns:
        (T,) float32 on the CPU, 0 for equal frames.
    """
    device = next(net.parameters()).device
    pairs = zip(generated.split(batch_size), reference.split(batch_size), strict=True)
    with torch.inference_mode(), full_precision():
        parts = [
            net(_signed(a.to(device)), _signed(b.to(device))).flatten().cpu() for a, b in pairs
        ]
    return torch.cat(parts)


class LPIPS(FrameMetric):
    """Learned perceptual image patch similarity (Zhang et al. 2018), version 0.1, AlexNet.

    Mean over frames, then clips. NaN without a reference, without frames, or where frames are
    smaller than 31 pixels.
    """

    direction = "lower"
    bounds = (0.0, math.inf)
    needs = ("frames",)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.net: nn.Module | None = None

    @property
    def name(self) -> str:
        return "LPIPS"

    def prepare(self, device: torch.device | str = "cpu") -> None:
        """Load the network; measuring does so too where this was not called."""
        self.net = build(weights.load_state(weights.find("lpips-alexnet"))).to(device)

    def measure_frames(self, generated: Features, reference: Features | None) -> Tensor:
        frames = generated["frames"]
        if reference is None or min(frames.shape[-2:]) < MIN_PIXELS:
            return undefined(frames)
        if self.net is None:
            self.prepare()
        net = cast(nn.Module, self.net)
        return lpips_distance(net, frames, reference["frames"])


def _signed(frames: Tensor) -> Tensor:
    return frames.float() / 127.5 - 1
