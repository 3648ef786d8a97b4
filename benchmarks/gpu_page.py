"""The page of ``benchmarks.gpu``: one table a part, of the rows written so far."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts import MIXED
from thbench.core.files import write_atomic


def report(out: Path, about: Mapping[str, Any]) -> None:
    """``gpu.json`` and ``gpu.md`` of what the parts have written so far."""
    found = {part: _read(out / f"{part}.json") for _, part, _ in TABLES}
    whole = json.dumps({**about, "results": found}, indent=1)
    write_atomic(out / "gpu.json", whole + "\n")
    lines = [
        f"# On {about['device']}",
        "",
        f"{about['date']}, {about['memory_gib']} GiB, torch {about['torch']}, CUDA {about['cuda']},"
        f" Python {about['python']}. Made by `benchmarks/gpu.sh`; see docs/gpu.md.",
        "",
        *(f"- {part}: {status}" for part, status in about["parts"].items()),
    ]
    for title, part, columns in TABLES:
        if found[part]:
            lines += ["", f"## {title}", "", *_table(found[part], columns)]
    write_atomic(out / "gpu.md", "\n".join(lines) + "\n")


TABLES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Tests on CUDA", "tests", ("test", "outcome")),
    (
        f"Training, {MIXED}",
        "training",
        ("strategy", "stage", "parameters", "batch", "configured_batch", "frames", "step",
         "samples_s", "frames_s", "peak_gib"),
    ),
    (
        "Generation, one video, 32 bits",
        "generation",
        ("strategy", "frames", "steps", "seconds", "measured_share", "first_frame", "real_time",
         "peak_gib"),
    ),
    (
        "torch.compile",
        "compile",
        ("what", "compiled", "batch", "step", "first_step", "call", "first_call", "peak_gib"),
    ),
)  # fmt: skip


def _table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Markdown. What was not measured says why, behind its row's name."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        why = row.get("skipped") or (f"as {row['same_as']}" if "same_as" in row else "")
        cells = [_cell(row.get(column)) for column in columns]
        if why:
            empty = next((i for i, column in enumerate(columns) if column not in row), -1)
            cells[empty] = why
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else f"{value:,}" if type(value) is int else str(value)


def _read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text()) if path.is_file() else []  # type: ignore[no-any-return]
