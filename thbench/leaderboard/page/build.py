"""Writes the page's folder. The same results and videos give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from thbench.core.errors import UserError
from thbench.core.files import write_atomic
from thbench.evaluation.results import Result, read_folder
from thbench.leaderboard import published
from thbench.leaderboard.page import content, plans
from thbench.leaderboard.page.videos import Member, Shelf, collect
from thbench.leaderboard.rank import Table, tables_of

INDEX, DATA = "index.html", "data.js"
UNSCORED = "not scored"
"""Stands for the origin of what is no result."""
_HEAD = "window.THBENCH = "
"""How ``data.js`` begins; a folder with such a file is a page that may be written anew."""
_ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}
"""What could end a script or a line in it."""


@dataclass(frozen=True)
class Gallery:
    """Videos of one clip that were not scored, to be shown beside each other.

    Attributes:
        name: of its place in the page.
        title: for people.
        note: what they are.
        videos: by title.
        plans: by which they were generated, likewise, each by its name and options.
    """

    name: str
    title: str
    note: str
    videos: Mapping[str, Path]
    plans: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def write_page(
    out: Path,
    results: Sequence[Result],
    reported: Iterable[Table] = (),
    *,
    clips: int = 8,
    galleries: Sequence[Gallery] = (),
) -> Path:
    """Write a page of results with the videos they were measured on.

    Args:
        out: the page's folder, which may hold an earlier page and nothing else.
        results: as files have them.
        reported: tables of papers.
        clips: of each table, whose videos are copied: so many at most.
        galleries: videos without results, which stand first.

    Returns:
        ``index.html``.

    Raises:
        UserError: there is nothing to show, the folder holds other things, or cannot be written.
    """
    if clips < 0:
        raise UserError(f"clips must be 0 or more, not {clips}.")
    check_folder(out)
    by_run = {result.run: result for result in results}
    shelf = Shelf(out)
    shelf.clear()
    tables = [_unscored(gallery, shelf) for gallery in galleries]
    for table in tables_of(results):
        for part in content.parts(table):
            tables.append(_measured(part, by_run, shelf, clips))
    tables += [content.of_table(table, {}) for table in reported]
    if not tables:
        raise UserError("There is nothing to show: run `thbench eval STRATEGY` first.")
    shown = {"tables": tables, "lengths": content.lengths(results)}
    assets = resources.files("thbench.leaderboard.page") / "assets"
    for asset in sorted(assets.iterdir(), key=lambda a: a.name):
        if asset.name != INDEX:
            write_atomic(out / asset.name, asset.read_text("utf-8"))
    write_atomic(out / DATA, script(shown))
    write_atomic(out / INDEX, (assets / INDEX).read_text("utf-8"))
    return out / INDEX


def write_folder(out: Path, results: Path, *, clips: int = 8) -> Path:
    """Write the page of a folder of results, and of the papers' tables in ``published`` beside it.

    Args:
        out: as for ``write_page``.
        results: folder of result files.
        clips: as for ``write_page``.

    Returns:
        ``index.html``.

    Raises:
        UserError: as ``write_page``, or a file is not valid.
    """
    papers = sorted((results.parent / "published").glob("*.yaml"))
    reported = [table for paper in papers for table in published.read(paper)]
    return write_page(out, read_folder(results), reported, clips=clips)


def script(shown: Mapping[str, Any]) -> str:
    """The page's data as a script, which a page without a server may load."""
    text = json.dumps(shown, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return f"{_HEAD}{text.translate(_ESCAPED)};\n"


def check_folder(out: Path) -> None:
    """Check that a folder may be taken for a page, before the work whose result it is to show.

    Raises:
        UserError: it holds other things than a page.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a folder for the page.")
    if out.is_dir() and any(out.iterdir()) and not _is_page(out):
        raise UserError(f"{out} holds other files than a page: name an empty folder.")


def _is_page(out: Path) -> bool:
    try:
        with open(out / DATA, encoding="utf-8") as file:
            return file.read(len(_HEAD)) == _HEAD
    except (OSError, UnicodeDecodeError):
        return False


def _measured(
    table: Table, by_run: Mapping[str, Result], shelf: Shelf, clips: int
) -> dict[str, Any]:
    shown = content.of_table(table, by_run)
    members = [Member(i, row.title, by_run[row.run]) for i, row in enumerate(table.rows)]
    shown["gallery"] = collect(members, shelf, clips)
    for clip in shown["gallery"]["clips"]:
        clip["values"] = [
            [member.row, content.of_clip(member.result, clip["id"])] for member in members
        ]
    return shown


def _unscored(gallery: Gallery, shelf: Shelf) -> dict[str, Any]:
    rows = []
    for title in gallery.videos:
        plan = gallery.plans.get(title)
        about = [["Row", [["Title", title], ["Origin", UNSCORED]]], ["Notes", [[gallery.note, ""]]]]
        rows.append(
            {
                **{"title": title, "run": "", "strategy": "", "origin": UNSCORED, "ranked": False},
                **{"cells": [], "about": about},
                "plan": plans.drawn(plan, "as it was generated") if plan else None,
            }
        )
    files = [[i, 0, *shelf.put(path)] for i, path in enumerate(gallery.videos.values())]
    clip = {"id": gallery.title, "original": None, "videos": files, "values": []}
    return {
        **{"id": gallery.name, "title": gallery.title, "origin": UNSCORED},
        **{"data": "", "protocol": "", "facts": [], "legend": [], "notes": [gallery.note]},
        **{"columns": [], "rows": rows, "curves": [], "controls": []},
        "gallery": {"clips": [clip], "missing": [], "of": 1},
    }
