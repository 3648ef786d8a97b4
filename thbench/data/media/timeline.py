"""Placing audio on a time line by its time stamps.

Blocks of samples come with time stamps that a recorder wrote: mostly one block begins where the one
before ends, up to the rounding of the container (1 ms in Matroska). Blocks that follow each other
are merged into a span. A time stamp that is off by more than ``HOLE``, and stays off, ends the
span: there is a gap, or an overlap, in which the later block counts. Within a span, a deviation
that grows is drift of the recorder's clock: the span is stretched. Anything else is rounding, and
is ignored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import av
import numpy as np

from thbench.core.errors import UserError
from thbench.core.types import SAMPLE_RATE

HOLE = 0.015
"""Seconds: less is no gap and no overlap of its own, unless a packet is known to be missing."""
KNOWN = 0.002
"""Seconds: the least gap where a packet is known to be missing, and the least drift."""
AHEAD = 9
"""A jump of time stamps must hold for the median of so many blocks."""
PRIMING = 0.05
"""Seconds: an encoder may begin so much earlier, with nothing that was recorded."""
BACKWARDS = 1.0
"""Seconds by which audio may overlap."""
PAUSE = 3600.0
"""Seconds without audio, at most, between two spans."""
_TAPS = 16
_TOGETHER = 16
"""Blocks that are resampled in one call."""


@dataclass(frozen=True)
class Block:
    """Samples in a row.

    Attributes:
        time: stamp of the first sample in seconds, None where there is none.
        rate: samples per second.
        samples: float32 (n,).
        after_loss: the packet before could not be decoded.
    """

    time: float | None
    rate: int
    samples: np.ndarray
    after_loss: bool = False


@dataclass(frozen=True)
class AudioSpan:
    """Audio without a gap, at 16 kHz.

    Attributes:
        start: seconds, of the first sample.
        samples: float32 (n,).
        drift: seconds by which it was stretched.
    """

    start: float
    samples: np.ndarray
    drift: float

    @property
    def stop(self) -> float:
        return self.start + len(self.samples) / SAMPLE_RATE


def merge_blocks(blocks: Iterable[Block]) -> Iterator[AudioSpan]:
    """Merge blocks, in order of decoding, into spans without gaps."""
    current: _SpanBuilder | None = None
    for block, ahead in _with_next(blocks):
        if current is None or current.rate != block.rate or current.jumps(block, ahead):
            if current is not None:
                yield current.close()
            current = _SpanBuilder(block.rate, current.expected if current else 0.0)
        current.add(block)
    if current is not None:
        yield current.close()


def place_spans(
    spans: Iterable[AudioSpan], zero: float | None
) -> tuple[np.ndarray, list[str], list[Gap]]:
    """Place spans on one time line at 16 kHz.

    Args:
        spans: in order of decoding; where two overlap the later one counts.
        zero: seconds on their clock of sample 0; None for the first span's start.

    Returns:
        The waveform, float32 (S,); notes; and (from, to) in seconds of each gap.

    Raises:
        UserError: time stamps run backwards, or pause for too long.
    """
    placed: list[tuple[int, np.ndarray]] = []
    covered: list[Gap] = []
    overlaps: list[Gap] = []
    notes: list[str] = []
    end, first, lost = 0.0, True, 0.0
    for span in spans:
        zero = span.start if zero is None else zero
        start, stop = span.start - zero, span.stop - zero
        _check_jump(end, start, first)
        if not first and end - start > KNOWN:
            overlaps.append((start, end))
        if abs(span.drift) > KNOWN:
            change = 100 * span.drift / max(stop - start - span.drift, 1e-9)
            notes.append(
                f"audio from {max(0, start):.2f} to {stop:.2f} s stretched by {change:+.3f}% to its"
                " time stamps"
            )
        at = round(start * SAMPLE_RATE)
        lost = max(lost, min(-start, stop - start)) if start < 0 else lost
        if at + len(span.samples) > 0:
            placed.append((max(0, at), span.samples[max(0, -at) :]))
            covered.append((max(0.0, start), stop))
        end, first = max(end, stop) if not first else stop, False
    if lost > PRIMING:
        notes.append(f"{lost:.2f} s of audio before the first frame cut off")
    length = max((at + len(samples) for at, samples in placed), default=0)
    waveform = np.zeros(length, np.float32)
    for at, samples in placed:
        waveform[at : at + len(samples)] = samples
    gaps = _gaps(covered)
    notes += gap_notes(overlaps, "of the audio overlap, and the later counts")
    return waveform, notes, gaps


Gap = tuple[float, float]


def gap_notes(found: Sequence[Gap], what: str) -> list[str]:
    """A line for each gap, or one for all of more than three."""
    if len(found) <= 3:
        return [f"{b - a:.3f} s from {a:.2f} s on {what}" for a, b in found]
    seconds = sum(b - a for a, b in found)
    return [f"{seconds:.3f} s {what}, at {len(found)} places from {found[0][0]:.2f} s on"]


def _gaps(covered: list[Gap]) -> list[Gap]:
    gaps, end = [], 0.0
    for start, stop in sorted(covered):
        if start - end > (KNOWN if end else HOLE):
            gaps.append((end, start))
        end = max(end, stop)
    return gaps


def _check_jump(end: float, start: float, first: bool) -> None:
    if not first and end - start > BACKWARDS:
        raise UserError(
            f"the audio's time stamps run backwards, from {end:.2f} to {start:.2f} s: it is several"
            " recordings in one, so split it, or encode it anew."
        )
    if start - end > PAUSE:
        raise UserError(
            f"the audio's time stamps pause from {end:.2f} to {start:.2f} s: cut the file there,"
            " or encode it anew."
        )


def _with_next(blocks: Iterable[Block]) -> Iterator[tuple[Block, list[Block]]]:
    """Each block with those that follow it, ``AHEAD`` with itself."""
    pending: deque[Block] = deque()
    for block in blocks:
        pending.append(block)
        if len(pending) == AHEAD:
            yield pending.popleft(), list(pending)
    while pending:
        yield pending.popleft(), list(pending)


@dataclass
class _SpanBuilder:
    """A span that blocks are being added to."""

    rate: int
    fallback: float
    count: int = 0
    places: list[float] = field(default_factory=list)
    stamps: list[float] = field(default_factory=list)
    pending: list[np.ndarray] = field(default_factory=list)
    converted: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._to_ours = av.AudioResampler("fltp", "mono", SAMPLE_RATE)

    @property
    def expected(self) -> float:
        """Seconds at which the next block should begin."""
        return self._start() + self.count / self.rate

    def jumps(self, block: Block, ahead: list[Block]) -> bool:
        """Whether a block begins elsewhere than where the span ends."""
        if block.time is None or not self.stamps:
            return False
        least = KNOWN if block.after_loss else HOLE
        late = block.time - self.count / self.rate
        if abs(late - self.stamps[-1] + self.places[-1]) < KNOWN:
            return False  # as nearly every block
        recent = self._recent()
        before = float(np.median(recent))
        expected, off = self.stamps[0] - self.places[0] + self.count / self.rate, []
        for each in [block, *ahead]:
            if each.time is not None:
                off.append(each.time - expected - before)
            expected += len(each.samples) / each.rate
        least = max(least, 3 * _noise(np.array([*(recent - before), *off])))
        return abs(off[0]) > least and abs(float(np.median(off))) > least

    def add(self, block: Block) -> None:
        if block.time is not None:
            self.places.append(self.count / self.rate)
            self.stamps.append(block.time)
        self.count += len(block.samples)
        self.pending.append(block.samples)
        if len(self.pending) == _TOGETHER:
            self._convert()

    def close(self) -> AudioSpan:
        self._convert()
        self.converted += [made.to_ndarray()[0] for made in self._to_ours.resample(None)]
        samples = np.concatenate([np.zeros(0, np.float32), *self.converted])
        start, places, shifts = self._clock()
        if not len(places):
            return AudioSpan(start, samples, 0.0)
        length = self.count / self.rate
        ends = _extended(np.array([0.0, length]), places, shifts)
        stretched = _stretch(samples, places, shifts - ends[0], length + ends[1] - ends[0])
        return AudioSpan(start + ends[0], stretched, ends[1] - ends[0])

    def _convert(self) -> None:
        if not self.pending:
            return
        samples = np.concatenate(self.pending)[None]
        self.pending.clear()
        frame = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
        frame.sample_rate = self.rate
        self.converted += [made.to_ndarray()[0] for made in self._to_ours.resample(frame)]

    def _recent(self) -> np.ndarray:
        """Seconds by which the last blocks are late."""
        late = np.array(self.stamps[-AHEAD:]) - np.array(self.places[-AHEAD:])
        return late - self.stamps[0] + self.places[0]

    def _deviations(self) -> np.ndarray:
        return np.array(self.stamps) - self.stamps[0] - np.array(self.places) + self.places[0]

    def _start(self) -> float:
        """Seconds of the first sample, by the last time stamps."""
        if not self.stamps:
            return self.fallback
        return self.stamps[0] - self.places[0] + float(np.median(self._recent()))

    def _clock(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Start of the span in seconds, and the drift: at which of its seconds (n,) how late (n,).

        Both arrays are empty where the clock keeps time.
        """
        none = np.zeros(0)
        if len(self.stamps) < 2:
            return self._start(), none, none
        off, places = self._deviations(), np.array(self.places)
        start = self.stamps[0] - self.places[0]
        step = max(places[-1] - places[0], 1e-9) / (len(places) - 1)
        noise = 1.5 * _noise(off)
        # as wide as it takes for a bin's median to be good to about a millisecond
        width = max(1.0, min(30.0, (noise / 0.001) ** 2 * step))
        bins = np.unique((places // width).astype(int), return_inverse=True)[1]
        centres = np.array([np.mean(places[bins == b]) for b in range(bins.max() + 1)])
        shifts = np.array([np.median(off[bins == b]) for b in range(bins.max() + 1)])
        if len(centres) < 2 or np.ptp(shifts) <= KNOWN:
            return start + float(np.median(off)), none, none
        return start, centres, shifts


def _noise(late: np.ndarray) -> float:
    """How much time stamps jitter: a jump here and there does not count."""
    return float(np.median(np.abs(np.diff(late)))) if len(late) > 1 else 0.0


def _extended(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Piecewise linear through (x, y), and straight on beyond its ends."""
    inside = np.interp(at, x, y)
    before = y[0] + (at - x[0]) * (y[1] - y[0]) / (x[1] - x[0])
    after = y[-1] + (at - x[-1]) * (y[-1] - y[-2]) / (x[-1] - x[-2])
    return np.where(at < x[0], before, np.where(at > x[-1], after, inside))


def _stretch(
    samples: np.ndarray, places: np.ndarray, shifts: np.ndarray, seconds: float
) -> np.ndarray:
    """Resample (n,) at 16 kHz by a clock that is ``shifts`` seconds late at ``places``."""
    knots = np.concatenate([[0.0], places, [len(samples) / SAMPLE_RATE]])
    times = np.maximum.accumulate(knots + _extended(knots, places, shifts))
    wanted = np.interp(np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE, times, knots)
    return _at(samples, wanted * SAMPLE_RATE)


def _at(samples: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Samples at fractional positions ``places`` (n,), float32 (n,), by a windowed sinc."""
    padded = np.pad(samples, _TAPS)
    reach = np.arange(1 - _TAPS, _TAPS + 1)
    out = np.empty(len(places), np.float32)
    for a in range(0, len(places), 65_536):
        whole = np.floor(places[a : a + 65_536]).astype(np.int64)
        left = (places[a : a + 65_536] - whole)[:, None] - reach
        taper = np.sinc(left) * np.cos(np.pi * left / (2 * _TAPS)) ** 2
        near = np.clip(whole[:, None] + reach + _TAPS, 0, len(padded) - 1)
        out[a : a + 65_536] = (padded[near] * taper).sum(1)
    return out
