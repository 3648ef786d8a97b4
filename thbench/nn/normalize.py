"""Statistics of data, found while training begins and then kept with the network.

Every network normalises what it is given by these, each condition by statistics of its own, so that
radians, fractions, ratios and the channels of an audio encoder all come at about unit size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from thbench.core.types import EYES_DIM

LEAST_POSE = (0.01, 0.01, 0.01, 0.005, 0.005, 0.005)
"""Least deviations of a pose, in its units (radians, fractions of the frame): about the error of
measuring it. Pictures cropped to the face leave some elements nothing but that error."""
LEAST_EYES = 0.01
"""Least deviation of the eyes' aspect ratios."""
LEAST_AUDIO = 1e-3
"""Least deviation of audio embeddings, whose channels have .1 to 1; silence has none."""


class RunningStats(nn.Module):
    """Mean and deviation of each element, over the first ``batches`` batches; then frozen.

    They are buffers: saved, averaged with the weights, inherited by a stage that starts from this
    one. Every value weighs the same, however a global batch is divided over devices and parts.
    Deviations have a floor, or elements that hardly vary would have their noise blown up to the
    size of everything else's signal.

    Args:
        shape: of one element's statistics.
        batches: how many global batches count.
        floor: least deviation, as a fraction of what is typical: of a vector the median over its
            elements, which a few loud channels leave alone; of a map the root mean square over its
            locations, per channel. Only for elements of one unit.
        least: least deviation, in the elements' own units; one for all, or one for each.

    Attributes:
        parts: calls of ``update`` that make a global batch (``trainer.accumulate``).
    """

    mean: Tensor
    variance: Tensor
    rows: Tensor
    count: Tensor
    least: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        batches: int = 64,
        floor: float = 0.0,
        least: float | Sequence[float] = 1e-6,
    ) -> None:
        super().__init__()
        self.batches, self.floor = batches, floor
        self.parts, self._part = 1, 0
        self.register_buffer("mean", torch.zeros(*shape))
        self.register_buffer("variance", torch.ones(*shape))
        self.register_buffer("rows", torch.zeros((), dtype=torch.int64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("least", torch.as_tensor(least).float(), persistent=False)

    @property
    def deviation(self) -> Tensor:
        """Of each element, floor included."""
        axes = tuple(range(1, self.variance.ndim))
        typical = self.variance.mean(axes, keepdim=True) if axes else self.variance.median()
        floor = torch.maximum(self.floor**2 * typical, self.least.square())
        return torch.maximum(self.variance, floor).sqrt()

    @property
    def size(self) -> Tensor:
        """The root mean square of all elements together, a scalar."""
        return (self.variance + self.mean.square()).mean().sqrt().clamp(min=1e-6)

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """Take in ``values`` (N, *shape), N may be 0, until frozen. All ranks must call together.

        Nothing happens in eval mode.
        """
        if not self.training or int(self.count) >= self.batches:
            return
        values = values.float()
        sums = _over_ranks(torch.cat([values.sum(0).flatten(), values.new_tensor([len(values)])]))
        n, seen = round(float(sums[-1])), int(self.rows)
        if n:
            # About the mean: a square less the mean's square cancels where means are large.
            mean = sums[:-1].view_as(self.mean) / n
            spread = _over_ranks((values - mean).square().sum(0))
            away, share = mean - self.mean, n / (seen + n)
            self.variance.mul_(1 - share).add_(spread / (seen + n))
            self.variance.add_(away.square() * (share * (1 - share)))
            self.mean.add_(away * share)
            self.rows += n
        self._part += 1
        if self._part >= self.parts:
            self._part = 0
            self.count += 1

    def forward(self, values: Tensor) -> Tensor:
        """(..., *shape), normalised."""
        return (values - self.mean) / self.deviation

    def inverse(self, values: Tensor) -> Tensor:
        """Undo ``forward``: (..., *shape) in the elements' own units."""
        return values * self.deviation + self.mean


class ConditionalStats(nn.Module):
    """Mean and deviation of each element of data given what is known about it, linearly.

    The mean is a least-squares fit on the known values, the deviation that of what it leaves. As
    ``RunningStats``, both are found over the first ``batches`` global batches and then frozen. A
    diffusion about such a mean, at such a scale, spends its noise levels on what is not known yet
    (a data-dependent prior: Lee et al. 2022, "PriorGrad").

    Args:
        known: number of known values of a row.
        shape: of one element's statistics, a map (C, h, w).
        batches: how many global batches count.
        floor: least deviation, see ``RunningStats``.
        ridge: added to the unit variance of each known value.

    Attributes:
        parts: calls of ``update`` that make a global batch (``trainer.accumulate``).
    """

    mean: Tensor
    variance: Tensor
    center: Tensor
    gram: Tensor
    cross: Tensor
    rows: Tensor
    count: Tensor

    def __init__(
        self,
        known: int,
        shape: Sequence[int],
        batches: int = 64,
        floor: float = 0.0,
        ridge: float = 1e-3,
    ) -> None:
        super().__init__()
        self.batches, self.floor, self.ridge = batches, floor, ridge
        self.parts, self._part = 1, 0
        self.shape = tuple(shape)
        self.register_buffer("mean", torch.zeros(*shape))
        self.register_buffer("variance", torch.ones(*shape))
        self.register_buffer("center", torch.zeros(known))
        self.register_buffer("gram", torch.zeros(known, known))
        self.register_buffer("cross", torch.zeros(known, *shape))
        self.register_buffer("rows", torch.zeros((), dtype=torch.int64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, values: Tensor, known: Tensor) -> None:
        """Take in rows until frozen. All ranks must call together; nothing happens in eval mode.

        Args:
            values: (N, *shape), N may be 0.
            known: (N, known).
        """
        if not self.training or int(self.count) >= self.batches:
            return
        values, known = values.float(), known.float()
        flat = torch.cat([known, values.flatten(1)], dim=1)
        sums = _over_ranks(torch.cat([flat.sum(0), flat.new_tensor([len(flat)])]))
        n, seen, width = round(float(sums[-1])), int(self.rows), known.shape[1]
        if n:
            # About the mean, as in ``RunningStats``; batches are merged as by Chan et al. (1983).
            away = sums[:-1] / n - torch.cat([self.center, self.mean.flatten()])
            centred = flat - sums[:-1] / n
            share = n / (seen + n)
            with _full_precision(centred):
                spread = centred[:, :width].mT @ centred
            spread = _over_ranks(spread)
            mixed = away[:width, None] * away * (share * (1 - share))
            total = spread / (seen + n) + mixed
            square = _over_ranks(centred[:, width:].square().sum(0)) / (seen + n)
            square = square + away[width:].square() * (share * (1 - share))
            self.gram.mul_(1 - share).add_(total[:, :width])
            self.cross.mul_(1 - share).add_(total[:, width:].view_as(self.cross))
            self.variance.mul_(1 - share).add_(square.view_as(self.variance))
            self.center.add_(away[:width] * share)
            self.mean.add_(away[width:].view_as(self.mean) * share)
            self.rows += n
        self._part += 1
        if self._part >= self.parts:
            self._part = 0
            self.count += 1

    def fit(self) -> tuple[Tensor, Tensor]:
        """Slopes (known, *shape), and the deviation (*shape) of what they leave."""
        size = self.gram.diagonal().clamp(min=1e-12).sqrt()
        unit = self.gram / (size[:, None] * size)
        unit = unit + self.ridge * torch.eye(len(unit), device=unit.device)
        scaled = self.cross.flatten(1) / size[:, None]
        with _full_precision(unit):
            slopes = torch.linalg.solve(unit, scaled)
            explained = (slopes * (2 * scaled - unit @ slopes)).sum(0).view(self.shape)
        left = (self.variance - explained).clamp(min=0)
        typical = left.mean((1, 2), keepdim=True)
        deviation = torch.maximum(left, self.floor**2 * typical).clamp(min=1e-12).sqrt()
        return (slopes / size[:, None]).view(-1, *self.shape), deviation

    def moments(self, known: Tensor) -> tuple[Tensor, Tensor]:
        """The mean (N, *shape) given ``known`` (N, known), and the deviation (*shape)."""
        slopes, deviation = self.fit()
        with _full_precision(known):
            moved = (known.float() - self.center) @ slopes.flatten(1)
        return self.mean + moved.view(-1, *self.shape), deviation

    def forward(self, values: Tensor, known: Tensor) -> Tensor:
        """(N, *shape), normalised."""
        mean, deviation = self.moments(known)
        return (values - mean) / deviation

    def inverse(self, values: Tensor, known: Tensor) -> Tensor:
        """Undo ``forward``: (N, *shape) in the elements' own units."""
        mean, deviation = self.moments(known)
        return values * deviation + mean


def _full_precision(like: Tensor) -> torch.autocast:
    """Products within are not taken in half precision: what is left is a small difference."""
    return torch.autocast(like.device.type, enabled=False)


def audio_stats(width: int) -> RunningStats:
    """Of audio embeddings of ``width`` channels."""
    return RunningStats((width,), floor=0.1, least=LEAST_AUDIO)


def pose_stats() -> RunningStats:
    """Of poses or of their differences."""
    return RunningStats((len(LEAST_POSE),), least=LEAST_POSE)


def eyes_stats() -> RunningStats:
    """Of the eyes' aspect ratios or of their differences."""
    return RunningStats((EYES_DIM,), least=LEAST_EYES)


def count_in_parts(module: nn.Module, parts: int) -> None:
    """Tell all statistics of a network that a global batch comes in so many parts."""
    for stats in module.modules():
        if isinstance(stats, RunningStats | ConditionalStats):
            stats.parts = parts


def unrepeated_frames(frames: Tensor) -> Tensor:
    """Which frames count as data: no stand-ins for the portrait, no repetitions at a clip's ends.

    Args:
        frames: (B, T) indices in the clip, negative for the portrait.

    Returns:
        (B, T) bool.
    """
    repeated = torch.zeros_like(frames, dtype=torch.bool)
    repeated[:, 1:] = frames[:, 1:] == frames[:, :-1]
    return (frames >= 0) & ~repeated


def _over_ranks(values: Tensor) -> Tensor:
    """Summed over all ranks."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values
