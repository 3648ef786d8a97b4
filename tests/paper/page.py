"""Makes docs/paper-scale.md of what ``make test-paper`` saw: ``python -m tests.paper.page``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.paper.run import FEW, GENERATE, PLANS, stages_of
from thbench.core.files import write_atomic
from thbench.core.hardware import hardware

HEADER = """\
# Every stage at paper scale

Made by `make test-paper` on {hardware}, {threads} thread(s), {date}. Of every stage of every
strategy, with the paper's networks, sizes and lengths of a draw: one training step (batch 1), one
validation and one short generation, on the CPU, each in a process of its own and through the code
that `thbench fit` and `thbench eval` run. This shows that nothing breaks, not how anything looks:
weights are random.

What cannot be had here is random with the real shape: embeddings of sound (written into prepared
data; HuBERT's and wav2vec 2.0's own code does not run), VGG-19, Stable Diffusion's autoencoder
(both through the code that reads the published files), and ArcFace, which is one convolution in
place of its fifty layers. Clips are synthetic faces, drawn at the strategy's size.

Times are of a first step, warming up included, on a machine that others may have used. Memory is
the most that the process had for itself; files that are mapped, such as checkpoints, do not count.
Hallo's two stages keep what waits for the backward pass in files (`tests/paper/frugal.py`), which
makes them slow: their times say nothing about a machine with enough memory.
"""
COLUMNS = (
    *("strategy", "stage", "parameters, M", "precision", "frames"),
    *("step, s", "validation, s", "generation, s", "memory, GiB"),
)


def main(folder: str, page: str) -> None:
    """Write the page; what was not run, or failed, is said in its row."""
    log = Path(folder) / "log.jsonl"
    seen = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    rows = {(row["plan"], row["what"]): row for row in seen}
    trained = {row["hash"]: row for row in seen if "hash" in row and "shared" not in row}
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|---|---:|---|" + "---:|" * 5]
    for plan in PLANS:
        for what in (*stages_of(plan), GENERATE):
            lines.append(_line(plan, what, rows.get((plan, what)), trained))
    said = HEADER.format(
        hardware=hardware(),
        threads=os.environ.get("OMP_NUM_THREADS", "?"),
        date=time.strftime("%Y-%m-%d"),
    )
    cuts = [f"- {name}: `{' '.join(words)}`" for name, words in FEW.items()]
    if cuts:
        cuts = ["Less than the paper's, because that does not fit in 14 GiB:", "", *cuts, ""]
    write_atomic(Path(page), "\n".join([said, *cuts, *lines, ""]))


def _line(
    plan: str, what: str, row: Mapping[str, Any] | None, trained: Mapping[str, Mapping[str, Any]]
) -> str:
    if row is None or "error" in row:
        text = "not run" if row is None else f"FAILED: {row['error']}"
        return f"| {plan} | {what} | {text} |" + " |" * 6
    if row.get("shared"):
        first = trained.get(row["hash"], {})
        return f"| {plan} | {what} | as {first.get('plan', '?')}'s |" + " |" * 6
    times = [f"{row[key]:.1f}" if key in row else "" for key in ("step", "validation")]
    made = f"{row['generation']:.1f} ({row['steps']} steps)" if "generation" in row else ""
    return (
        f"| {plan} | {what} | {row['parameters'] / 1e6:,.1f} | {row['precision']} |"
        f" {row['frames'] or ''} | {' | '.join(times)} | {made} | {row['peak_gib']:.1f} |"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
