"""Provenance of a result: commit, package versions, time. No torch is imported here."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("thbench", "torch", "torchvision", "torchmetrics", "lightning", "diffusers", "scipy")


def provenance() -> dict[str, Any]:
    """Keyword arguments of ``Result``: git hash, packages, time."""
    return {"git": git_hash(), "packages": packages(), "created": now()}


def git_hash() -> str | None:
    """The commit of this package's clone, with ``+`` where files differ; None without a clone."""
    here = Path(__file__).resolve().parent
    commit = _git(here, "rev-parse", "HEAD")
    if not commit or _git(here, "ls-files", "--error-unmatch", __file__) is None:
        return None
    return commit + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")


def packages() -> dict[str, str]:
    """Versions of the packages that can change a metric value."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The time in UTC, to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
