"""Plots. matplotlib is imported when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from thbench.evaluation.results import Curve
from thbench.generation import plan_drawing
from thbench.generation.plans import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_plan(plan: Plan, path: Path, title: str = "", calls: int = 4) -> Path:
    """Plot a plan: frames across, network calls down, noise levels grey, observed frames blue.

    Args:
        plan: any.
        path: of the PNG.
        title: above the plot.
        calls: as for ``plan_drawing.grid``: in which a frame goes from pure noise to clean.

    Returns:
        ``path``.
    """
    from matplotlib.figure import Figure

    rows = plan_drawing.grid(plan, calls)
    shades = [[_colour(level) for level in row] for row in rows]
    width, height = 0.12 * len(rows[0]) + 1.2, 0.06 * len(rows) + 1.0
    figure = Figure(figsize=(max(3.0, width), max(1.6, height)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shades, aspect="auto", interpolation="nearest")
    axes.set(xlabel="frame", ylabel="call", title=title)
    return _save(figure, path)


def draw_curves(curves: Mapping[str, Mapping[str, Curve]], path: Path) -> Path:
    """Plot metric values over time: a panel per metric, frames across, a line per row.

    A bin is drawn at its middle frame. Where fewer clips count than at the start, since others have
    ended, the line is dotted: it compares other clips there, not only later frames.

    Args:
        curves: by metric's name and row's title.
        path: of the PNG.

    Returns:
        ``path``.
    """
    from matplotlib.figure import Figure

    across = min(2, len(curves))
    down = -(-len(curves) // across)
    figure = Figure(figsize=(5.2 * across, 3.2 * down), layout="constrained")
    titles = list(dict.fromkeys(title for rows in curves.values() for title in rows))
    for i, (name, rows) in enumerate(curves.items()):
        axes = figure.add_subplot(down, across, i + 1)
        unit = next(iter(rows.values())).unit
        axes.set(title=f"{name} ({unit})" if unit else name, xlabel="frame")
        axes.grid(alpha=0.3)
        for title, curve in rows.items():
            _line(axes, curve, title, f"C{titles.index(title) % 10}")
    handles = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    shown = [handles[title] for title in titles if title in handles]
    figure.legend(handles=shown, loc="outside lower center", ncols=min(4, len(titles)))
    return _save(figure, path)


def _line(axes: Axes, curve: Curve, label: str, colour: str) -> None:
    at = [(k + 0.5) * curve.frames for k in range(len(curve.values))]
    values = [math.nan if value is None else value for value in curve.values]
    whole = next((k for k, n in enumerate(curve.clips) if n < curve.clips[0]), len(at))
    axes.plot(at[:whole], values[:whole], "-o", color=colour, markersize=3, label=label)
    if 0 < whole < len(at):
        axes.plot(at[whole - 1 :], values[whole - 1 :], ":", color=colour)


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the writer's version, the same figure gives the same bytes.
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return path


def _colour(level: float) -> tuple[float, float, float]:
    if level == plan_drawing.UNTOUCHED:
        return 1.0, 1.0, 1.0
    if level == plan_drawing.OBSERVED:
        return 0.35, 0.60, 0.90
    grey = 0.85 * (1 - level)
    return grey, grey, grey
