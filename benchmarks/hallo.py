"""Does Hallo learn in both stages, and do the weights of its regions move what they should?

    python -m benchmarks.hallo [--out runs/learning] [key=value ...]

Needs the data set of ``benchmarks.learning``. Trains the tiny scale, measures the loss on
held-out people before and after each stage, and generates held-out clips with the lip region's
weight at 0, 1 and 2, and once with another clip's audio. Mouth motion is read by the net for such
faces (``synthetic-face``) and, without any net, as the change of pixels in the box around the
portrait's lips. Resumable.
Writes ``hallo.json``, ``hallo.md``, ``hallo-lips.png`` and ``hallo-masks.png`` to ``--report``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from baselines.hallo.masks import ENLARGED, boxes_around, enlarge_boxes, region_masks
from benchmarks.held_out import (
    amplitude,
    arguments,
    correlation,
    generate,
    metadata,
    mouth,
    sheet,
    table,
    told,
    words,
)
from thbench import config
from thbench.core.files import write_atomic
from thbench.core.seeding import derive_seed
from thbench.core.types import Request, to_unit
from thbench.generation import assemble
from thbench.generation.requests import SplitRequests
from thbench.nn.regions import box_mask
from thbench.training import fit
from thbench.training.fit import stage_data
from thbench.training.loggers import read_curves
from thbench.training.runs import build_stage, load_net, stage_run
from thbench.training.stage import Stage

STAGES = ("image", "video")
WEIGHTS = (0.0, 1.0, 2.0)
FRAMES = 44  # of a generated clip: a first segment, two whole ones, and a rest
BATCHES = 12  # of held-out clips, for a loss
OTHER = "1, another's audio"
MOTION, HEARD, AMPLITUDE = "mouth, deviation", "r with planted mouth", "amplitude"
COLOURS = {"lip": (1.0, 0.2, 0.2), "expression": (0.2, 0.9, 0.2), "pose": (0.3, 0.4, 1.0)}


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure, report."""
    given = arguments(__doc__ or "", 16, argv)
    loaded = config.load("hallo", words(given))
    fit.fit(loaded)
    folder = Path(given.report)
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"stages": {name: stage_figures(loaded, name) for name in STAGES}}
    found["autoencoder"] = metadata(loaded, "autoencoder")
    found["lip weight"] = lip_weights(loaded, given.clips, given.split, folder / "hallo-lips.png")
    draw_masks(loaded, folder / "hallo-masks.png")
    write_atomic(folder / "hallo.json", json.dumps(found, indent=1) + "\n")
    write_atomic(folder / "hallo.md", page(found, f"{given.clips} {given.split} people"))
    print((folder / "hallo.md").read_text())


def stage_figures(loaded: config.Config, name: str) -> dict[str, Any]:
    """Held-out loss of a stage before its first step and after its last, and what it took."""
    run = stage_run(loaded, name)
    curve = read_curves(run.folder / "metrics.csv").get("val/simple", [])
    return {
        **metadata(loaded, name),
        "before": held_out_loss(loaded, name, trained=False),
        "after": held_out_loss(loaded, name, trained=True),
        "curve": [(step, round(value, 4)) for step, value in curve],
    }


@torch.no_grad()
def held_out_loss(loaded: config.Config, name: str, *, trained: bool) -> float:
    """Mean error of the prediction over the same batches, levels and noise of the val split.

    An untrained network is given the trained one's statistics of latents, in whose measure the
    error is.
    """
    data = stage_data(loaded, name)
    data.prepare_data()
    vae = load_net(loaded, "autoencoder")[0]
    stage = build_stage(loaded, name, {"autoencoder": vae}, data.audio_dim)
    net, _ = load_net(loaded, name, {"autoencoder": vae})
    if trained:
        stage.net = net
    else:
        origin = loaded.stages[name].init_from
        if origin:
            stage.net.load_state_dict(
                load_net(loaded, origin, {"autoencoder": vae})[0].state_dict()
            )
        cast("nn.Module", stage.net.statistics).load_state_dict(
            cast("nn.Module", net.statistics).state_dict()
        )
    return _mean_loss(stage.eval(), data.dataset("val"), loaded.stages[name].batch_size)


def _mean_loss(stage: Stage, dataset: Any, size: int) -> float:
    values = []
    for k in range(BATCHES):
        batch = dataset.batch(k, range(size))
        torch.manual_seed(derive_seed("held out", k))
        values.append(float(stage.loss(batch)["simple"]))
    return float(np.mean(values))


