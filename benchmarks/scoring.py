"""How fast the metrics are: ratios within one run, since machines differ and timings are noisy.

    python -m benchmarks.scoring --videos DIR [--clips 4]

The Frechet core against scipy's matrix square root; a folder scored in one pass against one pass
per metric; a second scoring from the cache; and where the time of a pass goes. Writes ``speed.md``
to ``--report``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.linalg import sqrtm

from metrics.base import ClipMetric
from metrics.frechet import frechet_distance
from thbench.core.files import write_atomic
from thbench.evaluation import protocol
from thbench.evaluation.features import FeatureStore, build_extractors
from thbench.evaluation.pairing import find_videos
from thbench.evaluation.protocol import OverTime, Protocol
from thbench.evaluation.score import score

DIM = 2048


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--videos", required=True, help="a folder of square face videos")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--protocol", default="synthetic")
    parser.add_argument("--report", default="docs/scoring")
    arguments = parser.parse_args(argv)
    lines = ["# How fast the metrics are", "", _INTRODUCTION.format(torch.get_num_threads()), ""]
    lines += ["| | seconds | against | ratio |", "|---|---|---|---|"]
    lines += [frechet(n) for n in (600, 5000)]
    rule = protocol.load(arguments.protocol)
    with tempfile.TemporaryDirectory() as folder:
        lines += scoring(_links(arguments.videos, arguments.clips, Path(folder)), rule)
        lines += ["", f"## Where the time of a first pass goes, {arguments.clips} clips", ""]
        lines += shares(Path(folder) / "videos", rule)
    write_atomic(Path(arguments.report) / "speed.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


_INTRODUCTION = (
    "Made by `python -m benchmarks.scoring` on {} CPU thread(s); compare the ratios only."
)


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def frechet(n: int) -> str:
    """The core at ``n`` features of 2048 dimensions, and the textbook way."""
    first, second = np.random.default_rng(0).normal(size=(2, n, DIM))
    second = 1.1 * second + 0.05
    ours: list[float] = []
    fast = _timed(
        lambda: ours.append(float(frechet_distance(torch.tensor(first), torch.tensor(second))))
    )
    theirs: list[float] = []
    slow = _timed(lambda: theirs.append(_textbook(first, second)))
    return (
        f"| Frechet distance, {n} x {DIM} ({ours[0]:.2f}) | {fast:.2f} |"
        f" `scipy.linalg.sqrtm` ({theirs[0]:.2f}): {slow:.1f} | {slow / fast:.0f} |"
    )


def _textbook(first: np.ndarray, second: np.ndarray) -> float:
    apart = ((first.mean(0) - second.mean(0)) ** 2).sum()
    a, b = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    return float(apart + np.trace(a) + np.trace(b) - 2 * np.trace(sqrtm(a @ b)).real)


def _links(videos: str, clips: int, folder: Path) -> Path:
    """A folder with the first so many videos, to be scored against itself."""
    (folder / "videos").mkdir()
    for name, path in list(find_videos(Path(videos)).items())[:clips]:
        (folder / "videos" / f"{name.replace('/', '-')}{path.suffix}").symlink_to(path.resolve())
    return folder


def scoring(folder: Path, rule: Protocol) -> list[str]:
    """One pass, the same again, and a pass for every metric."""
    videos = folder / "videos"

    def run(how: Protocol, cache: str) -> float:
        return _timed(
            lambda: score(
                videos, videos, how, run="speed", strategy="speed", cache=folder / cache,
                progress=False,
            )
        )  # fmt: skip

    # Figures over time would be taken again in every single pass.
    rule = replace(rule, over_time=OverTime())
    run(rule, "warm-up")  # imports and compilation
    once, again = run(rule, "all"), run(rule, "all")
    single = sum(
        run(replace(rule, metrics=(spec,)), f"one-{i}") for i, spec in enumerate(rule.metrics)
    )
    return [
        f"| a folder scored in one pass | {once:.1f} | a pass per metric, {len(rule.metrics)}:"
        f" {single:.1f} | {single / once:.1f} |",
        f"| scored again, from the cache | {again:.2f} | first: {once:.1f} | {once / again:.0f} |",
    ]


def shares(videos: Path, rule: Protocol) -> list[str]:
    """Seconds per part of a first pass, one side of the pairs."""
    metrics = rule.build()
    extractors, _ = build_extractors(metrics)
    store = FeatureStore(extractors, rule.size, rule.frames, None)
    spent: dict[str, float] = {}

    def do(part: str, function: Callable[..., Any], *given: Any) -> Any:
        start = time.perf_counter()
        result = function(*given)
        spent[part] = spent.get(part, 0.0) + time.perf_counter() - start
        return result

    for path in find_videos(videos).values():
        source = store.open(path)
        length = do("decode and resize", store.length, source)
        frames = source.frames(length)
        found = {"frames": frames} | dict(do("landmarks", store.tracker, frames))
        found |= do("sound", store.features, source, ["size", "waveform"], length)
        for name, extractor in extractors.items():
            found[name] = do(name, extractor.extract, frames, found)
        for metric in metrics:
            if isinstance(metric, ClipMetric) and set(metric.needs) <= set(found):
                do(metric.name, metric.measure_clip, found, found)
    total = sum(spent.values())
    order = sorted(spent, key=lambda part: -spent[part])
    rows = [
        f"| {part.replace('|', chr(92) + '|')} | {spent[part]:.2f} | {spent[part] / total:.0%} |"
        for part in order
    ]
    return ["| part | seconds | share |", "|---|---|---|", *rows]


if __name__ == "__main__":
    main()
