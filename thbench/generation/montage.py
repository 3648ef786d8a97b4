"""Several videos of one clip beside each other, with the sound of the first."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from thbench.core.console import rank_zero_print
from thbench.core.errors import UserError
from thbench.data.media import audio, video

CHUNK = 32
"""Frames of each video that are in memory at a time."""
INK, PAPER = 32, 255


def montage(
    videos: Mapping[str, Path],
    out: Path,
    *,
    height: int = 192,
    columns: int | None = None,
    note: str = "",
) -> int:
    """Write videos as one, in rows of tiles with their titles, in step and with sound.

    Args:
        videos: files of any size and frame rate, by title. The first's sound is taken, or none
            where it has none.
        out: the mp4.
        height: of a tile's picture, in pixels; an even number.
        columns: tiles in a row; by default about twice as many as rows.
        note: a line below all of them.

    Returns:
        Frames written, at 25 per second: as many as the shortest video has, which is said where
        others are longer.

    Raises:
        UserError: no video, one that cannot be read, or sizes that cannot be.
    """
    if not videos:
        raise UserError("Name at least one video.")
    if height < 16 or height % 2:
        raise UserError(f"A tile's height must be an even number, 16 or more, not {height}.")
    if columns is None:
        columns = math.ceil(math.sqrt(2 * len(videos)))
    if columns < 1:
        raise UserError(f"columns must be 1 or more, not {columns}.")
    first = next(iter(videos.values()))
    try:
        waveform = audio.load(first)
    except audio.NoAudioError:
        waveform = None
    streams = [video.stream(path, CHUNK) for path in videos.values()]
    tags = {"synthetic": "true", "shows": "; ".join(videos)}
    written, uneven = 0, False
    with ExitStack() as stack:
        writer: video.VideoWriter | None = None
        for parts in zip_longest(*streams):
            lengths = [0 if part is None else len(part) for part in parts]
            n, uneven = min(lengths), min(lengths) < max(lengths)
            if n:
                page = _page(list(videos), [_fitted(part[:n], height) for part in parts], columns)
                if note:
                    strip = _title(note, page.shape[-1], page.shape[-1] // columns)
                    page = torch.cat([page, strip.expand(n, -1, -1, -1)], dim=-2)
                if writer is None:
                    size = page.shape[-2:]
                    writer = video.VideoWriter(out, *size, waveform=waveform, metadata=tags)
                    stack.enter_context(writer)
                writer.write(page)
                written += n
            if uneven:
                break
    if uneven:
        rank_zero_print(f"{out} ends with the shortest of its videos, after {written} frames.")
    return written


def _fitted(frames: Tensor, height: int) -> Tensor:
    """Frames (n, 3, H, W) uint8 at a height, with an even width."""
    width = 2 * round(height * frames.shape[-1] / frames.shape[-2] / 2)
    return vision.resize(frames.contiguous(), [height, width], antialias=True)


def _page(titles: Sequence[str], tiles: Sequence[Tensor], columns: int) -> Tensor:
    """Tiles (n, 3, h, w) under their titles, in rows: (n, 3, H, W), white where nothing is."""
    n = len(tiles[0])
    whole = [
        torch.cat([_title(title, tile.shape[-1]).expand(n, -1, -1, -1), tile], dim=-2)
        for title, tile in zip(titles, tiles, strict=True)
    ]
    high = max(tile.shape[-2] for tile in whole)
    whole = [F.pad(tile, (0, 0, high - tile.shape[-2], 0), value=PAPER) for tile in whole]
    rows = [
        torch.cat(whole[start : start + columns], dim=-1) for start in range(0, len(whole), columns)
    ]
    width = max(row.shape[-1] for row in rows)
    return torch.cat([F.pad(row, (0, width - row.shape[-1]), value=PAPER) for row in rows], dim=-2)


@functools.cache
def _title(text: str, width: int, tile: int | None = None) -> Tensor:
    """A line (1, 3, h, width) uint8 with the text, made smaller until it fits.

    Its size follows the width of a ``tile``, by default its own.
    """
    largest = max(10, (tile or width) // 11)
    for size in range(largest, 6, -1):
        font = ImageFont.load_default(size=size)
        left, top, right, bottom = font.getbbox(text)
        if right - left <= width - 4:
            break
    strip = Image.new("RGB", (width, 2 * (largest * 3 // 4)), (PAPER,) * 3)
    place = ((width - right - left) / 2, (strip.height - bottom - top) / 2)
    ImageDraw.Draw(strip).text(place, text, (INK,) * 3, font)
    return torch.from_numpy(np.array(strip)).permute(2, 0, 1)[None]
