"""Can every strategy be trained at paper scale on every data set? Simulated manifests say.

    python -m benchmarks.preflight [--scale paper] [--report docs/preflight.md]

Manifests have clips as long as those of CREMA-D, HDTF and VoxCeleb2, and nothing else, so what
depends on files is left out, and so is what depends on this machine: which weights lie here, how
large its memory and disk are. Times assume the rates below, not this machine's.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from thbench import config as configs
from thbench.core.files import write_atomic
from thbench.core.types import FPS, Clip
from thbench.data import manifest
from thbench.preflight import checks
from thbench.preflight.estimate import EFFICIENCY
from thbench.preflight.report import ERROR, WARNING, Finding, Report, cells, merge_repeated

RATES = {"bf16-mixed": 5e14, "32-true": 2.5e14}
"""FLOP/s of a large matrix product on a large GPU, in bfloat16 and with TF32."""
VOXCELEB = {"train": 19_000, "val": 1_000, "test": 1_000}
"""Of 1.1 million clips: a draw does not depend on how many there are."""
HDTF = {"train": 326, "test": 36}
"""362 videos, 9:1, as the adapter deals them."""


def cremad(rng: np.random.Generator) -> list[tuple[str, int]]:
    """Split and frames of 7442 clips of 91 actors: 1.3 to 5.0 s, half of them under 2.5 s."""
    frames = np.exp(rng.normal(np.log(2.5 * FPS), 0.2, 7442)).round().clip(32, 125).astype(int)
    # Ten actors test (82 clips each), a tenth of the others validates.
    splits = ["test"] * 10 + ["val"] * 8 + ["train"] * 73
    return [(splits[i * 91 // 7442], int(n)) for i, n in enumerate(frames)]


def hdtf(rng: np.random.Generator) -> list[tuple[str, int]]:
    """Videos of one to five minutes, uncut."""
    splits = [split for split, n in HDTF.items() for _ in range(n)]
    return [(split, int(rng.integers(60, 300) * FPS)) for split in splits]


def voxceleb(rng: np.random.Generator) -> list[tuple[str, int]]:
    """Clips of 4 to 20 s, most of them short."""
    splits = [split for split, n in VOXCELEB.items() for _ in range(n)]
    seconds = (4 + rng.exponential(3.8, len(splits))).clip(4, 20)
    return [(split, int(s * FPS)) for split, s in zip(splits, seconds, strict=True)]


DATA = {"cremad": cremad, "hdtf": hdtf, "voxceleb": voxceleb}


def write(name: str, root: Path) -> Path:
    """A data set's manifest, simulated."""
    rows = DATA[name](np.random.default_rng(0))
    clips = []
    for i, (split, n) in enumerate(rows):
        clip = f"{split}-{i:06d}"
        clips.append(
            Clip(clip, clip, split, n, f"clips/{clip}.mp4", f"clips/{clip}.npz", f"{i:064x}")
        )
    root.mkdir(parents=True)
    manifest.write(root, clips)
    return root


def look(
    strategy: str, name: str, root: Path, scale: str, details: bool, costs: bool | None = None
) -> Report:
    """The report of a strategy on simulated data; metrics, and ``costs``, with ``details``."""
    words = [f"scale={scale}", f"data={name}", f"data.root={root}", f"runs={root / 'runs'}"]
    words += ["trainer.devices=1", "tracking.wandb=off"]
    config = configs.load(strategy, words)
    return checks.check(
        config,
        files=False,
        estimates=details if costs is None else costs,
        metrics=details,
        rate=RATES.__getitem__,
    )


def page(reports: dict[str, dict[str, Report]], scale: str) -> str:
    """The page of all reports, by strategy and data."""
    return "\n".join([*_head(scale), *_table(reports), "", *_verdicts(reports), *_notes(reports)])


