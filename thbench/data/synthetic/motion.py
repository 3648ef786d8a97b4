"""How a head moves while it speaks: nods on the beat, slow drift, and blinks.

That heads nod on stressed syllables is Munhall et al. (2004), "Visual prosody and speech
intelligibility". Blinks are known events, so that a blink counter can be checked against them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from thbench.core.types import FPS

BLINK_RATE = 0.5
"""Blinks per second, the natural rate in speech."""

_CLOSURES = {
    4: (0.55, 1.0, 0.9, 0.4),
    5: (0.5, 1.0, 1.0, 0.7, 0.3),
    6: (0.45, 0.95, 1.0, 1.0, 0.65, 0.25),
    7: (0.35, 0.8, 1.0, 1.0, 0.85, 0.5, 0.2),
}


@dataclass(frozen=True)
class Motion:
    """A trajectory, frame by frame: (T,) float32 unless said otherwise.

    Attributes:
        yaw, pitch, roll: radians.
        scale, tx, ty: as in ``render.State``.
        closure: of the eyes, 0 to 1.
        brow: lift.
        gaze_x, gaze_y: of the irises.
        blinks: (K, 2) int64, first frame and frame after the last of each blink.
    """

    yaw: np.ndarray
    pitch: np.ndarray
    roll: np.ndarray
    scale: np.ndarray
    tx: np.ndarray
    ty: np.ndarray
    closure: np.ndarray
    brow: np.ndarray
    gaze_x: np.ndarray
    gaze_y: np.ndarray
    blinks: np.ndarray


def move(
    n_frames: int,
    beats: np.ndarray,
    rng: np.random.Generator,
    *,
    blink_rate: float = BLINK_RATE,
    liveliness: float = 1.0,
) -> Motion:
    """A head that follows ``beats``.

    Args:
        n_frames: T.
        beats: (K,) seconds.
        rng: the only source of randomness.
        blink_rate: blinks per second, at most 2.
        liveliness: scales turns and nods.
    """
    time = (np.arange(n_frames) + 0.5) / FPS
    nods = _pulses(time, beats, rng.uniform(0.6, 1.0, len(beats)), 0.15)
    sway = _pulses(time, beats, rng.choice((-1.0, 1.0), len(beats)), 0.30)
    blinks, closure = blink(n_frames, blink_rate, rng)
    amount = liveliness

    def curve(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32)

    return Motion(
        yaw=curve(_soft(amount * (_drift(n_frames, 0.26, 0.9, rng) + 0.10 * sway), 0.62)),
        pitch=curve(_soft(amount * (_drift(n_frames, 0.17, 0.9, rng) - 0.24 * nods + 0.06), 0.45)),
        roll=curve(_soft(amount * (_drift(n_frames, 0.15, 0.9, rng) + 0.06 * sway), 0.38)),
        scale=curve(1 + _drift(n_frames, 0.02, 1.5, rng)),
        tx=curve(_drift(n_frames, 0.015, 1.2, rng)),
        ty=curve(_drift(n_frames, 0.010, 1.2, rng)),
        closure=closure,
        brow=curve(0.9 * nods + _drift(n_frames, 0.3, 0.8, rng)),
        gaze_x=curve(_soft(_drift(n_frames, 0.5, 0.5, rng), 1.0)),
        gaze_y=curve(_soft(_drift(n_frames, 0.3, 0.5, rng), 1.0)),
        blinks=blinks,
    )


def blink(n_frames: int, rate: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Blinks as a Poisson process with a dead time.

    Waits are exponential, shortened by the blink and the pause of three frames that follow each
    event, so that the mean rate is ``rate`` per second.

    Returns:
        events (K, 2) int64 and closure (T,) float32.
    """
    if not 0 <= rate <= 2:
        raise ValueError(f"blink rate {rate} per second is not within 0 and 2")
    closure = np.zeros(n_frames, dtype=np.float32)
    events = []
    # 5.5 is the mean length; rounding a start down to its frame takes half a frame.
    mean_wait = FPS / rate - 5.5 - 3 + 0.5 if rate else np.inf
    at = rng.exponential(mean_wait) if rate else n_frames
    while at < n_frames:
        length = int(rng.integers(4, 8))
        first = int(at)
        if first + length > n_frames:
            break
        closure[first : first + length] = _CLOSURES[length]
        events.append((first, first + length))
        at = first + length + 3 + rng.exponential(mean_wait)
    return np.array(events, dtype=np.int64).reshape(-1, 2), closure


def _drift(n: int, deviation: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of the given standard deviation and time scale."""
    sigma = seconds * FPS / 2
    margin = int(4 * sigma)
    noise = rng.normal(0, 1, n + 2 * margin)
    gain = (2 * sigma * np.sqrt(np.pi)) ** 0.5  # undoes what smoothing takes from the deviation
    return deviation * gain * gaussian_filter1d(noise, sigma)[margin : margin + n]


def _pulses(time: np.ndarray, beats: np.ndarray, heights: np.ndarray, width: float) -> np.ndarray:
    """A sum of bells, each a little after its beat as the head's inertia has it."""
    offsets = (time[:, None] - beats[None, :] - 0.4 * width) / width
    return np.exp(-(offsets**2)) @ heights


def _soft(values: np.ndarray, bound: float) -> np.ndarray:
    """Bend values so that they stay within ``bound``."""
    return bound * np.tanh(values / bound)
