"""Tables as text. A format is a function from table to text, named in ``FORMATS``."""

from __future__ import annotations

import csv as _csv
import io
from collections.abc import Callable

from thbench.evaluation.report import printer, verdict
from thbench.leaderboard.rank import Cell, Column, Row, Table

ARROWS = {"higher": "↑", "lower": "↓", "zero": "→0", "reference": "→ref"}
MARKS = "Best **bold**, second <u>underlined</u>, among rows of one origin."
TIES = (
    "Brackets hold confidence intervals over clips. Rows tie where a paired bootstrap over clips of"
    " their difference covers zero or, without values per clip, where their intervals overlap."
)
DIRECTIONS = {
    "zero": "`→0`: the nearer to zero the better.",
    "reference": "`→ref`: the nearer to the reference's own value the better.",
}
CONTROL = (
    "Each clip was also measured with another clip's audio, over the frames that both have."
    " Differences are own less other; p is that of Wilcoxon's signed-rank test, two-sided, over"
    " clips. A metric that does not tell both apart does not measure sync on these"
    " videos, or there are too few clips to see it."
)
OVER_TIME = "-over-time"
"""Follows a table's name in the names of its files of values over time."""
OWN_REFERENCE = "It stands in parentheses."


def markdown(table: Table) -> str:
    """A Markdown page with one table."""
    head = ["Row", "Origin", *(_heading(c) for c in table.columns)]
    body = [[_escape(row.title), row.origin, *_cell_texts(table, row)] for row in table.rows]
    lines = [f"# {table.title}", ""]
    lines += [f"- {name}: {text}" for name, text in table.facts.items()]
    lines += ["", _line(head), _line(["---", "---", *("---:" for _ in table.columns)])]
    lines += [_line(row) for row in body]
    lines += ["", _legend(table)]
    if table.notes:
        lines += ["", *(f"- {note}" for note in table.notes)]
    lines += _control_lines(table)
    if table.curves:
        lines += ["", "## Over time", "", f"![values over time]({table.slug}{OVER_TIME}.png)"]
        lines += ["", f"In numbers: [{table.slug}{OVER_TIME}.csv]({table.slug}{OVER_TIME}.csv)"]
    return "\n".join(lines) + "\n"


def csv(table: Table) -> str:
    """One line per row: each value with all digits, its interval, reference and mark."""
    out = io.StringIO()
    writer = _csv.writer(out, lineterminator="\n")
    parts = ("", " low", " high", " reference", " mark")
    head = [f"{c.name}{part}" for c in table.columns for part in parts]
    writer.writerow(["row", "origin", "run", *head])
    for row in table.rows:
        cells = [row.cells.get(c.name, Cell()) for c in table.columns]
        values = [value for cell in cells for value in _csv_cell(cell)]
        writer.writerow([row.title, row.origin, row.run, *values])
    return out.getvalue()


def show(table: Table) -> None:
    """Print a table in the terminal, transposed: a line per metric, best and second marked."""
    import rich.table
    from rich.markup import escape

    shown = rich.table.Table("", title=escape(table.title), box=None, header_style="bold")
    for row in table.rows:
        shown.add_column(escape(row.title), justify="right", overflow="fold")
    shown.add_row("", *(row.origin for row in table.rows))
    styles = {"best": "[bold]{}[/]", "second": "[underline]{}[/]"}
    for column in table.columns:
        cells = [row.cells.get(column.name, Cell()) for row in table.rows]
        values = (_value(cell, column, styles.get(cell.mark, "{}")) for cell in cells)
        shown.add_row(escape(_heading(column)), *values)
    printer().print(shown)


def curves_csv(table: Table) -> str:
    """One line per metric, row and bin of frames: first and last frame, value, clips."""
    out = io.StringIO()
    writer = _csv.writer(out, lineterminator="\n")
    writer.writerow(["figure", "row", "first frame", "last frame", "value", "clips"])
    for name, rows in table.curves.items():
        for title, curve in rows.items():
            for k, (value, clips) in enumerate(zip(curve.values, curve.clips, strict=True)):
                span = k * curve.frames, (k + 1) * curve.frames - 1
                writer.writerow([name, title, *span, "" if value is None else value, clips])
    return out.getvalue()


FORMATS: dict[str, Callable[[Table], str]] = {"md": markdown, "csv": csv}


def number(value: float) -> str:
    """About four significant digits, without an exponent; integers over 1 without decimals."""
    size = abs(value)
    decimals = 1 if size >= 100 else 2 if size >= 10 else 3
    if size > 1 and value == int(value):
        decimals = 0
    return f"{value:.{decimals}f}"


def _control_lines(table: Table) -> list[str]:
    """A section with a line for each metric and row that has a control; [] for none."""
    if not table.controls:
        return []
    directions = {column.name: column.direction or "" for column in table.columns}
    head = ["Metric", "Row", "Own audio", "Another's", "Median difference", "Clips", "Test"]
    lines = ["", "## With another clip's audio", "", CONTROL, ""]
    lines += [_line(head), _line(["---", "---", *["---:"] * 4, "---"])]
    for name, rows in table.controls.items():
        for title, control in rows.items():
            found = (control.own, control.other, control.median)
            texts = ["–" if value is None else number(value) for value in found]
            test = verdict(control, directions.get(name, ""))
            lines.append(_line([name, _escape(title), *texts, str(control.n), test]))
    return lines


def _legend(table: Table) -> str:
    names = [column.name for column in table.columns]
    cells = [row.cells[name] for row in table.rows for name in names if name in row.cells]
    used = {column.direction for column in table.columns}
    words = [MARKS]
    words += [TIES] if any(cell.interval for cell in cells) else []
    words += [text for direction, text in DIRECTIONS.items() if direction in used]
    if any(cell.reference is not None and cell.text is None for cell in cells):
        words.append(OWN_REFERENCE)
    return " ".join(words)


def _cell_texts(table: Table, row: Row) -> list[str]:
    return [_cell_text(row.cells.get(column.name, Cell()), column) for column in table.columns]


def _cell_text(cell: Cell, column: Column) -> str:
    text = _value(cell, column, {"best": "**{}**", "second": "<u>{}</u>"}.get(cell.mark, "{}"))
    if cell.value is not None and cell.interval:
        text += " [{}, {}]".format(*map(number, cell.interval))
    return text


def _value(cell: Cell, column: Column, mark: str = "{}") -> str:
    if cell.value is None:
        return "–"
    text = mark.format(cell.text or number(cell.value))
    # A paper prints the reference as a row of its own.
    if column.direction == "reference" and cell.reference is not None and cell.text is None:
        text += f" ({number(cell.reference)})"
    return text


def _heading(column: Column) -> str:
    name = f"{column.name} ({column.unit})" if column.unit else column.name
    return f"{name} {ARROWS[column.direction]}" if column.direction else name


def _csv_cell(cell: Cell) -> list[object]:
    low, high = cell.interval or (None, None)
    value = cell.text if cell.text is not None else cell.value
    return ["" if v is None else v for v in (value, low, high, cell.reference, cell.mark)]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
