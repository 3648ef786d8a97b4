"""What headings, cells and legends of a table say, whatever the format."""

from __future__ import annotations

from dataclasses import dataclass

from thbench.evaluation.report import verdict
from thbench.leaderboard.rank import Cell, Column, Row, Table

ARROWS = {"higher": "↑", "lower": "↓", "zero": "→0", "reference": "→ref"}
NONE = "–"
"""Stands where there is no value."""
MARKS = "Best bold, second underlined, among rows of one origin."
NOT_MEASURED = "not measured for this row"
INTERVALS = "Brackets hold confidence intervals over clips."
TIES = (
    "Rows tie where a paired bootstrap over clips of their difference covers zero or, without"
    " values per clip, where their intervals overlap."
)
DIRECTIONS = {
    "zero": "→0: the nearer to zero the better.",
    "reference": "→ref: the nearer to the reference's own value the better.",
}
OWN_REFERENCE = "It stands in parentheses."


@dataclass(frozen=True)
class Text:
    """A cell as text, in parts that formats set in their own ways.

    Attributes:
        value: with the reference's own in parentheses, where the column is judged by it.
        interval: "[low, high]", or nothing.
        mark: ``best``, ``second`` or nothing.
        footnote: the letter of the reason for which there is no value, or nothing.
    """

    value: str
    interval: str = ""
    mark: str = ""
    footnote: str = ""


def number(value: float) -> str:
    """About four significant digits, without an exponent; integers over 1 without decimals."""
    size = abs(value)
    decimals = 1 if size >= 100 else 2 if size >= 10 else 3
    if size > 1 and value == int(value):
        decimals = 0
    return f"{value:.{decimals}f}"


def heading(column: Column) -> str:
    """Name, unit, and an arrow that says which way is better."""
    name = f"{column.name} ({column.unit})" if column.unit else column.name
    return f"{name} {ARROWS[column.direction]}" if column.direction else name


def reasons(table: Table) -> dict[str, str]:
    """Letters of footnotes by the reason for which cells have no value, in order of appearance."""
    found: dict[str, None] = {}
    for row in table.rows:
        found |= {_reason(row, column): None for column in table.columns if _reason(row, column)}
    return {reason: _letter(i) for i, reason in enumerate(found)}


def texts(table: Table) -> list[list[Text]]:
    """What each cell says, by rows and columns."""
    letters = reasons(table)
    return [[_text(row, column, letters) for column in table.columns] for row in table.rows]


def legend(table: Table, marks: str = MARKS, intervals: bool = True) -> list[str]:
    """Sentences below a table: marks, ties, directions, reasons for dashes.

    Args:
        table: any.
        marks: how the format shows best and second.
        intervals: the format shows them.
    """
    cells = [cell for row in table.rows for cell in (_cell(row, c) for c in table.columns)]
    used = {column.direction for column in table.columns}
    words = [marks] if any(cell.mark for cell in cells) else []
    if any(cell.interval for cell in cells):
        words += [INTERVALS, TIES] if intervals else [TIES]
    words += [text for direction, text in DIRECTIONS.items() if direction in used]
    if "reference" in used and any(_has_reference(c) for c in cells):
        words.append(OWN_REFERENCE)
    words += [f"{NONE}{letter}: {reason}." for reason, letter in reasons(table).items()]
    return words


CONTROLS = ("Metric", "Row", "Own audio", "Another's", "Median difference", "Clips", "Test")
"""Headings of ``control_lines``."""


def control_lines(table: Table) -> list[list[str]]:
    """A line for each metric and row that was also measured with another clip's audio."""
    directions = {column.name: column.direction or "" for column in table.columns}
    lines = []
    for name, rows in table.controls.items():
        for title, control in rows.items():
            found = (control.own, control.other, control.median)
            values = [NONE if value is None else number(value) for value in found]
            test = verdict(control, directions.get(name, ""))
            lines.append([name, title, *values, str(control.n), test])
    return lines


def _text(row: Row, column: Column, letters: dict[str, str]) -> Text:
    cell = _cell(row, column)
    if cell.value is None:
        return Text(NONE, footnote=letters.get(_reason(row, column), ""))
    value = cell.text or number(cell.value)
    if column.direction == "reference" and _has_reference(cell):
        assert cell.reference is not None
        value += f" ({number(cell.reference)})"
    low_high = "[{}, {}]".format(*map(number, cell.interval)) if cell.interval else ""
    return Text(value, low_high, cell.mark)


def _has_reference(cell: Cell) -> bool:
    """A paper prints the reference as a row of its own."""
    return cell.value is not None and cell.reference is not None and cell.text is None


def _reason(row: Row, column: Column) -> str:
    cell = _cell(row, column)
    return "" if cell.value is not None else cell.missing or NOT_MEASURED


def _cell(row: Row, column: Column) -> Cell:
    return row.cells.get(column.name, Cell())


def _letter(i: int) -> str:
    """a, b, ... z, aa, ab, ..."""
    return (_letter(i // 26 - 1) if i >= 26 else "") + chr(ord("a") + i % 26)
