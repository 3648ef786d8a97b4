"""Preparing any talking-head videos in the layout that everything else reads.

<out>/prepare.json       the settings
<out>/.prepare/<id>.json the record of each video, which makes a run resumable
<out>/report.jsonl       the outcome of each video and of all its frames, a line per ``job.Entry``
<out>/manifest.jsonl, clips/, audio/<encoder>/
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from thbench.core.errors import UserError
from thbench.core.files import remove_leftovers, write_atomic
from thbench.core.types import FPS, Clip
from thbench.data import manifest
from thbench.data.embedding import cache
from thbench.data.embedding.encoders import encoder
from thbench.data.listing import LeftOut
from thbench.data.prepare.contact_sheet import write_sheets
from thbench.data.prepare.job import (
    CUT,
    DROPPED,
    KEPT,
    REFUSED,
    SKIPPED,
    TRIMMED,
    Entry,
    Job,
    Record,
    Settings,
    SourceVideo,
    read_entry,
)
from thbench.data.prepare.process import process

__all__ = ["Entry", "Report", "Settings", "SourceVideo", "prepare", "read_report"]

VERSION = 2
REPORT = "report.jsonl"


@dataclass(frozen=True)
class Report:
    """The outcome of ``prepare``.

    Attributes:
        out: the data set.
        clips: its rows.
        entries: what became of each video and of its frames.
        seconds: of this run.
        new: videos that this run prepared; the others had been prepared before.
    """

    out: Path
    clips: list[Clip]
    entries: list[Entry]
    seconds: float
    new: int

    @property
    def refused(self) -> list[Entry]:
        """Of each video without a clip, the entry that explains most."""
        by_path: dict[str, list[Entry]] = {}
        for entry in self._of_videos:
            by_path.setdefault(entry.path, []).append(entry)
        barren = [found for found in by_path.values() if not any(e.is_clip for e in found)]
        return [max(found, key=_importance) for found in barren]

    @property
    def _of_videos(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.outcome != SKIPPED]

    def __str__(self) -> str:
        videos = len({entry.path for entry in self._of_videos})
        lines = [
            f"{len(self.clips)} clips of {videos} videos in {self.out} ({self.seconds:.0f} s)",
            *self._clips(),
            *_reasons(
                "refused", "videos", Counter(_without_numbers(e.reason) for e in self.refused)
            ),
            *self._dropped(),
            *_reasons("noted", "clips", self._notes()),
            f"line by line: {self.out / REPORT}",
            *map(str, sorted(self.out.glob("sheet-*.jpg"))),
        ]
        return "\n".join(lines)

    def _clips(self) -> Iterator[str]:
        counts = Counter(entry.outcome for entry in self.entries)
        texts = {
            KEPT: "whole videos",
            TRIMMED: "the one usable part of a video",
            CUT: "one of several parts of a video",
        }
        for outcome, text in texts.items():
            if counts[outcome]:
                yield f"  {outcome:8}{counts[outcome]:6}  {text}"

    def _dropped(self) -> Iterator[str]:
        """Seconds that are in no clip, of videos that gave clips."""
        used = {entry.path for entry in self.entries if entry.is_clip}
        frames: Counter[str] = Counter()
        for entry in self.entries:
            if entry.outcome == DROPPED and entry.path in used:
                frames[_without_numbers(entry.reason)] += (entry.stop or 0) - (entry.start or 0)
        if frames:
            seconds = {reason: round(count / FPS, 1) for reason, count in frames.most_common()}
            yield from _reasons("dropped", "seconds of these videos", seconds)

    def _notes(self) -> Counter[str]:
        return Counter(
            _without_numbers(note) for e in self.entries if e.is_clip for note in e.notes
        )


def _reasons(title: str, what: str, counts: Mapping[str, float]) -> Iterator[str]:
    if counts:
        total = f"{sum(counts.values()):6g}" if title != "noted" else " " * 6
        yield f"  {title:8}{total}  {what}:"
        for reason, count in sorted(counts.items(), key=lambda item: -item[1]):
            yield f"  {'':8}{count:6g} x {reason}"


def _without_numbers(reason: str) -> str:
    """A reason without its numbers and what is in brackets."""
    return re.sub(r"\d+(\.\d+)?", "#", reason.split(" (")[0])


def _importance(entry: Entry) -> tuple[bool, int]:
    return entry.outcome == REFUSED, (entry.stop or 0) - (entry.start or 0)


def read_report(root: str | Path) -> list[Entry]:
    """The report of a prepared data set.

    Raises:
        UserError: it has none, or one that cannot be read.
    """
    path = Path(root) / REPORT
    if not path.is_file():
        raise UserError(f"{root} has no {REPORT}: run `thbench data prepare` again.")
    try:
        return [read_entry(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: delete it, and prepare again.") from error


def prepare(
    videos: Iterable[SourceVideo],
    out: str | Path,
    *,
    size: int,
    encoders: Sequence[str] = ("logmel",),
    workers: int = 1,
    progress: bool = True,
    sheet: bool = False,
    left_out: Iterable[LeftOut] = (),
    **settings: Any,
) -> Report:
    """Prepare videos. Resumable: clips that are complete are not made again.

    A video that cannot be used, for whatever reason, is listed in the report and does not end
    the run; so are frames that are in no clip, and what was done to video or audio.

    Args:
        videos: with unique ids.
        out: the folder to fill.
        size: of the clips, in pixels.
        encoders: audio encoders to run; further ones can be added by a later call.
        workers: processes; 1 works in this one.
        progress: show a bar.
        sheet: write contact sheets as well.
        left_out: files that are not among the videos, for the report.
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
        encoder(name)  # fails now if weights are missing
    _claim_folder(out, chosen)
    jobs = [Job(source, out, chosen, tuple(encoders)) for source in sources]
    with _lock(out):
        _remove_leftovers(out, sources)
        for name in encoders:
            cache.claim(out / "audio" / cache.kind_of(name), name)
        waiting = [job for job in jobs if not job.is_done()]
        bar = tqdm(_run_jobs(waiting, workers), "prepare", len(waiting), unit="video",
                   disable=None if progress and waiting else True)  # fmt: skip
        for _ in bar:
            pass
        records = [job.read() or Record() for job in jobs]
        report = Report(
            out,
            [clip for record in records for clip in record.clips],
            [
                *(entry for record in records for entry in record.entries),
                *(Entry(one.path, one.path, SKIPPED, reason=one.reason) for one in left_out),
            ],
            time.monotonic() - start,
            len(waiting),
        )
        _write(report, sheet, progress)
    return report


