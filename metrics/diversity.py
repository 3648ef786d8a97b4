"""Diversity: how much a head moves in the course of a clip."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from metrics.base import ClipMetric, Features

Mode = Literal["pose", "hopenet"]
MODES = ("pose", "hopenet")


def spread(rows: Tensor) -> float:
    """Standard deviation over time of each column of (T, d), over T, then their mean.

    NaN with fewer than two rows.
    """
    if len(rows) < 2:
        return math.nan
    return float(rows.double().std(0, correction=0).mean())


def pose_spread(pose: Tensor) -> float:
    """``spread`` in degrees of yaw, pitch and roll, the first three columns, in radians.

    Angles are taken the short way round from the first frame's, so that a head that looks past
    half a turn does not jump.
    """
    angles = pose[:, :3].double()
    from_first = angles - angles[:1]
    return spread(torch.rad2deg(torch.atan2(from_first.sin(), from_first.cos())))


class Diversity(ClipMetric):
    """Standard deviation of head motion within a clip, mean over clips.

    SadTalker (Zhang et al. 2023) takes it over features of the Hopenet network and names neither
    layer nor axis; so the signal stands in the name, and values of two signals do not compare.
    Frames without a face do not count. NaN where fewer than two are left.

    Args:
        mode: ``pose`` reads yaw, pitch and roll in degrees; ``hopenet`` a feature of each frame.
        feature: the name of that feature in mode ``hopenet``.

    Raises:
        ValueError: no such mode.
    """

    direction = "higher"
    bounds = (0.0, math.inf)
    own_motion = "pose"

    def __init__(self, mode: Mode = "pose", feature: str = "hopenet", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(MODES)}, not '{mode}'")
        self.signal = "pose" if mode == "pose" else feature
        self.mode = mode
        self.unit = "degrees" if mode == "pose" else ""
        self.needs = (self.signal, "valid")

    @property
    def name(self) -> str:
        return f"Diversity ({self.signal})"

    def measure(self, generated: Features, reference: Features | None) -> float:
        rows = generated[self.signal][generated["valid"].bool()]
        return pose_spread(rows) if self.mode == "pose" else spread(rows)
