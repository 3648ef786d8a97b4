"""Which frames of a clip are speech, and how loud they are."""

from __future__ import annotations

import numpy as np

from metrics.base import SAMPLES_PER_FRAME
from metrics.mfcc import pcm16

SILERO = "silero-vad"
ENERGY = "energy"
WINDOW = 800
"""Samples of a window of the volume: a twentieth of a second."""
QUIETER = 30.0
"""Decibels below the clip's loudest frame, below which there is no speech. Ours."""


def volume(waveform: np.ndarray, frames: int) -> np.ndarray:
    """Volume at the beginning of each frame.

    As librosa's ``feature.rms`` on windows of .05 s laid end to end, the first about time 0 and
    what lies outside the audio zero; in between it is interpolated.

    Args:
        waveform: (S,) at 16 kHz, S above 0.
        frames: T, of the video at 25 per second.

    Returns:
        (T,) root of the mean square.
    """
    padded = np.pad(np.asarray(waveform, np.float64), WINDOW // 2)
    windows = padded[: len(padded) // WINDOW * WINDOW].reshape(-1, WINDOW)
    levels = np.sqrt(np.square(windows).mean(1))
    at = np.arange(frames) * SAMPLES_PER_FRAME
    return np.interp(at, np.arange(len(levels)) * WINDOW, levels)


def energy_speech(waveform: np.ndarray, frames: int) -> np.ndarray:
    """Frames whose volume is less than 30 dB below the clip's loudest; none in digital silence.

    It takes any sound for speech, and a clip in which nobody is quiet has no pause.

    Args:
        waveform: (S,) at 16 kHz.
        frames: T, of the video at 25 per second.

    Returns:
        (T,) bool.
    """
    if not frames or not pcm16(waveform).any():
        return np.zeros(frames, bool)
    levels = volume(waveform, frames)
    return np.asarray(levels > levels.max() * 10 ** (-QUIETER / 20))


def long_runs(flags: np.ndarray, least: float) -> np.ndarray:
    """(T,) bool flags, without the runs that are shorter than ``least`` frames."""
    edges = np.flatnonzero(np.diff(np.pad(np.asarray(flags, int), 1)))
    kept = np.zeros(len(flags), bool)
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        kept[start:stop] = stop - start >= least
    return kept
