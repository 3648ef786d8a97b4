"""Plots of metrics. matplotlib is imported when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AxesOf = tuple[Any, "Axes"]
"""A figure, None where the axes were given, and the axes."""


def plot_values(
    values: Tensor | Sequence[Tensor], label: str, best: float | None, ax: Axes | None = None
) -> AxesOf:
    """Plot a metric's value, or its values of several rounds, epochs for instance.

    Args:
        values: scalars.
        label: of the axis.
        best: the best value that there is, drawn as a line; None for none.
        ax: where to draw; a new figure by default.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _axes(ax)
    rounds = [values] if isinstance(values, Tensor) else list(values)
    axes.plot([float(value) for value in rounds], "o-")
    if best is not None:
        axes.axhline(best, color="black", linestyle="--", linewidth=1, label="best possible")
        _legend(axes)
    axes.set(ylabel=label)
    if isinstance(values, Tensor):
        axes.set_xticks([])
    else:
        axes.set(xlabel="round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def plot_clips(
    values: Sequence[float], references: Sequence[float], label: str, ax: Axes | None = None
) -> AxesOf:
    """Plot a metric's value of each clip, in the order in which they came, and the means.

    Args:
        values: of the clips, NaN where the metric is not defined: the axis says of how many.
        references: the reference clips' own, or none.
        label: of the axis.
        ax: where to draw; a new figure by default.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _axes(ax)
    for own, name, colour, mark in (
        (references, "reference", "0.55", "x"),
        (values, "generated", "C0", "o"),
    ):
        defined = [(i + 1, value) for i, value in enumerate(own) if not math.isnan(value)]
        if not defined:
            continue
        mean = math.fsum(value for _, value in defined) / len(defined)
        at, numbers = zip(*defined, strict=True)
        axes.scatter(at, numbers, s=18, color=colour, marker=mark)
        axes.axhline(mean, color=colour, linestyle="--", label=f"{name}, mean {mean:.4g}")
    if axes.lines:
        _legend(axes)
    undefined = sum(map(math.isnan, values))
    axes.set(xlabel=f"clip ({undefined} of {len(values)} without a value)" if undefined else "clip")
    axes.set(ylabel=label, xlim=(0.5, len(values) + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def _legend(axes: Axes) -> None:
    # Above the plot, where it hides no value.
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)


def _axes(ax: Axes | None) -> AxesOf:
    if ax is not None:
        return None, ax
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(layout="constrained")
    return figure, axes
