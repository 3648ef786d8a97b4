r"""THEval's metrics of motion and sound, and its score (Quignon et al. 2026, arXiv 2511.04520).

Each metric has a value for a video alone; what counts is how near a method's mean over clips is to
the ground truth's on the same clips:

.. math:: s_m = 1 - |v_m - g_m| / |g_m|

The definitions follow the authors' program. What differs, so that no published value compares:

- All metrics read the project's own Face Mesh track. The authors run MediaPipe's Face Mesh, and for
  the head FaceXFormer on RetinaFace's box: here head pose is the least-squares pose of the
  landmarks, and the box spans the landmarks.
- Pixels of the head's motion are those of the scoring resolution, theirs those of the file.
- Audio has 16 kHz, theirs the file's rate. Frames beyond its end are neither speech nor silence;
  to them they are silent.
- A clip without a face, or with too few for a deviation or a difference, has no value; to them it
  has 0.

THEval's metrics of image quality are not here: they are networks of the package pyiqa (TOPIQ for
aesthetics and the face, MUSIQ for the mouth).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from metrics.base import SAMPLES_PER_FRAME, ClipMetric, Features
from metrics.speech import ENERGY, SILERO, energy_speech, long_runs, volume

SIDE = 256
"""Pixels of the frames in which the lips' shape is measured, whatever their own size."""

LIPS = (
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291,
    185, 40, 39, 37, 0, 267, 269, 270, 409,
    78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308,
    191, 80, 81, 82, 13, 312, 311, 310, 415,
)  # fmt: skip
"""Face Mesh's 40 points of the lips: outer contour, then inner."""
UPPER_LIP = (191, 80, 81, 82, 13, 312, 311, 310)
LOWER_LIP = (95, 88, 178, 87, 14, 317, 402, 318)
"""Points of the inner contour, each below the one of the upper lip."""
BROWS = (
    (46, 53, 52, 65, 55, 70, 63, 105, 66, 107),
    (276, 283, 282, 295, 285, 300, 293, 334, 296, 336),
)
"""The person's right, then the left; as ``EYES``."""
EYES = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173),
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398),
)
OUTER_CORNERS = (33, 263)
CORNERS = ((33, 133), (362, 263))
MIN_SCALE = 1e-3
"""Pixels. Eyes nearer to each other than that are no measure of a face."""
MIN_SILENCE = 0.3
"""Seconds that a pause lasts at least."""
MIN_SPEECH = 0.1
"""The least share of a clip's frames in which somebody speaks, for lip-sync."""
FPS = 25


def lip_dynamics(landmarks: Tensor) -> float:
    """How much the lips' shape varies.

    Args:
        landmarks: (T, 478, >=2), x and y as fractions of width and height.

    Returns:
        The standard deviation over time of the distance of two points of the lips, mean over all
        780 pairs of the 40, in pixels of a frame of 256 x 256. NaN with fewer than two frames.
    """
    if len(landmarks) < 2:
        return math.nan
    points = SIDE * landmarks[:, list(LIPS), :2].double()
    first, second = torch.triu_indices(len(LIPS), len(LIPS), 1)
    distances = (points[:, first] - points[:, second]).norm(dim=-1)
    return float(distances.std(0, correction=0).mean())


def head_motion_dynamics(angles: Tensor, centres: Tensor) -> float:
    """How much the head moves: sqrt(s a + t).

    s is the standard deviation of an angle, a the variance of its differences from frame to frame,
    t the variance of a coordinate, each the mean over the angles or coordinates. The authors add
    squared degrees to squared pixels.

    Args:
        angles: (T, 3) yaw, pitch and roll in degrees.
        centres: (T, 2) of the face's box, in pixels.

    Returns:
        0 or more; NaN with fewer than three frames.
    """
    if len(angles) < 3:
        return math.nan
    angles, centres = angles.double(), centres.double()
    spread = angles.std(0, correction=0).mean()
    jumps = angles.diff(dim=0).var(0, correction=0).mean()
    return float((spread * jumps + centres.var(0, correction=0).mean()).sqrt())


