"""Makes the videos of a split, one by one, so that an interrupted run goes on where it stopped.

Beside each ``<id>.mp4`` stands ``<id>.json``, one line: what it cost, its seed, its run and the
hash of the mp4. A clip is done when both are there and agree.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from tqdm import tqdm

from thbench.contracts import Generation, Request
from thbench.data.files import sha256
from thbench.data.video import VideoWriter
from thbench.errors import UserError
from thbench.results import CostSummary, write_atomic

MARK = "AI-generated"


def clip_path(out: Path, clip_id: str, seed: int) -> Path:
    """Where the clip of that id and seed lies: ``seed-<seed>/<id>.mp4``."""
    return out / f"seed-{seed}" / f"{clip_id}.mp4"


def is_done(out: Path, clip_id: str, seed: int, run: str) -> bool:
    """Whether that clip has been made whole by that run."""
    path = clip_path(out, clip_id, seed)
    record = read_record(path)
    if record is None or record.get("run") != run or not path.is_file():
        return False
    return bool(record.get("sha256") == sha256(path))


def read_record(video: Path) -> dict[str, Any] | None:
    """The line beside a generated video; None where there is none that can be read."""
    try:
        record = json.loads(_record_path(video).read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def generate_split(
    strategy: str,
    requests: Iterable[Request],
    out: Path,
    generate: Callable[[Request], Generation],
    *,
    run: str,
    device: torch.device | str = "cpu",
    watermark: bool = False,
    total: int | None = None,
    progress: bool = True,
) -> list[Path]:
    """Make a video for each request, skipping those that are done.

    Args:
        strategy: its name, put into each file.
        requests: may be lazy; they are made in this order.
        out: the folder, one subfolder per seed.
        generate: such as ``Strategy.generate``.
        run: names what determines the videos; a video of another run is made again.
        device: on which ``generate`` runs, for the record.
        watermark: draw a visible mark into each frame.
        total: number of requests, for the progress bar.
        progress: show one.

    Returns:
        The videos' paths, in the order of the requests.

    Raises:
        UserError: a file cannot be written.
    """
    paths = []
    where = hardware(device)
    made = 0
    for request in tqdm(requests, "generate", total, unit="clip", disable=not progress):
        path = clip_path(out, request.id, request.seed)
        paths.append(path)
        if is_done(out, request.id, request.seed, run):
            continue
        # A line of an earlier run must not vouch for a video that is being replaced.
        _record_path(path).unlink(missing_ok=True)
        generation = generate(request)
        write_video(path, generation, tags_of(strategy, run, request.seed), watermark)
        write_record(path, strategy, run, generation, hardware=where, warm=made > 0)
        made += 1
    return paths


def write_record(
    video: Path, strategy: str, run: str, generation: Generation, *, hardware: str, warm: bool
) -> None:
    """Write the line beside a finished video, which makes it count as done.

    Args:
        video: the mp4, whole.
        strategy: its name.
        run: names what determines the video.
        generation: consumed, so that its cost is complete.
        hardware: that it was made on.
        warm: it was not the first clip of its session, which also pays for warming up.
    """
    record = {
        "id": generation.request.id,
        "seed": generation.request.seed,
        "strategy": strategy,
        "run": run,
        "frames": generation.request.n_frames,
        "sha256": sha256(video),
        "cost": asdict(generation.cost),
        "hardware": hardware,
        "warm": warm,
    }
    write_atomic(_record_path(video), json.dumps(record) + "\n")


def write_video(
    path: Path,
    generation: Generation,
    tags: Mapping[str, str],
    watermark: bool = False,
    *,
    progress: bool = False,
) -> None:
    """Write a generation with its sound; the file appears whole or not at all.

    Raises:
        UserError: the file cannot be written.
        RuntimeError: the generation has another number of frames than was asked for.
    """
    chunks = iter(generation.chunks)
    first = next(chunks, None)
    wanted = generation.request.n_frames
    if first is None:
        raise RuntimeError(f"no frame was made of the {wanted} asked for")
    waveform = generation.request.waveform.cpu().numpy()
    height, width = first.shape[-2:]
    count = 0
    with (
        VideoWriter(path, height, width, waveform=waveform, metadata=tags) as writer,
        tqdm(total=wanted, unit="frame", disable=not progress) as bar,
    ):
        for chunk in itertools.chain([first], chunks):
            writer.write(mark(chunk) if watermark else chunk)
            bar.update(len(chunk))
            count += len(chunk)
        if count != wanted:
            raise RuntimeError(f"{count} frames were made of the {wanted} asked for")


def tags_of(strategy: str, run: str, seed: int) -> dict[str, str]:
    """Metadata that says of a video that it is synthetic, and whose."""
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


def costs(videos: Sequence[Path]) -> CostSummary | None:
    """What the videos cost, from the lines beside them; None where there are none."""
    records = [r for r in map(read_record, videos) if r and "cost" in r]
    timed = [r for r in records if r.get("warm")] or records
    if not timed:
        return None

    def mean(key: str) -> float:
        return fmean(float(r["cost"][key]) for r in timed)

    return CostSummary(
        seconds=mean("seconds"),
        first_frame=mean("first_frame"),
        frames=fmean(float(r["frames"]) for r in timed),
        calls=mean("calls"),
        evaluations=mean("evaluations"),
        hardware=" + ".join(sorted({str(r["hardware"]) for r in timed})),
        clips=len(timed),
    )


def hardware(device: torch.device | str = "cpu") -> str:
    """The device's name, for people."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {torch.get_num_threads()} of {os.cpu_count()} cores"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


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
