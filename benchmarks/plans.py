"""Does the cost model hold? Measured times of plans against what their rounds and frames predict.

    python -m benchmarks.plans [--frames 200] [--repeats 5]

One denoiser (DAWN's, tiny, untrained: weights change no time) runs every plan. The time of a plan
is predicted from its sequential depth, frame evaluations and largest window, by a model fitted on
the *other* plans. Then TTR's gaps in one batch against one by one. Writes ``cost.md`` and
``cost.json`` to ``--report``. Machines differ and timings are noisy: only ratios of one run count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from tqdm import tqdm

from thbench import config
from thbench.core.files import write_atomic
from thbench.core.hardware import hardware
from thbench.core.types import EYES_DIM, N_LANDMARKS, POSE_DIM, SAMPLES_PER_FRAME, Cost, Request
from thbench.dawn.dawn import DAWN
from thbench.generation import plans
from thbench.generation.runner import generate
from thbench.training.devices import use_threads
from thbench.training.runs import build_stage
from thbench.training.stage import StageContext

AUDIO_DIM = 64
STEPS = 20
PLANS: tuple[dict[str, Any], ...] = (
    {"name": "nar"},
    {"name": "sar", "segment": 48, "overlap": 8},
    {"name": "sar", "segment": 16, "overlap": 4},
    {"name": "sar", "segment": 8, "overlap": 8},
    {"name": "sar", "segment": 4, "overlap": 4},
    {"name": "ttr", "stride": 4},
    {"name": "ttr", "stride": 8},
    {"name": "rolling", "window": 10, "context": 4},
    {"name": "rolling", "window": 20, "context": 10},
    {"name": "ar", "motion": 2},
    {"name": "frames"},
)


def main(argv: Sequence[str] | None = None) -> None:
    """Time, fit, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--report", default="docs/plans")
    arguments = parser.parse_args(argv)
    loaded = config.load("dawn", ["scale=tiny", f"sampler.steps={STEPS}"])
    use_threads(loaded.trainer)
    strategy = untrained(loaded)
    request = noise_request(arguments.frames, loaded.size)
    times = measure(strategy, request, arguments.repeats)
    rows = predict(times, arguments.frames)
    batched = gaps(strategy, request, arguments.repeats)
    report(rows, batched, arguments, Path(arguments.report))


def untrained(loaded: config.Config) -> DAWN:
    """DAWN with fresh weights."""
    torch.manual_seed(0)
    lfg = build_stage(loaded, "lfg", {}, AUDIO_DIM).net
    a2v = build_stage(loaded, "a2v2", {"lfg": lfg}, AUDIO_DIM).net
    context = StageContext(loaded.size, AUDIO_DIM)
    return DAWN({"lfg": lfg, "a2v": a2v}, context, loaded.plan, loaded.sampler)


def noise_request(n: int, size: int) -> Request:
    """A request of ``n`` frames that nobody filmed; the motion is given."""
    draw = torch.Generator().manual_seed(0)
    return Request(
        id="noise",
        source=torch.randint(0, 256, (3, size, size), generator=draw, dtype=torch.uint8),
        audio=torch.randn(n, AUDIO_DIM, generator=draw),
        waveform=torch.zeros(n * SAMPLES_PER_FRAME),
        source_pose=torch.zeros(POSE_DIM),
        source_eyes=torch.zeros(EYES_DIM),
        source_landmarks=torch.rand(N_LANDMARKS, 3, generator=draw),
        pose=torch.zeros(n, POSE_DIM),
        eyes=torch.zeros(n, EYES_DIM),
    )


def cost_of(strategy: DAWN, request: Request) -> Cost:
    """Of one whole generation, encoding and decoding included."""
    generation = generate(strategy, request)
    for _ in generation.chunks:
        pass
    return generation.cost


def measure(strategy: DAWN, request: Request, repeats: int) -> list[list[Cost]]:
    """Times of each plan, in turn, so that a slow minute falls on all of them."""
    times: list[list[Cost]] = [[] for _ in PLANS]
    strategy.plan = dict(PLANS[0])
    cost_of(strategy, request)  # warm-up
    for _ in tqdm(range(repeats), "plans", unit="turn"):
        for plan, held in zip(PLANS, times, strict=True):
            strategy.plan = dict(plan)
            held.append(cost_of(strategy, request))
    return times


