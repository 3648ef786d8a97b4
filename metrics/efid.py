"""E-FID, a Frechet distance that papers define in two ways."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from metrics.base import Features
from metrics.frechet import FrechetMetric

Mode = Literal["inception", "coefficients"]


class EFID(FrechetMetric):
    """E-FID over the frames of all clips.

    ``inception`` follows the text of Hallo (Xu et al. 2024, section 4.1): features of the
    Inception network, which makes it FID under another name. ``coefficients`` follows EMO (Tian et
    al. 2024) and EchoMimic (Chen et al. 2024): expression coefficients of a face model, on frames
    in which a face was found. Values of different features do not compare, so the feature stands
    in the name.

    Args:
        mode: which of the two definitions.
        feature: the coefficients, (T, dim), a row per frame; only in mode ``coefficients``.
        dim: how many there are.
        ddof: of the covariances.

    Raises:
        ValueError: no such mode, coefficients that are not named, or named without need.
    """

    def __init__(
        self,
        mode: Mode = "inception",
        feature: str | None = None,
        dim: int | None = None,
        ddof: int = 1,
        **kwargs: Any,
    ) -> None:
        if mode == "coefficients" and feature and dim:
            self.feature, self.dim, self.needs = feature, dim, (feature, "valid")
        elif mode == "inception" and feature is None and dim is None:
            self.feature, self.dim, self.needs = "inception", 2048, ("inception",)
        else:
            raise ValueError(
                "mode is 'inception' alone, or 'coefficients' with their feature and dim"
            )
        super().__init__(ddof=ddof, **kwargs)
        self.mode = mode

    @property
    def name(self) -> str:
        return f"E-FID ({self.feature})"

    @property
    def same_as(self) -> str:
        return "FID" if self.mode == "inception" and self.ddof == 1 else ""

    def rows(self, features: Features) -> Tensor:
        rows = features[self.feature]
        return rows[features["valid"].bool()] if "valid" in self.needs else rows
