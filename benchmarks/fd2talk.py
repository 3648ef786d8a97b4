"""Does FD2Talk learn? Motion on held-out synthetic people, against the ground truth.

    python -m benchmarks.fd2talk [--out runs/learning] [key=value ...]

Needs the data set of ``benchmarks.learning``. Trains the stages of the tiny scale that are
missing, and the motion stage once more without L_sync, and measures on people that training never
saw: the mouth opening that predicted coefficients have, within clips, against the ground truth,
with the clip's own audio and with another's; the standard deviation of predicted poses against the
filmed ones; frames made from measured coefficients against copies of the portrait and against
another moment's coefficients; and the mouth that ``synthetic-face`` reads off whole videos, made
from audio alone. Resumable.
Writes ``fd2talk.md``, ``fd2talk.json`` and ``fd2talk.png`` to ``--report``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from baselines.fd2talk.strategy import FD2Talk, FrameConditions
from benchmarks.held_out import (
    amplitude,
    arguments,
    correlation,
    generate,
    metadata,
    mouth,
    psnr,
    sheet,
    table,
    told,
    words,
)
from metrics.diversity import pose_spread
from thbench import config
from thbench.core.files import write_atomic
from thbench.core.types import Cost, Request, to_unit
from thbench.data.face.morphable import pose_coefficients
from thbench.generation import assemble, plans
from thbench.generation.requests import SplitRequests
from thbench.generation.runner import execute
from thbench.training import fit

LIPS = (13, 14)
"""The middles of the inner lips, upper and lower."""
SHOWN = 4
MOMENTS = 3


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure, report."""
    given = arguments(__doc__ or "", 16, argv)
    report = Path(given.report)
    report.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict] = {}
    for name, more in (("with L_sync", []), ("without L_sync", ["no_sync=true"])):
        loaded = config.load("fd2talk", [*words(given), *more])
        fit.fit(loaded)
        strategy = assemble.assemble(loaded).strategy
        assert isinstance(strategy, FD2Talk)
        asked = SplitRequests(loaded.data, given.split, loaded.size, limit=given.clips, follow=True)
        rows[name] = motion(strategy, asked, Path(loaded.data.root))
        if not more:
            rows["frames"] = frames(strategy, asked, report / "fd2talk.png")
            rows["videos"] = videos(strategy, asked, Path(loaded.data.root))
            rows["seconds"] = {stage: metadata(loaded, stage) for stage in loaded.stages}
        print(name, rows[name], flush=True)
    write_atomic(report / "fd2talk.json", json.dumps(rows, indent=1) + "\n")
    write_atomic(report / "fd2talk.md", page(rows, given.clips))


@torch.inference_mode()
def motion(strategy: FD2Talk, asked: SplitRequests, root: Path) -> dict[str, float]:
    """Figures of the first pass, mean over clips."""
    found: dict[str, list[float]] = {}
    for i, (request, swapped, planted) in enumerate(told(asked, root)):
        made, true = coefficients(strategy, request), filmed(strategy, request, asked, i)
        own, other, wanted = (
            opening(strategy, request, shown)
            for shown in (made, coefficients(strategy, swapped), true)
        )
        # The planted opening has another unit, so amplitude is against the measured one.
        values = {
            "mouth r": correlation(own, planted),
            "mouth amplitude": amplitude(own, wanted),
            "mouth r, another's audio": correlation(other, planted),
            "mouth r, measured coefficients": correlation(wanted, planted),
        }
        values["diversity"] = pose_spread(made[:, strategy.motion_net.expression :])
        assert request.pose is not None
        values["diversity, filmed"] = pose_spread(request.pose)
        for key, value in values.items():
            found.setdefault(key, []).append(value)
    figures = {key: float(np.nanmean(values)) for key, values in found.items()}
    figures["diversity ratio"] = figures["diversity"] / figures["diversity, filmed"]
    return figures


def videos(strategy: FD2Talk, asked: SplitRequests, root: Path) -> dict[str, list[float]]:
    """Mouths read off whole videos, made from portrait and audio: r and amplitude by video."""
    found = []
    for i, (request, swapped, planted) in enumerate(told(asked, root)):
        films = [generate(strategy, _unled(given)) for given in (request, swapped)]
        films.append(asked.store.frames(i, np.arange(request.n_frames)))
        read = [mouth(film) for film in films]
        found.append([(correlation(each, planted), amplitude(each, read[-1])) for each in read])
    names = ("own audio", "another's audio", "filmed frames")
    return dict(zip(names, np.nanmean(found, axis=0).tolist(), strict=True))


def _unled(request: Request) -> Request:
    """Without a motion to follow."""
    return replace(request, pose=None, eyes=None)


def coefficients(strategy: FD2Talk, request: Request) -> Tensor:
    """What the first pass generates from audio alone: (T, E + 6)."""
    request = _unled(request)
    conditions = strategy.encode(request)
    first = strategy.passes(request)[0]
    parts = [latent for _, latent in execute(first, strategy, conditions, request, Cost())]
    motion = strategy.update_conditions(first, torch.cat(parts), conditions).motion
    assert motion is not None
    return motion


