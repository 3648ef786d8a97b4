"""WER of a lip reader: how well the generated lips can be read.

No lip reader that scores are published for may be passed on, so none is here. Whoever has one names
it (see ``metrics.extractors.lipreader``); otherwise the metric is unavailable.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics.functional.text import word_error_rate

from metrics.base import ClipMetric, Features


def encode(text: str) -> Tensor:
    """Text as its UTF-8 bytes, (n, 1) uint8, since a feature is a tensor."""
    return torch.tensor(list(text.encode()), dtype=torch.uint8)[:, None]


def decode(letters: Tensor) -> str:
    """The text of ``encode``."""
    return bytes(letters[:, 0].tolist()).decode()


def wer(generated: str, reference: str) -> float:
    """Word error rate, without regard to case; NaN if the reference has no words."""
    if not reference.split():
        return math.nan
    return float(word_error_rate([generated.casefold()], [reference.casefold()]))


class WER(ClipMetric):
    """Words read off the generated lips against those read off the reference video's.

    Papers compare with what was said; that text is no feature of a video.
    """

    direction = "lower"
    bounds = (0.0, math.inf)
    needs = ("lipreader",)

    @property
    def name(self) -> str:
        return "WER (lip reading)"

    def measure(self, generated: Features, reference: Features | None) -> float:
        if reference is None:
            return math.nan
        return wer(decode(generated["lipreader"]), decode(reference["lipreader"]))
