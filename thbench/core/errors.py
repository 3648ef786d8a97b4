"""The one exception that reaches a user as one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right. The message says what is wrong and the remedy.

    The command line prints it as one line and exits with code 2, without a traceback.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the nearest known word, else a list of what is known."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f" Did you mean '{near[0]}'?"
    return f" Known: {', '.join(known)}." if known else ""


def few(names: Iterable[str], shown: int = 3) -> str:
    """The first names in order, and how many more there are, for a message."""
    rest = sorted(names)
    more = f" and {len(rest) - shown} more" if len(rest) > shown else ""
    return f"{', '.join(rest[:shown])}{more}"
