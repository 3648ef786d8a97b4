"""Formant-synthesised syllables, with the mouth that would say them.

Source and filter after Klatt (1980), "Software for a cascade/parallel formant synthesizer": a train
of Rosenberg (1971) glottal pulses through a cascade of second-order resonators whose frequencies
glide between the vowels' formants (Peterson & Barney, 1952), and band-passed noise for consonants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, sosfilt

from thbench.core.types import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from thbench.data.synthetic.identity import generator

VOWELS = "aeiou"
_FORMANTS = np.array(
    [[760, 1250, 2550], [530, 1860, 2550], [290, 2270, 3050], [520, 900, 2450], [310, 780, 2300]],
    dtype=np.float64,
)
OPENNESS = np.array([1.0, 0.75, 0.5, 0.75, 0.4])
"""How far each vowel opens the mouth at full loudness."""
SPREAD = np.array([0.15, 0.65, 1.0, -0.75, -1.0])
"""How far each vowel spreads (positive) or rounds (negative) the lips."""
SILENCE = -1
"""Vowel id of frames without one."""

_CONSONANTS = {  # band in Hz, seconds, gain, lips closed, voiced murmur
    "p": ((300, 1500), 0.05, 0.35, True, False),
    "t": ((2500, 6000), 0.05, 0.40, False, False),
    "k": ((1300, 3200), 0.05, 0.40, False, False),
    "s": ((4200, 7500), 0.10, 0.30, False, False),
    "f": ((1500, 7000), 0.09, 0.12, True, False),
    "m": ((100, 500), 0.08, 0.02, True, True),
    "n": ((100, 900), 0.07, 0.03, False, True),
}
_BANDWIDTHS = np.array([80.0, 100.0, 140.0, 220.0])
_BLOCK = 80
"""Samples between updates of the formants: 5 ms."""


@dataclass(frozen=True)
class Voice:
    """A speaker: pitch in Hz, length of the vocal tract (scales formants), pace, breath."""

    pitch: float
    tract: float
    pace: float
    breath: float


@dataclass(frozen=True)
class Syllable:
    """A consonant and a vowel. Times are in seconds; ``stress`` is 1 or below."""

    start: float
    onset: float
    end: float
    consonant: str
    vowel: int
    stress: float
    pitch: float


@dataclass(frozen=True)
class Speech:
    """A waveform and, at 25 frames a second, what a speaker's mouth did.

    Attributes:
        waveform: (T * 640,) float32 in [-1, 1] at 16 kHz.
        vowel: (T,) int64, index into ``VOWELS`` or ``SILENCE``.
        loudness: (T,) float32, the ground-truth envelope in [0, 1].
        mouth: (T,) float32 opening in [0, 1].
        width: (T,) float32, -1 rounded to 1 spread.
        beats: (K,) float32 seconds at which stressed vowels begin.
    """

    waveform: np.ndarray
    vowel: np.ndarray
    loudness: np.ndarray
    mouth: np.ndarray
    width: np.ndarray
    beats: np.ndarray


def voice(seed: int, identity: int) -> Voice:
    """The voice of an identity."""
    rng = generator(seed, "voice", identity)
    pitch = float(np.exp(rng.uniform(np.log(95), np.log(240))))
    tract = 0.95 + 0.22 * (pitch - 95) / 145 + rng.uniform(-0.04, 0.04)
    return Voice(pitch, tract, rng.uniform(0.9, 1.15), rng.uniform(0.01, 0.03))


def speak(n_frames: int, speaker: Voice, rng: np.random.Generator) -> Speech:
    """``n_frames`` of speech by ``speaker``; all randomness comes from ``rng``."""
    seconds = n_frames / FPS
    syllables = list(_syllables(seconds, speaker, rng))
    n = n_frames * SAMPLES_PER_FRAME
    time = np.arange(0, n, _BLOCK) / SAMPLE_RATE
    loudness = _loudness(time, syllables)
    waveform = _voiced(n, time, loudness, syllables, speaker, rng)
    waveform += _noises(n, syllables, rng)
    waveform += rng.normal(0, 1e-4, n)
    waveform *= 0.7 / max(1e-3, np.abs(waveform).max())
    mouth, width = _lips(time, loudness, syllables)
    middle = (np.arange(n_frames) + 0.5) / FPS

    def sample(curve: np.ndarray) -> np.ndarray:
        return np.interp(middle, time, curve).astype(np.float32)

    return Speech(
        waveform=waveform.astype(np.float32),
        vowel=_vowels(middle, syllables),
        loudness=sample(loudness),
        mouth=sample(mouth),
        width=sample(width),
        beats=np.array([s.onset for s in syllables if s.stress == 1.0], dtype=np.float32),
    )


def _syllables(seconds: float, speaker: Voice, rng: np.random.Generator) -> Iterator[Syllable]:
    now = rng.uniform(0.05, 0.3)
    while now < seconds - 0.3:
        count = int(rng.integers(4, 10))
        first = int(rng.integers(0, 2))
        for k in range(count):
            stressed = (k + first) % 3 == 0
            consonant = str(rng.choice(list(_CONSONANTS)))
            onset = now + _CONSONANTS[consonant][1]
            length = rng.uniform(0.20, 0.30) if stressed else rng.uniform(0.12, 0.19)
            end = onset + length / speaker.pace
            if end > seconds - 0.05:
                return
            stress = 1.0 if stressed else float(rng.uniform(0.45, 0.75))
            melody = 1.10 - 0.22 * k / count + (0.16 if stressed else 0.0) + rng.normal(0, 0.02)
            vowel = int(rng.integers(len(VOWELS)))
            yield Syllable(now, onset, end, consonant, vowel, stress, speaker.pitch * melody)
            now = end
        now += rng.uniform(0.25, 0.6)


def _loudness(time: np.ndarray, syllables: list[Syllable]) -> np.ndarray:
    """Each vowel rises in 40 ms and falls in 60 ms; consonants are dips between them."""
    level = np.zeros_like(time)
    for s in syllables:
        rise = np.clip((time - s.onset + 0.01) / 0.04, 0, 1)
        fall = np.clip((s.end + 0.01 - time) / 0.06, 0, 1)
        level = np.maximum(level, s.stress * np.minimum(rise, fall))
        if _CONSONANTS[s.consonant][4]:
            murmur = 0.22 * np.clip(1 - np.abs(time - 0.5 * (s.start + s.onset)) / 0.05, 0, 1)
            level = np.maximum(level, murmur)
    return gaussian_filter1d(level, 0.008 * SAMPLE_RATE / _BLOCK)


def _track(time: np.ndarray, syllables: list[Syllable], values: np.ndarray) -> np.ndarray:
    """A value per syllable as a smooth curve over time; ``values`` (K, ...)."""
    if not syllables:
        return np.zeros((len(time), *values.shape[1:]))
    edges = np.array([s.start for s in syllables[1:]])
    steps = values[np.searchsorted(edges, time)]
    return gaussian_filter1d(steps, 0.018 * SAMPLE_RATE / _BLOCK, axis=0)


def _voiced(
    n: int,
    time: np.ndarray,
    loudness: np.ndarray,
    syllables: list[Syllable],
    speaker: Voice,
    rng: np.random.Generator,
) -> np.ndarray:
    vowels = np.array([s.vowel for s in syllables], dtype=int)
    formants = _track(time, syllables, _FORMANTS[vowels] * speaker.tract)
    pitch = _track(time, syllables, np.array([s.pitch for s in syllables]))
    samples = np.arange(n) / SAMPLE_RATE
    f0 = np.interp(samples, time, pitch) * (1 + 0.012 * np.sin(2 * np.pi * 5.1 * samples))
    gain = np.interp(samples, time, loudness**1.5)
    source = (_glottis(f0) + speaker.breath * rng.normal(0, 1, n)) * gain
    return _resonate(source, formants)


def _glottis(f0: np.ndarray) -> np.ndarray:
    """The derivative of Rosenberg's pulse: opens over 40% of the period, closes over 16%."""
    phase = np.cumsum(f0 / SAMPLE_RATE) % 1.0
    opening = 0.5 * (1 - np.cos(np.pi * phase / 0.4))
    closing = np.cos(0.5 * np.pi * (phase - 0.4) / 0.16)
    flow = np.where(phase < 0.4, opening, np.where(phase < 0.56, closing, 0.0))
    return np.diff(flow, prepend=flow[:1])


