"""From any talking-head videos to the prepared layout that everything else reads.

<out>/prepare.json       what the folder was made with
<out>/.prepare/<id>.json what became of each video; this is what makes a run resumable
<out>/manifest.jsonl, rejected.jsonl, clips/, audio/<encoder>/
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from thbench.contracts import Clip
from thbench.data import audio, embeddings, manifest
from thbench.data.files import remove_leftovers, write_atomic
from thbench.data.job import Job, Record, Rejection, Settings, SourceVideo
from thbench.data.piece import process
from thbench.errors import UserError

__all__ = ["Rejection", "Report", "Settings", "SourceVideo", "prepare"]

VERSION = 1


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

    A video that cannot be used, for whatever reason, is listed in the report and ends nothing.

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
            settings or is being filled by another run, an encoder's weights are missing or others
            than those of embeddings that are there, or the disk is full.
    """
    start, out = time.monotonic(), Path(out)
    chosen = Settings(size, **settings)
    chosen.check()
    sources = _checked(videos)
    for name in encoders:
        audio.encoder(name)  # weights that are missing are better missed now
    _claim(out, chosen)
    jobs = [Job(source, out, chosen, tuple(encoders)) for source in sources]
    with _alone(out):
        _clear(out, sources)
        for name in encoders:
            embeddings.claim(out / "audio" / embeddings.kind_of(name), name)
        waiting = [job for job in jobs if not job.is_done()]
        bar = tqdm(_run(waiting, workers), "prepare", len(waiting), unit="video",
                   disable=None if progress and waiting else True)  # fmt: skip
        for _ in bar:
            pass
        clips, rejected = _collect(out, jobs)
    return Report(out, clips, rejected, time.monotonic() - start, len(waiting))


def _collect(out: Path, jobs: Sequence[Job]) -> tuple[list[Clip], list[Rejection]]:
    """Write the lists of what was taken and what was not."""
    records = [job.read() or Record() for job in jobs]
    clips = [clip for record in records for clip in record.clips]
    rejected = [rejection for record in records for rejection in record.rejected]
    _write_lines(out / "rejected.jsonl", rejected)
    if not clips:
        raise UserError(
            f"None of the {len(jobs)} videos can be used. The first, {rejected[0].path}:"
            f" {rejected[0].reason}. All reasons: {out / 'rejected.jsonl'}."
        )
    manifest.write(out, clips)
    return clips, rejected


def _run(jobs: Sequence[Job], workers: int) -> Iterator[None]:
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
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End with the process that started this one, even if that was killed."""
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


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
    write_atomic(path, json.dumps(mine, indent=1) + "\n")


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other runs out of the folder; the lock ends with this process, however it ends."""
    path = out / ".prepare" / "lock"
    try:
        path.parent.mkdir(exist_ok=True)
        file = open(path, "w")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"{out} cannot be written to ({error.strerror}).") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"Another run is filling {out}: wait for its end, or choose another folder."
            ) from error
        yield


def _clear(out: Path, sources: Sequence[SourceVideo]) -> None:
    """Remove the half-written files of a run that was killed; nobody writes here now."""
    copied = {key for s in sources for key, value in s.extra.items() if isinstance(value, Path)}
    remove_leftovers(out)
    for name in {".prepare", "clips", "audio", *copied}:
        for folder, _, _ in os.walk(out / name):
            remove_leftovers(Path(folder))


def _write_lines(path: Path, rejected: Sequence[Rejection]) -> None:
    lines = (json.dumps(asdict(r), ensure_ascii=False) + "\n" for r in rejected)
    write_atomic(path, "".join(lines))
