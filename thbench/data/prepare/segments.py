"""Which frames of a raw video become clips, and why the others do not.

Everything here is decided from what a first pass has seen (``scan.Scan``) and from the sound. Every
frame is in exactly one segment.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from thbench.core.types import FPS, SAMPLES_PER_FRAME
from thbench.data.face.crop import LOCATE_EVERY, Face, Square, choose_square
from thbench.data.media.audio import DecodedAudio, level
from thbench.data.prepare.job import Look, Segment, Settings
from thbench.data.prepare.scan import Scan, correlation

HOLE = 0.2
"""Seconds of missing sound, or of a picture that stands still, from which frames are dropped."""
HELD = HOLE / 2
"""Seconds between a frame and the picture it shows: one as far from both ends of such a hole."""
LATE = 0.75
"""Intervals between the file's pictures by which a frame may be from its own; half of one is the
least that retiming needs."""
QUIET = -60.0
"""dBFS (rms) below which a sound is taken to be none. Speech is at -20 to -40, what a codec makes
of silence below -70."""
ABSENT = 3
"""Looks in a row without the face from which their frames are dropped."""
LINK = 1.0
"""Sizes of a face by which it may move between two looks and be the same."""
OTHER = 1 / 3
"""Part of the taken face's size from which another counts."""
OFTEN = 0.2
"""Share of looks with another face from which a segment shows several."""
RETURNED = 0.85
"""Correlation from which a face before some other picture and one after it are one. Of 3,642 pairs
of clips of different people (VoxCeleb2) 2 reach it, of pauses of 1.2 s in a clip 42 of 61."""
NEAR = 4
"""Looks before and after another picture that are compared."""
LAG = 5
"""Frames by which a mouth may be ahead of its sound, or behind."""
MARGIN = 0.3
"""By so much the speaker's mouth must follow the sound better than any other; see ``follows``."""

Looks = Sequence[tuple[int, list[Face]]]
Track = list[tuple[int, Face]]
"""One face over time."""


@dataclass
class Span:
    """Frames [start, stop) of one shot, and the face that they show (None: whole frames)."""

    start: int
    stop: int
    shot: int
    face: Track | None = None
    notes: tuple[str, ...] = ()


def plan(
    name: str, seen: Scan, sound: DecodedAudio, settings: Settings, notes: Sequence[str] = ()
) -> list[Segment]:
    """Cut a video into segments.

    Args:
        name: id of the video; it is the clip's where there is one clip alone, and numbered
            otherwise.
        seen: its picture.
        sound: its sound.
        settings: what is wanted.
        notes: of the whole video, for all clips.

    Returns:
        Segments in order of time.
    """
    dropped: list[Segment] = []
    spans = list(_spans(seen, sound, dropped))
    if settings.crop == "face":
        spans = [part for span in spans for part in _faces(span, seen, sound, settings, dropped)]
    spans = list(_loud(spans, sound, dropped))
    spans = list(_long(spans, settings, dropped))
    if settings.shots == "longest":
        spans = list(_of_longest_shot(spans, dropped))
    parts = [
        replace(span, start=start, stop=stop)
        for span in spans
        for start, stop in split(span.start, span.stop, settings.max_seconds)
    ]
    segments = [
        _segment(part, seen, settings, [*notes, *sound.notes, *_filled(part, seen, sound)])
        for part in parts
    ]
    named = _named(name, segments)
    if seen.error:
        dropped.append(Segment(len(seen), len(seen), reason=seen.error))
    return sorted([*named, *_joined(dropped)], key=lambda segment: (segment.start, segment.stop))


def split(start: int, stop: int, max_seconds: float | None) -> list[tuple[int, int]]:
    """Equal parts of frames [start, stop), none longer than ``max_seconds``."""
    n = stop - start
    count = 1 if max_seconds is None else math.ceil(n / math.floor(max_seconds * FPS))
    edges = [start + round(k * n / count) for k in range(count + 1)]
    return list(itertools.pairwise(edges))


