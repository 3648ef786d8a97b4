"""What every metric has in common.

A metric is fed clip by clip with *features*: a mapping from feature name to tensor, one for the
generated video and one for the reference. Whoever feeds it decodes each video once, computes the
features that the metrics ``needs`` name, and gives all metrics the same mapping. Feature names in
use (T frames, N = 478 landmarks):

    frames      (T, 3, H, W) uint8 RGB
    frames@N    (T, 3, N, N) uint8 RGB, resized from the video's own size as OpenCV does by default
    landmarks   (T, N, 3) float; x, y as fractions of width and height
    pose        (T, 6) float; yaw, pitch, roll in radians first
    eyes        (T, 2) float; height over width of each eye
    mouth       (T,) float; inner-lip height over face size
    valid       (T,) bool; False where no face was found: the four above are no measurements there
    waveform    (S,) float, 16 kHz, no longer than the frames and no longer than the sound; empty
                for a video without sound
    <extractor> (n, d) float, the output of ``metrics.extractors`` under its name
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
import torchmetrics
from torch import Tensor

Direction = Literal["higher", "lower", "zero", "reference"]
"""Which way is better: up, down, towards zero, towards the reference's own figure."""

Features = Mapping[str, Tensor]


class BenchMetric(torchmetrics.Metric, ABC):
    """A figure of the bench: a torchmetrics metric that says what it is.

    Attributes:
        unit: of the figure, "" for none.
        direction: which way is better.
        bounds: the least and the largest possible figure.
        needs: names of the features it reads.
        recipes: of the features that an extractor makes with options: the extractor's registered
            name and the options. A feature made in two ways has two names.
        own_motion: ``pose`` or ``eyes`` where the figure is of how a head moves or its eyes blink.
            Of clips that follow the reference's, it is the reference's figure, not the strategy's.
        least_frames: a clip with fewer adds nothing.
        version: raised whenever the same input gives another figure than before.
    """

    unit: str = ""
    direction: ClassVar[Direction]
    bounds: tuple[float, float] = (-math.inf, math.inf)
    needs: tuple[str, ...] = ()
    recipes: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType({})
    own_motion: ClassVar[str] = ""
    version: ClassVar[int] = 1
    least_frames: int = 1

    is_differentiable = False
    full_state_update = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "direction"):
            cls.higher_is_better = {"higher": True, "lower": False}.get(cls.direction)

    @property
    @abstractmethod
    def name(self) -> str:
        """The column's title: whatever option changes the number's meaning stands in it."""

    @property
    def same_as(self) -> str:
        """The name of another metric whose figure is always this one; "" for none."""
        return ""

    def notes(self) -> list[str]:
        """Cautions about the present figure, for people."""
        return []

    def prepare(self, device: torch.device | str = "cpu") -> None:
        """Load the networks that the metric runs itself, if any.

        Raises:
            metrics.weights.WeightsMissing: one of them is not here.
        """

    @abstractmethod
    def update(self, generated: Features, reference: Features | None = None) -> None:
        """Take in one clip."""

    @abstractmethod
    def compute(self) -> Any:
        """The figure over all clips so far, a float64 scalar, NaN where there is none."""


class ClipMetric(BenchMetric):
    """A metric with a value per clip. The figure is their mean.

    A clip on which the metric is not defined has the value NaN; it is counted, never averaged
    over. A metric of direction ``reference`` also keeps the reference clips' own values. The mean
    is summed exactly (``math.fsum``), so neither order nor number of processes changes it.
    """

    values: Any  # list[Tensor], or one Tensor after merging over processes
    references: Any

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("values", default=[], dist_reduce_fx="cat")
        self.add_state("references", default=[], dist_reduce_fx="cat")
        self.set_dtype(torch.float64)

    @abstractmethod
    def measure(self, generated: Features, reference: Features | None) -> float:
        """The value of one clip, NaN where it is not defined."""

    def measure_clip(self, generated: Features, reference: Features | None) -> tuple[float, float]:
        """The clip's value and, for direction ``reference``, the reference's own (else NaN)."""
        value = self.measure(generated, reference)
        if self.direction != "reference" or reference is None:
            return value, math.nan
        return value, self.measure(reference, None)

    def record(self, value: float, reference: float = math.nan) -> None:
        """Take in a clip whose value is known already, such as from a cache."""
        # What torchmetrics does around ``update``.
        self._computed = None
        self._update_count += 1
        self._append(value, reference)

    def update(self, generated: Features, reference: Features | None = None) -> None:
        self._append(*self.measure_clip(generated, reference))

    def _append(self, value: float, reference: float) -> None:
        for states, number in ((self.values, value), (self.references, reference)):
            states.append(torch.tensor([number], dtype=torch.float64, device=self.device))

    def compute(self) -> Tensor:
        return _mean(self.values)

    def compute_reference(self) -> Tensor:
        """The mean of the reference clips' own values; NaN unless direction is ``reference``."""
        return _mean(self.references)


class SetMetric(BenchMetric):
    """A metric of all clips together, with no value per clip."""


def _mean(states: list[Tensor] | Tensor) -> Tensor:
    values = states if isinstance(states, Tensor) else torch.cat([torch.zeros(0), *states])
    defined = [v for v in values.double().flatten().tolist() if not math.isnan(v)]
    mean = math.fsum(defined) / len(defined) if defined else math.nan
    return torch.tensor(mean, dtype=torch.float64)
