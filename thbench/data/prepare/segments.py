"""Which frames of a raw video become clips, and why the others do not.

Everything here is decided from the scanned frames (``scan.Scan``) and from the audio. Every
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
from thbench.data.prepare.job import Preview, Segment, Settings
from thbench.data.prepare.scan import Scan, correlation

HOLE = 0.2
"""Seconds of missing audio, or of a still video, from which frames are dropped."""
HELD = HOLE / 2
"""Seconds between a frame's time and that of the source frame it shows: half such a hole."""
LATE = 0.75
"""Intervals between the file's frames by which a frame may be from its own; half of one is the
least that retiming needs."""
QUIET = -60.0
"""dBFS (RMS) below which audio counts as silence. Speech is at -20 to -40, what a codec makes of
silence below -70."""
ABSENT = 3
"""Detections in a row without the face from which their frames are dropped."""
LINK = 1.0
"""Sizes of a face by which it may move between two detections and be the same."""
OTHER = 1 / 3
"""Share of the chosen face's size from which another counts."""
OFTEN = 0.2
"""Share of detections with another face from which a segment shows several."""
RETURNED = 0.85
"""Correlation from which a face before another shot and one after it are the same. Of 3,642 pairs
of clips of different people (VoxCeleb2) 2 reach it, of pauses of 1.2 s in a clip 42 of 61."""
NEAR = 4
"""Detections before and after another shot that are compared."""
LAG = 5
"""Frames by which a mouth may be ahead of its audio, or late."""
MARGIN = 0.3
"""By so much the speaker's ``mouth_audio_score`` must exceed any other's."""

Detections = Sequence[tuple[int, list[Face]]]
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


def plan_segments(
    name: str, seen: Scan, audio: DecodedAudio | None, settings: Settings, notes: Sequence[str] = ()
) -> list[Segment]:
    """Cut a video into segments.

    Args:
        name: id of the video; it is the clip's where there is one clip alone, and numbered
            otherwise.
        seen: its scanned frames.
        audio: its audio; None for a silent video, all of whose frames count.
        settings: of the data set.
        notes: lines on the whole video, for all clips.

    Returns:
        Segments in order of time.
    """
    dropped: list[Segment] = []
    spans = list(_spans(seen, audio, dropped))
    if settings.finds_faces:
        spans = [part for span in spans for part in _faces(span, seen, audio, settings, dropped)]
    if audio:
        spans = list(_drop_quiet(spans, audio, dropped))
    spans = list(_drop_short(spans, settings, dropped))
    if settings.shots == "longest":
        spans = list(_of_longest_shot(spans, dropped))
    parts = [
        replace(span, start=start, stop=stop)
        for span in spans
        for start, stop in split(span.start, span.stop, settings.max_seconds)
    ]
    notes = [*notes, *(audio.notes if audio else ["no sound"])]
    segments = [
        _segment(part, seen, settings, [*notes, *_replacement_notes(part, seen, audio)])
        for part in parts
    ]
    named = _named(name, segments)
    if seen.error:
        dropped.append(Segment(len(seen), len(seen), reason=seen.error))
    return sorted(
        [*named, *_merge_neighbours(dropped)], key=lambda segment: (segment.start, segment.stop)
    )


def split(start: int, stop: int, max_seconds: float | None) -> list[tuple[int, int]]:
    """Equal parts (start, stop) of frames [start, stop), none longer than ``max_seconds``."""
    n = stop - start
    count = 1 if max_seconds is None else math.ceil(n / math.floor(max_seconds * FPS))
    edges = [start + round(k * n / count) for k in range(count + 1)]
    return list(itertools.pairwise(edges))


def mouth_audio_score(mouth: np.ndarray, waveform: np.ndarray) -> float:
    """How well a mouth's motion follows audio: about 0 for another's audio, at most 2.

    The correlation of the lips' speed with the audio's level, plus that of their opening, without
    changes slower than half a second; each the largest within ``LAG`` frames.
    ``benchmarks.speaker`` measures how often that is right.

    Args:
        mouth: (T,) opening, frame by frame.
        waveform: (640 T,) or longer, at 16 kHz.
    """
    power = waveform[: len(mouth) * SAMPLES_PER_FRAME].reshape(-1, SAMPLES_PER_FRAME) ** 2
    loud = np.log(np.sqrt(power.mean(1) + 1e-8))
    mouth = mouth[: len(loud)]
    if len(mouth) < 4 * LAG:
        return 0.0
    speed = _smooth(np.abs(np.diff(mouth)), 3)
    return _best(speed, _smooth(loud[1:], 3)) + _best(_fast(mouth), _fast(loud))


