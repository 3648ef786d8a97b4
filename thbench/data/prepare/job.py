"""The job of preparing one video, and the record that is kept of it.

``<out>/.prepare/<id>.json`` is written after every segment, so that a run that was killed goes on
after the last segment that it finished.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from thbench.core.errors import UserError
from thbench.core.files import replacing, write_atomic
from thbench.core.types import Clip
from thbench.data.embedding.cache import kind_of
from thbench.data.face.crop import Square
from thbench.data.manifest import is_silent


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
        sound: a file with its sound, which begins with the first frame; None where the video
            holds it.
    """

    path: Path
    id: str
    identity: str
    split: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    sound: Path | None = None


KEPT, TRIMMED, CUT, DROPPED, REFUSED = "kept", "trimmed", "cut", "dropped", "refused"
SKIPPED = "skipped"
"""Outcomes of a video or of some of its frames; ``Entry`` explains them."""


@dataclass(frozen=True)
class Preview:
    """A frame of the raw video that shows what was taken, for contact sheets.

    Attributes:
        frame: its index at 25 fps.
        boxes: (x0, y0, x1, y1) in pixels of the faces that were found, the chosen one first.
        square: the square that was cropped; None where there is none.
    """

    frame: int
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    square: Square | None = None


@dataclass(frozen=True)
class Entry:
    """What became of a video, or of some of its frames: a line of the report.

    Attributes:
        id: of the clip; of the video, where there is no clip.
        path: of the raw video.
        outcome: ``kept`` (all of the video is the clip), ``trimmed`` (the video gave this clip
            alone, and not all its frames are in it), ``cut`` (one of the video's clips),
            ``dropped`` (these frames are in no clip), ``refused`` (nothing of it could be taken) or
            ``skipped`` (it was not examined: a link to a file that is there already, for one).
        start, stop: frames [start, stop) at 25 fps; None where that is not known.
        reason: of ``dropped``, ``refused`` and ``skipped``.
        notes: what was done to video and audio beside cropping.
        preview: a frame for the contact sheet.
    """

    id: str
    path: str
    outcome: str
    start: int | None = None
    stop: int | None = None
    reason: str = ""
    notes: tuple[str, ...] = ()
    preview: Preview | None = None

    @property
    def is_clip(self) -> bool:
        return self.outcome in (KEPT, TRIMMED, CUT)


@dataclass(frozen=True)
class Segment:
    """Frames [start, stop) of a video at 25 fps.

    Attributes:
        start, stop: frames.
        id: of the clip that it becomes; "" where it becomes none.
        reason: why it becomes none.
        notes: what is done to video and audio beside cropping.
        preview: a frame for the contact sheet; its square is the crop.
    """

    start: int
    stop: int
    id: str = ""
    reason: str = ""
    notes: tuple[str, ...] = ()
    preview: Preview | None = None


CROPS = ("face", "align", "pad", "none")
FACES = ("largest", "speaking", "only")
SHOTS = ("longest", "all")


@dataclass(frozen=True)
class Settings:
    """Settings that the prepared pixels and measurements depend on.

    Attributes:
        size: clips are ``size`` x ``size`` pixels, an even number.
        crop: ``face`` crops one square around the head; ``align`` moves every frame so that eyes
            and nose stay in one place (``face.align``); ``pad`` takes the frame whole, with black
            bars where it is not square; ``none`` takes a square frame whole.
        min_seconds: shorter clips are dropped.
        max_seconds: longer segments are cut into equal ones no longer than this.
        max_missing: a clip with a larger share of frames without a face is dropped.
        min_face: a face that is lower than this, in pixels of the raw video, is dropped.
        crf: quality of the clips' H.264, lower is better.
        face: of several faces the ``largest``, the one that is ``speaking``, or ``only`` videos
            with one.
        shots: of a video with hard cuts the ``longest`` shot, since others may show other people,
            or ``all``.
        track: the audio track to take, from 1; None takes the file's default.
        allow_silent: videos without an audio track are prepared too, without sound and
            embeddings; else they are refused.
    """

    size: int
    crop: str = "face"
    min_seconds: float = 1.0
    max_seconds: float | None = None
    max_missing: float = 0.1
    min_face: float = 40.0
    crf: float = 16.0
    face: str = "largest"
    shots: str = "longest"
    track: int | None = None
    allow_silent: bool = False

    @property
    def finds_faces(self) -> bool:
        """Whether faces decide what is cropped."""
        return self.crop in ("face", "align")

    def check(self) -> None:
        """Check the values.

        Raises:
            UserError: a value is unknown or impossible.
        """
        if self.size < 16 or self.size % 2:
            raise UserError(f"size={self.size} cannot be: use an even number of at least 16.")
        if self.crop not in CROPS:
            raise UserError(f"crop='{self.crop}' is unknown: use {', '.join(CROPS)}.")
        for key, allowed in (("face", FACES), ("shots", SHOTS)):
            if (value := getattr(self, key)) not in allowed:
                raise UserError(f"{key}='{value}' is unknown: use {' or '.join(allowed)}.")
        if self.face != "largest" and not self.finds_faces:
            raise UserError(f"face={self.face} chooses whom to crop to: use crop=face.")
        if self.max_seconds is not None and self.max_seconds < max(self.min_seconds, 0.04):
            raise UserError(
                f"max_seconds={self.max_seconds} is less than min_seconds={self.min_seconds}."
            )


