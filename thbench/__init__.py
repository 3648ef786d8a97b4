"""A benchmark of generation strategies for audio-driven talking-head video.

``load``, ``generate``, ``score``, ``fit`` and ``evaluate`` are imported when they are first used,
so that ``import thbench`` takes no time; ``thbench.api`` describes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thbench.api import UserError, evaluate, fit, generate, load, score

__all__ = ["UserError", "evaluate", "fit", "generate", "load", "score"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from thbench import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
