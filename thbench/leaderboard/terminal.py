"""Tables in the terminal: in blocks of as many columns as its width takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from thbench.evaluation.report import printer
from thbench.leaderboard.cells import Text, heading, legend, texts
from thbench.leaderboard.rank import Table

STYLES = {"best": "[bold]{}[/]", "second": "[underline]{}[/]"}
GAP = 2
"""Blanks between columns."""
TITLES = 26
"""A row's title may be so wide; a longer one is broken at its words."""
LEAST = 8
"""A column is at least so wide, that headings need not be broken within words often."""


def show(table: Table, width: int | None = None) -> None:
    """Print a table: its title, facts, the rows in blocks of columns, and a legend.

    Args:
        table: any.
        width: in characters; that of the terminal by default.
    """
    import rich.table
    from rich.markup import escape

    console = printer()
    width = width or console.width
    console.width = width
    origins = list(dict.fromkeys(row.origin for row in table.rows))
    console.print(f"[bold]{escape(table.title)}[/]", highlight=False)
    said = [f"origin: {origins[0]}"] if len(origins) == 1 else []
    said += [f"{name.lower()}: {text}" for name, text in table.facts.items()]
    console.print(escape("\n".join(said)), highlight=False)
    cells = texts(table)
    titles = [row.title for row in table.rows]
    if len(origins) > 1:
        titles = [f"{row.title} [{row.origin}]" for row in table.rows]
    aside = min(TITLES, max(map(len, titles), default=0))
    for block in blocks(table, cells, width - aside - GAP):
        shown = rich.table.Table(box=None, header_style="bold", padding=(0, GAP, 0, 0))
        shown.add_column("", min_width=aside, max_width=aside, overflow="fold")
        for i in block:
            title = heading(table.columns[i])
            room = _width(title, [row[i] for row in cells])
            shown.add_column(
                escape(title), justify="right", min_width=room, max_width=room, overflow="fold"
            )
        for title, row in zip(titles, cells, strict=True):
            shown.add_row(escape(title), *(_shown(row[i]) for i in block))
        console.print(shown)
        console.print()
    if words := legend(table, intervals=False):
        console.print(escape(" ".join(words)), highlight=False)
    console.print()


def blocks(table: Table, cells: Sequence[Sequence[Text]], room: int) -> Iterator[list[int]]:
    """Indices of the columns that stand beside each other.

    Args:
        table: any.
        cells: what each cell says.
        room: characters beside the titles. A column that is wider stands alone.
    """
    block: list[int] = []
    left = room
    for i, column in enumerate(table.columns):
        needed = _width(heading(column), [row[i] for row in cells]) + GAP
        if block and needed > left:
            yield block
            block, left = [], room
        block.append(i)
        left -= needed
    if block:
        yield block


def _width(title: str, cells: Sequence[Text]) -> int:
    words = max(map(len, title.split()), default=0)
    return max(LEAST, words, *(len(cell.value) + len(cell.footnote) for cell in cells))


def _shown(text: Text) -> str:
    from rich.markup import escape

    return STYLES.get(text.mark, "{}").format(escape(text.value)) + text.footnote