@dataclass
class Record:
    """What became of one video.

    Attributes:
        clips: the clips that it gave.
        entries: what became of its frames.
        segments: the parts that it is cut into; None before they are known.
        finished: nothing is left to try. False while it is worked on, and after an error that
            says nothing about the video; the next run then goes on with it.
    """

    clips: list[Clip] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    segments: list[Segment] | None = None
    finished: bool = True


@dataclass(frozen=True)
class Job:
    """One video, and what is to be made of it."""

    source: SourceVideo
    out: Path
    settings: Settings
    encoders: tuple[str, ...]

    def is_done(self) -> bool:
        """Whether all that this video gives is there, and the video is still the same."""
        record = self.read()
        return (
            record is not None
            and record.finished
            and all(self.is_whole(clip) and not self.missing(clip) for clip in record.clips)
        )

    def is_whole(self, clip: Clip) -> bool:
        """Whether the clip's pixels and measurements are there."""
        return (self.out / clip.video).is_file() and (self.out / clip.track).is_file()

    def missing(self, clip: Clip) -> list[str]:
        """The encoders whose embedding of the clip is not there; a silent clip has none."""
        if is_silent(clip):
            return []
        return [name for name in self.encoders if not self.embedding(name, clip.id).is_file()]

    def embedding(self, encoder: str, clip_id: str) -> Path:
        return self.out / "audio" / kind_of(encoder) / f"{clip_id}.npy"

    def delete_embeddings(self, clip_id: str) -> None:
        """Delete embeddings of an earlier state of the video."""
        for folder in (self.out / "audio").glob("*/"):
            (folder / f"{clip_id}.npy").unlink(missing_ok=True)

    def read(self) -> Record | None:
        """The record, with the split and labels of now; None if there is none.

        A record of a video that has changed since, or one that cannot be read, counts as none. A
        video that is gone is taken to be as it was.
        """
        mine = {"identity": self.source.identity, "split": self.source.split}
        try:
            found: dict[str, Any] = json.loads(self._path.read_text("utf-8"))
            segments = found["segments"]
            record = Record(
                [Clip(**{**row, **mine}) for row in found["clips"]],
                [read_entry(row) for row in found["entries"]],
                None if segments is None else [Segment(**_typed(row)) for row in segments],
                found["finished"],
            )
            state = found["source"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return record if self._state() in (None, state) else None

    def write(self, record: Record) -> None:
        """Write the record, whole or not at all."""
        row = {"source": self._state(), **asdict(record)}
        write_atomic(self._path, json.dumps(row, ensure_ascii=False))

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

    @property
    def _path(self) -> Path:
        return self.out / ".prepare" / f"{self.source.id}.json"

    def _state(self) -> list[int] | None:
        files = [self.source.path, *([self.source.sound] if self.source.sound else [])]
        try:
            stats = [os.stat(file) for file in files]
        except OSError:
            return None
        return [value for stat in stats for value in (stat.st_size, stat.st_mtime_ns)]


def read_entry(row: Mapping[str, Any]) -> Entry:
    """An entry from its JSON object."""
    return Entry(**_typed(row))


def _typed(row: Mapping[str, Any]) -> dict[str, Any]:
    fields = {key: value for key, value in row.items() if key != "look"}
    preview = row["preview"] if "preview" in row else row["look"]  # its name in older records
    if preview is not None:
        boxes = tuple(tuple(box) for box in preview["boxes"])
        square = preview["square"] and Square(**preview["square"])
        preview = Preview(preview["frame"], boxes, square)
    return {**fields, "notes": tuple(row["notes"]), "preview": preview}
