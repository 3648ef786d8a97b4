"""Layers whose output is zero until they are trained."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)


def zero_init(layer: Layer) -> Layer:
    """The layer with weights of zero, so that training starts from what its output is added to."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
