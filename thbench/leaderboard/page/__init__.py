"""The results as a page: a folder that a browser opens without a server or a network."""

from thbench.leaderboard.page.build import Gallery, check_folder, write_folder, write_page

__all__ = ["Gallery", "check_folder", "write_folder", "write_page"]
