"""Figures for pages. matplotlib is imported when one is drawn."""

from __future__ import annotations

from pathlib import Path

from thbench import drawing
from thbench.errors import UserError
from thbench.plans import Plan


def draw_plan(plan: Plan, path: Path, title: str = "", calls: int = 4) -> Path:
    """A plan as a picture: frames across, calls down, noise level as shade, observed frames blue.

    Raises:
        UserError: matplotlib is not there.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("Figures need matplotlib: pip install 'thbench[dev]'.") from error
    rows = drawing.grid(plan, calls)
    shades = [[_colour(level) for level in row] for row in rows]
    width, height = 0.12 * len(rows[0]) + 1.2, 0.06 * len(rows) + 1.0
    figure = Figure(figsize=(max(3.0, width), max(1.6, height)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shades, aspect="auto", interpolation="nearest")
    axes.set(xlabel="frame", ylabel="call", title=title)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the writer's version, the same plan gives the same bytes.
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return path


def _colour(level: float) -> tuple[float, float, float]:
    if level == drawing.UNTOUCHED:
        return 1.0, 1.0, 1.0
    if level == drawing.OBSERVED:
        return 0.35, 0.60, 0.90
    grey = 0.85 * (1 - level)
    return grey, grey, grey