def follows(mouth: np.ndarray, waveform: np.ndarray) -> float:
    """How well a mouth's motion follows a sound, about 0 for another's sound, 2 at most.

    The speed of the lips against the sound's level, plus their opening against it, both as
    correlations, the second without what changes more slowly than half a second; each at its best
    within ``LAG`` frames. benchmarks/speaker.py says how often that is right.

    Args:
        mouth: (T,) opening, frame by frame.
        waveform: (640 T,) or longer.
    """
    power = waveform[: len(mouth) * SAMPLES_PER_FRAME].reshape(-1, SAMPLES_PER_FRAME) ** 2
    loud = np.log(np.sqrt(power.mean(1) + 1e-8))
    mouth = mouth[: len(loud)]
    if len(mouth) < 4 * LAG:
        return 0.0
    speed = _smooth(np.abs(np.diff(mouth)), 3)
    return _best(speed, _smooth(loud[1:], 3)) + _best(_fast(mouth), _fast(loud))


def _spans(seen: Scan, sound: DecodedAudio, dropped: list[Segment]) -> Iterator[Span]:
    """Runs of frames of one shot in which picture and sound are whole."""
    why = np.full(len(seen), "", object)
    why[~_heard(len(seen), sound)] = "no sound"
    why[seen.away > HELD] = "the picture stands still"
    why[seen.damaged] = "damaged picture"
    shot = 0
    edges = {0, len(seen), *seen.shots, *(np.flatnonzero(why[1:] != why[:-1]) + 1)}
    for start, stop in itertools.pairwise(sorted(map(int, edges))):
        shot += start in seen.shots
        if why[start]:
            dropped.append(Segment(start, stop, reason=why[start]))
        else:
            yield Span(start, stop, shot)


def _heard(n: int, sound: DecodedAudio) -> np.ndarray:
    """(n,) whether there is sound at a frame; holes shorter than ``HOLE`` do not count."""
    heard = np.ones(n, bool)
    end = len(sound.waveform) / SAMPLES_PER_FRAME / FPS
    for a, b in (*sound.gaps, (end, n / FPS)):
        if b - a >= HOLE:
            heard[math.floor(a * FPS + 1e-6) : math.ceil(b * FPS - 1e-6)] = False
    return heard


def _faces(
    span: Span, seen: Scan, sound: DecodedAudio, settings: Settings, dropped: list[Segment]
) -> Iterator[Span]:
    """The parts of a span in which the chosen face is seen."""
    looks = [(t, faces) for t, faces in seen.looks if span.start <= t < span.stop]
    steady = [t for t, _ in looks if t % LOCATE_EVERY == 0]
    if not steady:
        dropped.append(Segment(span.start, span.stop, reason=_too_short(span)))
        return
    tracks = _tracks(looks)
    others = [track for track in tracks[1:] if _counts(track, tracks[0], steady)]
    chosen = _chosen([*tracks[:1], *others], span, sound, settings.face)
    if chosen is None or isinstance(chosen, str):
        dropped.append(Segment(span.start, span.stop, reason=chosen or "no face"))
        return
    several = (f"{1 + len(others)} faces, the {settings.face} one is taken",) if others else ()
    at = {t for t, _ in chosen}
    for start, stop in _present(span, steady, at, dropped):
        here = [t for t in steady if start <= t < stop]
        share = sum(t in at for t in here) / max(1, len(here))
        if share < 0.8 * (1 - settings.max_missing):
            reason = f"no face in too many frames (seen in {share:.0%})"
            dropped.append(Segment(start, stop, reason=reason))
            continue
        face = [(t, found) for t, found in chosen if start <= t < stop]
        yield Span(start, stop, span.shot, face, several)


def _tracks(looks: Looks) -> list[Track]:
    """Each face over time, the one that is seen largest and longest first."""
    tracks: list[Track] = []
    for t, faces in looks:
        free = list(range(len(tracks)))
        for face in faces:
            near = [(_moved(tracks[k][-1][1], face), k) for k in free]
            distance, k = min(near, default=(math.inf, -1))
            if distance < LINK:
                free.remove(k)
                tracks[k].append((t, face))
            else:
                tracks.append([(t, face)])
    return sorted(tracks, key=lambda track: -sum(face.size for _, face in track))


