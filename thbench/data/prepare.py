"""From any talking-head videos to the prepared layout that everything else reads.

<out>/prepare.json       what the folder was made with
<out>/.prepare/<id>.json what became of each video; this is what makes a run resumable
<out>/manifest.jsonl, rejected.jsonl, clips/, audio/<encoder>/
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from thbench.contracts import Clip
from thbench.data import audio, manifest
from thbench.data.files import replacing
from thbench.errors import UserError

VERSION = 1


@dataclass(frozen=True)
class SourceVideo:
    """A raw video and what is known of it.

    Attributes:
        path: of the video.
        id: unique, may contain ``/``.
        identity: who is seen.
        split: ``train``, ``val`` or ``test``.
        extra: kept in the clip's row. A value that is a ``Path`` names a file, which is copied to
            ``<out>/<key>/<id><suffix>``; the row holds its new place.
    """

    path: Path
    id: str
    identity: str
    split: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejection:
    """A video, or a piece of one, that was left out."""

    id: str
    path: str
    reason: str


@dataclass(frozen=True)
class Settings:
    """What the prepared pixels and measurements depend on.

    Attributes:
        size: clips are ``size`` x ``size`` pixels, an even number.
        crop: ``face`` cuts one square around the head; ``none`` takes the square frame as it is.
        min_seconds: shorter clips are rejected.
        max_seconds: longer videos are cut into equal pieces no longer than this.
        max_missing: a clip with a larger share of frames without a face is rejected.
        min_face: a face that is lower than this, in pixels of the raw video, is rejected.
        crf: quality of the clips' H.264, lower is better.
    """

    size: int
    crop: str = "face"
    min_seconds: float = 1.0
    max_seconds: float | None = None
    max_missing: float = 0.1
    min_face: float = 40.0
    crf: float = 16.0

    def check(self) -> None:
        """Raises ``UserError`` for values that make no sense."""
        if self.size < 16 or self.size % 2:
            raise UserError(f"size={self.size} cannot be: use an even number of at least 16.")
        if self.crop not in ("face", "none"):
            raise UserError(f"crop='{self.crop}' is unknown: use face or none.")
        if self.max_seconds is not None and self.max_seconds < max(self.min_seconds, 0.04):
            raise UserError(
                f"max_seconds={self.max_seconds} is less than min_seconds={self.min_seconds}."
            )


@dataclass(frozen=True)
class Report:
    """What ``prepare`` did.

    Attributes:
        out: the data set.
        clips: its rows.
        rejected: what was left out, and why.
        seconds: of this run.
        new: videos that were prepared by this run; the others had been before.
    """

    out: Path
    clips: list[Clip]
    rejected: list[Rejection]
    seconds: float
    new: int

    def __str__(self) -> str:
        lines = [f"{len(self.clips)} clips in {self.out} ({self.seconds:.0f} s)"]
        if self.rejected:
            lines.append(f"{len(self.rejected)} rejected, listed in {self.out / 'rejected.jsonl'}:")
        reasons = Counter(rejection.reason.split(" (")[0] for rejection in self.rejected)
        lines += [f"  {count} x {reason}" for reason, count in reasons.most_common()]
        return "\n".join(lines)


def prepare(
    videos: Iterable[SourceVideo],
    out: str | Path,
    *,
    size: int,
    encoders: Sequence[str] = ("logmel",),
    workers: int = 1,
    progress: bool = True,
    **settings: Any,
) -> Report:
    """Prepare videos. Resumable: what is whole already is not made again.

    Args:
        videos: with unique ids.
        out: the folder to fill.
        size: of the clips, in pixels.
        encoders: audio encoders to run; further ones can be added by a later call.
        workers: processes; 1 works in this one.
        progress: show a bar.
        settings: the other fields of ``Settings``.

    Raises:
        UserError: no videos, none is usable, an id comes twice, ``out`` was made with other
            settings, an encoder's weights are missing, or the disk is full.
    """
    start, out = time.monotonic(), Path(out)
    chosen = Settings(size, **settings)
    chosen.check()
    sources = _checked(videos)
    for name in encoders:
        audio.encoder(name)  # weights that are missing are better missed now
    _claim(out, chosen)
    jobs = [Job(source, out, chosen, tuple(encoders)) for source in sources]
    waiting = [job for job in jobs if not job.is_done()]
    bar = tqdm(_run(waiting, workers), "prepare", len(waiting), unit="video",
               disable=not progress or not waiting)  # fmt: skip
    for _ in bar:
        pass
    outcomes = [job.outcome() for job in jobs]
    clips = [clip for outcome in outcomes for clip in outcome.clips]
    rejected = [rejection for outcome in outcomes for rejection in outcome.rejected]
    _write_lines(out / "rejected.jsonl", rejected)
    if not clips:
        raise UserError(
            f"None of the {len(sources)} videos can be used. The first, {rejected[0].path}:"
            f" {rejected[0].reason}. All reasons: {out / 'rejected.jsonl'}."
        )
    manifest.write(out, clips)
    return Report(out, clips, rejected, time.monotonic() - start, len(waiting))


@dataclass(frozen=True)
class Outcome:
    """What became of one video."""

    clips: list[Clip]
    rejected: list[Rejection]


@dataclass(frozen=True)
class Job:
    """One video's way into the data set."""

    source: SourceVideo
    out: Path
    settings: Settings
    encoders: tuple[str, ...]

    @property
    def record(self) -> Path:
        return self.out / ".prepare" / f"{self.source.id}.json"

    def is_done(self) -> bool:
        """Whether all that this video gives is there, and the video is still the same."""
        found = self._read()
        if found is None or found["source"] != self._state():
            return False
        clips = self.outcome().clips
        return all(path.is_file() for clip in clips for path in self.files(clip))

    def files(self, clip: Clip) -> Iterator[Path]:
        yield self.out / clip.video
        yield self.out / clip.track
        for name in self.encoders:
            yield self.embedding(name, clip.id)

    def embedding(self, encoder: str, clip_id: str) -> Path:
        return self.out / "audio" / encoder.partition("=")[0] / f"{clip_id}.npy"

    def outcome(self) -> Outcome:
        """What the record says, with the split and labels of now."""
        found = self._read() or {"clips": [], "rejected": []}
        clips = [
            Clip(**{**row, "identity": self.source.identity, "split": self.source.split})
            for row in found["clips"]
        ]
        return Outcome(clips, [Rejection(**row) for row in found["rejected"]])

    def keep(self, outcome: Outcome) -> None:
        with replacing(self.record) as temporary:
            rows = {
                "source": self._state(),
                "clips": [asdict(clip) for clip in outcome.clips],
                "rejected": [asdict(rejection) for rejection in outcome.rejected],
            }
            temporary.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")

    def extra(self, clip_id: str) -> dict[str, Any]:
        """The row's labels, after copying the files among them."""
        values: dict[str, Any] = {}
        for key, value in self.source.extra.items():
            if isinstance(value, Path):
                place = Path(key) / f"{clip_id}{value.suffix}"
                with replacing(self.out / place) as temporary:
                    shutil.copyfile(value, temporary)
                value = place.as_posix()
            values[key] = value
        return values

    def _state(self) -> list[int] | None:
        try:
            stat = os.stat(self.source.path)
        except OSError:
            return None
        return [stat.st_size, stat.st_mtime_ns]

    def _read(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self.record.read_text("utf-8"))
        except FileNotFoundError:
            return None
        return found


