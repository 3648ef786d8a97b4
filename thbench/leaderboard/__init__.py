"""Tables of results, and of papers. torch is not imported here."""

from thbench.leaderboard.build import build

__all__ = ["build"]
