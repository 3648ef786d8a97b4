"""Do mouths follow the audio? Every shipped strategy, the same test people, an even hand.

    python -m benchmarks.mouths [--clips 20] [--frames 100] [strategy ...]

Each strategy makes the same clips from portrait and audio, with no motion to follow, and once more
with another clip's audio. The mouth opening that ``synthetic-face`` reads off the images is
correlated, within clips, with the one planted beside the clip's own audio; how far it moves is its
standard deviation over that of the opening read off the true frames. Resumable by strategy.
Writes ``mouths.json``, ``mouths.md`` and, of the first clip, the openings over time
(``mouths.png``) to ``--report``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.held_out import amplitude, correlation, generate, mouth, table, told
from metrics.intervals import bootstrap_mean
from thbench import config
from thbench.cli.zoo_train import shipped_strategies
from thbench.config import SHIPPED_SCALE
from thbench.core.files import write_atomic
from thbench.core.types import FPS
from thbench.generation import assemble
from thbench.generation.requests import SplitRequests

ORDER = ("dawn", "sar", "ttr", "rolling", "ar", "fd2talk", "hallo", "diffused_heads")
COLUMNS = 2
"""Of the figure."""


@dataclass(frozen=True)
class Heard:
    """A strategy's mouths.

    Attributes:
        run: what names its weights and recipe.
        title: of the strategy.
        own: r with the planted opening, of each clip.
        other: the same, made with another clip's audio.
        amplitude: of the opening, over that read off the true frames, of each clip.
        traces: of the first clip, the opening read off the frames that were ``filmed``, made with
            its ``own`` audio and with the ``other``'s, (T,) each.
    """

    run: str
    title: str
    own: list[float]
    other: list[float]
    amplitude: list[float]
    traces: dict[str, list[float]]


def main(argv: Sequence[str] | None = None) -> None:
    """Generate, read, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--report", default="docs/strategies", help="the page's folder")
    parser.add_argument("--clips", type=int, default=20, help="held-out clips")
    parser.add_argument("--frames", type=int, default=100, help="of each clip")
    parser.add_argument("--split", default="test", help="val while looking for a recipe")
    parser.add_argument("strategies", nargs="*", help="all that are shipped by default")
    given = parser.parse_args(argv)
    folder = Path(given.report)
    kept = folder / "mouths.json"
    asked = {
        "clips": given.clips,
        "frames": given.frames,
        "split": given.split,
        "scale": SHIPPED_SCALE,
    }
    rows: dict[str, Heard] = {}
    # Rows of another question, recipe or weights are measured anew.
    if kept.is_file() and (known := json.loads(kept.read_text()))["asked"] == asked:
        rows = {name: Heard(**{"run": "", **row}) for name, row in known["rows"].items()}
    for name in given.strategies or shipped_strategies():
        loaded = config.load(name, [f"scale={SHIPPED_SCALE}", "weights=zoo"])
        assembled = assemble.assemble(loaded)
        if name not in rows or rows[name].run != assembled.run:
            rows[name] = heard(assembled, given)
            content = {"asked": asked, "rows": {key: asdict(row) for key, row in rows.items()}}
            write_atomic(kept, json.dumps(content) + "\n")
    rows = {name: rows[name] for name in ORDER if name in rows}
    write_atomic(folder / "mouths.md", page(rows, asked))
    draw(rows, folder / "mouths.png")


def page(rows: dict[str, Heard], asked: dict[str, Any]) -> str:
    """The page."""
    body = [
        [row.title, spread(row.own), spread(row.other), spread(row.amplitude)]
        for row in rows.values()
    ]
    lines = [
        "# Do mouths follow the audio?",
        "",
        f"r of the mouth opening read off {asked['clips']} clips of {asked['frames']} frames"
        f" ({asked['split']} people; portrait and audio alone, no motion to follow) with the"
        " planted one, and the same where the clip is made with another clip's audio. Amplitude:"
        " its standard deviation over that of the opening read off the true frames; 1 is right."
        " Means over clips with their 95 % bootstrap intervals.",
        "",
        *table([["", "own audio", "another's audio", "amplitude"], *body]),
        "",
        "![mouth opening over time, own audio and another's, by strategy](mouths.png)",
        "",
        f"Made by `python -m benchmarks.mouths --clips {asked['clips']}` from the shipped weights;"
        " synthetic faces, one training and one seed each.",
        "",
    ]
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """A mean and its interval."""
    found = bootstrap_mean(values)
    shown = f" ({found[0]:.2f} to {found[1]:.2f})" if found else ""
    return f"{np.nanmean(values):.2f}{shown}"


def heard(assembled: assemble.Assembled, given: argparse.Namespace) -> Heard:
    """A strategy's row."""
    loaded, strategy = assembled.config, assembled.strategy
    asked = SplitRequests(
        loaded.data, given.split, loaded.size, limit=given.clips, frames=given.frames
    )
    clips = told(asked, Path(loaded.data.root))
    row = Heard(assembled.run, loaded.title, [], [], [], {})
    bar = tqdm(clips, loaded.strategy, total=given.clips)
    for i, (request, swapped, planted) in enumerate(bar):
        own, other = (mouth(generate(strategy, each)) for each in (request, swapped))
        filmed = mouth(asked.store.frames(i, np.arange(request.n_frames)))
        row.own.append(correlation(own, planted))
        row.other.append(correlation(other, planted))
        row.amplitude.append(amplitude(own, filmed))
        if not row.traces:
            read = {"filmed": filmed, "own": own, "other": other}
            row.traces.update({key: np.round(one, 3).tolist() for key, one in read.items()})
    return row


def draw(rows: dict[str, Heard], path: Path) -> None:
    """A panel per strategy: the first clip's opening as filmed, with its audio and another's."""
    from matplotlib.figure import Figure

    down = -(-len(rows) // COLUMNS)
    figure = Figure(figsize=(11, 1.5 * down + 0.9), layout="constrained")
    panels = figure.subplots(down, COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axes, row in zip(panels.T.flat, rows.values(), strict=False):
        seconds = np.arange(len(row.traces["filmed"])) / FPS
        axes.fill_between(
            seconds, min(row.traces["filmed"]), row.traces["filmed"], color="0.82", label="filmed"
        )
        axes.plot(seconds, row.traces["own"], color="C0", lw=1.6, label="its own audio")
        axes.plot(seconds, row.traces["other"], "--", color="C1", lw=1.1, label="another's audio")
        axes.set_title(row.title, fontsize=9, loc="left", pad=2)
    for axes in panels[-1]:
        axes.set_xlabel("seconds")
    for axes in panels.T.flat[len(rows) :]:
        axes.set_axis_off()
    figure.supylabel("mouth opening", fontsize=9)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    main()
