"""Draws plans as text: frames across, calls down, noise level as shade. No torch is imported."""

from __future__ import annotations

from collections.abc import Iterator

from thbench.generation.plans import SOURCE, Plan, levels, n_frames

OBSERVED = -1.0
UNTOUCHED = -2.0
SHADES = "░▒▓█"
LEGEND = "█ to ░: denoised, from pure noise to nearly clean; o: observed; each line is one call"


def grid(plan: Plan, calls: int = 4) -> list[list[float]]:
    """What happens to each frame in each call in sequence.

    Args:
        plan: any.
        calls: in which a frame goes from pure noise to clean; a multiple of the plan's levels, or
            it is raised to the next.

    Returns:
        a row per call, an entry per frame: its noise level in (0, 1] before the call where it is
        denoised, ``OBSERVED`` or ``UNTOUCHED`` elsewhere.
    """
    high, n = levels(plan), n_frames(plan)
    per_level = -(-calls // high)
    rows = []
    for round_ in plan:
        for k in range(per_level * max(window.drop for window in round_)):
            row = [UNTOUCHED] * n
            for window in round_:
                if k >= per_level * window.drop:
                    continue
                for i in window.observe:
                    if i != SOURCE and row[i] == UNTOUCHED:
                        row[i] = OBSERVED
                for i, enter in zip(window.generate, window.enter, strict=True):
                    row[i] = (enter - k / per_level) / high
            rows.append(row)
    return rows


def text(plan: Plan, calls: int = 4) -> Iterator[str]:
    """``grid`` as lines of characters."""
    for row in grid(plan, calls):
        yield "".join(_character(level) for level in row)


def _character(level: float) -> str:
    if level == UNTOUCHED:
        return " "
    if level == OBSERVED:
        return "o"
    return SHADES[min(len(SHADES) - 1, int(level * len(SHADES) - 1e-9))]
