"""Contact sheets of a prepared data set: what was kept, what was not, and why."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from thbench.core.errors import UserError
from thbench.core.files import replacing
from thbench.core.types import FPS
from thbench.data.media import video
from thbench.data.prepare.job import KEPT, Entry

COLUMNS, ROWS = 8, 5
TILE, TEXT, EDGE = 176, 46, 6
LINES, WIDTH = 3, 33
GOOD, PART, BAD = (30, 140, 60), (200, 130, 0), (190, 30, 30)
PAPER, INK, FACE, OTHER_FACE, CUT_OUT = "white", "black", (60, 220, 90), (150, 150, 150), "yellow"


def write_sheets(root: Path, entries: Sequence[Entry], progress: bool = True) -> list[Path]:
    """Draw a tile for each entry: a raw frame with the faces found, the crop, and the outcome.

    Green names are of videos that were kept whole, amber ones of parts, red ones of what was left
    out. In the frame the chosen face is green, others are grey, the crop is yellow.

    Args:
        root: the data set, where ``sheet-01.jpg`` and so on are written.
        entries: of its report.
        progress: show a bar.

    Returns:
        The files. Older sheets are removed.
    """
    for old in root.glob("sheet-*.jpg"):
        old.unlink()
    pages: list[Path] = []
    starts = range(0, len(entries), COLUMNS * ROWS)
    for start in tqdm(starts, "sheet", unit="page", disable=None if progress else True):
        tiles = [_tile(entry) for entry in entries[start : start + COLUMNS * ROWS]]
        pages.append(root / f"sheet-{len(pages) + 1:02d}.jpg")
        with replacing(pages[-1]) as temporary:
            _page(tiles).save(temporary, "JPEG", quality=88)
    return pages


def _page(tiles: Sequence[Image.Image]) -> Image.Image:
    rows = -(-len(tiles) // COLUMNS)
    width, height = TILE + EDGE, TILE + TEXT + EDGE
    page = Image.new("RGB", (COLUMNS * width + EDGE, rows * height + EDGE), PAPER)
    for k, tile in enumerate(tiles):
        page.paste(tile, (EDGE + k % COLUMNS * width, EDGE + k // COLUMNS * height))
    return page


def _tile(entry: Entry) -> Image.Image:
    tile = Image.new("RGB", (TILE, TILE + TEXT), PAPER)
    thumbnail = _thumbnail(entry)
    if thumbnail is None:
        ImageDraw.Draw(tile).rectangle((0, 0, TILE - 1, TILE - 1), fill=(225, 225, 225))
    else:
        tile.paste(thumbnail, ((TILE - thumbnail.width) // 2, (TILE - thumbnail.height) // 2))
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(10)
    colour = BAD if not entry.is_clip else GOOD if entry.outcome == KEPT else PART
    for k, line in enumerate(_caption(entry)):
        draw.text((0, TILE + 2 + 14 * k), line, colour if not k else INK, font)
    return tile


def _caption(entry: Entry) -> list[str]:
    name = entry.id if len(entry.id) <= WIDTH else f"…{entry.id[1 - WIDTH :]}"
    when = ""
    if entry.start is not None and entry.outcome != KEPT:
        when = f" {entry.start / FPS:.1f}-{(entry.stop or entry.start) / FPS:.1f} s"
    said = entry.reason or "; ".join(entry.notes)
    text = f"{entry.outcome}{when}{': ' if said else ''}{said}"
    return [name, *textwrap.wrap(text, WIDTH, max_lines=LINES - 1, placeholder=" …")]


def _thumbnail(entry: Entry) -> Image.Image | None:
    """A frame of the raw video, reduced to a tile; None where it cannot be read."""
    preview = entry.preview
    frame = preview.frame if preview else ((entry.start or 0) + (entry.stop or 0)) // 2
    try:
        found = video.frame_at(entry.path, frame / FPS)
    except UserError:
        return None
    thumbnail = Image.fromarray(np.ascontiguousarray(found.permute(1, 2, 0).numpy()))
    share = TILE / max(thumbnail.size)
    thumbnail = thumbnail.resize([max(1, round(side * share)) for side in thumbnail.size])
    draw = ImageDraw.Draw(thumbnail)
    if preview is not None:
        for k, box in reversed(list(enumerate(preview.boxes))):
            corners = [round(v * share) for v in box]
            draw.rectangle(corners, outline=OTHER_FACE if k else FACE)
        if preview.square is not None:
            x, y, side = (
                round(v * share) for v in (preview.square.x, preview.square.y, preview.square.side)
            )
            draw.rectangle((x, y, x + side - 1, y + side - 1), outline=CUT_OUT)
    return thumbnail
