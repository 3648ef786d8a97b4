"""CSIM: whether the generated face is the same person's."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from metrics.base import ClipMetric, Features


def cosine(generated: Tensor, reference: Tensor) -> Tensor:
    """Cosine similarity of each row with the other's, (T, d) and (T, d) to (T,) float64."""
    return F.cosine_similarity(generated.double(), reference.double(), dim=1).clamp(-1, 1)


class CSIM(ClipMetric):
    """Cosine of face embeddings, each generated frame against the reference frame of its time.

    Frames in which either face was missed are left out; without any other the clip has no value.

    Args:
        features: the extractor of the embeddings, (T, d) with a row per frame.
    """

    direction = "higher"
    bounds = (-1.0, 1.0)
    needs = ("arcface", "valid")

    def __init__(self, features: str = "arcface", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.features = features
        self.needs = (features, "valid")

    @property
    def name(self) -> str:
        return "CSIM" if self.features == "arcface" else f"CSIM ({self.features})"

    def measure(self, generated: Features, reference: Features | None) -> float:
        if reference is None:
            return math.nan
        both = generated["valid"].bool() & reference["valid"].bool()
        if not both.any():
            return math.nan
        mine, theirs = (f[self.features][both] for f in (generated, reference))
        return float(cosine(mine, theirs).mean())
