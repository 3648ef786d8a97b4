"""Plans as pictures for the page. No torch is imported."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from thbench import config as configs
from thbench.core.errors import UserError
from thbench.evaluation.results import SHUFFLED, Result
from thbench.generation import plan_drawing, plans

FRAMES = 60
"""Drawn at most."""
CALLS = 4
"""In which a frame goes from noise to clean, in a picture."""
SHADES = 5
"""Noise levels that a picture tells apart."""


def picture(result: Result) -> dict[str, Any] | None:
    """The plan of a row, drawn; None for a row that no strategy here generated.

    Results that were written before plans were kept have that of the strategy's file, which the
    picture says.

    Returns:
        As ``drawn``.
    """
    found = _plan(result)
    return drawn(*found, int(result.cost.frames) if result.cost else FRAMES) if found else None


def drawn(plan: Mapping[str, Any], source: str, frames: int = FRAMES) -> dict[str, Any]:
    """A picture of a plan.

    Args:
        plan: its name, and options.
        source: where it stands, in words.
        frames: of the clip, of which ``FRAMES`` are drawn at most.

    Returns:
        ``plan`` in words, ``from`` where it stands, ``frames`` and ``calls`` of the picture, and
        ``cells``: row, first column, columns, and shade: 0 observed, 1 nearly clean, up to
        ``SHADES`` for pure noise.
    """
    n = max(1, min(FRAMES, frames))
    grid = plan_drawing.grid(plans.build(n=n, **plan), CALLS)
    cells = []
    for y, row in enumerate(grid):
        for shade, group in itertools.groupby(range(n), key=lambda x: _shade(row[x])):
            columns = list(group)
            if shade is not None:
                cells.append([y, columns[0], len(columns), shade])
    # Results keep switches as 0 and 1.
    numbers = {k: int(v) if isinstance(v, bool) else v for k, v in plans.filled(plan).items()}
    words = plans.describe(numbers)
    return {"plan": words, "from": source, "frames": n, "calls": len(grid), "cells": cells}


def _plan(result: Result) -> tuple[Mapping[str, Any], str] | None:
    """The plan, and where it is taken from."""
    if result.plan is not None:
        plan = {"name": result.plan.name, **result.plan.options}
        return (plan, "as the row was generated") if plan["name"] in plans.BUILDERS else None
    if result.strategy == SHUFFLED or any(note.startswith("zero-shot") for note in result.notes):
        return None  # of another strategy, or of a plan that the file does not have
    shipped = bool(result.weights) and all(own.shipped for own in result.weights.values())
    scale = configs.SHIPPED_SCALE if shipped else "tiny" if result.origin == "smoke" else "paper"
    try:
        config = configs.load(result.strategy, [f"scale={scale}"])
    except UserError:
        return None  # a yardstick, or a strategy that is not here
    where = f"as the strategy's file has it at scale={scale}; the result itself does not say"
    return config.plan, where


def _shade(level: float) -> int | None:
    if level == plan_drawing.UNTOUCHED:
        return None
    if level == plan_drawing.OBSERVED:
        return 0
    return max(1, min(SHADES, round(level * SHADES)))
