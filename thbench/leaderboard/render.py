"""Tables as text. A format is a function from table to text, named in ``FORMATS``."""

from __future__ import annotations

import csv as _csv
import io
from collections.abc import Callable

from thbench.leaderboard.cells import CONTROLS, Text, control_lines, heading, legend, texts
from thbench.leaderboard.costs import plotted
from thbench.leaderboard.html import html
from thbench.leaderboard.latex import latex
from thbench.leaderboard.rank import Cell, Table

MARKS = "Best **bold**, second <u>underlined</u>, among rows of one origin."
CONTROL = (
    "Each clip was also measured with another clip's audio, over the frames that both have."
    " Differences are own less other; p is that of Wilcoxon's signed-rank test, two-sided, over"
    " clips. A metric that does not tell both apart does not measure sync on these"
    " videos, or there are too few clips to see it."
)
COST_NOTE = (
    "A dashed line joins the rows that no other beats in both; whether rows differ by more than"
    " chance, the table's marks say. Dotted: the reference's own value."
)
OVER_TIME = "-over-time"
"""Follows a table's name in the names of its files of values over time."""
COSTS = "-costs"
"""Likewise, of its plot of costs against qualities."""


def markdown(table: Table, *, pictures: bool = True) -> str:
    """A Markdown page with one table.

    Args:
        table: any.
        pictures: name the plots that ``thbench leaderboard`` draws beside the page.
    """
    head = ["Row", "Origin", *(heading(c) for c in table.columns)]
    body = [
        [_escape(row.title), row.origin, *map(_cell_text, cells)]
        for row, cells in zip(table.rows, texts(table), strict=True)
    ]
    lines = [f"# {table.title}", ""]
    lines += [f"- {name}: {text}" for name, text in table.facts.items()]
    lines += ["", _line([_escape(text) for text in head])]
    lines += [_line(["---", "---", *("---:" for _ in table.columns)])]
    lines += [_line(row) for row in body]
    if words := legend(table, MARKS):
        lines += ["", " ".join(words)]
    if table.notes:
        lines += ["", *(f"- {note}" for note in table.notes)]
    lines += _control_lines(table)
    if pictures and table.curves:
        lines += ["", "## Over time", "", f"![values over time]({table.slug}{OVER_TIME}.png)"]
        lines += ["", f"In numbers: [{table.slug}{OVER_TIME}.csv]({table.slug}{OVER_TIME}.csv)"]
    if pictures and plotted(table):
        lines += ["", "## Cost and quality", ""]
        lines += [f"![costs against qualities]({table.slug}{COSTS}.png)", "", COST_NOTE]
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


FORMATS: dict[str, Callable[[Table], str]] = {
    **{"md": markdown, "csv": csv},
    **{"tex": latex, "html": html},
}
WRITTEN = ("md", "csv", "tex")
"""Formats that ``thbench leaderboard`` writes where none are named."""
SVG = "svg"
"""Not a table's format, but a second one of plots."""


def _control_lines(table: Table) -> list[str]:
    """A section with the table's ``control_lines``; [] for none."""
    if not table.controls:
        return []
    lines = ["", "## With another clip's audio", "", CONTROL, ""]
    lines += [_line(list(CONTROLS)), _line(["---", "---", *["---:"] * 4, "---"])]
    return lines + [_line([_escape(text) for text in line]) for line in control_lines(table)]


def _cell_text(text: Text) -> str:
    shown = {"best": "**{}**", "second": "<u>{}</u>"}.get(text.mark, "{}").format(text.value)
    shown += f" {text.interval}" if text.interval else ""
    return shown + (f"<sup>{text.footnote}</sup>" if text.footnote else "")


def _csv_cell(cell: Cell) -> list[object]:
    low, high = cell.interval or (None, None)
    value = cell.text if cell.text is not None else cell.value
    return ["" if v is None else v for v in (value, low, high, cell.reference, cell.mark)]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
