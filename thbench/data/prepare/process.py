"""Preparing one video: scan it, cut its clips, track and embed them, and record the outcome."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from thbench.core.errors import UserError
from thbench.core.files import DiskError, replacing, sha256
from thbench.core.types import FPS, SAMPLES_PER_FRAME, Clip, Track
from thbench.data import manifest
from thbench.data.embedding import cache, encoders
from thbench.data.face.align import align
from thbench.data.face.crop import MESH_SIZE, Square, crop_square
from thbench.data.face.landmarks import track
from thbench.data.media import audio, video
from thbench.data.prepare import segments
from thbench.data.prepare.job import (
    CUT,
    DROPPED,
    KEPT,
    REFUSED,
    TRIMMED,
    Entry,
    Job,
    Record,
    Segment,
)
from thbench.data.prepare.scan import scan

OTHER_RATE = 0.05
"""Frames per second by which a video's rate may differ from 25 and count as 25."""


class Unusable(Exception):
    """A video or a segment of it cannot be used; the message is the reason in the report."""


class FrameReader:
    """Reads the frames of a video once, segment by segment.

    Args:
        chunks: of the video, uint8 (n, 3, H, W), in order. One is held at a time.
    """

    def __init__(self, chunks: Iterator[Tensor]) -> None:
        self._chunks = chunks
        self._rest: Tensor | None = None
        self._t = 0
        self._error: UserError | None = None

    def read(self, start: int, stop: int) -> Iterator[Tensor]:
        """Frames [start, stop), as far as the video has them, uint8 (n, 3, H, W).

        ``start`` must not be before an earlier ``stop``.

        Raises:
            UserError: the video cannot be decoded that far.
        """
        while self._t < stop and (chunk := self._next()) is not None:
            wanted = chunk[max(0, start - self._t) : stop - self._t]
            rest = chunk[stop - self._t :]
            self._t = min(stop, self._t + len(chunk))
            self._rest = rest if len(rest) else None
            if len(wanted):
                yield wanted

    def _next(self) -> Tensor | None:
        if self._error is not None:
            raise self._error  # the decoder would only report its end
        if self._rest is not None:
            return self._rest
        try:
            return next(self._chunks, None)
        except UserError as error:
            self._error = error
            raise


def process(job: Job) -> None:
    """Prepare one video and keep a record of it; only a full disk stops the run."""
    record = job.read()
    if record is None or not record.finished or not all(map(job.is_whole, record.clips)):
        record = _prepare(job, record)
    job.write(_embed_all(job, record))


def _prepare(job: Job, known: Record | None) -> Record:
    """Make the clips that ``known`` does not have yet."""
    record = Record()
    with _errors_to_record(job, Entry(job.source.id, str(job.source.path), REFUSED), record):
        _make_clips(job, known, record)
    return record


def _make_clips(job: Job, known: Record | None, record: Record) -> None:
    info = video.probe(job.source.path)
    sound = job.source.sound or (job.source.path if info.has_audio else None)
    if sound is None and not job.settings.allow_silent:
        raise Unusable("no audio (--allow-silent prepares it for stages that need none)")
    decoded = audio.read(sound, job.settings.track) if sound else None
    record.segments = (known.segments if known else None) or _plan(job, info, decoded)
    done = {clip.id: clip for clip in known.clips if job.is_whole(clip)} if known else {}
    # Aligning takes a second look; a reader that is not asked opens nothing.
    first, second = (
        FrameReader(part.frames for part in video.chunks(job.source.path)) for _ in range(2)
    )
    for segment in record.segments:
        entry = _entry(job, segment, record.segments)
        if segment.reason:
            record.entries.append(entry)
            continue
        with _errors_to_record(job, entry, record):
            if segment.id not in done:
                if known is None or not known.finished:
                    job.delete_embeddings(segment.id)
                done[segment.id] = _clip(job, first, second, segment, decoded)
            record.clips.append(done[segment.id])
            record.entries.append(entry)
        job.write(replace(record, finished=False))


def _plan(job: Job, info: video.VideoInfo, decoded: audio.DecodedAudio | None) -> list[Segment]:
    """Scan a video and decide into which segments it is cut; ``decoded`` is None without sound."""
    settings = job.settings
    side = min(info.height, info.width)
    if settings.crop == "none" and abs(info.height - info.width) > 0.02 * side:
        raise Unusable(f"not square ({info.width}x{info.height}): use crop=face, align or pad")
    if decoded and (found := audio.level(decoded.waveform)) < segments.QUIET:
        raise Unusable(f"the audio is near silence ({found:.0f} dBFS)")
    chunks = video.chunks(job.source.path)
    seen = scan(chunks, settings.finds_faces, settings.face == "speaking")
    seen.interval = 1 / info.fps
    notes = []
    if abs(info.fps - FPS) > OTHER_RATE:
        notes.append(f"retimed from {info.fps:.4g} frames a second to {FPS}")
    return segments.plan_segments(job.source.id, seen, decoded, settings, notes)


def _entry(job: Job, segment: Segment, among: list[Segment]) -> Entry:
    """The report's entry of a segment."""
    clips = [other for other in among if not other.reason]
    outcome = DROPPED
    if not segment.reason:
        outcome = KEPT if len(among) == 1 else TRIMMED if len(clips) == 1 else CUT
    return Entry(
        segment.id or job.source.id,
        str(job.source.path),
        outcome,
        segment.start,
        segment.stop,
        segment.reason,
        segment.notes,
        segment.preview,
    )


