"""One video's way into a prepared data set, and the record that is kept of it.

``<out>/.prepare/<id>.json`` is written after every piece, so that a run that was killed goes on
behind the last piece that it finished.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from thbench.contracts import Clip
from thbench.data.crop import Square
from thbench.data.embeddings import kind_of
from thbench.data.files import replacing, write_atomic
from thbench.errors import UserError


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


@dataclass
class Record:
    """What became of one video.

    Attributes:
        clips: what it gave.
        rejected: what of it was left out.
        squares: where each piece is cut, by its id, or why it is not; None before that is known.
        finished: nothing is left to try. False while it is worked on, and after an error that
            says nothing about the video; the next run then goes on with it.
    """

    clips: list[Clip] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    squares: dict[str, Square | str] | None = None
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
        """The encoders whose embedding of the clip is not there."""
        return [name for name in self.encoders if not self.embedding(name, clip.id).is_file()]

    def embedding(self, encoder: str, clip_id: str) -> Path:
        return self.out / "audio" / kind_of(encoder) / f"{clip_id}.npy"

    def forget_embeddings(self, clip_id: str) -> None:
        """Delete what any encoder heard in an earlier state of the video."""
        for folder in (self.out / "audio").glob("*/"):
            (folder / f"{clip_id}.npy").unlink(missing_ok=True)

    def read(self) -> Record | None:
        """The record, with the split and labels of now; None if there is none.

        A record of a video that has changed since counts as none. A video that is gone is taken
        to be as it was.
        """
        try:
            found: dict[str, Any] = json.loads(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        if self._state() not in (None, found["source"]):
            return None
        mine = {"identity": self.source.identity, "split": self.source.split}
        squares = found["squares"] and {
            name: Square(**at) if isinstance(at, dict) else at
            for name, at in found["squares"].items()
        }
        return Record(
            [Clip(**{**row, **mine}) for row in found["clips"]],
            [Rejection(**row) for row in found["rejected"]],
            squares,
            found["finished"],
        )

    def keep(self, record: Record) -> None:
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
        try:
            stat = os.stat(self.source.path)
        except OSError:
            return None
        return [stat.st_size, stat.st_mtime_ns]
