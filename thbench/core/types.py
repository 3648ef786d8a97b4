"""The types that packages exchange, with every shape, unit and range.

Symbols: B batch, T frames, H x W pixels, D channels of an audio embedding.

Frames
    uint8 in [0, 255], RGB, channels first, wherever frames are stored or moved; ``to_unit``
    turns them into float32 in [0, 1], the range in which models and metrics see pixels.
Landmarks
    The 478 points of MediaPipe's Face Mesh; x and y as fractions of width and height, z in
    units of the width, smaller being nearer.
Pose
    (yaw, pitch, roll, scale, tx, ty): radians, then the face's size as a fraction of the frame,
    then its centre as an offset from the middle of the frame, in frame widths and heights.
Eyes
    The aspect ratio (height over width) of the right and the left eye, person's own side first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

FPS = 25
SAMPLE_RATE = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
N_LANDMARKS = 478
POSE_NAMES = ("yaw", "pitch", "roll", "scale", "tx", "ty")
POSE_DIM = len(POSE_NAMES)
EYES_DIM = 2


@dataclass(frozen=True)
class Clip:
    """One row of a manifest. Paths are relative to the data set's root.

    Attributes:
        id: unique name, may contain ``/``.
        identity: who is seen; splits never share an identity where the data set allows it.
        split: ``train``, ``val`` or ``test``.
        n_frames: frames at 25 fps; audio is ``n_frames * 640`` samples at 16 kHz.
        video: the mp4 with its audio.
        track: the npz with ``landmarks`` (T, 478, 3) float16, ``pose`` (T, 6) float32, ``eyes``
            (T, 2) float32 and ``valid`` (T,) bool.
        sha256: of the mp4.
        extra: further values of an adapter: a data set's own labels, the ground truth's path.
    """

    id: str
    identity: str
    split: str
    n_frames: int
    video: str
    track: str
    sha256: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Track:
    """Measurements on the T frames of a clip, in the units of this module.

    Attributes:
        landmarks: (T, 478, 3) float32.
        pose: (T, 6) float32.
        eyes: (T, 2) float32.
        valid: (T,) bool; False where no face was found. Values there are interpolated, never used
            as measurements.
    """

    landmarks: np.ndarray
    pose: np.ndarray
    eyes: np.ndarray
    valid: np.ndarray

    def __len__(self) -> int:
        return len(self.valid)

    def __getitem__(self, key: Any) -> Track:
        return Track(self.landmarks[key], self.pose[key], self.eyes[key], self.valid[key])


@dataclass
class Batch:
    """A training batch of B samples of T frames.

    Attributes:
        video: (B, T, 3, H, W) uint8, the target frames.
        source: (B, 3, H, W) uint8, the portrait: a frame of the same clip.
        audio: (B, T, D) float32, aligned to the frames.
        pose, eyes: (B, T, 6) and (B, T, 2) float32, absolute.
        landmarks: (B, T, 478, 3) float32.
        valid: (B, T) bool.
        source_pose, source_eyes, source_landmarks: (B, 6), (B, 2), (B, 478, 3).
        frames: (B, T) int64, the frames' indices in their clip.
        source_frame: (B,) int64, the portrait's index in its clip.
        ids: the clips' ids.
        extent: (B, 2, 478, 2) float32, the least and the greatest x and y of each landmark over
            all frames of the clip in which the face was found; None where not known.
    """

    video: Tensor
    source: Tensor
    audio: Tensor
    pose: Tensor
    eyes: Tensor
    landmarks: Tensor
    valid: Tensor
    source_pose: Tensor
    source_eyes: Tensor
    source_landmarks: Tensor
    frames: Tensor
    source_frame: Tensor
    ids: tuple[str, ...]
    extent: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def map(self, function: Any) -> Batch:
        """A copy with ``function`` applied to each tensor."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: function(v) for k, v in values.items() if isinstance(v, Tensor)})

    def first(self) -> Batch:
        """The first clip alone."""
        return replace(self.map(lambda tensor: tensor[:1]), ids=self.ids[:1])

    def to(self, *args: Any, **kwargs: Any) -> Batch:
        """A copy on another device (Lightning calls this). Data types stay."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> Batch:
        return self.map(Tensor.pin_memory)


@dataclass
class Request:
    """A video to generate: a portrait, audio and, optionally, the motion to follow.

    Attributes:
        id: names the output and, with ``seed``, the noise.
        source: (3, H, W) uint8.
        audio: (T, D) float32; T is the length of the video.
        waveform: (S,) float32 in [-1, 1] at 16 kHz, written into the file with the frames.
        source_pose, source_eyes, source_landmarks: (6,), (2,), (478, 3), of the portrait.
        pose, eyes: (T, 6) and (T, 2) float32, absolute, or None: then the strategy generates them.
        seed: the same request and seed give the same video.
    """

    id: str
    source: Tensor
    audio: Tensor
    waveform: Tensor
    source_pose: Tensor
    source_eyes: Tensor
    source_landmarks: Tensor
    pose: Tensor | None = None
    eyes: Tensor | None = None
    seed: int = 0

    @property
    def n_frames(self) -> int:
        return len(self.audio)

    def to(self, *args: Any, **kwargs: Any) -> Request:
        """A copy on another device."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: v.to(*args, **kwargs) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **cast("dict[str, Any]", moved))


@dataclass
class Cost:
    """The cost of a generation. Times are in seconds and exclude audio encoding.

    ``first_frame`` counts from the start to the first decoded chunk; ``depth`` are the network
    calls that depend on each other in sequence, ``calls`` all that were made, ``evaluations`` the
    frames shown to the network, summed over the calls.
    """

    depth: int = 0
    calls: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    first_frame: float = 0.0


@dataclass
class Generation:
    """A video that is being generated.

    Attributes:
        request: that it answers.
        chunks: yields uint8 frames (n, 3, H, W) on the CPU, in order. Consumed once.
        cost: filled in while ``chunks`` is consumed; complete when it ends.
        pose, eyes: (T, 6) and (T, 2) float32, the motion that was followed, or None.
    """

    request: Request
    chunks: Iterator[Tensor]
    cost: Cost
    pose: Tensor | None = None
    eyes: Tensor | None = None


def to_unit(frames: Tensor) -> Tensor:
    """uint8 frames in [0, 255] as float32 in [0, 1]."""
    return frames.to(torch.float32) / 255


def to_uint8(frames: Tensor) -> Tensor:
    """Float frames in [0, 1] as uint8, rounded to nearest; values outside are clamped."""
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8)
