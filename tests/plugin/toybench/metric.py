"""How far the mean colours of frames are from the reference's."""

from __future__ import annotations

from metrics.base import ClipMetric
from metrics.extractors.base import Extractor


class Tone(Extractor):
    """The mean colour of each frame."""

    name = "tone"

    def forward(self, frames):
        return frames.float().mean((2, 3))


class ToneError(ClipMetric):
    """Mean absolute difference of mean colours."""

    direction = "lower"
    bounds = (0.0, 255.0)
    needs = ("tone",)

    def __init__(self, scale: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    @property
    def name(self):
        return "Tone error"

    def measure(self, generated, reference):
        return self.scale * float((generated["tone"] - reference["tone"]).abs().mean())