def _spans(seen: Scan, audio: DecodedAudio | None, dropped: list[Segment]) -> Iterator[Span]:
    """Ranges of frames of one shot without damage, still video or missing audio."""
    why = np.full(len(seen), "", object)
    if audio:
        why[~_has_audio(len(seen), audio)] = "no audio"
    why[seen.away > HELD] = "the video stands still"
    why[seen.damaged] = "damaged frame"
    shot = 0
    edges = {0, len(seen), *seen.shots, *(np.flatnonzero(why[1:] != why[:-1]) + 1)}
    for start, stop in itertools.pairwise(sorted(map(int, edges))):
        shot += start in seen.shots
        if why[start]:
            dropped.append(Segment(start, stop, reason=why[start]))
        else:
            yield Span(start, stop, shot)


def _has_audio(n: int, audio: DecodedAudio) -> np.ndarray:
    """Whether there is audio at each frame, bool (n,); gaps shorter than ``HOLE`` do not count."""
    heard = np.ones(n, bool)
    end = len(audio.waveform) / SAMPLES_PER_FRAME / FPS
    for a, b in (*audio.gaps, (end, n / FPS)):
        if b - a >= HOLE:
            heard[math.floor(a * FPS + 1e-6) : math.ceil(b * FPS - 1e-6)] = False
    return heard


def _faces(
    span: Span, seen: Scan, audio: DecodedAudio | None, settings: Settings, dropped: list[Segment]
) -> Iterator[Span]:
    """The parts of a span in which the chosen face is visible."""
    detections = [(t, faces) for t, faces in seen.detections if span.start <= t < span.stop]
    steady = [t for t, _ in detections if t % LOCATE_EVERY == 0]
    if not steady:
        dropped.append(Segment(span.start, span.stop, reason=_too_short(span)))
        return
    tracks = _tracks(detections)
    others = [track for track in tracks[1:] if _is_prominent(track, tracks[0], steady)]
    chosen = _choose_face([*tracks[:1], *others], span, audio, settings.face)
    if chosen is None or isinstance(chosen, str):
        dropped.append(Segment(span.start, span.stop, reason=chosen or "no face"))
        return
    several = (f"{1 + len(others)} faces, the {settings.face} one is taken",) if others else ()
    at = {t for t, _ in chosen}
    for start, stop in _visible_parts(span, steady, at, dropped):
        here = [t for t in steady if start <= t < stop]
        share = sum(t in at for t in here) / max(1, len(here))
        if share < 0.8 * (1 - settings.max_missing):
            reason = f"no face in too many frames (seen in {share:.0%})"
            dropped.append(Segment(start, stop, reason=reason))
            continue
        face = [(t, found) for t, found in chosen if start <= t < stop]
        yield Span(start, stop, span.shot, face, several)


def _tracks(detections: Detections) -> list[Track]:
    """Each face over time, the largest and longest visible first."""
    tracks: list[Track] = []
    for t, faces in detections:
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
    """Distance between two positions of a face, in units of its size."""
    return float(np.linalg.norm(a.centre - b.centre)) / max(a.size, b.size)


def _is_prominent(track: Track, main: Track, steady: Sequence[int]) -> bool:
    often = sum(t % LOCATE_EVERY == 0 for t, _ in track) >= OFTEN * len(steady)
    return often and _size(track) >= OTHER * _size(main)


def _size(track: Track) -> float:
    return float(np.median([face.size for _, face in track]))


def _choose_face(
    tracks: list[Track], span: Span, audio: DecodedAudio | None, policy: str
) -> Track | str | None:
    """The face to take, or why there is none."""
    if len(tracks) < 2 or policy == "largest":
        return tracks[0] if tracks else None
    if policy == "only":
        return f"more than one face ({len(tracks)})"
    if audio is None:
        return f"several faces, and no sound to tell who speaks ({len(tracks)})"
    scores = [_speech_score(track, span, audio) for track in tracks]
    first, second = sorted(scores, reverse=True)[:2]
    if first - second < MARGIN:
        return f"several faces, and no one clearly speaks ({first:.2f} and {second:.2f})"
    return tracks[scores.index(first)]


