"""The list of a data set's clips: ``manifest.jsonl``, one ``core.types.Clip`` per line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from thbench.config import made_by
from thbench.core.errors import UserError
from thbench.core.files import write_atomic
from thbench.core.types import Clip
from thbench.data.listing import unfit

NAME = "manifest.jsonl"
SPLITS = ("train", "val", "test")
RECIPE = "recipe"
"""Key of a synthetic clip's ``extra``: a hash of all that it is made from."""
SILENT = "silent"
"""Key of the ``extra`` of a clip whose recording has no sound: true."""
_TYPES: dict[str, type] = {
    "id": str,
    "identity": str,
    "split": str,
    "n_frames": int,
    "video": str,
    "track": str,
    "sha256": str,
    "extra": dict,
}


def read(root: str | Path) -> list[Clip]:
    """The clips of a prepared data set, in the file's order.

    Raises:
        UserError: there is no manifest, a line is no clip (with its number), or an id comes twice.
    """
    path = Path(root) / NAME
    if not path.is_file():
        raise UserError(
            f"{root} is no prepared data set: {NAME} is missing. Run"
            f" `{made_by(str(root)) or 'thbench data prepare'}`."
        )
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: prepare the data set again.") from error
    clips: dict[str, Clip] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        clip = _parse(line, f"{path}:{number}")
        if clip.id in clips:
            raise UserError(f"{path}:{number}: the id '{clip.id}' comes twice.")
        clips[clip.id] = clip
    if not clips:
        raise UserError(f"{path} lists no clips. Prepare the data set again.")
    return list(clips.values())


def people(root: str | Path) -> dict[str, tuple[str, str]]:
    """Identity and split of each clip by its id; empty where there is no valid manifest."""
    try:
        return {clip.id: (clip.identity, clip.split) for clip in read(root)}
    except UserError:
        return {}


def is_synthetic(root: str | Path) -> bool:
    """Whether a prepared data set is synthetic: its clips' rows name their ground truth.

    False where there is no manifest, as in any folder of videos.
    """
    if not (Path(root) / NAME).is_file():
        return False
    return any("truth" in clip.extra for clip in read(root))


def is_silent(clip: Clip) -> bool:
    """Whether a clip has no sound: its mp4 has no audio track, and it has no embeddings."""
    return clip.extra.get(SILENT) is True


def write(root: str | Path, clips: Iterable[Clip]) -> None:
    """Write the manifest, sorted by id, whole or not at all.

    Raises:
        ValueError: an id comes twice, or a split has an unknown name.
        UserError: the disk does not take the file.
    """
    ordered = sorted(clips, key=lambda clip: clip.id)
    if len({clip.id for clip in ordered}) < len(ordered):
        raise ValueError("ids of clips must be unique")
    if strange := {clip.split for clip in ordered} - set(SPLITS):
        raise ValueError(f"splits must be among {SPLITS}, not {sorted(strange)}")
    text = "".join(json.dumps(asdict(clip), ensure_ascii=False) + "\n" for clip in ordered)
    write_atomic(Path(root) / NAME, text)


def digest(root: str | Path) -> str:
    """Hex digest of what determines training: ids, identities, splits, lengths, hashes.

    It does not depend on the order of lines, nor on where the data set lies. A synthetic clip
    counts by what it is rendered from, not by its bytes: matrix products round otherwise on
    another processor, so that single pixels are a grey level off and the file is another one.
    """
    rows = sorted([c.id, c.identity, c.split, c.n_frames, _content(c)] for c in read(root))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _content(clip: Clip) -> str:
    recipe = clip.extra.get(RECIPE) if "truth" in clip.extra else None
    return str(recipe or clip.sha256)


def _parse(line: str, where: str) -> Clip:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:  # numbers of any length, brackets of any depth
        raise UserError(f"{where}: this is not JSON ({getattr(error, 'msg', error)}).") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: a clip is a JSON object.")
    known = {field.name for field in fields(Clip)}
    missing, strange = known - {"extra"} - set(row), set(row) - known
    if missing or strange:
        what = f"lacks {sorted(missing)}" if missing else f"has unknown keys {sorted(strange)}"
        raise UserError(f"{where}: the clip {what}.")
    for key, value in row.items():
        if not isinstance(value, _TYPES[key]) or isinstance(value, bool):
            raise UserError(f"{where}: '{key}' must be {_TYPES[key].__name__}, not {value!r}.")
        if isinstance(value, str) and (fault := unfit(value)):
            raise UserError(f"{where}: '{key}' holds {fault}: rename it, and prepare it again.")
    if row["split"] not in SPLITS:
        raise UserError(
            f"{where}: 'split' must be one of {', '.join(SPLITS)}, not '{row['split']}'."
        )
    if row["n_frames"] < 1:
        raise UserError(f"{where}: 'n_frames' must be positive.")
    for key in ("video", "track"):
        if Path(row[key]).is_absolute() or ".." in Path(row[key]).parts:
            raise UserError(f"{where}: '{key}' must be a path inside the data set.")
    return Clip(**row)
