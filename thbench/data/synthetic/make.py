"""A synthetic data set: performances drawn to raw videos, then prepared like any others."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from thbench.config import content_hash
from thbench.core.errors import UserError
from thbench.core.files import replacing, write_atomic
from thbench.core.types import FPS
from thbench.data import manifest
from thbench.data.media.video import VideoWriter
from thbench.data.prepare.prepare import VERSION, Report, SourceVideo, prepare
from thbench.data.synthetic.motion import BLINK_RATE
from thbench.data.synthetic.perform import perform
from thbench.data.synthetic.render import render

SPLITS: Mapping[str, float] = {"train": 0.8, "val": 0.1, "test": 0.1}
_CHUNK = 25
_REVISION = 2
"""Raised whenever the same settings render other images, so that no folder mixes two."""
_OF_A_CLIP = ("seconds", "size", "seed", "blink_rate", "revision", "liveliness")
"""Settings that a clip depends on, whoever else is in the data set."""
_RAW_CRF = 10
"""The raw video is encoded once more when it is prepared: lose little the first time."""


@dataclass(frozen=True)
class Settings:
    """The settings of a synthetic data set; ``synthesize`` explains them."""

    identities: int
    clips: int
    seconds: float
    size: int
    seed: int
    blink_rate: float
    splits: dict[str, float]
    revision: int = _REVISION
    liveliness: float = 1.0

    @property
    def n_frames(self) -> int:
        return round(self.seconds * FPS)

    def check(self) -> None:
        """Check the values.

        Raises:
            UserError: a value is out of range.
        """
        if self.size < 64 or self.size % 2:
            raise UserError(f"size={self.size}: synthetic faces need an even size of 64 or more.")
        if self.identities < 1 or self.clips < 1 or self.seed < 0:
            raise UserError("identities and clips must be 1 or more, and seed 0 or more.")
        if self.n_frames < FPS:
            raise UserError(f"seconds={self.seconds}: a clip must last a second or more.")
        if not 0 <= self.blink_rate <= 2:
            raise UserError(f"blink_rate={self.blink_rate}: take 0 to 2 blinks per second.")
        if not 0 <= self.liveliness <= 1:
            raise UserError(f"liveliness={self.liveliness}: take 0 (still heads) to 1.")
        if not self.splits or min(self.splits.values()) < 0 or not sum(self.splits.values()) > 0:
            raise UserError("splits must give a positive share to at least one split.")


@dataclass(frozen=True)
class _Job:
    out: Path
    settings: Settings
    person: int
    clip: int
    split: str

    @property
    def id(self) -> str:
        return f"p{self.person:04d}-{self.clip:02d}"

    @property
    def raw(self) -> Path:
        return self.out / "raw" / f"{self.id}.mp4"

    @property
    def truth(self) -> Path:
        return self.raw.with_suffix(".npz")

    @property
    def source(self) -> SourceVideo:
        return SourceVideo(
            path=self.raw,
            id=self.id,
            identity=f"p{self.person:04d}",
            split=self.split,
            extra={"truth": self.truth, manifest.RECIPE: self.recipe},
        )

    @property
    def recipe(self) -> str:
        """A hash of all that the prepared clip is made from."""
        whole = asdict(self.settings)
        own = {key: whole[key] for key in _OF_A_CLIP}
        return content_hash([own, self.person, self.clip, _RAW_CRF, VERSION], 16)


def synthesize(
    out: str | Path,
    *,
    identities: int = 64,
    clips: int = 1,
    seconds: float = 4.0,
    size: int = 128,
    seed: int = 0,
    workers: int = 2,
    encoders: Sequence[str] = ("logmel",),
    splits: Mapping[str, float] = SPLITS,
    blink_rate: float = BLINK_RATE,
    liveliness: float = 1.0,
    only: Collection[str] | None = None,
) -> Report:
    """Render a data set and prepare it. Resumable: files that are there already are kept.

    Writes ``raw/<id>.mp4`` and ``raw/<id>.npz`` (see ``Performance.truth``) below ``out``, then the
    prepared layout beside them, in which a clip's row names its truth in ``extra["truth"]`` and
    what it is made from in ``extra["recipe"]``. The raw files serve only to go on after an
    interruption.

    Args:
        out: the folder.
        identities: people.
        clips: per person.
        seconds: per clip.
        size: width and height in pixels, even, at least 64.
        seed: of all random numbers.
        workers: processes.
        encoders: audio encoders to run.
        splits: name to share of the people (any weights); no person is in two splits.
        blink_rate: blinks per second.
        liveliness: scales turns and nods, 0 to 1. At 1 pitch and roll deviate by .10 rad, about
            twice as far as those of filmed speakers.
        only: ids of clips; no others are made, so that the folder holds a part of the data set.

    Raises:
        UserError: a value out of range, an id that is not in the data set, or ``out`` holds a data
            set of other settings.
    """
    out = Path(out)
    settings = Settings(
        identities,
        clips,
        float(seconds),
        size,
        seed,
        float(blink_rate),
        dict(splits),
        liveliness=float(liveliness),
    )
    settings.check()
    _claim(out, settings)
    jobs = list(_jobs(out, settings))
    if only is not None:
        if strange := set(only) - {job.id for job in jobs}:
            raise UserError(f"only: the data set has no clip '{min(strange)}'.")
        jobs = [job for job in jobs if job.id in only]
    missing = [job for job in jobs if not (job.raw.is_file() and job.truth.is_file())]
    quiet = None if missing else True  # None: a bar on terminals only
    for _ in tqdm(_run(missing, workers), "render", len(missing), unit="clip", disable=quiet):
        pass
    return prepare(
        [job.source for job in jobs],
        out,
        size=size,
        encoders=encoders,
        workers=workers,
        crop="none",
        min_face=0.2 * size,
    )


def assign(identities: int, splits: Mapping[str, float]) -> list[str]:
    """The split of each person, by largest remainders; each positive share gets one if it can."""
    total = sum(splits.values())
    exact = {name: identities * share / total for name, share in splits.items()}
    count = {name: int(value) for name, value in exact.items()}
    starved = {name for name, share in splits.items() if share > 0 and count[name] == 0}
    order = sorted(exact, key=lambda name: (name not in starved, count[name] - exact[name]))
    for k in range(identities - sum(count.values())):
        count[order[k % len(order)]] += 1
    for name in sorted(name for name in starved if count[name] == 0):
        richest = max(count, key=lambda other: count[other])
        if count[richest] > 1:
            count[richest] -= 1
            count[name] += 1
    return [name for name in splits for _ in range(count[name])]


def _jobs(out: Path, settings: Settings) -> Iterator[_Job]:
    for person, split in enumerate(assign(settings.identities, settings.splits)):
        for clip in range(settings.clips):
            yield _Job(out, settings, person, clip, split)


def _claim(out: Path, settings: Settings) -> None:
    """Write the settings into a new folder, or compare them with those of an old one."""
    path = out / "synthetic.json"
    values = asdict(settings)
    if path.is_file():
        # Folders made before heads could be calmed do not say how lively theirs are.
        if {"liveliness": 1.0} | json.loads(path.read_text()) != values:
            raise UserError(
                f"{out} holds a synthetic data set of other settings (see {path.name}):"
                " choose another folder, or delete it."
            )
        return
    write_atomic(path, json.dumps(values, indent=2))


def _run(jobs: Sequence[_Job], workers: int) -> Iterator[str]:
    """Draw clips, yielding their ids as they finish."""
    if workers <= 1 or len(jobs) <= 1:
        yield from map(_draw, jobs)
        return
    # Forking a process that has used torch's threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, len(jobs)), context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        futures = [pool.submit(_draw, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _draw(job: _Job) -> str:
    """Render one clip and write its raw video, then its truth; both appear whole or not at all."""
    settings = job.settings
    played = perform(
        settings.seed,
        job.person,
        job.clip,
        settings.n_frames,
        blink_rate=settings.blink_rate,
        liveliness=settings.liveliness,
    )
    state = played.state
    with VideoWriter(
        job.raw, settings.size, settings.size, waveform=played.speech.waveform, crf=_RAW_CRF
    ) as writer:
        for start in range(0, len(state), _CHUNK):
            writer.write(render(played.who, state[start : start + _CHUNK], settings.size))
    with replacing(job.truth) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **played.truth())
    return job.id
