"""Which of DAWN's claims about generation strategies hold here? Its Table 2, on shipped weights.

    python -m benchmarks.strategies [--report docs/strategies] [--runs runs]

Reads what ``benchmarks.rows`` measured and writes ``table.md``: for each part (own motion, the
reference's motion followed, 200 frames) the columns that speak of the claims, and how far each
strategy is from DAWN's non-autoregressive one, paired by clip, with intervals; and the figures over
time at 200 frames. With ``--runs``, where the rows were made, also ``sheet.png``: frames of the
first person by every strategy. Seconds are no part of it: ``benchmarks.plans`` compares times turn
by turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.held_out import table
from benchmarks.rows import BASE, PARTS
from thbench import config
from thbench.cli.zoo_train import SHARED
from thbench.config import SHIPPED_SCALE
from thbench.core.errors import UserError
from thbench.core.files import write_atomic
from thbench.data import manifest
from thbench.data.media import video
from thbench.evaluation.protocol import Intervals
from thbench.evaluation.results import GROUND_TRUTH, Result, read_folder
from thbench.evaluation.yardsticks import YARDSTICKS
from thbench.leaderboard.paired import Cell, Column, Difference, compare, rank_key
from thbench.leaderboard.plots import draw_curves
from thbench.leaderboard.rank import Table, select_columns, tables_of
from thbench.leaderboard.render import markdown

FRAMES = 12
"""Of a line of ``sheet.png``."""
TITLES = {
    "own": "Own motion: portrait and audio alone, 100 frames",
    "followed": "The reference's motion followed, 100 frames",
    "long": "200 frames, the reference's motion followed",
}
COLUMNS: Mapping[str, Sequence[str]] = {
    "own": (
        *("FD-pyramid", "FVD16-synthetic", "KID (synthetic-face)", "CSIM (synthetic-identity)"),
        *("LSE-C (synthetic-sync, valid pairs)", "Mouth r (synthetic-mouth)"),
        *("Mouth amplitude (synthetic-mouth)", "Faces found", "Blink/s", "CPBD", "Diversity"),
        *("Depth", "Frames evaluated", "Samples seen"),
    ),
    "followed": (
        *("PSNR", "SSIM", "FD-pyramid", "FVD16-synthetic", "CSIM (synthetic-identity)"),
        *("Mouth r (synthetic-mouth)", "Mouth amplitude (synthetic-mouth)", "Pose error"),
        *("Faces found", "CPBD"),
    ),
    "long": (
        *("DR25 (pyramid)", "DR50 (pyramid)", "PSNR", "FD-pyramid", "FVD16-synthetic"),
        *("CSIM (synthetic-identity)", "Mouth r (synthetic-mouth)", "Pose error", "Faces found"),
        "CPBD",
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Read, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--results", default=SHARED, metavar="DIR")
    parser.add_argument("--report", default="docs/strategies", help="the page's folder")
    parser.add_argument("--runs", metavar="DIR", help="of the rows' videos, for sheet.png")
    given = parser.parse_args(argv)
    folder = Path(given.report)
    found = read_folder(Path(given.results))
    rows = {key: of_part(found, key) for key in PARTS}
    if not any(BASE in results for results in rows.values()):
        raise UserError(f"{given.results} has no row of {BASE}: run `python -m benchmarks.rows`.")
    lines = [
        "# The shipped strategies, measured",
        "",
        "Made by `python -m benchmarks.strategies` from `leaderboards/results`. Synthetic faces,"
        " 64 px, 40 test people, 95 % intervals over them; one training of each strategy.",
    ]
    for key, results in rows.items():
        if BASE in results:
            (whole,) = tables_of(results.values())
            lines += ["", f"## {TITLES[key]}", "", *part_lines(key, results, whole)]
            if key == "long":
                draw_curves(whole.curves, folder / "over-time.png")
                lines += ["", "![figures over time at 200 frames](over-time.png)"]
    if given.runs:
        data = Path(config.load(BASE, [f"scale={SHIPPED_SCALE}"]).data.root)
        draw_sheet(rows["own"].values(), Path(given.runs), data, folder / "sheet.png")
    write_atomic(folder / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def of_part(results: Sequence[Result], key: str) -> dict[str, Result]:
    """The results of a part, by strategy.

    Raises:
        UserError: a strategy has two, or the results are not of the same clips.
    """
    found: dict[str, Result] = {}
    mine = [r for r in results if r.protocol.name == PARTS[key].protocol]
    for result in mine:
        if result.strategy in found:
            raise UserError(f"{PARTS[key].protocol} has two results of {result.strategy}.")
        found[result.strategy] = result
    if len(tables_of(mine)) > 1:
        raise UserError(f"Results of {PARTS[key].protocol} do not share a table.")
    return found


def part_lines(key: str, results: Mapping[str, Result], whole: Table) -> Iterator[str]:
    """The table of a part, and what lies between its strategies and the base."""
    shown = replace(select_columns(whole, COLUMNS[key]), controls={}, notes=())
    yield from markdown(shown, pictures=False).splitlines()[2:]
    yield ""
    yield "What another row has more than NAR (`dawn`), paired by clip:"
    yield ""
    base = results[BASE]
    others = [r for name, r in results.items() if name not in (BASE, GROUND_TRUTH, *YARDSTICKS)]
    named = [c for c in COLUMNS[key] if c in base.metrics]
    body = []
    for other in others:
        apart = {each.name: each for each in compare(other, base, Intervals())}
        body.append([other.title, *(cell(apart.get(c), base, c) for c in named)])
    yield from table([["", *named], *body])


def cell(found: Difference | None, base: Result, name: str) -> str:
    """A difference with its interval, and whether the other row is better or worse for it."""
    if found is None or found.interval is None:
        return "–"
    low, high = found.interval
    text = f"{found.value:+.3g} ({low:+.3g} to {high:+.3g})"
    metric = base.metrics[name]
    column = Column(name, metric.direction)
    keys = [
        rank_key(column, Cell(value, reference=metric.reference))
        for value in (found.first, found.second)
    ]
    if found.contains_zero or None in keys:
        return text
    return f"{text} **{'better' if keys[0] < keys[1] else 'worse'}**"  # type: ignore[operator]


def draw_sheet(results: Iterable[Result], runs: Path, data: Path, path: Path) -> None:
    """A line of frames of the first person as filmed, and one for each strategy.

    Raises:
        UserError: a strategy's video is not in ``runs``, or ``data`` is not here.
    """
    from matplotlib.figure import Figure

    others = (GROUND_TRUTH, *YARDSTICKS)
    shown = sorted((r for r in results if r.strategy not in others), key=lambda r: r.title)
    first = min(row.id for row in shown[0].per_clip)
    lines = {"as filmed": {clip.id: data / clip.video for clip in manifest.read(data)}[first]}
    for result in shown:
        made = runs / f"eval-{result.strategy}-{result.run.rpartition('-')[2]}"
        lines[result.title.replace(" (", "\n(")] = made / "seed-0" / f"{first}.mp4"
    for place in lines.values():
        if not place.is_file():
            raise UserError(f"There is no {place}: leave out --runs where the rows were not made.")
    n = min(len(video.read(place)) for place in lines.values())
    at = np.linspace(0, n - 1, FRAMES).round().astype(int).tolist()
    figure = Figure(figsize=(12, 1.05 * len(lines)), layout="constrained")
    panels = figure.subplots(len(lines), squeeze=False)[:, 0]
    for axes, (title, place) in zip(panels, lines.items(), strict=True):
        frames = video.read(place, at)
        axes.imshow(torch.cat(list(frames), dim=-1).permute(1, 2, 0).numpy())
        axes.set_ylabel(title, rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    figure.savefig(path, dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    main()
