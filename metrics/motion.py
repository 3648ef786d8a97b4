"""Head pose and mouth opening against the reference's, frame by frame."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from metrics.base import ClipMetric, Features

MIN_FRAMES = 3


def pose_error(generated: Tensor, reference: Tensor) -> float:
    """Mean absolute difference of yaw, pitch and roll in degrees.

    Args:
        generated: (T, >=3), the first three columns in radians.
        reference: the same; differences are taken the short way round.
    """
    difference = (generated[:, :3] - reference[:, :3]).double()
    wrapped = torch.atan2(difference.sin(), difference.cos())
    return float(torch.rad2deg(wrapped.abs()).mean())


def correlation(first: Tensor, second: Tensor) -> float:
    """Pearson's r of two series (T,); NaN with fewer than three values or a constant series."""
    if len(first) < MIN_FRAMES:
        return math.nan
    a, b = (x.double() - x.double().mean() for x in (first, second))
    scale = a.norm() * b.norm()
    # Rounding leaves a constant series a norm of about 1e-16 times its size.
    floor = 1e-12 * len(first) * first.double().abs().max() * second.double().abs().max()
    return float((a @ b / scale).clamp(-1, 1)) if scale > floor else math.nan


def amplitude(generated: Tensor, reference: Tensor) -> float:
    """Ratio of two series' standard deviations, generated over reference.

    Args:
        generated: (T,).
        reference: (T,), the same frames.

    Returns:
        0 or more; NaN with fewer than three values or a constant reference.
    """
    if len(reference) < MIN_FRAMES:
        return math.nan
    own, wanted = (x.double().std(correction=0) for x in (generated, reference))
    # Rounding leaves a constant series a deviation of about 1e-16 times its size.
    floor = 1e-6 * reference.double().abs().max()
    return float(own / wanted) if wanted > floor else math.nan


class PoseError(ClipMetric):
    """Head pose against the reference's, over frames where both show a face. See ``pose_error``."""

    unit = "degrees"
    direction = "lower"
    bounds = (0.0, 180.0)
    needs = ("pose", "valid")

    @property
    def name(self) -> str:
        return "Pose error"

    def measure(self, generated: Features, reference: Features | None) -> float:
        both = seen_in_both(generated, reference)
        if reference is None or not both.any():
            return math.nan
        return pose_error(generated["pose"][both], reference["pose"][both])


class FacesFound(ClipMetric):
    """Share of the generated frames in which the tracker finds a face.

    Metrics of faces leave the others out, so they say nothing of a face that fell apart.
    """

    direction = "higher"
    bounds = (0.0, 1.0)
    needs = ("valid",)

    @property
    def name(self) -> str:
        return "Faces found"

    def measure(self, generated: Features, reference: Features | None) -> float:
        valid = generated["valid"]
        return float(valid.double().mean()) if len(valid) else math.nan


class _MouthMetric(ClipMetric):
    """A metric of the mouth's opening over time.

    Args:
        features: what reads the opening: ``mouth``, the tracker's lips, or an extractor with one
            number per frame, such as ``synthetic-mouth``, which sees more of small rendered faces.
    """

    title: ClassVar[str]

    def __init__(self, features: str = "mouth", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.features = features
        self.needs = (features, "valid")

    @property
    def name(self) -> str:
        return self.title if self.features == "mouth" else f"{self.title} ({self.features})"

    def openings(self, *clips: Features) -> list[Tensor]:
        """The openings (n,) of each clip, of the frames in which all show a face."""
        both = seen_in_both(clips[0], clips[-1])
        return [clip[self.features][both].flatten() for clip in clips]


class MouthCorrelation(_MouthMetric):
    """Correlation within the clip of mouth opening with the reference's.

    Within clips, because pooled over clips even the portrait's own mouth would correlate.
    """

    title = "Mouth r"
    direction = "higher"
    bounds = (-1.0, 1.0)

    def measure(self, generated: Features, reference: Features | None) -> float:
        if reference is None:
            return math.nan
        return correlation(*self.openings(generated, reference))


class MouthAmplitude(_MouthMetric):
    """How far the mouth moves: the deviation of its opening over the reference's (``amplitude``).

    1 is best: below it mouths move too little, above it too much. Correlation does not see that: a
    mouth that moves a tenth as far as it should still has r = 1.

    The value is the mean over clips of each clip's ratio, so all clips weigh the same, loud
    speakers and quiet ones. Jitter of the tracker counts as motion; read it beside ``Mouth r``.
    """

    title = "Mouth amplitude"
    direction = "reference"
    bounds = (0.0, math.inf)

    def measure(self, generated: Features, reference: Features | None) -> float:
        if reference is None:
            return math.nan
        return amplitude(*self.openings(generated, reference))

    def measure_clip(self, generated: Features, reference: Features | None) -> tuple[float, float]:
        """The clip's ratio and the reference's over itself, 1; both NaN where not defined."""
        value = self.measure(generated, reference)
        return value, math.nan if math.isnan(value) else 1.0


def seen_in_both(generated: Features, reference: Features | None) -> Tensor:
    """Whether each frame shows a face, in both clips where there are two, (T,) bool."""
    valid = generated["valid"].bool()
    return valid if reference is None else valid & reference["valid"].bool()
