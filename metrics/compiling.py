"""Machine code that Numba makes and keeps on disk, by one process of this machine at a time."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def compile_lock() -> Iterator[None]:
    """Wait until no other process compiles, and keep others waiting.

    Numba's files that several processes write at once crash whoever reads them ever after.
    """
    ours = Path(tempfile.gettempdir()) / f"thbench-numba-{os.getuid()}.lock"
    with ours.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
