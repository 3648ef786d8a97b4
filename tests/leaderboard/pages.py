"""Made-up results with videos, for the tests of the page."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tests.leaderboard.rows import figure, result
from thbench.data.media.video import VideoWriter
from thbench.evaluation.results import (
    ClipRow,
    CostSummary,
    Coverage,
    Curve,
    PlanRef,
    WeightsRef,
    read_folder,
    write,
)

HOSTILE = "<img src=x onerror=alert(1)>"
CLIPS = ("a", "b'\"><svg onload=alert(2)>")
FRAMES = 50
BIN = 10
TITLES = {"dawn": "DAWN", "sar": "SAR", "evil": HOSTILE}
VALUES = {"dawn": (2.0, 30.0), "sar": (1.0, 31.0), "evil": (3.0, None)}
PLANS = {
    "dawn": PlanRef("nar"),
    "sar": PlanRef("sar", {"segment": 16, "overlap": 4}),
    "evil": PlanRef("no such plan"),
}


def video(path: Path, shade: int = 90, frames: int = FRAMES, size: int = 32, sound: bool = True):
    """A moving bar on grey; returns its path."""
    images = torch.full((frames, 3, size, size), shade, dtype=torch.uint8)
    for i in range(frames):
        images[i, :, :, i % size] = 255
    wave = 0.2 * np.sin(np.arange(frames * 640) / 9).astype(np.float32) if sound else None
    with VideoWriter(path, size, size, waveform=wave) as writer:
        writer.write(images)
    return path


def clip_row(clip, value, seed=0):
    over = tuple(value - k for k in range(FRAMES // BIN))
    metrics = {"FD": None, "PSNR": value, "Blink/s": 0.4}
    return ClipRow(clip, seed, FRAMES, (FRAMES, FRAMES), metrics, over_time={"PSNR": over})


def made(name, folder: Path, clips=CLIPS, **changes):
    """A result of clips of 2 s, whose videos lie in ``folder``."""
    fd, psnr = VALUES[name]
    metrics = {
        "FD": figure(fd, "lower"),
        "PSNR": figure(psnr, interval=psnr and (psnr - 1, psnr + 1), unit="dB"),
        "Blink/s": figure(0.4, "reference", reference=0.5),
        "Absent": figure(None, unavailable="get it"),
    }
    one = replace(
        result(name, metrics=metrics, **changes),
        strategy=name,
        title=TITLES[name],
        cost=CostSummary(2.0 * fd, 0.5, FRAMES, 10 * fd, 10, 500, "CPU", 1),
        coverage=Coverage(len(clips), len(clips), unreadable={f"bad {HOSTILE}": "no frames"}),
        weights={"net": WeightsRef("0123abcd", 700, True, "float16")},
        plan=PLANS[name],
        notes=(f"note {HOSTILE}",),
        over_time={"PSNR": Curve(BIN, (30.0, 29.0, 28.0, None, 27.0), (2, 2, 2, 2, 1), "higher")},
        per_clip=tuple(clip_row(clip, (psnr or 25.0) + i) for i, clip in enumerate(clips)),
        videos=str(folder / name),
        reference=str(folder / "truth"),
    )
    return one


def folder_of(tmp: Path, clips=CLIPS):
    """A folder of three results with their videos, and a table of smoke beside."""
    places = tmp / "videos"
    for i, clip in enumerate(clips):
        video(places / "truth" / f"{clip}.mp4", 60 + 40 * i)
        for k, name in enumerate(TITLES):
            shorter = 30 if name == "evil" else FRAMES
            video(places / name / "seed-0" / f"{clip}.mp4", 80 + 30 * k, shorter)
    for name in TITLES:
        write(made(name, places, clips), tmp / "results")
    smoke = replace(made("sar", places, clips, origin="smoke"), run="tiny", title="Tiny", videos="")
    write(smoke, tmp / "results")
    return tmp / "results"


def results_of(tmp: Path, **kwargs):
    return read_folder(folder_of(tmp, **kwargs))