def _run(jobs: Sequence[Job], workers: int) -> Iterator[None]:
    from thbench.data.piece import process

    if workers <= 1 or len(jobs) <= 1:
        yield from map(process, jobs)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=get_context("spawn"), initializer=_start_worker
    )
    try:
        for done in as_completed([pool.submit(process, job) for job in jobs]):
            done.result()
            yield
    except BrokenProcessPool as error:
        raise UserError(
            "A worker was killed, probably for want of memory: run it again with fewer workers;"
            " finished clips are kept."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)


def _checked(videos: Iterable[SourceVideo]) -> list[SourceVideo]:
    sources = sorted(videos, key=lambda source: source.id)
    if not sources:
        raise UserError("There are no videos to prepare.")
    for a, b in itertools.pairwise(sources):
        if a.id == b.id:
            raise UserError(f"{a.path} and {b.path} would both be called '{a.id}': rename one.")
    for source in sources:
        parts = Path(source.id).parts
        if not parts or Path(source.id).is_absolute() or ".." in parts:
            raise UserError(f"'{source.id}' cannot be the id of a clip: use a plain name.")
    return sources


def _claim(out: Path, settings: Settings) -> None:
    """Mark the folder as made with these settings, or see that it was."""
    path = out / "prepare.json"
    mine = {"version": VERSION, **asdict(settings)}
    if path.is_file():
        theirs = json.loads(path.read_text("utf-8"))
        if theirs != mine:
            differing = sorted(k for k in {*mine, *theirs} if mine.get(k) != theirs.get(k))
            was = ", ".join(f"{key}={theirs.get(key)}" for key in differing)
            raise UserError(f"{out} was prepared with {was}: choose another folder, or delete it.")
        return
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(mine, indent=1) + "\n", "utf-8")


def _write_lines(path: Path, rejected: Sequence[Rejection]) -> None:
    with replacing(path) as temporary:
        lines = (json.dumps(asdict(r), ensure_ascii=False) + "\n" for r in rejected)
        temporary.write_text("".join(lines), "utf-8")