def _speech_score(track: Track, span: Span, audio: DecodedAudio) -> float:
    """``mouth_audio_score`` of a face that is detected at some frames of a span."""
    start, stop = track[0][0], min(track[-1][0] + 1, span.stop)
    times = np.arange(start, stop)
    mouth = np.interp(times, [t for t, _ in track], [face.mouth for _, face in track])
    waveform = audio.waveform[start * SAMPLES_PER_FRAME : stop * SAMPLES_PER_FRAME]
    return mouth_audio_score(mouth[: len(waveform) // SAMPLES_PER_FRAME], waveform)


def _visible_parts(
    span: Span, steady: Sequence[int], at: set[int], dropped: list[Segment]
) -> Iterator[tuple[int, int]]:
    """The ranges of a span without long runs of detections that miss the face."""
    start = span.start
    for missing, run in itertools.groupby(steady, key=lambda t: t not in at):
        times = list(run)
        if not missing or len(times) < ABSENT:
            continue
        # Between a detection with the face and one without, it is not known which frames have it.
        first = max(start, times[0] - LOCATE_EVERY + 1)
        last = min(span.stop, times[-1] + LOCATE_EVERY)
        if start < first:
            yield start, first
        dropped.append(Segment(first, last, reason="no face"))
        start = last
    if start < span.stop:
        yield start, span.stop


def _drop_quiet(
    spans: Iterable[Span], audio: DecodedAudio, dropped: list[Segment]
) -> Iterator[Span]:
    for span in spans:
        own = audio.waveform[span.start * SAMPLES_PER_FRAME : span.stop * SAMPLES_PER_FRAME]
        if (found := level(own)) >= QUIET:
            yield span
        else:
            reason = f"the audio is near silence ({found:.0f} dBFS)"
            dropped.append(Segment(span.start, span.stop, reason=reason))


def _drop_short(
    spans: Iterable[Span], settings: Settings, dropped: list[Segment]
) -> Iterator[Span]:
    for span in spans:
        if span.stop - span.start >= settings.min_seconds * FPS:
            yield span
        else:
            dropped.append(Segment(span.start, span.stop, reason=_too_short(span)))


def _too_short(span: Span) -> str:
    return f"too short ({(span.stop - span.start) / FPS:.2f} s)"


def _of_longest_shot(spans: list[Span], dropped: list[Segment]) -> Iterator[Span]:
    """The spans of the shot with most frames; a shot continues where its face returns."""
    shots: list[list[Span]] = []
    for span in spans:
        for shot in reversed(shots):
            if shot[-1].shot == span.shot or _face_returns(shot[-1], span):
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


def _face_returns(before: Span, after: Span) -> bool:
    """Whether a span begins with the same face, in the same place, as another ended with."""
    if not before.face or not after.face:
        return False
    pairs = itertools.product(before.face[-NEAR:], after.face[:NEAR])
    return any(
        _moved(a, b) < LINK / 2 and correlation(a.thumbnail, b.thumbnail) >= RETURNED
        for (_, a), (_, b) in pairs
    )


def _replacement_notes(span: Span, seen: Scan, audio: DecodedAudio | None) -> Iterator[str]:
    """Lines on what replaces missing frames and audio in a span."""
    away = seen.away[span.start : span.stop]
    late = away > LATE * seen.interval + 1e-3
    if late.any():
        yield f"{late.sum()} frames show one of up to {away.max():.2f} s before or after"
    if audio:
        yield from audio.gap_notes(span.start / FPS, span.stop / FPS)


def _segment(span: Span, seen: Scan, settings: Settings, notes: Sequence[str]) -> Segment:
    part = Segment(span.start, span.stop)
    if span.face is None:
        side = (max if settings.crop == "pad" else min)(seen.height, seen.width)
        whole = Square((seen.width - side) // 2, (seen.height - side) // 2, side)
        return replace(part, notes=(*notes, *span.notes), preview=Preview(span.start, square=whole))
    here = [(t, face) for t, face in span.face if span.start <= t < span.stop]
    if not here:
        here = [min(span.face, key=lambda found: abs(found[0] - span.start))]
    square = choose_square(np.stack([face.box for _, face in here]), seen.height, seen.width)
    preview = Preview(here[0][0], _boxes(here[0], seen.detections), square)
    if square is None:
        return replace(part, reason="the face moves too far for one crop", preview=preview)
    if square.side < settings.size:
        notes = [*notes, f"enlarged {settings.size / square.side:.1f} times"]
    return replace(part, notes=(*notes, *span.notes), preview=preview)


def _boxes(
    taken: tuple[int, Face], detections: Detections
) -> tuple[tuple[float, float, float, float], ...]:
    """Boxes of all faces in a frame, the chosen one first."""
    t, face = taken
    faces = next((faces for at, faces in detections if at == t), [])
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


def _merge_neighbours(dropped: list[Segment]) -> Iterator[Segment]:
    """Neighbouring segments with the same reason, merged."""
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
    """A series (T,) without changes slower than half a second."""
    return x - _smooth(x, FPS)


def _best(a: np.ndarray, b: np.ndarray) -> float:
    """The largest correlation of two series within ``LAG`` frames."""
    lags = range(-LAG, LAG + 1)
    pairs = [(a[max(0, k) : len(a) + min(0, k)], b[max(0, -k) : len(b) + min(0, -k)]) for k in lags]
    return max(correlation(x, y) for x, y in pairs)
