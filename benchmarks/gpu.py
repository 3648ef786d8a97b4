"""What a GPU makes of the paper's networks, within minutes; see docs/gpu.md.

    python -m benchmarks.gpu OUT [--seconds 540] [--dry] [--parts NAME,...] [--strategies NAME,...]

Each part is a process of its own with a share of the time, and writes what it has after each
figure, so neither a kill nor a broken GPU context loses the others'. ``--dry`` runs it on the CPU
with the tiny networks, to show that it runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_page import report
from benchmarks.gpu_parts import Results, Setup, compiling, generation, training
from thbench import config

SHARES = {"tests": 0.2, "training": 0.35, "generation": 0.3, "compile": 0.15}
"""Of the time, by part; what one leaves over goes to the next ones."""


GRACE = 3.0
"""Seconds that a part may be late before it is ended."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the parts in turn and write the page."""
    asked = _parse(words)
    out = Path(asked.out)
    out.mkdir(parents=True, exist_ok=True)
    end = time.time() + asked.seconds
    if asked.part:
        setup = Setup(out, asked.until, asked.dry, tuple(asked.strategies))
        PARTS[asked.part](setup, Results(out / f"{asked.part}.json"))
        return 0
    if not asked.dry and not torch.cuda.is_available():
        print("gpu: torch sees no GPU here. --dry runs this on the CPU.", file=sys.stderr)
        return 2
    for part in SHARES:
        (out / f"{part}.json").unlink(missing_ok=True)
    about = describe(asked.dry)
    left = list(asked.parts)
    ended = {}
    while left:
        part = left[0]
        share = SHARES[part] / sum(SHARES[name] for name in left)
        ended[part] = _run_part(part, asked, share * (end - time.time()))
        left.pop(0)
        report(out, {**about, "parts": ended})
    print((out / "gpu.md").read_text())
    return 0 if all(status == "done" for status in ended.values()) else 1


def describe(dry: bool) -> dict[str, Any]:
    """The machine and the versions."""
    name = "cpu, dry: tiny networks, no measurement" if dry else torch.cuda.get_device_name()
    gib = 0.0 if dry else torch.cuda.get_device_properties(0).total_memory / 2**30
    return {
        "device": name,
        "memory_gib": round(gib, 1),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def tests(setup: Setup, results: Results) -> None:
    """The tests that touch CUDA, each with its outcome; in a dry run there are none."""
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-vv"]
    command += ["tests/test_cuda.py", "tests/data/test_tracker.py"]
    command += ["-p", "no:cacheprovider"]
    carried = os.environ.get("THBENCH_CARRIED")
    command += ["--prepared", carried] if carried else []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        assert run.stdout is not None
        with (setup.out / "tests.log").open("w") as log:
            for line in run.stdout:
                log.write(line)
                log.flush()
                if found := re.match(r"(tests/\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)", line):
                    results.add(test=found[1], outcome=found[2].lower())
    if not results.rows:
        results.add(test="all", outcome="none was collected" if setup.dry else "see tests.log")


PARTS: dict[str, Callable[[Setup, Results], None]] = {
    "tests": tests,
    "training": training,
    "generation": generation,
    "compile": compiling,
}


def _run_part(part: str, asked: argparse.Namespace, budget: float) -> str:
    """A part in a process of its own: how it ended."""
    command = [sys.executable, "-m", "benchmarks.gpu", asked.out, "--part", part]
    command += ["--until", str(time.time() + budget), "--strategies", ",".join(asked.strategies)]
    command += ["--dry"] if asked.dry else []
    print(f"== {part}: {budget:.0f} s", flush=True)
    with subprocess.Popen(command, start_new_session=True) as run:
        try:
            code = run.wait(budget + GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            return "ended: out of time"
    return "done" if code == 0 else f"failed with {code}"


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    names = config.names("strategy")
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", metavar="OUT", help="a folder for the results")
    parser.add_argument("--seconds", type=float, default=540.0, help="in all (default 540)")
    parser.add_argument("--dry", action="store_true", help="tiny networks, on the CPU")
    parser.add_argument("--parts", type=_listed(SHARES), default=list(SHARES), metavar="NAME,...")
    parser.add_argument("--strategies", type=_listed(names), default=names, metavar="NAME,...")
    parser.add_argument("--part", choices=list(SHARES), help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def _listed(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Reads names between commas; argparse says what is wrong."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"'{name}' is none of {', '.join(known)}")
        return names

    return read


if __name__ == "__main__":
    sys.exit(main())
