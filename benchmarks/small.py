"""What DAWN has learned at the small scale, on people it has never seen.

    python -m benchmarks.small [--clips 40] [--frames 100] [--split test] [key=value ...]

Each test clip is generated from its portrait and audio with DAWN's own motion (PBNet) and with the
clip's motion given, each with its own audio and with another clip's. What the frames show is read
by ``synthetic-face`` (mouth, head, lids) and by Face Mesh (is there a face, does it blink), and
compared with what was planted, within clips. The trivial rows are the portrait held still, the
ground truth at the model's size, its reconstruction by the latent flow generator, and a ridge
regression from a frame of log-mel to the opening. Uses the weights that ``generate`` would use.
Resumable by row. Writes ``small.json``, ``small.md``, ``strips.png`` and ``sheet.png`` to
``--report``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision
from torchvision.utils import save_image
from tqdm import tqdm

from benchmarks.held_out import amplitude, correlation, generate, mouth, psnr, readings, table
from metrics.blink import blink_rate
from thbench import config
from thbench.core.files import write_atomic
from thbench.core.types import FPS, Request, to_uint8, to_unit
from thbench.data import manifest
from thbench.data.face import landmarks
from thbench.data.store import Store
from thbench.dawn.dawn import DAWN
from thbench.generation import assemble
from thbench.generation.requests import SplitRequests

MESH = 256
"""Face Mesh is shown frames at this size, whatever the model's."""
HEAD = ("yaw", "pitch", "roll")
KEYS = (
    *("mouth r", "amplitude", "yaw r", "pitch r", "roll r"),
    *("blink r", "blinks/s", "PSNR", "face found"),
)
ROWS = (
    *("ground truth", "still portrait", "reconstruction"),
    *("own motion", "own motion, another's audio", "given motion", "given motion, another's audio"),
)
PEOPLE = 4
"""On the strips and the sheet."""
MOMENTS = 10
"""Frames of a strip."""


@dataclass(frozen=True)
class Case:
    """A test clip.

    Attributes:
        request: with the clip's motion.
        other: another clip's audio, (T, D).
        film: the ground truth at the model's size, (T, 3, H, W) uint8.
        planted: what the renderer was told, by name, (T,) or (T, 3).
    """

    request: Request
    other: Tensor
    film: Tensor
    planted: dict[str, np.ndarray]