def eyebrow_dynamics(points: Tensor) -> float:
    """How much the brows move.

    Args:
        points: (T, 478, >=2) landmarks in pixels.

    Returns:
        The change from frame to frame of the distance of a brow's centre from its eye's, over the
        distance of both eyes' centres; mean over frames and both sides. NaN with fewer than two
        frames in which the eyes lie apart.
    """
    points = points[..., :2].double()
    brows, eyes = (
        torch.stack([points[:, list(part)].mean(1) for part in parts], 1) for parts in (BROWS, EYES)
    )
    scale = (eyes[:, 0] - eyes[:, 1]).norm(dim=-1)
    usable = scale >= MIN_SCALE
    heights = (brows - eyes).norm(dim=-1)[usable] / scale[usable, None]
    return float(heights.diff(dim=0).abs().mean()) if len(heights) > 1 else math.nan


def lip_gap(points: Tensor) -> Tensor:
    """How far the mouth is open, in each frame.

    Args:
        points: (T, 478, >=2) landmarks in pixels.

    Returns:
        (T,) mean vertical distance of the inner contour's points of upper and lower lip over the
        distance of the eyes' outer corners; NaN where the eyes lie on each other.
    """
    points = points[..., :2].double()
    left, right = OUTER_CORNERS
    scale = (points[:, left] - points[:, right]).norm(dim=-1)
    gaps = (points[:, list(UPPER_LIP), 1] - points[:, list(LOWER_LIP), 1]).abs().mean(1)
    return (gaps / scale).masked_fill(scale < MIN_SCALE, math.nan)


def lip_opening(points: Tensor) -> Tensor:
    """How far apart the lips' mean heights are, in each frame.

    Args:
        points: (T, 478, >=2) landmarks in pixels.

    Returns:
        (T,) over the horizontal distance of the eyes' centres, each midway between its corners;
        NaN where there is none.
    """
    points = points[..., :2].double()
    upper, lower = (points[:, list(lip), 1].mean(1) for lip in (UPPER_LIP, LOWER_LIP))
    left, right = (points[:, list(eye), 0].mean(1) for eye in CORNERS)
    scale = (left - right).abs()
    return ((upper - lower).abs() / scale).masked_fill(scale == 0, math.nan)


def silent_lip_stability(gaps: np.ndarray) -> float:
    """How much the mouth moves in pauses: the median absolute deviation from the mean.

    Args:
        gaps: (n,) of ``lip_gap``, in silent frames.

    Returns:
        0 or more; NaN with fewer than two frames.
    """
    if len(gaps) < 2:
        return math.nan
    return float(np.median(np.abs(gaps - gaps.mean())))


def lip_sync(openings: np.ndarray, loudness: np.ndarray) -> float:
    """How far the mouth's opening is from the volume, both stretched to reach from 0 to 1.

    Args:
        openings: (n,) of ``lip_opening``, in frames of speech.
        loudness: (n,) volume there.

    Returns:
        Mean absolute difference in [0, 1]; NaN with fewer than two frames.
    """
    if len(openings) < 2:
        return math.nan
    mouth, sound = (
        (series - series.min()) / (np.ptp(series) + 1e-8) for series in (openings, loudness)
    )
    return float(np.abs(mouth - sound).mean())


class _LandmarkMetric(ClipMetric):
    """A metric of one video's face, better the nearer to the reference's."""

    direction = "reference"
    bounds = (0.0, math.inf)
    needs: tuple[str, ...] = ("landmarks", "size", "valid")
    title: ClassVar[str]

    @property
    def name(self) -> str:
        return self.title

    @staticmethod
    def seen(features: Features) -> Tensor:
        """Which frames show a face, (T,) bool."""
        return features["valid"].bool().cpu()

    @staticmethod
    def pixels(features: Features) -> Tensor:
        """Landmarks (T, 478, 2) in pixels at the scoring resolution."""
        size = features["size"].cpu().flip(0).double()
        return features["landmarks"][..., :2].cpu().double() * size