def _resonate(source: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """A cascade of Klatt's resonators, updated block by block with its state kept."""
    output = np.empty_like(source)
    fourth = np.full((len(formants), 1), 3500.0)
    sections = _resonators(np.concatenate([np.maximum(formants, 100), fourth], axis=1))
    state = np.zeros((sections.shape[1], 2))
    for k, section in enumerate(sections):
        block = slice(k * _BLOCK, (k + 1) * _BLOCK)
        output[block], state = sosfilt(section, source[block], zi=state)
    return output


def _resonators(frequencies: np.ndarray) -> np.ndarray:
    """Second-order sections (K, F, 6) of unit gain at 0 Hz for frequencies (K, F)."""
    radius = np.exp(-np.pi * _BANDWIDTHS / SAMPLE_RATE)
    b = 2 * radius * np.cos(2 * np.pi * frequencies / SAMPLE_RATE)
    c = np.broadcast_to(-(radius**2), b.shape)
    zero, one = np.zeros_like(b), np.ones_like(b)
    return np.stack([1 - b - c, zero, zero, one, -b, -c], axis=-1)


def _noises(n: int, syllables: list[Syllable], rng: np.random.Generator) -> np.ndarray:
    """The bursts and hisses of consonants."""
    output = np.zeros(n)
    for s in syllables:
        band, seconds, gain, _, _ = _CONSONANTS[s.consonant]
        a, b = (int(t * SAMPLE_RATE) for t in (s.start, s.onset + 0.01))
        noise = rng.normal(0, 1, b - a)
        if seconds < 0.06:  # a stop: silence, then a burst
            noise *= np.exp(-(((np.arange(b - a) / (b - a)) - 0.75) ** 2) / 0.01)
        else:
            noise *= np.hanning(b - a)
        filtered = sosfilt(butter(2, band, "bandpass", fs=SAMPLE_RATE, output="sos"), noise)
        output[a:b] += gain * s.stress * filtered
    return output


def _lips(
    time: np.ndarray, loudness: np.ndarray, syllables: list[Syllable]
) -> tuple[np.ndarray, np.ndarray]:
    """Opening follows openness times loudness, and lips close for p, m and f."""
    vowels = np.array([s.vowel for s in syllables], dtype=int)
    opening = _track(time, syllables, OPENNESS[vowels]) * loudness
    spread = _track(time, syllables, SPREAD[vowels]) * np.clip(loudness * 1.6, 0, 1)
    for s in syllables:
        if _CONSONANTS[s.consonant][3]:
            opening *= 1 - np.exp(-(((time - 0.5 * (s.start + s.onset)) / 0.035) ** 2))
    width = 0.030 * SAMPLE_RATE / _BLOCK
    return gaussian_filter1d(opening, width), gaussian_filter1d(spread, width)


def _vowels(middle: np.ndarray, syllables: list[Syllable]) -> np.ndarray:
    found = np.full(len(middle), SILENCE, dtype=np.int64)
    for s in syllables:
        found[(middle >= s.onset) & (middle < s.end)] = s.vowel
    return found