def filmed(strategy: FD2Talk, request: Request, asked: SplitRequests, i: int) -> Tensor:
    """The coefficients (T, E + 6) that are measured on clip ``i`` itself."""
    track = asked.store.track(i, np.arange(request.n_frames))
    landmarks, pose = (torch.from_numpy(np.asarray(x)) for x in (track.landmarks, track.pose))
    portrait = request.source_pose[None]
    who, _ = strategy.morphable.fit(request.source_landmarks[None], portrait)
    expression = strategy.morphable.follow(landmarks, pose, who)
    return torch.cat([expression, pose_coefficients(pose, portrait)], -1)


def opening(strategy: FD2Talk, request: Request, motion: Tensor) -> np.ndarray:
    """How far the lips are apart, in heights of the face; closed further than closed is below 0."""
    model = strategy.morphable
    who, _ = model.fit(request.source_landmarks[None], request.source_pose[None])
    vertices = model(who, motion[:, : strategy.motion_net.expression])
    upper, lower = (vertices[:, i, 1] for i in LIPS)
    return (lower - upper).numpy()


@torch.inference_mode()
def frames(strategy: FD2Talk, asked: SplitRequests, path: Path) -> dict[str, float]:
    """Frames made from measured coefficients, and from latents of the frames themselves."""
    gains, rebuilt, copies, moved, looks = [], [], [], [], []
    for i in range(min(len(asked), 2 * SHOWN)):
        request = asked[i]
        at = np.linspace(0, request.n_frames - 1, 3 * MOMENTS).round().astype(int)
        filmed_frames = to_unit(asked.store.frames(i, at))
        portrait = to_unit(request.source)[None]
        shown = filmed(strategy, request, asked, i)[at]
        made = render(strategy, request, shown)
        auto = strategy.autoencoder
        again = auto(portrait.expand_as(filmed_frames), filmed_frames).clamp(0, 1)
        copies.append(psnr(portrait.expand_as(filmed_frames), filmed_frames))
        gains.append(psnr(made, filmed_frames))
        half = len(shown) // 2
        moved.append(psnr(render(strategy, request, shown.roll(half, 0)), filmed_frames))
        rebuilt.append(psnr(again, filmed_frames))
        if i < SHOWN:
            for t in range(1, 3 * MOMENTS, 3):
                looks += [portrait[0], filmed_frames[t], again[t], made[t]]
    sheet(looks, 4 * MOMENTS, path)
    names = (
        *("copy of the portrait", "autoencoder alone", "made from measured coefficients"),
        "made from another moment's coefficients",
    )
    values = (copies, rebuilt, gains, moved)
    return {name: float(np.mean(value)) for name, value in zip(names, values, strict=True)}


def render(strategy: FD2Talk, request: Request, motion: Tensor) -> Tensor:
    """The second pass over given coefficients (n, E + 6): frames (n, 3, H, W) in [0, 1]."""
    conditions = FrameConditions(strategy.encode(request), motion)
    last = replace(strategy.passes(request)[-1], plan=plans.frames(len(motion)))
    parts = list(execute(last, strategy, conditions, request, Cost()))
    order, latents = (torch.cat(part) for part in zip(*parts, strict=True))
    return strategy.decode(latents, order, conditions).clamp(0, 1)


def page(rows: dict[str, dict], clips: int) -> str:
    """The page, from the figures."""
    head = ["", *(k for k in rows["with L_sync"])]
    body = [[name, *(f"{v:.2f}" for v in rows[name].values())]
            for name in ("with L_sync", "without L_sync")]  # fmt: skip
    pictures = [[name, f"{value:.2f}"] for name, value in rows["frames"].items()]
    times = [[k, str(v["steps"]), f"{v['seconds'] / 60:.1f}"] for k, v in rows["seconds"].items()]
    lines = ["# What the tiny FD2Talk learns", "", _INTRODUCTION.format(clips), ""]
    lines += ["## Motion", "", *table([head, *body]), "", _GOALS, ""]
    lines += ["## Frames", "", *table([["frames against what was filmed", "PSNR, dB"], *pictures])]
    lines += ["", "Portrait, filmed, autoencoder, made:", "", "![frames](fd2talk.png)", ""]
    mouths = [[name, *(f"{v:.2f}" for v in values)] for name, values in rows["videos"].items()]
    head = ["video", "mouth r", "amplitude"]
    lines += ["## Videos from audio", "", *table([head, *mouths]), "", _READ, ""]
    lines += ["## Training", "", *table([["stage", "steps", "minutes"], *times]), ""]
    lines += ["Wall time on a busy machine, one thread.", ""]
    return "\n".join(lines)


_INTRODUCTION = (
    "Made by `python -m benchmarks.fd2talk`; 'smoke' scale, {} synthetic people that training never"
    " saw. Correlations are within clips, with the true mouth opening; diversity in degrees."
)
_GOALS = (
    "Wanted: mouth r 0.6 or more, near 0 with another clip's audio; mouth amplitude (deviation of"
    " the opening over that of measured coefficients) and diversity ratio 0.7 to 1.3."
)


_READ = (
    "Correlation within clips of the mouth opening that `synthetic-face` reads off the images"
    " with the ground-truth one, and its deviation over that of the opening read off filmed frames."
)


if __name__ == "__main__":
    main()
