"""The rows of ``leaderboards/results``: what the shipped weights do on people they have never seen.

    python -m benchmarks.rows [--part own followed long] [STRATEGY or YARDSTICK ...]

Every strategy that is shipped whole, and the yardsticks, on the test people of data sets that
``thbench data synth`` renders anywhere: with their own motion and with the reference's, 40 people,
3 seeds, 100 frames; and 40 others for 200 frames. Hours on two cores: words name what this process
does, so that two can share the work. Hence no times are taken: only ``benchmarks.plans`` compares
them, turn by turn. Resumable: videos and values that are there are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from thbench.cli.parser import main as thbench
from thbench.cli.zoo_train import SHARED, shipped_strategies
from thbench.config import SHIPPED_SCALE
from thbench.core.errors import UserError
from thbench.evaluation.yardsticks import NEAREST, SHUFFLED, YARDSTICKS


@dataclass(frozen=True)
class Part:
    """A table.

    Attributes:
        protocol: its rows are scored by.
        words: further ones of ``thbench eval``.
        yardsticks: its rows beside the strategies'.
    """

    protocol: str
    words: Sequence[str]
    yardsticks: Sequence[str]


PARTS = {
    "own": Part("synthetic-64", ["eval.limit=40"], YARDSTICKS),
    "followed": Part("synthetic-64-followed", ["eval.limit=40"], YARDSTICKS),
    # No training clip is as long.
    "long": Part(
        "synthetic-64-long",
        ["eval.data=small-long"],
        [each for each in YARDSTICKS if each not in (NEAREST, SHUFFLED)],
    ),
}
BASE = "dawn"
"""The strategy whose requests yardsticks take."""
FOLLOWING = ("dawn", "sar", "ttr", "rolling", "ar", "fd2talk", *YARDSTICKS)
"""What has something to follow, or needs nothing; others would do the same as on their own."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``thbench eval`` for each row."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--part", nargs="*", default=list(PARTS), choices=PARTS, metavar="PART")
    parser.add_argument("--results", default=SHARED, metavar="DIR")
    parser.add_argument("names", nargs="*", metavar="STRATEGY or YARDSTICK")
    given = parser.parse_args(argv)
    strategies = list(shipped_strategies())
    for name in given.names:
        if name not in (*strategies, *YARDSTICKS):
            raise UserError(f"'{name}' is neither shipped nor a yardstick.")
    for words in commands(given.part, given.names or [*strategies, *YARDSTICKS], given.results):
        print(f"$ thbench {' '.join(words)}", flush=True)
        if thbench(words):
            raise UserError(f"stopped at: thbench {' '.join(words)}")


def commands(parts: Sequence[str], names: Sequence[str], results: str) -> Iterator[list[str]]:
    """The words of each ``thbench eval``, one row each."""
    for key in parts:
        part = PARTS[key]
        for name in names:
            if key == "followed" and name not in FOLLOWING:
                continue
            if name in YARDSTICKS and name not in part.yardsticks:
                continue
            strategy, more = (BASE, ["--yardstick", name]) if name in YARDSTICKS else (name, [])
            common = [
                f"scale={SHIPPED_SCALE}",
                "weights=zoo",
                f"results={results}",
                "eval.timing=false",
            ]
            yield ["eval", strategy, *common, f"eval.protocol={part.protocol}", *part.words, *more]


if __name__ == "__main__":
    main()
