"""Plots. matplotlib is imported when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from thbench.core.errors import UserError
from thbench.evaluation.results import Curve
from thbench.generation import plan_drawing
from thbench.generation.plans import Plan
from thbench.leaderboard.cells import heading
from thbench.leaderboard.costs import Line, front, plotted
from thbench.leaderboard.paired import Cell, Column
from thbench.leaderboard.rank import Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")
"""Of plots, by the ending of the file's name."""
ACROSS = 5
"""Panels beside each other in ``draw_costs``."""
SPREAD = 5
"""Costs are drawn on a logarithmic axis where the largest is more than so many times the least."""
MARKERS = "osD^vP*X"
"""Differ with the row, for those who do not tell the colours apart."""


def draw_plan(plan: Plan, path: Path, title: str = "", calls: int = 4) -> Path:
    """Plot a plan: frames across, network calls down, noise levels grey, observed frames blue.

    Args:
        plan: any.
        path: of the PNG or SVG.
        title: above the plot.
        calls: as for ``plan_drawing.grid``: in which a frame goes from pure noise to clean.

    Returns:
        ``path``.

    Raises:
        UserError: the path ends in neither ``.png`` nor ``.svg``; so for all plots.
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
        path: of the PNG or SVG.

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


def draw_costs(table: Table, path: Path) -> Path | None:
    """Plot what quality costs: a panel per metric, the cost across, a mark per row.

    A dashed line joins the rows that no other beats in both (``costs.front``); a dotted line is the
    reference's own value, where a metric is to be near to it.

    Args:
        table: any.
        path: of the PNG or SVG.

    Returns:
        ``path``; None where no two rows have a cost and a quality.
    """
    from matplotlib.figure import Figure

    found = plotted(table)
    if found is None:
        return None
    cost, qualities = found
    rows = [row for row in table.rows if row.cells.get(cost.name, Cell()).value is not None]
    across = min(ACROSS, len(qualities))
    down = -(-len(qualities) // across)
    figure = Figure(figsize=(max(5.2, 2.6 * across), 2.2 * down + 0.8), layout="constrained")
    for i, quality in enumerate(qualities):
        axes = figure.add_subplot(down, across, i + 1)
        _scatter(axes, rows, cost, quality)
        if i >= len(qualities) - across:
            axes.set_xlabel("calls in sequence" if cost.name == "Depth" else cost.name)
    handles = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    shown = [handles[row.title] for row in rows if row.title in handles]
    figure.legend(handles=shown, loc="outside lower center", ncols=min(max(2, across), len(shown)))
    return _save(figure, path)


def draw_lengths(lines: Sequence[Line], path: Path) -> Path:
    """Plot what clips cost by their length: frames across, network calls in sequence upwards.

    Args:
        lines: of ``costs.lengths``.
        path: of the PNG or SVG.

    Returns:
        ``path``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for i, line in enumerate(lines):
        at = [point.frames for point in line.points]
        calls = [point.depth for point in line.points]
        mark = MARKERS[i % len(MARKERS)]
        axes.plot(at, calls, f"-{mark}", color=f"C{i % 10}", markersize=5, label=line.title)
    axes.set(xlabel="frames of the clip", ylabel="network calls in sequence", xlim=(0, None))
    depths = [point.depth for line in lines for point in line.points]
    if max(depths) > SPREAD * min(depths):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=min(2, len(lines)))
    return _save(figure, path)


def _scatter(axes: Axes, rows: Sequence[Row], cost: Column, quality: Column) -> None:
    prices, references = [], set()
    points: dict[str, tuple[float, float]] = {}
    for i, row in enumerate(rows):
        price, cell = row.cells[cost.name].value, row.cells.get(quality.name, Cell())
        assert price is not None
        prices.append(price)
        if cell.value is None:
            continue
        points[row.title] = price, cell.value
        mark, colour = MARKERS[i % len(MARKERS)], f"C{i % 10}"
        axes.plot([price], [cell.value], mark, color=colour, label=row.title)
        if quality.direction == "reference" and cell.reference is not None:
            references.add(cell.reference)
    # The reference's value is one for all rows, unless they were measured on other clips.
    if len(references) == 1:
        axes.axhline(references.pop(), color="0.4", linestyle=":", linewidth=1)
    best = [points[row.title] for row in front(rows, cost, quality)]
    if len(best) > 1:
        axes.plot(*zip(*best, strict=True), "--", color="0.5", linewidth=1, zorder=1)
    if 0 < min(prices) < max(prices) / SPREAD:
        axes.set_xscale("log")
    axes.set_title(heading(quality), fontsize="x-small")
    axes.tick_params(labelsize="x-small")
    axes.margins(0.12)
    axes.grid(alpha=0.3)


def check_plot(path: Path) -> None:
    """Check that a plot may have this name.

    Raises:
        UserError: it ends in neither ``.png`` nor ``.svg``.
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path}: a plot's name ends in {' or '.join(FORMATS)}.")


def _save(figure: Figure, path: Path) -> Path:
    from matplotlib import rc_context

    check_plot(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the writer's version and the date, the same figure gives the same bytes.
    png = path.suffix.lower() == ".png"
    metadata = {"Software": None} if png else {"Creator": None, "Date": None}
    with rc_context({"svg.hashsalt": "thbench", "svg.fonttype": "none"}):
        figure.savefig(path, dpi=100, metadata=metadata)
    return path


def _colour(level: float) -> tuple[float, float, float]:
    if level == plan_drawing.UNTOUCHED:
        return 1.0, 1.0, 1.0
    if level == plan_drawing.OBSERVED:
        return 0.35, 0.60, 0.90
    grey = 0.85 * (1 - level)
    return grey, grey, grey
