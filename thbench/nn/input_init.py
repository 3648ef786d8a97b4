"""Initialisation of input layers, so that all inputs of a network contribute alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)


@torch.no_grad()
def unit_gain(layer: Layer, rows: slice = slice(None)) -> Layer:
    """A new linear layer or convolution at a gain of 1: what comes in at unit size leaves so.

    PyTorch's own weights have a third of that variance, which a few layers in a row make little of.

    Args:
        layer: with the weights that PyTorch gave it.
        rows: outputs that are meant.
    """
    weight: Any = layer.weight
    weight[rows] *= 3**0.5
    return layer


@torch.no_grad()
def equal_shares(layer: Layer, sizes: Sequence[int]) -> Layer:
    """A new linear layer or convolution whose joined inputs weigh alike, however many channels.

    Of independent channels at unit size, each part makes an equal share of the output's variance,
    which stays what it was.

    Args:
        layer: with the weights that PyTorch gave it.
        sizes: channels of the parts, in order.
    """
    weight: Any = layer.weight
    for part, n in zip(weight.split(list(sizes), dim=1), sizes, strict=True):
        part *= (sum(sizes) / (len(sizes) * n)) ** 0.5
    return layer
