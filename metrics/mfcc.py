"""Mel-frequency cepstra as SyncNet's authors compute them (python_speech_features' defaults).

Davis and Mermelstein (1980), over 16-bit samples: pre-emphasis .97; windows of 25 ms every 10 ms,
rectangular; power spectrum of 512 points; 26 triangles on the mel scale from 0 to 8 kHz; log;
orthonormal DCT-II, 13 kept; sine lifter of 22; the first replaced by the log of the energy.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.fft import dct

RATE = 16000
WINDOW, HOP = 400, 160
FFT = 512
FILTERS, CEPSTRA = 26, 13
EMPHASIS = 0.97
LIFTER = 22
BLOCK = 2048
"""Windows whose spectra are in memory at a time: 20 seconds."""


def pcm16(waveform: np.ndarray) -> np.ndarray:
    """Samples in [-1, 1] as the whole numbers of a 16-bit file, float64."""
    return (np.asarray(waveform, np.float64) * 32768).round().clip(-32768, 32767)


def mfcc(waveform: np.ndarray) -> np.ndarray:
    """Cepstra of audio.

    Args:
        waveform: (S,) in [-1, 1] at 16 kHz.

    Returns:
        (n, 13) float64, n = 1 + ceil((S - 400) / 160), at least 1; the last window is filled with
        zeros. No rows for no samples. Energies of zero count as the smallest step of a float64
        at 1, so silence is finite.
    """
    if not len(waveform):
        return np.zeros((0, CEPSTRA))
    windows = _windows(_emphasise(pcm16(waveform)))
    return np.concatenate([_cepstra(windows[a : a + BLOCK]) for a in range(0, len(windows), BLOCK)])


def _cepstra(windows: np.ndarray) -> np.ndarray:
    """Cepstra (n, 13) of windows (n, 400)."""
    spectrum = np.abs(np.fft.rfft(windows, FFT)) ** 2 / FFT
    bands = _log(spectrum @ mel_filters().T)
    cepstra = dct(bands, type=2, axis=1, norm="ortho")[:, :CEPSTRA] * _lifter()
    cepstra[:, 0] = _log(spectrum.sum(1))
    return np.asarray(cepstra)


@lru_cache
def mel_filters() -> np.ndarray:
    """The triangles, (26, 257): corners evenly spaced in mel, rounded down to spectrum bins."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, FILTERS + 2) / 2595) - 1)
    corners = np.floor((FFT + 1) * hertz / RATE)
    left, centre, right = (corners[i : i + FILTERS, None] for i in range(3))
    bins = np.arange(FFT // 2 + 1)
    rising = (bins - left) / np.maximum(centre - left, 1)
    falling = (right - bins) / np.maximum(right - centre, 1)
    return np.where((left <= bins) & (bins < centre), rising, 0) + np.where(
        (centre <= bins) & (bins < right), falling, 0
    )


def _emphasise(samples: np.ndarray) -> np.ndarray:
    return np.append(samples[0], samples[1:] - EMPHASIS * samples[:-1])


def _windows(samples: np.ndarray) -> np.ndarray:
    count = 1 + max(0, -(-(len(samples) - WINDOW) // HOP))
    padded = np.pad(samples, (0, (count - 1) * HOP + WINDOW - len(samples)))
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]


def _log(energy: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(np.where(energy == 0, np.finfo(float).eps, energy)))


def _lifter() -> np.ndarray:
    return np.asarray(1 + LIFTER / 2 * np.sin(np.pi * np.arange(CEPSTRA) / LIFTER))
