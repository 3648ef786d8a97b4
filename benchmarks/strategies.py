"""Which of DAWN's claims about generation strategies hold here? Its Table 2, on synthetic faces.

    python -m benchmarks.strategies [--out runs/learning] [--clips 6]

trains DAWN, SAR, TTR, AR and rolling on the same latents, with the same number of samples, and
Diffused Heads in pixels, on the data of ``benchmarks.learning``; then generates clips of people
whom training never saw, at their natural length (100 frames) and at 200 frames, following given
motion, and scores both. Resumable: run it again and it goes on; strategies named in words are done
alone. Writes results to ``--results`` (of which ``thbench leaderboard`` makes the tables) and, to
``--report``, ``table.md`` and the figures over time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.learning import render
from thbench import api, config
from thbench.core.files import write_atomic
from thbench.data.synthetic.make import synthesize
from thbench.evaluation.results import Result, read
from thbench.leaderboard.plots import draw_curves
from thbench.leaderboard.rank import select_columns, tables_of
from thbench.leaderboard.render import markdown
from thbench.training import fit

STRATEGIES = ("dawn", "sar", "ttr", "ar", "rolling", "diffused_heads")
LONG_SEED, LONG_SECONDS = 2, 8.0
# Clips are made hours apart: times are compared by benchmarks/plans.py, which takes plans in turn.
COLUMNS = (
    *("Depth", "Frames evaluated", "Samples seen"),
    *("FD-pyramid", "FD-synthetic", "FVD16-synthetic", "PSNR", "CSIM (synthetic-identity)"),
    *("LSE-C (synthetic-sync, valid pairs)", "Mouth r", "Mouth amplitude", "Pose error"),
    *("DR25 (pyramid)", "DR50 (pyramid)"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Render, train, evaluate, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", default="runs/learning", help="data, checkpoints and videos")
    parser.add_argument("--results", default="runs/learning/results")
    parser.add_argument("--report", default="docs/strategies")
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("strategies", nargs="*", default=STRATEGIES)
    arguments = parser.parse_args(argv)
    out = Path(arguments.out)
    data, long = render(out, arguments.workers), out / "long"
    people = {"test": arguments.clips}
    synthesize(
        long, identities=arguments.clips, splits=people, seconds=LONG_SECONDS, seed=LONG_SEED,
        workers=arguments.workers,
    )  # fmt: skip
    words = ["scale=tiny", f"data={data}", f"runs={out}", f"results={arguments.results}"]
    words += [f"eval.limit={arguments.clips}"]
    sets: tuple[list[str], ...] = ([], [f"eval.data={long}"])
    paths = []
    for name in arguments.strategies:
        fit.fit(config.load(name, words))
        paths += [evaluate(config.load(name, [*words, *extra])) for extra in sets]
    for extra in sets:
        loaded = config.load(STRATEGIES[0], [*words, *extra])
        paths += [evaluate(loaded, yardstick) for yardstick in ("still", "ground-truth")]
    report([read(path) for path in paths], arguments, Path(arguments.report))


def evaluate(loaded: config.Config, yardstick: str | None = None) -> Path:
    """Generate and score a strategy, or a yardstick of the same requests, and write the result."""
    written = api.evaluate_config(loaded, smoke=True, yardstick=yardstick)
    assert written is not None
    return written[1]


def report(results: Sequence[Result], arguments: argparse.Namespace, folder: Path) -> None:
    """The tables' columns that speak of the claims, and the curves."""
    tables = tables_of(results)
    lines = [
        f"Made by `python -m benchmarks.strategies --clips {arguments.clips}`,"
        f" {time.strftime('%Y-%m-%d')}. Smoke: tiny networks, synthetic faces.",
    ]
    for table in tables:
        lines += ["", markdown(replace(select_columns(table, COLUMNS), curves={}))]
        draw_curves(table.curves, folder / f"over-time-{table.title.partition(',')[0]}.png")
    write_atomic(folder / "table.md", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