@contextmanager
def _errors_to_record(job: Job, entry: Entry, record: Record) -> Iterator[None]:
    """Record an error of a video or segment, and go on; a full disk ends the run."""
    lost = REFUSED if entry.outcome == REFUSED else DROPPED
    try:
        yield
    except DiskError:
        raise
    except (Unusable, UserError) as error:
        record.entries.append(replace(entry, outcome=lost, reason=str(error)))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskError(f"The disk is full ({error}): make room.") from error
        text = " ".join(f"{type(error).__name__}: {error}".split())
        record.entries.append(replace(entry, outcome=lost, reason=text))
        record.finished = False


def _clip(
    job: Job,
    first: FrameReader,
    second: FrameReader,
    segment: Segment,
    decoded: audio.DecodedAudio | None,
) -> Clip:
    """Write the mp4 and the measurements of one clip, unless it turns out to be unusable."""
    assert segment.preview is not None
    assert segment.preview.square is not None
    square, size = segment.preview.square, job.settings.size
    _check_length(job, segment.stop - segment.start)
    path = job.out / "clips" / f"{segment.id}.mp4"
    samples = decoded.waveform[segment.start * SAMPLES_PER_FRAME :] if decoded else None
    with video.VideoWriter(path, size, size, waveform=samples, crf=job.settings.crf) as writer:
        frames = first.read(segment.start, segment.stop)
        side: int | None = square.side
        if job.settings.crop == "align":
            frames, square = _aligned(job, segment, frames, second, square)
            side = None  # of the raw video, in which the face was measured before
        black = job.settings.crop == "pad"
        seen = track(_cut_and_write(frames, square, size, writer, black))
        _check_length(job, len(seen))
        _check_face(job, seen, side)
    place = _write_track(job, segment.id, seen)
    extra = job.extra(segment.id) | ({} if decoded else {manifest.SILENT: True})
    return Clip(
        id=segment.id,
        identity=job.source.identity,
        split=job.source.split,
        n_frames=len(seen),
        video=path.relative_to(job.out).as_posix(),
        track=place,
        sha256=sha256(path),
        extra={**extra, "start": segment.start} if segment.start else extra,
    )


def _aligned(
    job: Job, segment: Segment, frames: Iterator[Tensor], second: FrameReader, square: Square
) -> tuple[Iterator[Tensor], Square]:
    """Aligned frames of a segment, and the square that each is whole.

    The face is followed in ``square`` first, so the video is read a ``second`` time.
    """
    fine = _fine(square, job.settings.size)
    seen = track(crop_square(chunk, square, fine) for chunk in frames)
    _check_length(job, len(seen))
    _check_face(job, seen, square.side)
    read = second.read(segment.start, segment.start + len(seen))
    return align(read, seen, square, fine), Square(0, 0, fine)


def _cut_and_write(
    frames: Iterator[Tensor], square: Square, size: int, writer: video.VideoWriter, black: bool
) -> Iterator[Tensor]:
    """Write the clip, and yield its frames for the tracker, larger ones where clips are small."""
    fine = _fine(square, size)
    for chunk in frames:
        small = crop_square(chunk, square, size, black)
        writer.write(small)
        yield small if fine == size else crop_square(chunk, square, fine, black)


def _fine(square: Square, size: int) -> int:
    """Pixels of the frames that are tracked."""
    return max(size, min(square.side, MESH_SIZE))


def _check_length(job: Job, n_frames: int) -> None:
    if not n_frames or n_frames / FPS < job.settings.min_seconds:
        raise Unusable(f"too short ({n_frames / FPS:.2f} s)")


def _check_face(job: Job, seen: Track, side: int | None) -> None:
    """Check that the face was found, and is large enough in a square of ``side`` raw pixels."""
    share = float(seen.valid.mean())
    if share < 1 - job.settings.max_missing:
        raise Unusable(f"no face in too many frames (seen in {share:.0%})")
    if side is None or job.settings.crop == "none":
        return
    height = float(np.median(seen.pose[seen.valid, 3])) * side
    if height < job.settings.min_face:
        raise Unusable(f"the face is too small ({height:.0f} pixels)")


def _write_track(job: Job, clip_id: str, seen: Track) -> str:
    place = Path("clips") / f"{clip_id}.npz"
    with replacing(job.out / place) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            landmarks=seen.landmarks.astype(np.float16),
            pose=seen.pose,
            eyes=seen.eyes,
            valid=seen.valid,
        )
    return place.as_posix()


def _embed_all(job: Job, record: Record) -> Record:
    """The record without the clips whose audio could not be embedded."""
    entries = {entry.id: entry for entry in record.entries if entry.is_clip}
    others = [entry for entry in record.entries if not entry.is_clip]
    embedded = replace(record, clips=[], entries=others)
    for clip in record.clips:
        with _errors_to_record(job, entries[clip.id], embedded):
            _embed(job, clip)
            embedded.clips.append(clip)
            embedded.entries.append(entries[clip.id])
    embedded.entries.sort(key=lambda entry: entry.start or 0)
    return embedded


def _embed(job: Job, clip: Clip) -> None:
    """Embed the audio as it is in the clip, so that a later run gives the same."""
    missing = job.missing(clip)
    if not missing:
        return
    waveform = audio.load(job.out / clip.video)
    for name in missing:
        features = encoders.encoder(name)(waveform, clip.n_frames)
        cache.write(job.embedding(name, clip.id), features)
