"""Frechet Video Distance: I3D logits of windows of all clips."""

from __future__ import annotations

from typing import Any, Literal

import torch

from metrics.base import Features
from metrics.extractors.i3d import CLASSES, SIZE, check
from metrics.frechet import FrechetMetric

Mode = Literal["stylegan-v", "tats"]

# Which network, and the divisor of the covariance: n or n - 1.
MODES = {"stylegan-v": ("torchscript", 0), "tats": ("kinetics", 1)}


class FVD(FrechetMetric):
    """Frechet Video Distance (Unterthiner et al. 2018) of the 400 logits of I3D.

    Two implementations are in use, whose values differ: ``stylegan-v`` (Skorokhodov et al. 2022)
    runs a TorchScript network that rescales and resizes inside and divides covariances by n;
    ``tats`` (Ge et al. 2022) a state dict in a PyTorch port, and divides by n - 1. A clip shorter
    than a window adds nothing; such clips are counted. No window at all gives NaN.

    Args:
        window: frames.
        stride: from one window's start to the next; by default they lie end to end.
        windows: at most so many of each clip, evenly spread; all by default.
        mode: which of the two implementations.
        ddof: of the covariances; by default the mode's.

    Raises:
        ValueError: a window, stride or count out of range, or no such mode.
    """

    dim = CLASSES
    clips: Any
    short_clips: Any

    def __init__(
        self,
        window: int = 16,
        stride: int | None = None,
        windows: int | None = None,
        mode: Mode = "stylegan-v",
        ddof: int | None = None,
        **kwargs: Any,
    ) -> None:
        window, stride, windows = check(window, stride, windows)
        if mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(MODES)}, not '{mode}'")
        source, divisor = MODES[mode]
        super().__init__(ddof=divisor if ddof is None else ddof, **kwargs)
        self.least_frames = window
        self.window, self.stride, self.windows, self.mode = window, stride, windows, mode
        options = {"window": window, "stride": stride, "windows": windows, "source": source}
        self.feature = f"i3d-{window}-{stride}-{windows or 'all'}-{source}"
        self.needs = (self.feature,)
        self.recipes = {self.feature: ("i3d", options)}
        for counter in ("clips", "short_clips"):
            self.add_state(counter, torch.zeros((), dtype=torch.int64), "sum")

    @property
    def name(self) -> str:
        ddof = "" if self.ddof == MODES[self.mode][1] else f", ddof {self.ddof}"
        return (
            f"FVD{self.window} ({self.mode}, stride {self.stride},"
            f" {self.windows or 'all'} windows, {SIZE} px{ddof})"
        )

    def update(self, generated: Features, reference: Features | None = None) -> None:
        self.clips = self.clips + 1
        self.short_clips = self.short_clips + (not len(generated[self.feature]))
        super().update(generated, reference)

    def notes(self) -> list[str]:
        """Clips and windows that count, and what was left out."""
        sides = [f"{self._count(side)} {side}" for side in self.sides]
        notes = [f"windows: {' and '.join(sides)}, of {int(self.clips)} clips"]
        if int(self.short_clips):
            notes.append(f"{int(self.short_clips)} clips are shorter than {self.window} frames")
        return notes + super().notes()
