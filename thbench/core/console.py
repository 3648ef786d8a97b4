"""Printing for the user from one process, and silencing libraries."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

from lightning.pytorch.utilities import rank_zero_only

_NOISY = ("lightning", "lightning.pytorch", "lightning.fabric", "torch", "wandb")


@rank_zero_only
def rank_zero_print(text: str) -> None:
    """Print a line for the user, once, however many processes run."""
    print(text, flush=True)


def is_rank_zero() -> bool:
    """Whether this is rank 0, also before a trainer has started the others."""
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence torch's, Lightning's and W&B's messages within the block, except errors."""
    levels = {name: logging.getLogger(name).level for name in _NOISY}
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for module in _NOISY:
                warnings.filterwarnings("ignore", module=module.replace(".", r"\."))
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
