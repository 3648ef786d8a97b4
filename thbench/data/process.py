"""What one worker does: measure a raw video, cut its clips, and write all that belongs to them."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from thbench.contracts import FPS, SAMPLES_PER_FRAME, Clip, Track
from thbench.data import audio, embeddings, video
from thbench.data.crop import MESH_SIZE, FaceLocator, Square, choose_square, cut
from thbench.data.files import DiskError, replacing, sha256
from thbench.data.job import Job, Record, Rejection
from thbench.data.landmarks import track
from thbench.errors import UserError

LOCATE_EVERY = 8  # frames between two looks at where the face is
CHUNK_BYTES = 2**26
SILENCE = 1e-3


class Unusable(Exception):
    """A video or a piece of it cannot be taken; says why."""


@dataclass(frozen=True)
class Piece:
    """Frames [start, stop) of a video at 25 fps, which become the clip ``id``."""

    id: str
    start: int
    stop: int


class Walk:
    """The frames of a video in one pass, handed out piece by piece.

    Args:
        chunks: of the video, (n, 3, H, W), in order. One is held at a time.
    """

    def __init__(self, chunks: Iterator[Tensor]) -> None:
        self._chunks = chunks
        self._rest: Tensor | None = None
        self._t = 0
        self._error: UserError | None = None

    def between(self, start: int, stop: int) -> Iterator[Tensor]:
        """Frames [start, stop), as far as the video has them; ``start`` must never go back.

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
            raise self._error  # the decoder itself would only say that it is at its end
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
    job.keep(_embed_all(job, record))


def _prepare(job: Job, known: Record | None) -> Record:
    """Make what ``known`` does not have yet."""
    record = Record()
    with _rejecting(job, job.source.id, record):
        _fill(job, known, record)
    return record


def _fill(job: Job, known: Record | None, record: Record) -> None:
    info = video.probe(job.source.path)
    waveform = _sound(job, info)
    pieces = split(job.source.id, round(info.duration * FPS), job.settings.max_seconds)
    record.squares = (known.squares if known else None) or _squares(job, info, pieces)
    done = {clip.id: clip for clip in known.clips if job.is_whole(clip)} if known else {}
    walk = Walk(_stream(job, info))
    for piece in pieces:
        with _rejecting(job, piece.id, record):
            if piece.id not in done:
                if known is None or not known.finished:
                    job.forget_embeddings(piece.id)
                done[piece.id] = _clip(job, walk, piece, record.squares[piece.id], waveform)
            record.clips.append(done[piece.id])
        job.keep(replace(record, finished=False))


@contextmanager
def _rejecting(job: Job, name: str, record: Record) -> Iterator[None]:
    """Note what goes wrong with a video or a piece of it, and go on; a full disk ends the run."""
    try:
        yield
    except DiskError:
        raise
    except (Unusable, UserError) as error:
        record.rejected.append(Rejection(name, str(job.source.path), str(error)))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskError(f"The disk is full ({error}): make room.") from error
        text = " ".join(f"{type(error).__name__}: {error}".split())
        record.rejected.append(Rejection(name, str(job.source.path), text))
        record.finished = False


def split(name: str, n_frames: int, max_seconds: float | None) -> list[Piece]:
    """Equal pieces of a video, none longer than ``max_seconds``."""
    count = 1 if max_seconds is None else math.ceil(n_frames / math.floor(max_seconds * FPS))
    if count <= 1:
        return [Piece(name, 0, n_frames)]
    edges = [round(k * n_frames / count) for k in range(count + 1)]
    return [Piece(f"{name}_{k:03d}", edges[k], edges[k + 1]) for k in range(count)]


def _sound(job: Job, info: video.VideoInfo) -> np.ndarray:
    if not info.has_audio:
        raise Unusable("no sound")
    if info.duration < job.settings.min_seconds:
        raise Unusable(f"too short ({info.duration:.2f} s)")
    waveform = audio.load(job.source.path)
    if float(np.abs(waveform).max(initial=0)) < SILENCE:
        raise Unusable("the sound is silent")
    if len(waveform) < 0.5 * info.duration * FPS * SAMPLES_PER_FRAME:
        raise Unusable("the sound covers less than half of the video")
    return waveform


