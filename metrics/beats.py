"""BAS: whether the head moves to the beat of the audio.

Beat Align Score of Bailando (Siyao et al. 2022, eq. 12), after AI Choreographer (Li et al. 2021).
A motion beat is a local minimum of smoothed speed; audio beats are librosa's, at one onset value
per video frame.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import argrelmin

from metrics.base import ClipMetric, Features
from metrics.compiling import compile_lock
from metrics.mfcc import pcm16

Signal = Literal["pose", "landmarks"]
Mode = Literal["audio-beats", "motion-beats"]

RATE = 16000
WINDOW = 2048
"""Samples of librosa's spectra."""
MIN_FRAMES = 4
"""Fewer frames have less than three speeds, so none is a local minimum."""


def speed(joints: np.ndarray) -> np.ndarray:
    """Mean over joints of the distance covered from frame to frame, (T, J, d) to (T-1,)."""
    return np.asarray(np.linalg.norm(np.diff(joints, axis=0), axis=2).mean(1))


def motion_beats(joints: np.ndarray, smooth: float = 5.0) -> np.ndarray:
    """Frames at which the smoothed speed has a local minimum, not at the ends.

    Args:
        joints: (T, J, d) positions, or (T, 1, 3) angles.
        smooth: sigma of the Gaussian over time, in frames; 0 for none.
    """
    if len(joints) < MIN_FRAMES:
        return np.zeros(0, int)
    values = speed(np.asarray(joints, np.float64))
    return np.asarray(argrelmin(gaussian_filter1d(values, smooth) if smooth else values)[0])


def audio_beats(
    waveform: np.ndarray, fps: int = 25, start_bpm: float = 120.0, tightness: float = 100.0
) -> np.ndarray:
    """Frames at which librosa detects a beat.

    None in digital silence, that is below 16 bits, nor in less than a window of its spectra.

    Args:
        waveform: (S,) at 16 kHz.
        fps: frame rate; the onset envelope has a value per frame (a hop of 640 samples at 25).
        start_bpm: the most likely tempo of librosa's prior.
        tightness: how closely its beats keep to one tempo.

    Raises:
        ValueError: 16000 is no multiple of ``fps``.
    """
    if RATE % fps:
        raise ValueError(f"16000 samples a second cannot be split into {fps} equal hops")
    if len(waveform) < WINDOW or not pcm16(waveform).any():
        return np.zeros(0, int)
    _compile()
    return _beats(np.asarray(waveform, np.float32), RATE // fps, start_bpm, tightness)


def _beats(waveform: np.ndarray, hop: int, start_bpm: float, tightness: float) -> np.ndarray:
    import librosa  # brings numba

    onsets = librosa.onset.onset_strength(y=waveform, sr=RATE, hop_length=hop)
    found = librosa.beat.beat_track(
        onset_envelope=onsets, sr=RATE, hop_length=hop, start_bpm=start_bpm, tightness=tightness
    )[1]
    return np.asarray(found, int)


@functools.cache
def _compile() -> None:
    """Compile librosa's kernels, or read them from Numba's cache."""
    with compile_lock():
        _beats(np.sin(np.arange(RATE, dtype=np.float32) ** 2), RATE // 25, 120.0, 100.0)


def beat_alignment(beats: np.ndarray, others: np.ndarray, width: float = 3.0) -> float:
    """Mean over ``beats`` of exp(-d^2 / (2 width^2)), d the distance to the nearest of ``others``.

    Args:
        beats: (n,) frames.
        others: (m,) frames.
        width: in frames.

    Returns:
        In (0, 1]; NaN if either is empty.
    """
    if not len(beats) or not len(others):
        return math.nan
    nearest = np.abs(beats[:, None] - others[None]).min(1)
    return float(np.exp(-(nearest**2) / (2 * width**2)).mean())


class BAS(ClipMetric):
    """Beat alignment of head and audio, better the nearer to the reference's.

    A clip without audio beats or without motion beats (silence, a still head, too few frames, no
    face) has no value. Frames in which the face was missed count with the landmarks put in for
    them. Audio beats after the last motion are left out.

    Args:
        signal: what moves: ``pose`` is the speed of yaw, pitch and roll together, in their space
            of three dimensions; ``landmarks`` the mean speed of all landmarks in the image.
        mode: averages over ``audio-beats`` (Bailando) or ``motion-beats`` (AI Choreographer).
        smooth: standard deviation in frames of the Gaussian over the speed; 0 for none.
        width: of ``beat_alignment``, in frames.
        fps: frame rate.
        start_bpm: the most likely tempo of librosa's prior.
        tightness: how closely librosa's beats keep to one tempo.

    Raises:
        ValueError: no such signal or mode.
    """

    direction = "reference"
    bounds = (0.0, 1.0)
    own_motion = "pose"
    version = 2
    needs = ("pose", "valid", "waveform")

    def __init__(
        self,
        signal: Signal = "pose",
        mode: Mode = "audio-beats",
        smooth: float = 5.0,
        width: float = 3.0,
        fps: int = 25,
        start_bpm: float = 120.0,
        tightness: float = 100.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if signal not in ("pose", "landmarks") or mode not in ("audio-beats", "motion-beats"):
            raise ValueError(
                "signal is pose or landmarks, mode audio-beats or motion-beats,"
                f" not {signal}, {mode}"
            )
        self.signal: Signal = signal
        self.mode: Mode = mode
        self.smooth, self.width = smooth, width
        self.beat_options: dict[str, Any] = {
            "fps": fps,
            "start_bpm": start_bpm,
            "tightness": tightness,
        }
        self.needs = (signal, "valid", "waveform")

    @property
    def name(self) -> str:
        per = "" if self.mode == "audio-beats" else ", per motion beat"
        return f"BAS ({self.signal}{per})"

    def measure(self, generated: Features, reference: Features | None) -> float:
        if not generated["valid"].any():
            return math.nan
        joints = self._joints(generated)
        moves = motion_beats(joints, self.smooth)
        if not len(moves):
            return math.nan
        heard = audio_beats(generated["waveform"].cpu().numpy(), **self.beat_options)
        heard = heard[heard < len(joints) - 1]
        if self.mode == "motion-beats":
            return beat_alignment(moves, heard, self.width)
        return beat_alignment(heard, moves, self.width)

    def _joints(self, features: Features) -> np.ndarray:
        values = features[self.signal].double().cpu()
        return (values[:, None, :3] if self.signal == "pose" else values[..., :2]).numpy()
