"""How much of lips and face leaves Hallo's regions: the portrait's boxes, enlarged, and the union.

    python -m benchmarks.regions data/NAME ... [--portraits 8]

For each clip of the prepared data sets, so many of its frames are the portrait once, and the points
of lips and face in all frames with a face are counted that lie outside the portrait's box. The
union over the clip, which training sees, holds all of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from baselines.hallo.masks import PARTS, boxes_around, enlarge_boxes, region_masks
from thbench.data import manifest
from thbench.nn.regions import POLYGONS

FACTORS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0)
GRIDS = (64, 8)
"""Cells of the paper's latent and of the tiny scale's."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("roots", nargs="+", type=Path)
    parser.add_argument("--portraits", type=int, default=8)
    arguments = parser.parse_args(argv)
    for root in arguments.roots:
        clips = list(read(root))
        print(f"\n{root}: {len(clips)} clips, {sum(map(len, clips))} frames with a face\n")
        print("| box | factor | points outside | in no cell of 64 | of 8 | area | union's area |")
        print("|---|---|---|---|---|---|---|")
        for part in PARTS:
            for factor in FACTORS:
                found = [measure(c, part, factor, arguments.portraits) for c in clips]
                print(f"| {part} | {factor:g} | {row(np.mean(found, axis=0))} |")


def read(root: Path) -> Iterator[Tensor]:
    """Landmarks (T, 478, 2) of each clip's frames with a face."""
    for clip in manifest.read(root):
        with np.load(root / clip.track) as track:
            points = track["landmarks"][track["valid"]][..., :2]
        if len(points):
            yield torch.from_numpy(points.astype(np.float32))


def measure(points: Tensor, part: str, factor: float, portraits: int) -> list[float]:
    """Shares of points outside the box and its cells, the box's area and the union's."""
    members = [i for ring in POLYGONS[PARTS[part]] for i in ring]
    own, at = points[:, members], list(PARTS).index(part)
    chosen = np.random.default_rng(0).choice(len(points), min(portraits, len(points)), False)
    boxes = enlarge_boxes(boxes_around(points[chosen, None]), dict.fromkeys(PARTS, factor))
    low, high = boxes[:, at].unbind(1)
    inside = ((own[None] >= low[:, None, None]) & (own[None] <= high[:, None, None])).all(-1)
    union = boxes_around(points[None])[:, at]
    cells = [_in_cells(boxes, part, own, size) for size in GRIDS]
    areas = [_area(low, high), _area(*union.unbind(1))]
    return [1 - float(inside.float().mean()), *(1 - c for c in cells), *areas]


def _in_cells(boxes: Tensor, part: str, points: Tensor, size: int) -> float:
    """Share of points in cells of the box, among those in the image."""
    lip, expression = region_masks(boxes, size, ("lip", "expression"), "disjoint").unbind(1)
    mask = lip if part == "lip" else torch.maximum(lip, expression)
    shown = points[((points >= 0) & (points < 1)).all(-1)]
    x, y = (shown * size).long().unbind(-1)
    return float(mask[:, y, x].mean())


def _area(low: Tensor, high: Tensor) -> float:
    return float((high.clamp(0, 1) - low.clamp(0, 1)).prod(-1).mean())


def row(values: np.ndarray) -> str:
    """A table's cells."""
    shares = [f"{value:.1%}" for value in values[:3]]
    return " | ".join([*shares, *(f"{value:.3f}" for value in values[3:])])


if __name__ == "__main__":
    main()