class LipDynamics(_LandmarkMetric):
    """THEval's lip dynamics. See ``lip_dynamics``."""

    title = "Lip dynamics"
    unit = "px"
    needs = ("landmarks", "valid")
    least_frames = 2

    def measure(self, generated: Features, reference: Features | None) -> float:
        return lip_dynamics(generated["landmarks"].cpu()[self.seen(generated)])


class HeadMotionDynamics(_LandmarkMetric):
    """THEval's head motion dynamics, of Face Mesh's pose. See ``head_motion_dynamics``."""

    title = "Head motion dynamics (Face Mesh)"
    own_motion = "pose"
    needs = ("landmarks", "pose", "size", "valid")
    least_frames = 3

    def measure(self, generated: Features, reference: Features | None) -> float:
        seen = self.seen(generated)
        points = self.pixels(generated)[seen]
        angles = torch.rad2deg(generated["pose"].cpu()[seen, :3].double())
        centres = (points.amax(1) + points.amin(1)) / 2 if len(points) else points[:, 0]
        return head_motion_dynamics(angles, centres)


class EyebrowDynamics(_LandmarkMetric):
    """THEval's eyebrow dynamics. See ``eyebrow_dynamics``."""

    title = "Eyebrow dynamics"
    least_frames = 2

    def measure(self, generated: Features, reference: Features | None) -> float:
        return eyebrow_dynamics(self.pixels(generated)[self.seen(generated)])


class _SpeechMetric(_LandmarkMetric):
    """A metric of mouth and sound.

    Args:
        speech: what tells speech from silence: ``silero-vad``, the authors' network, or
            ``energy``, the volume alone (``metrics.speech.energy_speech``), which needs no weights.

    Raises:
        ValueError: neither of them.
    """

    def __init__(self, speech: str = SILERO, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if speech not in (SILERO, ENERGY):
            raise ValueError(f"speech is {SILERO} or {ENERGY}, not '{speech}'")
        self.speech = speech
        network = (SILERO,) if speech == SILERO else ()
        self.needs = ("landmarks", *network, "size", "valid", "waveform")

    @property
    def name(self) -> str:
        return self.title if self.speech == SILERO else f"{self.title} ({self.speech})"

    def spoken(self, features: Features) -> np.ndarray:
        """Which of the frames that have sound are speech, (n,) bool, n at most T."""
        waveform = features["waveform"].cpu().numpy()
        heard = min(len(features["valid"]), math.ceil(len(waveform) / SAMPLES_PER_FRAME))
        if self.speech == ENERGY:
            return energy_speech(waveform, heard)
        return features[SILERO].cpu().numpy()[:heard, 0] > 0


class SilentLipStability(_SpeechMetric):
    """THEval's silent lip stability: how much the mouth moves in pauses of .3 s and longer.

    A clip without such a pause has no value. See ``silent_lip_stability``.
    """

    title = "Silent lip stability"

    def measure(self, generated: Features, reference: Features | None) -> float:
        silent = long_runs(~self.spoken(generated), MIN_SILENCE * FPS)
        seen = self.seen(generated).numpy()[: len(silent)]
        gaps = lip_gap(self.pixels(generated)).numpy()[: len(silent)]
        return silent_lip_stability(gaps[silent & seen & ~np.isnan(gaps)])


class LipSync(_SpeechMetric):
    """THEval's lip-sync: the mouth's opening against the volume, in frames of speech.

    A clip in which less than a tenth of the frames is speech has no value. See ``lip_sync``.
    """

    title = "Lip-sync"
    bounds = (0.0, 1.0)

    def measure(self, generated: Features, reference: Features | None) -> float:
        spoken = self.spoken(generated)
        if spoken.sum() < MIN_SPEECH * len(generated["valid"]):
            return math.nan
        openings = lip_opening(self.pixels(generated)).numpy()[: len(spoken)]
        seen = self.seen(generated).numpy()[: len(spoken)]
        counted = spoken & seen & ~np.isnan(openings)
        loudness = volume(generated["waveform"].cpu().numpy(), len(spoken))
        return lip_sync(openings[counted], loudness[counted])
