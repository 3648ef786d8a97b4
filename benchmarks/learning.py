"""Does DAWN learn? Held-out synthetic faces and speech, measured against the ground truth.

    python -m benchmarks.learning [--out runs/learning]

renders a data set, trains the tiny scale and, at several points of each stage, measures on test
identities that training never saw. Correlations are taken within clips and averaged: pooled over
clips, an untrained model scores through the portrait alone. Face Mesh reads the videos; mouth and
lids, of which it misses much in small images, are read once more by a net trained for such faces
(``synthetic-face``); the row "true frames" says what either can read at best. The truth comes from
the renderer. Resumable: run it again and it goes on. Writes ``learning.json``, ``learning.md``,
``learning.png`` and ``reconstructions.png`` to ``--report``.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision
from torchvision.utils import flow_to_image, save_image

from benchmarks.held_out import amplitude, correlation, generate, mouth, psnr
from metrics.extractors.synthetic import READS, SyntheticFace
from thbench import config
from thbench.core.files import write_atomic
from thbench.core.types import Clip, Track, to_uint8, to_unit
from thbench.data import manifest
from thbench.data.face import landmarks
from thbench.data.face.pose import mouth_opening
from thbench.data.store import Store
from thbench.data.synthetic.make import synthesize
from thbench.dawn.lfg import LatentFlowGenerator
from thbench.generation import assemble
from thbench.generation.requests import SplitRequests
from thbench.nn.warp import resize_to, warp_by_flow
from thbench.training import fit
from thbench.training.runs import load_net

SPLITS = {"train": 400, "val": 24, "test": 24}
SEED = 1  # of the data: people that no earlier recipe was chosen on
FRAMES = 60  # of a generated clip
SHOWN = 4  # people on the sheet of reconstructions
MESH = 256  # Face Mesh is shown frames at this size, whatever the model's
TARGETS = {
    "lfg": {"gain": 4.0, "mouth": 0.7, "yaw": 0.8, "blink": 0.5},
    "generated": {"yaw": 0.6, "pitch": 0.6, "roll": 0.6, "mouth": 0.3},
}


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", default="runs/learning", help="data, checkpoints and videos")
    parser.add_argument("--report", default="docs/learning", help="figures and page")
    parser.add_argument(
        "--clips", type=int, default=16, help="clips reconstructed; half are generated"
    )
    parser.add_argument("--split", default="test", help="val while looking for a recipe")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the strategy dawn")
    arguments = parser.parse_args(argv)
    out = Path(arguments.out)
    data = render(out, arguments.workers)
    words = ["scale=tiny", f"data={data}", f"runs={out}", *arguments.overrides]
    loaded = config.load("dawn", words)
    held_out = HeldOut(
        loaded, arguments.split, arguments.clips, Path(arguments.report) / "reconstructions.png"
    )
    held_out.sheet.parent.mkdir(parents=True, exist_ok=True)
    points = Points(out / f"points-{arguments.split}.json")
    for stage, (measure, shares) in STAGES.items():
        for share in shares:
            train_and_measure(held_out, stage, share, measure, points)
    if not points.find("truth", "", 0):
        points.add({"stage": "truth", "run": "", "step": 0, "figures": read_truth(held_out)})
    report(points, Path(arguments.report))


def render(out: Path, workers: int) -> Path:
    """The data set, below ``out``."""
    people = sum(SPLITS.values())
    synthesize(
        out / "data", identities=people, splits=SPLITS, workers=workers, seconds=4.0, seed=SEED
    )
    return out / "data"


@dataclass(frozen=True)
class HeldOut:
    """The bench, and whom it is measured on.

    Attributes:
        config: of the tiny scale.
        split: ``test``, or ``val`` while a recipe is looked for.
        clips: so many are reconstructed; half of them are generated.
        sheet: the image that shows reconstructions.
    """

    config: config.Config
    split: str
    clips: int
    sheet: Path


class Points:
    """What has been measured, by stage and step, kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []

    def find(self, stage: str, run: str, step: int) -> dict[str, Any] | None:
        """The row of that point, if it was measured."""
        same = [r for r in self.rows if (r["stage"], r["run"], r["step"]) == (stage, run, step)]
        return same[0] if same else None

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row."""
        self.rows.append(row)
        write_atomic(self.path, json.dumps(self.rows, indent=1) + "\n")


def train_and_measure(
    held_out: HeldOut,
    stage: str,
    share: float,
    measure: Callable[[HeldOut, str], dict[str, float]] | None,
    points: Points,
) -> None:
    """Bring a stage to a share of its steps, unless that point is known, and measure it."""
    loaded = held_out.config
    block = loaded.stages[stage]
    step = round(block.max_steps * share)
    run = fit.stage_run(loaded, stage)
    if points.find(stage, run.hash, step):
        return
    stages = {**loaded.stages, stage: replace(block, max_steps=step)}
    fit.fit(replace(loaded, stages=stages), only=stage)
    row: dict[str, Any] = {"stage": stage, "run": run.hash, "step": step}
    row["seconds"] = json.loads((run.folder / "stage.json").read_text())["seconds"]
    if measure is not None:
        row["figures"] = measure(held_out, stage)
        print(stage, step, {k: round(v, 3) for k, v in row["figures"].items()}, flush=True)
    points.add(row)


@torch.inference_mode()
def reconstruct(held_out: HeldOut, stage: str) -> dict[str, float]:
    """The latent flow generator alone: each clip from its first frame and its own motion."""
    loaded = held_out.config
    net = cast("LatentFlowGenerator", load_net(loaded, stage)[0])
    store = Store(
        Path(loaded.data.root), held_out.split, loaded.size, loaded.data.audio, cache_gb=0
    )
    made, gains, copies, looks = [], [], [], []
    chosen = range(min(held_out.clips, len(store.clips)))
    for i in chosen:
        frames = to_unit(store.frames(i, np.arange(store.clips[i].n_frames)))
        source = frames[:1]
        motion = net.flow(source, frames)
        rebuilt = net.decode(net.encode(source), *motion)
        copies.append(psnr(source.expand_as(frames), frames))
        gains.append(psnr(rebuilt, frames) - copies[-1])
        made.append(to_uint8(rebuilt))
        if i < SHOWN:
            looks += _look(store.clips[i], frames, rebuilt, motion, root=Path(loaded.data.root))
    save_image(looks, held_out.sheet, nrow=6)
    figures = {"psnr": float(np.mean(copies) + np.mean(gains)), "copy": float(np.mean(copies))}
    figures["gain"] = float(np.mean(gains))
    films = [store.frames(i, np.arange(store.clips[i].n_frames)) for i in chosen]
    return figures | agreement([store.clips[i].id for i in chosen], made, films, loaded)


def read_truth(held_out: HeldOut) -> dict[str, float]:
    """What is read from the true frames, at the model's size: no model can score more."""
    loaded = held_out.config
    store = Store(
        Path(loaded.data.root), held_out.split, loaded.size, loaded.data.audio, cache_gb=0
    )
    chosen = range(min(held_out.clips, len(store.clips)))
    films = [store.frames(i, np.arange(store.clips[i].n_frames)) for i in chosen]
    return agreement([store.clips[i].id for i in chosen], films, films, loaded)


