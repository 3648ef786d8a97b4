"""How much memory scoring a pair of videos takes, metric by metric and by length.

    python -m benchmarks.score_memory [--frames 250 1000 6000] [--size 512] [--metrics NAME...]

Makes pairs of videos from a synthetic face that plays to and fro, with audio, and scores each
length with each metric in a process of its own. The figure is the process's highest resident
memory, less what it has when all networks are loaded and no video is open yet. Networks whose
published weights are not here get random ones, which take as much.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from metrics import METRICS, weights
from thbench.core.types import SAMPLES_PER_FRAME
from thbench.data.media.video import VideoWriter
from thbench.data.store import resize
from thbench.data.synthetic.perform import perform
from thbench.data.synthetic.render import render
from thbench.evaluation import protocol
from thbench.evaluation.pairing import Pair
from thbench.evaluation.scorer import Scorer

PLAYED = 75
MIB = 2**20
OPTIONS: dict[str, dict[str, Any]] = {
    "fvd": {"mode": "tats"},
    "e-fid": {"mode": "coefficients", "feature": "synthetic-expression", "dim": 16},
}
"""Of the two networks of FVD the one that is no program of its own; E-FID that is not FID again."""
WITHOUT = ("av-confidence", "fd-synthetic", "wer")
"""Same figure as another, same features as another, a lip reader of the user's own."""
MORE: dict[str, dict[str, Any]] = {
    "csim (synthetic)": {"metric": "csim", "features": "synthetic-identity"},
    "lse-d (synthetic)": {"metric": "lse-d", "features": "synthetic-sync"},
    "ofm (as published)": {"metric": "ofm", "mode": "as-published"},
}
TITLE = "| metric | frames | MiB above the start | seconds |"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[250, 1000, 6000])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--metrics", nargs="+", default=list(specs()), choices=list(specs()))
    parser.add_argument("--together", action="store_true", help="all metrics in one process")
    parser.add_argument("--folder", help="where the videos are kept; a temporary one by default")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        print(measure(Path(arguments.one), arguments.metrics, arguments.size))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.folder or temporary)
        print(TITLE, "|---|---|---|---|", sep="\n", flush=True)
        asked = [arguments.metrics] if arguments.together else [[m] for m in arguments.metrics]
        for names in asked:
            for n in arguments.frames:
                videos = pair(folder, n, arguments.size)
                print(line(videos, names, n, arguments.size), flush=True)


def specs() -> dict[str, dict[str, Any]]:
    """Each metric's block in a protocol."""
    plain = {n: {"metric": n, **OPTIONS.get(n, {})} for n in sorted(METRICS) if n not in WITHOUT}
    return {**plain, **MORE}


def pair(folder: Path, n: int, size: int) -> Path:
    """A folder with gen.mp4 and ref.mp4 of ``n`` frames."""
    place = folder / f"{n}-{size}"
    played = perform(0, 0, 0, PLAYED)
    seen = resize(render(played.who, played.state, 256), size)
    sound = np.resize(played.speech.waveform, n * SAMPLES_PER_FRAME)
    for name, light in (("gen", 0.9), ("ref", 1.0)):
        if not (place / f"{name}.mp4").is_file():
            frames = (seen * light).to(torch.uint8)
            with VideoWriter(place / f"{name}.mp4", size, size, waveform=sound) as writer:
                for start in range(0, n, PLAYED):
                    way = frames if start // PLAYED % 2 == 0 else frames.flip(0)
                    writer.write(way[: n - start])
    return place


def line(videos: Path, names: list[str], n: int, size: int) -> str:
    """A row of the table, measured in a process of its own."""
    words = ["--one", str(videos), "--size", str(size), "--metrics", *names]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.score_memory", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    found = done.stdout.strip().splitlines()[-1:] or ["-"]
    if done.returncode:
        # A process that is killed has nothing to say.
        found = [(done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]]
    label = names[0] if len(names) == 1 else f"all {len(names)} together"
    return f"| {label} | {n} | {found[0]} | {time.perf_counter() - start:.0f} |"


def measure(videos: Path, names: list[str], size: int) -> str:
    """MiB that scoring the pair with these metrics takes."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        stand_in(Path(folder))
        rule = protocol.parse("memory", {"size": size, "metrics": [specs()[n] for n in names]})
        scorer = Scorer(rule, Path(folder) / "cache")
        if reasons := list(filter(None, map(scorer.availability.reason, scorer.metrics))):
            return "; ".join(reasons)
        start = _resident("VmRSS")
        scorer.add_all([Pair("a", 0, videos / "gen.mp4", videos / "ref.mp4")], progress=False)
        # Not getrusage's: that begins with what the process had that started this one.
        peak = _resident("VmHWM")
        if not all(f.unavailable is None for f in scorer.metric_values().values()):
            return "unavailable"
        return f"{max(0, peak - start) / MIB:.0f}"


def stand_in(folder: Path) -> None:
    """Random weights for the networks whose files are not here."""
    for name, make in (
        ("fid-inception", inception), ("i3d-kinetics400", i3d), ("lpips-alexnet", alexnet),
        ("syncnet", syncnet),
    ):  # fmt: skip
        try:
            weights.find(name)
        except weights.WeightsMissing:
            path = folder / weights.WEIGHTS[name].file
            torch.save(make(), path)
            digest = weights.sha256(path)
            known = replace(weights.WEIGHTS[name], sha256=digest, git_blob=None)
            weights.WEIGHTS[name] = known
            _elsewhere[name] = path
    found = weights.find

    def find(name: str) -> Path:
        return _elsewhere[name] if name in _elsewhere else found(name)

    weights.find = find


_elsewhere: dict[str, Path] = {}


def inception() -> dict[str, Tensor]:
    """Of FID's network, which is built from weights only."""
    from metrics.extractors import inception as module

    kept: dict[str, Tensor] = {}
    with mock.patch.object(
        nn.Module, "load_state_dict", lambda self, _: kept.update(self.state_dict())
    ):
        module.build({})
    return kept


def i3d() -> dict[str, Tensor]:
    """Of FVD's network."""
    from metrics.extractors.i3d import InceptionI3D

    return InceptionI3D().state_dict()


def alexnet() -> dict[str, Tensor]:
    """Of LPIPS' trunk."""
    from torchvision.models import alexnet as network

    return {f"features.{k}": v for k, v in network(weights=None).features.state_dict().items()}


def syncnet() -> dict[str, Tensor]:
    """Of SyncNet."""
    from metrics.extractors.syncnet import Network

    return Network().state_dict()


def _resident(key: str) -> int:
    """Bytes of a line of the process's status."""
    for entry in Path("/proc/self/status").read_text().splitlines():
        if entry.startswith(key):
            return 1024 * int(entry.split()[1])
    raise RuntimeError("Linux says what is resident; this system does not")


if __name__ == "__main__":
    main()