def main(argv: Sequence[str] | None = None) -> None:
    """Generate, read, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--report", default="docs/small", help="the page's folder")
    parser.add_argument("--clips", type=int, default=40, help="test clips")
    parser.add_argument("--frames", type=int, default=100, help="of each clip")
    parser.add_argument("--split", default="test", help="val while looking for a recipe")
    parser.add_argument("--rows", nargs="*", default=ROWS, choices=ROWS, metavar="ROW")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the strategy dawn")
    given = parser.parse_args(argv)
    folder = Path(given.report)
    folder.mkdir(parents=True, exist_ok=True)
    loaded = config.load("dawn", ["scale=small", *given.overrides])
    assembled = assemble.assemble(loaded)
    strategy = assembled.strategy
    assert isinstance(strategy, DAWN)
    kept = folder / "small.json"
    # Rows of another question, recipe or weights are measured anew.
    asked = {"clips": given.clips, "frames": given.frames, "split": given.split}
    asked["run"] = assembled.run
    known = json.loads(kept.read_text()) if kept.is_file() else {}
    rows: dict[str, dict[str, list[float]]] = known["rows"] if known.get("asked") == asked else {}
    clips = list(cases(loaded, given.split, given.clips, given.frames))
    for name in given.rows:
        if name in rows:
            continue
        found = [figures(case, make(strategy, name, case)) for case in tqdm(clips, name)]
        rows[name] = {key: [figure[key] for figure in found] for key in KEYS}
        write_atomic(kept, json.dumps({"asked": asked, "rows": rows}, indent=1) + "\n")
    heard = ridge(loaded, clips)
    write_atomic(folder / "small.md", page(rows, asked, heard, chance(clips)))
    show(strategy, clips[:PEOPLE], folder)


def cases(loaded: config.Config, split: str, clips: int, frames: int) -> Iterator[Case]:
    """The first clips of a split."""
    root = Path(loaded.data.root)
    asked = SplitRequests(loaded.data, split, loaded.size, limit=clips, frames=frames, follow=True)
    truths = {clip.id: clip.extra["truth"] for clip in manifest.read(root)}
    store = Store(root, split, loaded.size, loaded.data.audio, cache_gb=0)
    places = {clip.id: i for i, clip in enumerate(store.clips)}
    requests = [asked[i] for i in range(len(asked))]
    for request, other in zip(requests, [*requests[1:], requests[0]], strict=True):
        n = request.n_frames
        with np.load(root / truths[request.id]) as truth:
            planted = {key: truth[key][:n] for key in ("mouth", "closure", "pose")}
        film = store.frames(places[request.id], np.arange(n))
        yield Case(request, other.audio[:n], film, planted)


def make(strategy: DAWN, row: str, case: Case) -> Tensor:
    """The video (T, 3, H, W) uint8 of a row."""
    request, film = case.request, case.film
    if row == "ground truth":
        return film
    if row == "still portrait":
        return film[:1].expand_as(film)
    if row == "reconstruction":
        frames = to_unit(film)
        with torch.inference_mode():
            source = strategy.lfg.encode(frames[:1])
            return to_uint8(strategy.lfg.decode(source, *strategy.lfg.flow(frames[:1], frames)))
    if row.startswith("own motion"):
        request = replace(request, pose=None, eyes=None)
    if row.endswith("another's audio"):
        request = replace(request, audio=case.other)
    return generate(strategy, request)


def figures(case: Case, video: Tensor) -> dict[str, float]:
    """What a video shows against what was planted; NaN where there is nothing to compare."""
    read, planted = readings(video), case.planted
    seen = landmarks.track(vision.resize(video, [MESH, MESH], antialias=True))
    heads = {
        f"{name} r": correlation(read[name], planted["pose"][:, k]) for k, name in enumerate(HEAD)
    }
    blinks = planted["closure"].max() > 0.5
    return {
        "mouth r": correlation(read["mouth"], planted["mouth"]),
        "amplitude": amplitude(read["mouth"], mouth(case.film)),
        **heads,
        "blink r": correlation(read["closure"], planted["closure"]) if blinks else float("nan"),
        "blinks/s": blink_rate(seen.eyes.mean(1), seen.valid, fps=FPS),
        "PSNR": psnr(to_unit(video), to_unit(case.film)),
        "face found": float(seen.valid.mean()),
    }


def ridge(loaded: config.Config, clips: Sequence[Case], every: int = 4) -> float:
    """Mean r of a linear reading of the opening from one frame of audio, on these clips.

    Fitted on every ``every``-th frame of the training people.
    """
    root = Path(loaded.data.root)
    store = Store(root, "train", loaded.size, loaded.data.audio, cache_gb=0)
    heard, wanted = [], []
    for i, clip in enumerate(store.clips):
        frames = np.arange(0, clip.n_frames, every)
        heard.append(store.audio_features(i, frames))
        with np.load(root / clip.extra["truth"]) as truth:
            wanted.append(truth["mouth"][frames])
    x, y = np.concatenate(heard).astype(np.float64), np.concatenate(wanted)
    mean, size = x.mean(0), x.std(0) + 1e-6
    z = np.c_[(x - mean) / size, np.ones(len(x))]
    weights = np.linalg.solve(z.T @ z + 1e-2 * len(z) * np.eye(z.shape[1]), z.T @ y)
    found = []
    for case in clips:
        audio = (case.request.audio.numpy() - mean) / size
        opening = np.c_[audio, np.ones(len(audio))] @ weights
        found.append(correlation(opening, case.planted["mouth"]))
    return float(np.mean(found))


def chance(clips: Sequence[Case]) -> float:
    """Mean r of the openings planted in a clip and in the one whose audio it is made with."""
    mouths = [case.planted["mouth"] for case in clips]
    pairs = zip(mouths, [*mouths[1:], mouths[0]], strict=True)
    return float(np.mean([correlation(one, other) for one, other in pairs]))


def page(
    rows: dict[str, dict[str, list[float]]], asked: dict[str, Any], heard: float, shared: float
) -> str:
    """The page: means over clips."""
    body = [
        [name, *(f"{np.nanmean(rows[name][key]):.2f}" for key in KEYS)]
        for name in ROWS
        if name in rows
    ]
    lines = [
        "# DAWN at the small scale",
        "",
        f"{asked['clips']} clips of {asked['frames']} frames of {asked['split']} people. r is"
        " within clips, with what was planted; amplitude is the mouth's standard deviation over"
        " that read in the true frames; PSNR in dB without the first frame"
        " (100 where frames are the same). A ridge regression from"
        f" one frame of log-mel to the planted opening reaches r {heard:.2f} on them. All clips"
        f" begin with a closed mouth and speak in phrases, so the openings planted in a clip and in"
        f" the one whose audio it is made with have r {shared:.2f} themselves.",
        "",
        *table([["", *KEYS], *body]),
        "",
        "![mouths of four people: own audio, another's audio, ground truth](strips.png)",
        "",
        "![contact sheet: portrait, generated, ground truth](sheet.png)",
        "",
        "Made by `python -m benchmarks.small`; synthetic faces, one seed.",
        "",
    ]
    return "\n".join(lines)


def show(strategy: DAWN, clips: Sequence[Case], folder: Path) -> None:
    """Strips of mouths (own audio, another's audio, ground truth), and a sheet of whole frames."""
    strips, sheet = [], []
    for case in clips:
        names = ("own motion", "own motion, another's audio", "ground truth")
        videos = [make(strategy, name, case) for name in names]
        given = make(strategy, "given motion", case)
        moments = np.linspace(5, len(case.film) - 5, MOMENTS).round().astype(int)
        strips += [
            _lower_face(video[t]) for video in videos for t in range(30, 30 + 2 * MOMENTS, 2)
        ]
        sheet += [video[t] for video in (given, case.film) for t in moments]
    save_image(_enlarged(strips, 3), folder / "strips.png", nrow=MOMENTS, padding=1)
    save_image(_enlarged(sheet, 2), folder / "sheet.png", nrow=MOMENTS, padding=1)


def _lower_face(frame: Tensor) -> Tensor:
    """A frame's middle from the eyes down."""
    size = frame.shape[-1]
    return frame[:, size * 3 // 8 : size * 15 // 16, size * 3 // 16 : size * 13 // 16]


def _enlarged(frames: Sequence[Tensor], times: int) -> Tensor:
    shown = torch.stack(list(frames)).float() / 255
    return shown.repeat_interleave(times, -2).repeat_interleave(times, -1)


if __name__ == "__main__":
    main()