def _look(
    clip: Clip, frames: Tensor, rebuilt: Tensor, motion: tuple[Tensor, Tensor], root: Path
) -> list[Tensor]:
    """Portrait, frame, reconstruction, warped portrait, occlusion and flow, at two moments."""
    with np.load(root / clip.extra["truth"]) as truth:
        moments = [int(truth[key][: len(frames)].argmax()) for key in ("mouth", "closure")]
    flow, occlusion = (resize_to(x, (frames.shape[-2], frames.shape[-1])) for x in motion)
    warped = warp_by_flow(frames[:1].expand_as(frames), flow)
    rows = [
        (frames[0], frames[t], rebuilt[t], warped[t], occlusion[t].expand(3, -1, -1),
         flow_to_image(flow[t]) / 255)
        for t in moments
    ]  # fmt: skip
    return [picture for row in rows for picture in row]


def follow(held_out: HeldOut, stage: str) -> dict[str, float]:
    """Whole clips from portrait, audio and given motion; the mouth again with another's audio."""
    loaded = held_out.config
    nets = {role: s for role, s in loaded.nets.items() if role != "pbnet"} | {"a2v": stage}
    strategy = assemble.assemble(replace(loaded, nets=nets)).strategy
    asked = SplitRequests(
        loaded.data,
        held_out.split,
        loaded.size,
        limit=held_out.clips // 2,
        frames=FRAMES,
        follow=True,
    )
    requests = [asked[i] for i in range(len(asked))]
    ids = [request.id for request in requests]
    films = [asked.store.frames(i, np.arange(r.n_frames)) for i, r in enumerate(requests)]
    figures = agreement(ids, [generate(strategy, r) for r in requests], films, loaded)
    swapped = [
        replace(r, audio=other.audio[: r.n_frames])
        for r, other in zip(requests, [*requests[1:], requests[0]], strict=True)
    ]
    shuffled = agreement(ids, [generate(strategy, r) for r in swapped], films, loaded)
    names = ("mouth", "mouth, expert")
    return figures | {f"{name}, shuffled audio": shuffled[name] for name in names}


