"""Tables that papers print, kept digit by digit in YAML files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from thbench.config import read_yaml
from thbench.core.errors import UserError, did_you_mean
from thbench.evaluation.results import DIRECTIONS
from thbench.leaderboard.rank import Cell, Column, Row, Table, ranked

FOLDER = Path(__file__).resolve().parents[1] / "_published"
"""Papers' tables, ``leaderboards/published`` of a clone."""
NOT_PRINTED = "the paper prints none"
_KEYS = ("table", "part", "caption", "columns", "reference", "unranked", "rows")


def read(path: Path) -> list[Table]:
    """The tables of one paper, with the origin ``reported``.

    Args:
        path: of a YAML file. ``prefix`` leads the tables' file names, ``name`` their titles;
            ``directions`` names every column; a row is one string of as many words as the table
            has columns; ``reference`` names the row of the ground truth; ``unranked`` rows are
            shown without competing.

    Raises:
        UserError: a key is unknown, or a row has too few or too many values.
    """
    content = read_yaml(path)
    directions = content["directions"]
    for name, direction in directions.items():
        if direction not in DIRECTIONS:
            raise UserError(f"{path}: {name} has direction '{direction}'.")
    return [_table(path, content, block, directions) for block in content["tables"]]


def _table(
    path: Path, content: Mapping[str, Any], block: Mapping[str, Any], directions: Mapping[str, str]
) -> Table:
    where = f"{path}, table {block.get('table')}"
    for key in block:
        if key not in _KEYS:
            raise UserError(f"{where} has no key '{key}'.{did_you_mean(key, _KEYS)}")
    columns = [
        Column(_known(where, name, directions), directions[name]) for name in block["columns"]
    ]
    rows = {str(k): _cells(f"{where}, {k}", str(v), columns) for k, v in block["rows"].items()}
    reference = (
        str(block["reference"]) if "reference" in block else None
    )  # a row may be called None
    if reference is not None and reference not in rows:
        raise UserError(f"{where} has no row '{reference}'.{did_you_mean(reference, rows)}")
    truth = rows[reference] if reference is not None else {}
    part = block.get("part")
    number = f"Table {block['table']}" + (f" ({part})" if part else "")
    words = [content["prefix"], "table", str(block["table"]), *(str(part or "").split())]
    table = Table(
        slug="-".join(words).lower().replace(" ", "-"),
        title=f"{content['name']}, {number}: {block['caption']}",
        columns=tuple(columns),
        rows=tuple(
            Row(
                title,
                "reported",
                {name: _with_reference(cell, truth.get(name)) for name, cell in cells.items()},
                ranked=title not in {*map(str, block.get("unranked", [])), reference},
            )
            for title, cells in rows.items()
        ),
        facts={"Paper": content["paper"]},
    )
    return ranked(table)


def _cells(where: str, text: str, columns: list[Column]) -> dict[str, Cell]:
    words = text.split()
    if len(words) != len(columns):
        raise UserError(f"{where} has {len(words)} values for {len(columns)} columns.")
    cells = {}
    for column, word in zip(columns, words, strict=True):
        try:
            cells[column.name] = (
                Cell(missing=NOT_PRINTED) if word == "-" else Cell(float(word), text=word)
            )
        except ValueError as error:
            raise UserError(f"{where}: '{word}' is no number.") from error
    return cells


def _with_reference(cell: Cell, truth: Cell | None) -> Cell:
    return replace(cell, reference=truth.value if truth else None)


def _known(where: str, name: str, directions: Mapping[str, str]) -> str:
    if name not in directions:
        raise UserError(f"{where}: no direction for '{name}'.{did_you_mean(name, directions)}")
    return name
