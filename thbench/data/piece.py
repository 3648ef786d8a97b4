"""What one worker does: measure a raw video, cut its clips, and write all that belongs to them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from thbench.contracts import FPS, SAMPLES_PER_FRAME, Clip, Track
from thbench.data import audio, video
from thbench.data.crop import MESH_SIZE, FaceLocator, Square, choose_square, cut
from thbench.data.files import DiskError, replacing, sha256
from thbench.data.landmarks import track
from thbench.data.prepare import Job, Outcome, Rejection
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


def process(job: Job) -> None:
    """Prepare one video and keep a record of it; only a full disk stops the run."""
    known = job.outcome().clips
    if known and all(path.is_file() for clip in known for path in list(job.files(clip))[:2]):
        outcome = job.outcome()
    else:
        outcome = _prepare(job)
    for clip in outcome.clips:
        _embed(job, clip)
    job.keep(outcome)


def _prepare(job: Job) -> Outcome:
    source = job.source
    try:
        info = video.probe(source.path)
        waveform = _sound(job, info)
        pieces = split(source.id, round(info.duration * FPS), job.settings.max_seconds)
        squares = _squares(job, info, pieces)
    except DiskError:
        raise
    except (Unusable, UserError) as error:
        return Outcome([], [_reject(job, source.id, error)])
    clips: list[Clip] = []
    rejected: list[Rejection] = []
    for piece in pieces:
        try:
            square = squares[piece.id]
            if square is None:
                raise Unusable("the face moves too far for one crop, or the scene changes")
            clips.append(_clip(job, info, piece, square, waveform))
        except DiskError:
            raise
        except (Unusable, UserError) as error:
            rejected.append(_reject(job, piece.id, error))
    return Outcome(clips, rejected)


def split(name: str, n_frames: int, max_seconds: float | None) -> list[Piece]:
    """Equal pieces of a video, none longer than ``max_seconds``."""
    count = 1 if max_seconds is None else math.ceil(n_frames / math.floor(max_seconds * FPS))
    if count <= 1:
        return [Piece(name, 0, n_frames)]
    edges = [round(k * n_frames / count) for k in range(count + 1)]
    return [Piece(f"{name}_{k:03d}", edges[k], edges[k + 1]) for k in range(count)]


def _reject(job: Job, name: str, error: Exception) -> Rejection:
    return Rejection(name, str(job.source.path), str(error))


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


def _squares(job: Job, info: video.VideoInfo, pieces: list[Piece]) -> dict[str, Square | None]:
    """The square of each piece, after a first walk through the video."""
    if job.settings.crop == "none":
        side = min(info.height, info.width)
        if abs(info.height - info.width) > 0.02 * side:
            raise Unusable(f"not square ({info.width}x{info.height}): use crop=face")
        whole = Square((info.width - side) // 2, (info.height - side) // 2, side)
        return {piece.id: whole for piece in pieces}
    found = _boxes(job, info)
    squares: dict[str, Square | None] = {}
    for piece in pieces:
        looked = [t for t in found if piece.start <= t < piece.stop]
        boxes = [box for t in looked if (box := found[t]) is not None]
        if len(boxes) < (1 - job.settings.max_missing) * len(looked) * 0.8:
            share = len(boxes) / max(1, len(looked))
            raise Unusable(f"no face in too many frames (seen in {share:.0%})")
        squares[piece.id] = choose_square(np.stack(boxes), info.height, info.width)
    return squares


def _boxes(job: Job, info: video.VideoInfo) -> dict[int, np.ndarray | None]:
    found: dict[int, np.ndarray | None] = {}
    with FaceLocator() as locate:
        t = 0
        for chunk in _stream(job, info):
            for frame in chunk:
                if t % LOCATE_EVERY == 0:
                    found[t] = locate(frame)
                t += 1
    return found


def _clip(
    job: Job, info: video.VideoInfo, piece: Piece, square: Square, waveform: np.ndarray
) -> Clip:
    """Write the mp4 and the measurements of one clip, unless it turns out to be unusable."""
    settings = job.settings
    seconds = (piece.stop - piece.start) / FPS
    if seconds < settings.min_seconds:
        raise Unusable(f"too short ({seconds:.2f} s)")
    path = job.out / "clips" / f"{piece.id}.mp4"
    written = 0
    with ExitStack() as stack:
        writer = stack.enter_context(
            video.VideoWriter(
                path,
                settings.size,
                settings.size,
                waveform=waveform[piece.start * SAMPLES_PER_FRAME :],
                crf=settings.crf,
            )
        )

        def measured() -> Iterator[Tensor]:
            """Write the clip on the way, and show the tracker finer pictures than small clips."""
            nonlocal written
            fine = max(settings.size, min(square.side, MESH_SIZE))
            for frames in _between(_stream(job, info), piece.start, piece.stop):
                small = cut(frames, square, settings.size)
                writer.write(small)
                written += len(small)
                yield small if fine == settings.size else cut(frames, square, fine)

        seen = track(measured())
        _check_face(job, seen, square)
    place = _write_track(job, piece.id, seen)
    clip = Clip(
        id=piece.id,
        identity=job.source.identity,
        split=job.source.split,
        n_frames=written,
        video=path.relative_to(job.out).as_posix(),
        track=place,
        sha256=sha256(path),
        extra=job.extra(piece.id),
    )
    return replace(clip, extra={**clip.extra, "start": piece.start}) if piece.start else clip


def _between(chunks: Iterator[Tensor], start: int, stop: int) -> Iterator[Tensor]:
    t = 0
    for chunk in chunks:
        wanted = chunk[max(0, start - t) : max(0, stop - t)]
        if len(wanted):
            yield wanted
        t += len(chunk)
        if t >= stop:
            return


def _check_face(job: Job, seen: Track, square: Square) -> None:
    share = float(seen.valid.mean())
    if share < 1 - job.settings.max_missing:
        raise Unusable(f"no face in too many frames (seen in {share:.0%})")
    height = float(np.median(seen.pose[seen.valid, 3])) * square.side
    if job.settings.crop == "face" and height < job.settings.min_face:
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


def _embed(job: Job, clip: Clip) -> None:
    """Embed the sound as it is in the clip, so that a later run gives the same."""
    missing = [name for name in job.encoders if not job.embedding(name, clip.id).is_file()]
    if not missing:
        return
    waveform = audio.load(job.out / clip.video)
    for name in missing:
        features = audio.encoder(name)(waveform, clip.n_frames)
        with replacing(job.embedding(name, clip.id)) as temporary, open(temporary, "wb") as file:
            np.save(file, features)