def agreement(
    ids: Sequence[str], videos: Sequence[Tensor], films: Sequence[Tensor], loaded: config.Config
) -> dict[str, float]:
    """Correlations within clips of what Face Mesh reads with what was planted, mean over clips.

    How far the mouth moves, by its deviation over that in ``films``, the true frames, is of the
    net's reading alone.
    """
    root = Path(loaded.data.root)
    rows = {clip.id: clip for clip in manifest.read(root)}
    found: dict[str, list[float]] = {}
    reader = SyntheticFace()
    for name, video, film in zip(ids, videos, films, strict=True):
        read = dict(zip(READS, reader.read(video).T.numpy(), strict=True))
        seen = landmarks.track(vision.resize(video, [MESH, MESH], antialias=True))
        with np.load(root / rows[name].extra["truth"]) as truth:
            values = _pairs(seen, read, truth, len(video))
        values["amplitude, expert"] = amplitude(read["mouth"], mouth(film))
        for key, value in values.items():
            found.setdefault(key, []).append(value)
    return {key: float(np.nanmean(values)) for key, values in found.items()}


def _pairs(seen: Track, read: dict[str, np.ndarray], truth: Any, n: int) -> dict[str, float]:
    valid = seen.valid
    closure = truth["closure"][:n]
    measured = {
        "mouth": (mouth_opening(seen.landmarks), truth["mouth"][:n]),
        "yaw": (seen.pose[:, 0], truth["pose"][:n, 0]),
        "pitch": (seen.pose[:, 1], truth["pose"][:n, 1]),
        "roll": (seen.pose[:, 2], truth["pose"][:n, 2]),
        "blink": (-seen.eyes.mean(1), closure),
        "mouth, expert": (read["mouth"], truth["mouth"][:n]),
        "blink, expert": (read["closure"], closure),
    }
    if closure.max() < 0.5:
        del measured["blink"], measured["blink, expert"]  # nobody blinks in this clip
    values = {key: correlation(a[valid], b[valid]) for key, (a, b) in measured.items()}
    return values | {"face found": float(valid.mean())}


def report(points: Points, folder: Path) -> None:
    """The page, the curves and the numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "learning.json", json.dumps(points.rows, indent=1) + "\n")
    measured = [row for row in points.rows if "figures" in row]
    lines = ["# What the tiny DAWN learns", "", *_table(measured, "lfg", "Reconstruction")]
    for stage in ("a2v1", "a2v2"):
        lines += ["", *_table(measured, stage, f"Generation, after {stage}")]
    lines += ["", "![curves over steps](learning.png)", ""]
    lines += ["Made by `python -m benchmarks.learning`; 'smoke' scale, synthetic faces.", ""]
    write_atomic(folder / "learning.md", "\n".join(lines))
    _plot(measured, folder / "learning.png")
    print(f"report: {folder / 'learning.md'}")


def _table(rows: Sequence[dict[str, Any]], stage: str, title: str) -> list[str]:
    mine = sorted((r for r in rows if r["stage"] == stage), key=lambda r: r["step"])
    if not mine:
        return []
    keys = list(mine[-1]["figures"])
    truth = next(r["figures"] for r in rows if r["stage"] == "truth")
    targets = TARGETS["lfg" if stage == "lfg" else "generated"]
    head = ["step", "minutes", *keys]
    body = [
        [
            str(r["step"]),
            f"{r['seconds'] / 60:.1f}",
            *(f"{r['figures'].get(k, math.nan):.2f}" for k in keys),
        ]
        for r in mine
    ]
    goal = ["target", "", *(f">= {targets[k]}" if k in targets else "" for k in keys)]
    best = ["true frames", "", *(f"{truth[k]:.2f}" if k in truth else "" for k in keys)]
    table = [head, ["---"] * len(head), *body, best, goal]
    return [f"## {title}", "", *(f"| {' | '.join(row)} |" for row in table)]


def _plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    stages = [s for s in ("lfg", "a2v1", "a2v2") if any(r["stage"] == s for r in rows)]
    figure, axes = plt.subplots(1, len(stages), figsize=(5 * len(stages), 3.6), sharey=True)
    for axis, stage in zip(np.atleast_1d(axes), stages, strict=True):
        mine = sorted((r for r in rows if r["stage"] == stage), key=lambda r: r["step"])
        for key in mine[-1]["figures"]:
            if key not in ("psnr", "copy", "gain", "face found", "amplitude, expert"):
                style = "--" if "shuffled" in key else "-"
                values = [r["figures"].get(key, math.nan) for r in mine]
                axis.plot([r["step"] for r in mine], values, style, marker="o", label=key)
        axis.set(title=stage, xlabel="step", ylim=(-0.2, 1))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    np.atleast_1d(axes)[0].set_ylabel("r with the ground truth, within clips")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


# What is measured of each stage, and at which shares of its steps.
STAGES: dict[str, tuple[Callable[..., dict[str, float]] | None, tuple[float, ...]]] = {
    "lfg": (reconstruct, (0.5, 1.0)),
    "pbnet": (None, (1.0,)),
    "a2v1": (follow, (0.5, 1.0)),
    "a2v2": (follow, (1.0,)),
}

if __name__ == "__main__":
    main()
