"""Tables from results and from papers. No torch is imported here."""

from thbench.leaderboard.build import build

__all__ = ["build"]