def lip_weights(
    loaded: config.Config, clips: int, split: str, path: Path
) -> dict[str, dict[str, Any]]:
    """Mouth motion of generated held-out clips by the lip region's weight."""
    asked = SplitRequests(loaded.data, split, loaded.size, limit=clips, frames=FRAMES)
    requests, swapped, planted = zip(*told(asked, Path(loaded.data.root)), strict=True)
    films = [asked.store.frames(i, np.arange(FRAMES)) for i in range(len(requests))]
    found, rows = {}, []
    for name, weight, given in (*((f"{w:g}", w, requests) for w in WEIGHTS), (OTHER, 1, swapped)):
        options = {**loaded.options, "weights": {"lip": weight}}
        strategy = assemble.assemble(replace(loaded, options=options)).strategy
        videos = [generate(strategy, request) for request in given]
        found[name] = motion(videos, requests, planted, films)
        rows += [to_unit(videos[0][t]) for t in range(0, FRAMES, 6)]
    found["true frames"] = motion(films, requests, planted, films)
    sheet(rows, len(rows) // (len(WEIGHTS) + 1), path)
    return found


def motion(
    videos: Sequence[Tensor],
    requests: Sequence[Request],
    planted: Sequence[np.ndarray],
    films: Sequence[Tensor],
) -> dict[str, Any]:
    """How mouths move in videos, ``films`` being the true ones.

    ``clips`` holds the deviation of each.
    """
    read, filmed = ([mouth(video) for video in side] for side in (videos, films))
    changes = [lip_change(v, r) for v, r in zip(videos, requests, strict=True)]
    agreements = [correlation(m, t) for m, t in zip(read, planted, strict=True)]
    return {
        MOTION: float(np.mean([m.std() for m in read])),
        "lips, change": float(np.mean(changes)),
        HEARD: float(np.nanmean(agreements)),
        AMPLITUDE: float(np.nanmean([amplitude(m, t) for m, t in zip(read, filmed, strict=True)])),
        "clips": [round(float(m.std()), 4) for m in read],
    }


def lip_change(video: Tensor, request: Request) -> float:
    """Mean absolute change from frame to frame in the box around the portrait's lips, in grey
    levels.
    """
    box = box_mask(request.source_landmarks, "lips", video.shape[-1], 0.03)
    change = video.float().diff(dim=0).abs().mean(1, keepdim=True)
    return float((change * box).sum() / (box.sum() * len(change)))


def draw_masks(loaded: config.Config, path: Path) -> None:
    """The regions on a synthetic portrait: at 64 x 64 cells (the paper's latent) and at 8 x 8."""
    request = SplitRequests(loaded.data, "test", 128, limit=1, frames=1)[0]
    save_image([picture for size in (64, 8) for picture in masked(request, size)], path, nrow=3)


def masked(request: Request, size: int) -> list[Tensor]:
    """The portrait three times, each with a region at generation in its colour (``disjoint``)."""
    portrait = to_unit(request.source)
    boxes = enlarge_boxes(boxes_around(request.source_landmarks[None, None]), ENLARGED)
    masks = region_masks(boxes, size, tuple(COLOURS), "disjoint")
    full = torch.nn.functional.interpolate(masks, portrait.shape[-2:], mode="nearest")[0]
    pictures = []
    for mask, colour in zip(full, COLOURS.values(), strict=True):
        tint = torch.tensor(colour)[:, None, None]
        pictures.append(torch.lerp(portrait, tint.expand_as(portrait), 0.5 * mask))
    return pictures


def page(found: dict[str, Any], people: str) -> str:
    """The report."""
    rows = [["stage", "steps", "minutes", "before", "after"]]
    for name, row in found["stages"].items():
        minutes = f"{row['seconds'] / 60:.1f}"
        losses = (f"{row[key]:.3f}" for key in ("before", "after"))
        rows.append([name, str(row["steps"]), minutes, *losses])
    lines = ["# What the tiny Hallo learns", "", "## Held-out loss of both stages", ""]
    lines += table(rows)
    vae = found["autoencoder"]
    lines += [
        "",
        f"Mean squared error of the predicted v over {BATCHES} batches of val people, the same"
        f" levels and noise before and after. The autoencoder took {vae['steps']} steps before"
        " that. Minutes are wall time on a busy machine.",
        "",
        f"## The lip region's weight, {people}, {FRAMES} frames",
        "",
    ]
    weights = found["lip weight"]
    keys = [key for key in weights["1"] if key != "clips"]
    body = [[name, *(f"{row[key]:.3f}" for key in keys)] for name, row in weights.items()]
    lines += table([["weight", *keys], *body])
    lines += [
        "",
        "Deviation within a clip of the mouth opening that `synthetic-face` reads; mean change from"
        " frame to frame in the box around the portrait's lips, in grey levels; correlation with"
        " the opening that was planted beside the clip's own audio, and the deviation over"
        " that in the true frames (amplitude, 1 is right). Guidance and steps are the tiny"
        " scale's.",
        "",
        verdict(weights),
        "",
        "![frames at lip weight 0, 1 and 2, and with another audio](hallo-lips.png)",
        "",
        "## Where the audio acts",
        "",
        "![lip, expression and pose regions](hallo-masks.png)",
        "",
        "Lip, expression and pose at generation on a synthetic portrait (its boxes, the lips' twice"
        " and the face's 1.2 times as large), on the 64 x 64 cells of the paper's latent and on the"
        " 8 x 8 of the tiny scale. In training they are the unions over the clip. Of real clips"
        " 4.3% of the lips' points and .9% of the face's leave these regions, of the portrait's own"
        " boxes 35% and 14%"
        " (`python -m benchmarks.regions`; docs/decisions.md).",
        "",
        "Made by `python -m benchmarks.hallo`; 'smoke' scale, synthetic faces, one seed.",
        "",
    ]
    return "\n".join(lines)


def verdict(weights: dict[str, dict[str, Any]]) -> str:
    """What the lip weights' figures say."""
    none, one, two = (weights[f"{weight:g}"] for weight in WEIGHTS)

    def against(row: dict[str, Any], sign: int) -> str:
        moved = sum(sign * (a - b) > 0 for a, b in zip(row["clips"], one["clips"], strict=True))
        share = row[MOTION] / one[MOTION] - 1
        word = "higher" if sign > 0 else "lower"
        return f"{share:+.1%} ({word} in {moved} of {len(row['clips'])} clips)"

    return (
        f"Against weight 1, the mouth's deviation goes {against(none, -1)} at weight 0 and"
        f" {against(two, 1)} at weight 2."
    )


if __name__ == "__main__":
    main()