def _moved(a: Face, b: Face) -> float:
    """The way between two places of a face, in its sizes."""
    return float(np.linalg.norm(a.centre - b.centre)) / max(a.size, b.size)


def _counts(track: Track, main: Track, steady: Sequence[int]) -> bool:
    often = sum(t % LOCATE_EVERY == 0 for t, _ in track) >= OFTEN * len(steady)
    return often and _size(track) >= OTHER * _size(main)


def _size(track: Track) -> float:
    return float(np.median([face.size for _, face in track]))


def _chosen(
    tracks: list[Track], span: Span, sound: DecodedAudio, policy: str
) -> Track | str | None:
    """The face to take, or why there is none."""
    if len(tracks) < 2 or policy == "largest":
        return tracks[0] if tracks else None
    if policy == "only":
        return f"more than one face ({len(tracks)})"
    scores = [_speaks(track, span, sound) for track in tracks]
    first, second = sorted(scores, reverse=True)[:2]
    if first - second < MARGIN:
        return f"several faces, and no one clearly speaks ({first:.2f} and {second:.2f})"
    return tracks[scores.index(first)]


def _speaks(track: Track, span: Span, sound: DecodedAudio) -> float:
    """``follows`` of a face that is seen at some frames of a span."""
    start, stop = track[0][0], min(track[-1][0] + 1, span.stop)
    times = np.arange(start, stop)
    mouth = np.interp(times, [t for t, _ in track], [face.mouth for _, face in track])
    waveform = sound.waveform[start * SAMPLES_PER_FRAME : stop * SAMPLES_PER_FRAME]
    return follows(mouth[: len(waveform) // SAMPLES_PER_FRAME], waveform)


def _present(
    span: Span, steady: Sequence[int], at: set[int], dropped: list[Segment]
) -> Iterator[tuple[int, int]]:
    """What is left of a span without its long runs of looks that miss the face."""
    start = span.start
    for missing, run in itertools.groupby(steady, key=lambda t: t not in at):
        times = list(run)
        if not missing or len(times) < ABSENT:
            continue
        # Between a look that sees the face and one that does not, nobody knows.
        first = max(start, times[0] - LOCATE_EVERY + 1)
        last = min(span.stop, times[-1] + LOCATE_EVERY)
        if start < first:
            yield start, first
        dropped.append(Segment(first, last, reason="no face"))
        start = last
    if start < span.stop:
        yield start, span.stop


def _loud(spans: Iterable[Span], sound: DecodedAudio, dropped: list[Segment]) -> Iterator[Span]:
    for span in spans:
        own = sound.waveform[span.start * SAMPLES_PER_FRAME : span.stop * SAMPLES_PER_FRAME]
        if (found := level(own)) >= QUIET:
            yield span
        else:
            reason = f"the sound is near silence ({found:.0f} dBFS)"
            dropped.append(Segment(span.start, span.stop, reason=reason))


def _long(spans: Iterable[Span], settings: Settings, dropped: list[Segment]) -> Iterator[Span]:
    for span in spans:
        if span.stop - span.start >= settings.min_seconds * FPS:
            yield span
        else:
            dropped.append(Segment(span.start, span.stop, reason=_too_short(span)))


def _too_short(span: Span) -> str:
    return f"too short ({(span.stop - span.start) / FPS:.2f} s)"


def _of_longest_shot(spans: list[Span], dropped: list[Segment]) -> Iterator[Span]:
    """The spans of the shot with most frames; a shot goes on where its face comes back."""
    shots: list[list[Span]] = []
    for span in spans:
        for shot in reversed(shots):
            if shot[-1].shot == span.shot or _comes_back(shot[-1], span):
                shot.append(span)
                break
        else:
            shots.append([span])
    longest = max(shots, key=lambda shot: sum(s.stop - s.start for s in shot), default=[])
    for span in spans:
        if any(span is other for other in longest):
            yield span
        else:
            dropped.append(Segment(span.start, span.stop, reason="another shot"))


def _comes_back(before: Span, after: Span) -> bool:
    """Whether a span begins with the face, in its place, that another ended with."""
    if not before.face or not after.face:
        return False
    pairs = itertools.product(before.face[-NEAR:], after.face[:NEAR])
    return any(
        _moved(a, b) < LINK / 2 and correlation(a.thumbnail, b.thumbnail) >= RETURNED
        for (_, a), (_, b) in pairs
    )


def _filled(span: Span, seen: Scan, sound: DecodedAudio) -> Iterator[str]:
    """What stands in for what is missing in a span."""
    away = seen.away[span.start : span.stop]
    late = away > LATE * seen.interval + 1e-3
    if late.any():
        yield f"{late.sum()} frames show a picture of up to {away.max():.2f} s before or after"
    yield from sound.gap_notes(span.start / FPS, span.stop / FPS)


def _segment(span: Span, seen: Scan, settings: Settings, notes: Sequence[str]) -> Segment:
    part = Segment(span.start, span.stop)
    if span.face is None:
        side = min(seen.height, seen.width)
        whole = Square((seen.width - side) // 2, (seen.height - side) // 2, side)
        return replace(part, notes=(*notes, *span.notes), look=Look(span.start, square=whole))
    here = [(t, face) for t, face in span.face if span.start <= t < span.stop]
    if not here:
        here = [min(span.face, key=lambda found: abs(found[0] - span.start))]
    square = choose_square(np.stack([face.box for _, face in here]), seen.height, seen.width)
    look = Look(here[0][0], _boxes(here[0], seen.looks), square)
    if square is None:
        return replace(part, reason="the face moves too far for one crop", look=look)
    if square.side < settings.size:
        notes = [*notes, f"enlarged {settings.size / square.side:.1f} times"]
    return replace(part, notes=(*notes, *span.notes), look=look)


def _boxes(taken: tuple[int, Face], looks: Looks) -> tuple[tuple[float, float, float, float], ...]:
    """All faces of a look, the one that is taken first."""
    t, face = taken
    faces = next((faces for at, faces in looks if at == t), [])
    ordered = [face, *(other for other in faces if other is not face)]
    x = [tuple(round(float(v), 1) for v in found.box) for found in ordered]
    return tuple((a, b, c, d) for a, b, c, d in x)


def _named(name: str, segments: list[Segment]) -> Iterator[Segment]:
    count = sum(not segment.reason for segment in segments)
    numbers = itertools.count()
    for segment in segments:
        if segment.reason:
            yield segment
        else:
            # No file's name is made so by the usual tools, see ``prepare``.
            yield replace(segment, id=name if count == 1 else f"{name}~{next(numbers):03d}")


def _joined(dropped: list[Segment]) -> Iterator[Segment]:
    """Neighbours with one reason as one."""
    held: Segment | None = None
    for segment in sorted(dropped, key=lambda s: (s.start, s.stop)):
        if held and (held.stop, held.reason) == (segment.start, segment.reason):
            held = replace(held, stop=segment.stop)
            continue
        if held:
            yield held
        held = segment
    if held:
        yield held


def _smooth(x: np.ndarray, length: int) -> np.ndarray:
    kernel = np.ones(length) / length
    return np.convolve(np.pad(x, length // 2, mode="edge"), kernel, "valid")


def _fast(x: np.ndarray) -> np.ndarray:
    """What changes within half a second."""
    return x - _smooth(x, FPS)


def _best(a: np.ndarray, b: np.ndarray) -> float:
    """The largest correlation of two series within ``LAG`` frames."""
    lags = range(-LAG, LAG + 1)
    pairs = [(a[max(0, k) : len(a) + min(0, k)], b[max(0, -k) : len(b) + min(0, -k)]) for k in lags]
    return max(correlation(x, y) for x, y in pairs)