def predict(times: Sequence[Sequence[Cost]], n: int) -> list[dict[str, Any]]:
    """For each plan: what it costs, its median time and the time that the others predict."""
    costs = [plans.cost(plans.build(n=n, **plan), STEPS) for plan in PLANS]
    # A call, a frame in it, attention of that frame to its window, and what every clip needs once.
    terms = np.array([[c.depth, c.evaluations, c.evaluations * c.window, 1.0] for c in costs])
    taken = np.array([statistics.median(c.seconds for c in held) for held in times])
    first = [statistics.median(c.first_frame for c in held) for held in times]
    rows = []
    for i, (plan, cost) in enumerate(zip(PLANS, costs, strict=True)):
        others = np.arange(len(PLANS)) != i
        # Relative errors count: plans differ fiftyfold in time.
        weights = 1 / taken[others]
        fitted, _ = nnls(terms[others] * weights[:, None], np.ones(others.sum()))
        rows.append(
            {
                "plan": plans.describe(plan),
                "depth": cost.depth,
                "evaluations": cost.evaluations,
                "window": cost.window,
                "seconds": float(taken[i]),
                "first_frame": first[i],
                "predicted": float(terms[i] @ fitted),
            }
        )
    return rows


def gaps(strategy: DAWN, request: Request, repeats: int) -> dict[int, dict[str, float]]:
    """TTR with its gaps in one batch and one by one: medians in seconds, by stride."""
    found: dict[int, dict[str, float]] = {}
    for stride in (4, 8):
        strategy.plan = {"name": "ttr", "stride": stride}
        times: dict[str, list[float]] = {"batched": [], "one by one": []}
        for _ in range(repeats):
            for name, budget in (("batched", None), ("one by one", 1)):
                strategy.frames_per_call = budget
                times[name].append(cost_of(strategy, request).seconds)
        strategy.frames_per_call = None
        found[stride] = {name: statistics.median(t) for name, t in times.items()}
    return found


def report(
    rows: Sequence[Mapping[str, Any]],
    batched: Mapping[int, Mapping[str, float]],
    arguments: argparse.Namespace,
    folder: Path,
) -> None:
    """The page and the numbers."""
    errors = [row["predicted"] / row["seconds"] - 1 for row in rows]
    within = sum(abs(error) <= 0.25 for error in errors)
    lines = [
        "# What plans cost",
        "",
        f"Made by `python -m benchmarks.plans --frames {arguments.frames} --repeats"
        f" {arguments.repeats}` on {hardware()}, {time.strftime('%Y-%m-%d')}: DAWN's tiny denoiser,"
        f" {STEPS} steps, median of {arguments.repeats} turns. Compare ratios only.",
        "",
        "Predicted: a time per call in sequence, per frame evaluated, per frame evaluated and frame"
        " of its window, and a constant, none negative, fitted on the relative errors of the"
        f" *other* plans. {within} of {len(rows)} plans are predicted within 25%.",
        "",
        "| plan | depth | frames evaluated | window | first frame, nar's time = 1 |"
        " time, nar's = 1 | predicted | error |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    unit = rows[0]["seconds"]
    for row, error in zip(rows, errors, strict=True):
        times = [row[key] / unit for key in ("first_frame", "seconds", "predicted")]
        lines.append(
            f"| {row['plan']} | {row['depth']} | {row['evaluations']} | {row['window']} |"
            f" {' | '.join(f'{value:.2f}' for value in times)} | {error:+.0%} |"
        )
    lines += ["", "TTR's gaps, whole clip:", "", "| stride | one by one / batched |", "|---:|---:|"]
    lines += [f"| {k} | {v['one by one'] / v['batched']:.2f} |" for k, v in batched.items()]
    write_atomic(folder / "cost.md", "\n".join(lines) + "\n")
    whole = {"frames": arguments.frames, "plans": rows, "ttr": batched}
    write_atomic(folder / "cost.json", json.dumps(whole, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