def _stream(job: Job, info: video.VideoInfo) -> Iterator[Tensor]:
    """The video at 25 fps in chunks of bounded memory."""
    chunk = max(1, min(64, CHUNK_BYTES // (info.height * info.width * 3)))
    return video.stream(job.source.path, chunk)


def _squares(job: Job, info: video.VideoInfo, pieces: list[Piece]) -> dict[str, Square | str]:
    """The square of each piece, or why it has none, after a first walk through the video."""
    if job.settings.crop == "none":
        side = min(info.height, info.width)
        if abs(info.height - info.width) > 0.02 * side:
            raise Unusable(f"not square ({info.width}x{info.height}): use crop=face")
        whole = Square((info.width - side) // 2, (info.height - side) // 2, side)
        return {piece.id: whole for piece in pieces}
    walk = Walk(_stream(job, info))
    with FaceLocator() as locate:
        return {piece.id: _square(job, info, _boxes(walk, piece, locate)) for piece in pieces}


def _square(job: Job, info: video.VideoInfo, looked: list[np.ndarray | None]) -> Square | str:
    boxes = [box for box in looked if box is not None]
    if not looked:
        return "the video ends before it"
    if not boxes or len(boxes) < (1 - job.settings.max_missing) * len(looked) * 0.8:
        return f"no face in too many frames (seen in {len(boxes) / len(looked):.0%})"
    square = choose_square(np.stack(boxes), info.height, info.width)
    return square or "the face moves too far for one crop, or the scene changes"


def _boxes(walk: Walk, piece: Piece, locate: FaceLocator) -> list[np.ndarray | None]:
    """Where the face is in every ``LOCATE_EVERY``-th frame of a piece, its first one included."""
    frames = (frame for chunk in walk.between(piece.start, piece.stop) for frame in chunk)
    return [locate(frame) for t, frame in enumerate(frames) if t % LOCATE_EVERY == 0]


def _clip(job: Job, walk: Walk, piece: Piece, square: Square | str, waveform: np.ndarray) -> Clip:
    """Write the mp4 and the measurements of one clip, unless it turns out to be unusable."""
    if isinstance(square, str):
        raise Unusable(square)
    _check_length(job, piece.stop - piece.start)
    path = job.out / "clips" / f"{piece.id}.mp4"
    sound = waveform[piece.start * SAMPLES_PER_FRAME :]
    size = job.settings.size
    with video.VideoWriter(path, size, size, waveform=sound, crf=job.settings.crf) as writer:
        frames = walk.between(piece.start, piece.stop)
        seen = track(_cut_and_write(frames, square, size, writer))
        _check_length(job, len(seen))
        _check_face(job, seen, square)
    place = _write_track(job, piece.id, seen)
    extra = job.extra(piece.id)
    return Clip(
        id=piece.id,
        identity=job.source.identity,
        split=job.source.split,
        n_frames=len(seen),
        video=path.relative_to(job.out).as_posix(),
        track=place,
        sha256=sha256(path),
        extra={**extra, "start": piece.start} if piece.start else extra,
    )


def _cut_and_write(
    frames: Iterator[Tensor], square: Square, size: int, writer: video.VideoWriter
) -> Iterator[Tensor]:
    """Write the clip on the way, and show the tracker finer pictures than small clips."""
    fine = max(size, min(square.side, MESH_SIZE))
    for chunk in frames:
        small = cut(chunk, square, size)
        writer.write(small)
        yield small if fine == size else cut(chunk, square, fine)


def _check_length(job: Job, n_frames: int) -> None:
    if not n_frames or n_frames / FPS < job.settings.min_seconds:
        raise Unusable(f"too short ({n_frames / FPS:.2f} s)")


def _check_face(job: Job, seen: Track, square: Square) -> None:
    share = float(seen.valid.mean())
    if share < 1 - job.settings.max_missing:
        raise Unusable(f"no face in too many frames (seen in {share:.0%})")
    if job.settings.crop == "none":
        return
    height = float(np.median(seen.pose[seen.valid, 3])) * square.side
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
    """The record without the clips whose sound could not be embedded."""
    embedded = replace(record, clips=[], rejected=list(record.rejected))
    for clip in record.clips:
        with _rejecting(job, clip.id, embedded):
            _embed(job, clip)
            embedded.clips.append(clip)
    return embedded


def _embed(job: Job, clip: Clip) -> None:
    """Embed the sound as it is in the clip, so that a later run gives the same."""
    missing = job.missing(clip)
    if not missing:
        return
    waveform = audio.load(job.out / clip.video)
    for name in missing:
        features = audio.encoder(name)(waveform, clip.n_frames)
        embeddings.write(job.embedding(name, clip.id), features)