def _write(report: Report, sheet: bool, progress: bool) -> None:
    """Write the report and the manifest, and contact sheets if wanted."""
    lines = (json.dumps(asdict(e), ensure_ascii=False) + "\n" for e in report.entries)
    write_atomic(report.out / REPORT, "".join(lines))
    if sheet:
        write_sheets(report.out, [e for e in report.entries if e.outcome != SKIPPED], progress)
    if not report.clips:
        first = report.refused[0]
        raise UserError(
            f"None of the {len(report.refused)} videos can be used. The first, {first.path}:"
            f" {first.reason}. All reasons: {report.out / REPORT}."
        )
    manifest.write(report.out, report.clips)


def _run_jobs(jobs: Sequence[Job], workers: int) -> Iterator[None]:
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
    """End this worker with the process that started it, even if that was killed."""
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
    names = {source.id for source in sources}
    for source in sources:
        parts = Path(source.id).parts
        base = re.sub(r"~\d+$", "", source.id)
        if base != source.id and base in names:
            raise UserError(
                f"{source.path} is called as a part of '{base}' would be: rename one of the two."
            )
        if not parts or Path(source.id).is_absolute() or ".." in parts:
            raise UserError(f"'{source.id}' cannot be the id of a clip: use a plain name.")
    return sources


def _claim_folder(out: Path, settings: Settings) -> None:
    """Mark the folder as made with these settings, or check that it was.

    Raises:
        UserError: it was made with others.
    """
    path = out / "prepare.json"
    mine = {"version": VERSION, **asdict(settings)}
    if path.is_file():
        try:
            theirs = dict(json.loads(path.read_text("utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{path} cannot be read: delete {out}, or choose another.") from error
        # Folders from before this setting have none without sound.
        theirs.setdefault("allow_silent", False)
        if theirs.get("version") != VERSION:
            raise UserError(
                f"{out} was prepared by another version of thbench, which cut videos by other"
                " rules: choose another folder, or delete it."
            )
        if theirs != mine:
            differing = sorted(k for k in {*mine, *theirs} if mine.get(k) != theirs.get(k))
            was = ", ".join(f"{key}={theirs.get(key)}" for key in differing)
            raise UserError(f"{out} was prepared with {was}: choose another folder, or delete it.")
        return
    write_atomic(path, json.dumps(mine, indent=1) + "\n")


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Keep other runs out of the folder; the lock ends with this process."""
    path = out / ".prepare" / ".lock"  # no id begins with a dot
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


def _remove_leftovers(out: Path, sources: Sequence[SourceVideo]) -> None:
    """Remove the half-written files of a run that was killed; no other run writes here now."""
    copied = {key for s in sources for key, value in s.extra.items() if isinstance(value, Path)}
    remove_leftovers(out)
    for name in {".prepare", "clips", "audio", *copied}:
        for folder, _, _ in os.walk(out / name):
            remove_leftovers(Path(folder))