def _head(scale: str) -> list[str]:
    rates = " and ".join(f"{rate / 1e12:.0f} TFLOP/s ({name})" for name, rate in RATES.items())
    return [
        f"# Before training: `scale={scale}` on CREMA-D, HDTF and VoxCeleb2",
        "",
        "Made by `python -m benchmarks.preflight` from simulated manifests with the data sets'",
        "lengths (CREMA-D: 1.3 to 5.0 s, median 2.5 s; HDTF: 1 to 5 minutes, uncut; VoxCeleb2: 4",
        "to 20 s) and no files. `thbench check STRATEGY` says the same, and more, of real data.",
        "",
        "Memory is that of one device with the whole batch, an estimate from below: weights,",
        "gradients, Adam's moments, averages, and what lives at most during a step. Time is that",
        f"of all steps' arithmetic on one device, at {EFFICIENCY:.0%} of an assumed {rates}",
        "of large matrix products; reading data and starting kernels come on top, and are most of",
        "it where networks are small. Columns of data sets: clips of 'train' that are drawn from.",
        "",
    ]


def _table(reports: dict[str, dict[str, Report]]) -> list[str]:
    lines = [
        f"| strategy | stage | weights | memory | steps | time | {' | '.join(DATA)} |",
        f"|---|---|---:|---:|---:|---:|{'---:|' * len(DATA)}",
    ]
    for strategy, by_data in reports.items():
        first = next(iter(by_data.values()))
        for i, found in enumerate(first.stages):
            _, _, weights, memory, steps, time = cells(found)
            kept = [str(report.stages[i].train or "-") for report in by_data.values()]
            row = [strategy, found.name, weights, memory, steps, time, *kept]
            lines.append(f"| {' | '.join(row)} |")
    return lines


def _verdicts(reports: dict[str, dict[str, Report]]) -> list[str]:
    lines = ["Verdicts:", "", f"| strategy | {' | '.join(DATA)} |", f"|---|{'---|' * len(DATA)}"]
    for strategy, by_data in reports.items():
        words = ["impossible" if _own(r, ERROR) else "possible" for r in by_data.values()]
        lines.append(f"| {strategy} | {' | '.join(words)} |")
    return [*lines, ""]


def _notes(reports: dict[str, dict[str, Report]]) -> list[str]:
    """What is to be known beside, once for all strategies and data sets that share it."""
    places: dict[str, dict[str, list[str]]] = {}
    for strategy, by_data in reports.items():
        for name, report in by_data.items():
            for finding in merge_repeated([*_own(report, ERROR), *_own(report, WARNING)]):
                text = f"{finding.level}: {finding.where}: {finding.text}"
                places.setdefault(text, {}).setdefault(strategy, []).append(name)
    if not places:
        return ["Nothing else was found."]
    lines = ["Found beside:", ""]
    for text, found in places.items():
        where = "; ".join(f"{strategy} on {', '.join(names)}" for strategy, names in found.items())
        lines.append(f"- {text} ({where})")
    return [*lines, ""]


def _own(report: Report, level: str) -> list[Finding]:
    """Findings that hold on any machine."""
    return [finding for finding in report.of(level) if not finding.local]


def main(argv: Sequence[str] | None = None) -> None:
    """Look at all, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--scale", default="paper", choices=configs.SCALES)
    parser.add_argument("--report", default="docs/preflight.md")
    parser.add_argument("--strategies", nargs="*", default=configs.names("strategy"))
    arguments = parser.parse_args(argv)
    reports: dict[str, dict[str, Report]] = {}
    with tempfile.TemporaryDirectory() as folder:
        roots = {name: write(name, Path(folder) / name) for name in DATA}
        for strategy in arguments.strategies:
            if arguments.scale not in configs.scales(strategy):
                continue
            for name, root in roots.items():
                first = strategy not in reports  # costs are the same on all data
                report = look(strategy, name, root, arguments.scale, details=True, costs=first)
                reports.setdefault(strategy, {})[name] = report
                print(f"{name}: {report.verdict}", flush=True)
    write_atomic(Path(arguments.report), page(reports, arguments.scale))
    print(arguments.report)


if __name__ == "__main__":
    main()
