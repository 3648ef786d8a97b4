"""Writes generated videos with their records, so that an interrupted run can be resumed.

Beside each ``<id>.mp4`` stands its record ``<id>.json``: what it cost, its seed, its run and the
hash of the mp4. A clip is done when both are there and agree.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from tqdm import tqdm

from thbench.core.errors import UserError
from thbench.core.files import sha256, write_atomic
from thbench.core.hardware import hardware
from thbench.core.types import Generation
from thbench.data.media.video import VideoWriter

MARK = "AI-generated"


class ClipWriter:
    """Writes the clips of one run: ``seed-<seed>/<id>.mp4`` and its record.

    Args:
        out: the folder.
        strategy: its name, put into each file.
        run: names what determines the videos; a video of another run is generated again.
        watermark: draw a visible mark into each frame.
    """

    def __init__(self, out: Path, strategy: str, run: str, watermark: bool = False) -> None:
        self.out, self.strategy, self.run, self.watermark = out, strategy, run, watermark
        self.written = 0

    def path(self, clip_id: str, seed: int) -> Path:
        """Where the clip of that id and seed lies."""
        return self.out / f"seed-{seed}" / f"{clip_id}.mp4"

    def is_done(self, clip_id: str, seed: int) -> bool:
        """Whether this run has written that clip whole."""
        path = self.path(clip_id, seed)
        record = read_record(path)
        if record is None or record.get("run") != self.run or not path.is_file():
            return False
        return bool(record.get("sha256") == sha256(path))

    def __call__(self, generation: Generation, device: torch.device | str) -> None:
        """Consume a generation and write it; its record, which makes it count as done, comes last.

        Raises:
            UserError: a file cannot be written.
        """
        request = generation.request
        path = self.path(request.id, request.seed)
        # A record of an earlier run must not vouch for a video that is being replaced.
        _record_path(path).unlink(missing_ok=True)
        tags = tags_of(self.strategy, self.run, request.seed)
        write_video(path, generation, tags, self.watermark)
        record = {
            "id": request.id,
            "seed": request.seed,
            "strategy": self.strategy,
            "run": self.run,
            "frames": request.n_frames,
            "sha256": sha256(path),
            "cost": asdict(generation.cost),
            "hardware": hardware(device),
            # The first clip of a session also pays for warming up.
            "warm": self.written > 0,
        }
        write_atomic(_record_path(path), json.dumps(record) + "\n")
        self.written += 1


def read_record(video: Path) -> dict[str, Any] | None:
    """The record of a generated video; None where there is none that can be read."""
    try:
        record = json.loads(_record_path(video).read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def write_video(
    path: Path,
    generation: Generation,
    tags: Mapping[str, str],
    watermark: bool = False,
    *,
    progress: bool = False,
) -> None:
    """Write a generation with its audio; the file appears whole or not at all.

    Raises:
        UserError: the file cannot be written.
        RuntimeError: the generation has another number of frames than requested.
    """
    chunks = iter(generation.chunks)
    first = next(chunks, None)
    wanted = generation.request.n_frames
    if first is None:
        raise RuntimeError(f"no frame was generated of the {wanted} requested")
    waveform = generation.request.waveform.cpu().numpy()
    height, width = first.shape[-2:]
    count = 0
    with (
        VideoWriter(path, height, width, waveform=waveform, metadata=tags) as writer,
        tqdm(total=wanted, unit="frame", disable=None if progress else True) as bar,
    ):
        for chunk in itertools.chain([first], chunks):
            writer.write(mark(chunk) if watermark else chunk)
            bar.update(len(chunk))
            count += len(chunk)
        if count != wanted:
            raise RuntimeError(f"{count} frames were generated of the {wanted} requested")


def tags_of(strategy: str, run: str, seed: int) -> dict[str, str]:
    """Metadata of a file: that the video is synthetic, and what generated it."""
    return {
        "synthetic": "true",
        "strategy": strategy,
        "run": run,
        "seed": str(seed),
        "generator": f"thbench {metadata.version('thbench')}",
    }


def mark(frames: Tensor) -> Tensor:
    """Frames (n, 3, H, W) uint8 with the words "AI-generated" in the lower right corner."""
    opacity = _mark_of(frames.shape[-2], frames.shape[-1])
    ground, text = opacity[0], opacity[1]
    shaded = frames.float() * (1 - 0.5 * ground)
    return (shaded * (1 - text) + 255 * text).round().to(torch.uint8)


def _record_path(video: Path) -> Path:
    # The id may hold dots, so the suffix is cut, not replaced from the last dot of the id.
    return video.parent / f"{video.name.removesuffix('.mp4')}.json"


@functools.lru_cache(maxsize=4)
def _mark_of(height: int, width: int) -> Tensor:
    """(2, H, W) in [0, 1]: where the mark's ground and its letters are."""
    font = ImageFont.load_default(size=max(9, height // 18))
    ground, text = (Image.new("L", (width, height)) for _ in range(2))
    left, top, right, bottom = ImageDraw.Draw(text).textbbox((0, 0), MARK, font=font)
    x, y = width - right - 3, height - bottom - 3
    if x < 0 or y + top < 0:
        raise UserError(f"Frames of {width}x{height} are too small for a watermark.")
    ImageDraw.Draw(text).text((x, y), MARK, 255, font)
    box = (x + left - 2, y + top - 2, x + right + 2, y + bottom + 2)
    ImageDraw.Draw(ground).rectangle(box, 255)
    return torch.from_numpy(np.stack([np.array(ground), np.array(text)])).float() / 255
