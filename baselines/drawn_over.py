"""A network that draws over a portrait, in pixels or latents, in place of adding to it.

What a network adds to a portrait has to cancel what moves away to the last grey level. With a mask
what is drawn over leaves no trace.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNDRAWN = 3.0
"""A new network's mask draws the sigmoid of minus this, a twentieth, over the portrait."""


def draw_over(portrait: Tensor, drawn: Tensor, mask: Tensor) -> Tensor:
    """The portrait where the mask is low, what is drawn where it is high.

    Args:
        portrait: (N or 1, C, h, w).
        drawn: (N, C, h, w).
        mask: (N, 1, h, w), as the network gives it: any numbers, 0 of a new one.

    Returns:
        (N, C, h, w).
    """
    return torch.lerp(portrait.expand_as(drawn), drawn, torch.sigmoid(mask - UNDRAWN))
