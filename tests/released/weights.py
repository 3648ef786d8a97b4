"""Weights and inputs for networks whose tensors' names and shapes are known, from fixed seeds."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from thbench.dawn.released import ROPE_BASE


def draw(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Normal weights that keep sizes, gains and running variances about 1; fixed numbers as such.

    Args:
        shapes: of the tensors, by their names, which also seed them.
    """
    return {name: _draw(name, tuple(shape)) for name, shape in shapes.items()}


def _draw(name: str, shape: tuple[int, ...]) -> Tensor:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if name.endswith("rotary_emb.freqs"):
        return ROPE_BASE ** (-torch.arange(shape[0]) / shape[0])
    if name.endswith("down.weight"):
        steps = torch.arange(-6, 7) / 1.5
        bell = torch.outer(*2 * [torch.exp(-steps.square() / 2)])
        return (bell / bell.sum()).expand(shape).clone()
    if name.endswith(("running_var", "norm.weight", "gamma", ".g", "_scale")):
        return (1 + noise / 5).clamp(min=0.2)
    if name.endswith(("norm1.weight", "norm2.weight")):
        return (1 + noise / 5).clamp(min=0.2)
    if len(shape) > 1 and not name.endswith("null_kv"):
        return noise / math.sqrt(math.prod(shape[1:]))
    return noise / 5


def images() -> tuple[Tensor, Tensor]:
    """A portrait and a frame, (2, 3, 64, 64) each in [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.rand(2, 3, n, n, generator=generator) for n in (9, 7)]
    first, second = (F.interpolate(x, size=(64, 64), mode="bicubic").clamp(0, 1) for x in drawn)
    return first, second


def clip(audio_dim: int, features: int) -> tuple[Tensor, ...]:
    """Noisy latents, portrait's features, embedded mask, sound, poses (theirs), eyes (ours)."""
    generator = torch.Generator().manual_seed(2)
    shapes = (
        *((1, 3, 4, 16, 16), (1, features, 16, 16), (1, 16, 16, 16)),
        *((1, 4, audio_dim), (1, 4, 6), (1, 4, 2)),
    )
    drawn = [torch.randn(shape, generator=generator) for shape in shapes]
    return drawn[0], drawn[1], drawn[2].relu(), *drawn[3:]


def motion_inputs(audio_dim: int, latent: int) -> tuple[Tensor, ...]:
    """Sound, poses as the released PBNet sees them, eyes (ours), and both networks' latents."""
    generator = torch.Generator().manual_seed(3)
    shapes = ((1, 9, audio_dim), (1, 9, 6), (1, 9, 2), (1, 9, 2 * latent))
    audio, pose, eyes, drawn = (torch.randn(shape, generator=generator) for shape in shapes)
    return audio, 0.5 + pose / 10, 0.3 + eyes / 20, drawn
