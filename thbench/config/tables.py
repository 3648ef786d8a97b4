"""The papers' tables as rows to run: files of configs/tables. No torch is imported here.

A file says::

    published: dawn-table-2          # a table of leaderboards/published
    data: cremad                     # as data=NAME
    protocol: dawn                   # as eval.protocol=NAME, on recordings
    words: [eval.frames=200]         # of every row
    columns: {Time (s): Timed (s)}   # ours by the paper's names, where they differ
    rows:                            # by the paper's names: a strategy and its words
      SAR: sar
      w/o PBNet: dawn without_pbnet=true
      GT: {yardstick: ground-truth, of: dawn}
    methods: [Wav2Lip]               # rows of methods without code here

or, of a table that no program makes, ``published`` and ``why``.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thbench.config import search
from thbench.config.loading import read_yaml
from thbench.core.errors import UserError, did_you_mean

KEYS = ("published", "data", "protocol", "words", "columns", "rows", "methods", "why")
NO_CODE = "a method without code here: score its videos"


@dataclass(frozen=True)
class TableRow:
    """A row of a paper's table.

    Attributes:
        name: as the paper prints it.
        strategy: to run; "" where the row cannot be run.
        words: ``key=value``, of the table and of the row.
        yardstick: of ``thbench eval --yardstick``, or None.
        why: the row cannot be run; "" where it can.
    """

    name: str
    strategy: str = ""
    words: tuple[str, ...] = ()
    yardstick: str | None = None
    why: str = ""


@dataclass(frozen=True)
class TableSpec:
    """A paper's table.

    Attributes:
        name: of the file.
        published: the slug of the paper's table.
        rows: in the file's order, those that cannot be run last.
        data: the name of a data set, "" where nothing is run.
        protocol: by which recordings are scored.
        columns: ours by the paper's names, where they differ.
        why: no row can be run; "" where some can.
    """

    name: str
    published: str
    rows: tuple[TableRow, ...] = ()
    data: str = ""
    protocol: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    why: str = ""

    @property
    def runnable(self) -> tuple[TableRow, ...]:
        """The rows that can be run."""
        return tuple(row for row in self.rows if not row.why)


def read_table(name: str) -> TableSpec:
    """A table's rows.

    Args:
        name: of ``thbench ls tables``, or a path to a YAML file.

    Raises:
        UserError: there is none, or it has unknown keys or rows.
    """
    path = search.find("tables", name)
    content = read_yaml(path)
    for key in content:
        if key not in KEYS:
            raise UserError(f"{path} has no key '{key}'.{did_you_mean(key, KEYS)}")
    if "published" not in content:
        raise UserError(f"{path} lacks 'published', the name of the paper's table.")
    if "why" in content:
        return TableSpec(path.stem, content["published"], why=str(content["why"]))
    for key in ("data", "protocol", "rows"):
        if key not in content:
            raise UserError(f"{path} lacks '{key}'.")
    common = tuple(map(str, content.get("words", [])))
    rows = [_row(path, str(k), v, common) for k, v in content["rows"].items()]
    rows += [TableRow(str(method), why=NO_CODE) for method in content.get("methods", [])]
    return TableSpec(
        path.stem,
        content["published"],
        tuple(rows),
        content["data"],
        content["protocol"],
        content.get("columns", {}),
    )


def _row(path: Path, name: str, value: Any, common: tuple[str, ...]) -> TableRow:
    if isinstance(value, Mapping):
        known = ("yardstick", "of")
        for key in value:
            if key not in known:
                raise UserError(f"{path}, {name}: no key '{key}'.{did_you_mean(key, known)}")
        if set(value) != set(known):
            raise UserError(f"{path}, {name}: write {{yardstick: NAME, of: STRATEGY}}.")
        return TableRow(name, value["of"], common, value["yardstick"])
    # A word may hold blanks within brackets, as options.guidance={image: 1, audio: 1} does.
    strategy, *words = _split(str(value))
    for word in words:
        if "=" not in word:
            raise UserError(f"{path}, {name}: '{word}' is not of the form key=value.")
    return TableRow(name, strategy, (*common, *words))


def _split(text: str) -> list[str]:
    """Words at blanks outside of brackets."""
    words, depth = [""], 0
    for c in text.strip():
        depth += (c in "[{") - (c in "]}")
        if c == " " and depth == 0:
            words += [""] if words[-1] else []
        else:
            words[-1] += c
    return words


def command(row: TableRow, words: tuple[str, ...] = ()) -> list[str]:
    """The two commands that make a runnable row, to be read and typed."""
    chosen = shlex.join([row.strategy, *row.words, *words])
    if row.yardstick:
        return [f"thbench eval {chosen} --yardstick {row.yardstick}"]
    return [f"thbench fit {chosen}", f"thbench eval {chosen}"]
