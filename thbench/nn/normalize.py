"""Statistics of data, found while training begins and then kept with the network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


class RunningStats(nn.Module):
    """Mean and deviation of each element, over the first ``batches`` batches; then frozen.

    They are buffers: saved, averaged with the weights, inherited by a stage that starts from this
    one. Deviations have a floor, or elements that hardly vary would have their noise blown up to
    the size of everything else's signal.

    Args:
        shape: of one element's statistics.
        batches: how many calls of ``update`` count.
        floor: least deviation, as a fraction of the root mean square deviation over the elements
            (over all but the first axis where ``shape`` has more than one, so per channel). Only
            for elements of one unit.
    """

    mean: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, shape: Sequence[int], batches: int = 64, floor: float = 0.0) -> None:
        super().__init__()
        self.batches, self.floor = batches, floor
        self.register_buffer("mean", torch.zeros(*shape))
        self.register_buffer("square", torch.ones(*shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @property
    def deviation(self) -> Tensor:
        """Of each element, floor included."""
        variance = (self.square - self.mean**2).clamp(min=0)
        axes = tuple(range(1, variance.ndim)) or (0,)
        typical = variance.mean(axes, keepdim=True)
        return torch.maximum(variance, self.floor**2 * typical).sqrt().clamp(min=1e-6)

    @property
    def size(self) -> Tensor:
        """The root mean square of all elements together, a scalar."""
        return self.square.mean().sqrt().clamp(min=1e-6)

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """Take in ``values`` (N, *shape), until frozen. All ranks must call it together."""
        if int(self.count) >= self.batches or not self.training:
            return
        values = values.float()
        moments = torch.stack([values.mean(0), values.square().mean(0)])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(moments)
            moments /= dist.get_world_size()
        self.count += 1
        self.mean.lerp_(moments[0], 1.0 / int(self.count))
        self.square.lerp_(moments[1], 1.0 / int(self.count))

    def forward(self, values: Tensor) -> Tensor:
        """(..., *shape), normalised."""
        return (values - self.mean) / self.deviation

    def inverse(self, values: Tensor) -> Tensor:
        """Undo ``forward``."""
        return values * self.deviation + self.mean
