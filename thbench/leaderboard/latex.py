"""Tables in LaTeX, for papers: needs the package booktabs."""

from __future__ import annotations

from thbench.leaderboard.cells import Text, heading, legend, texts
from thbench.leaderboard.rank import Table

MARKS = "Best \\textbf{bold}, second \\underline{underlined}, among rows of one origin."
WIDE = 6
"""A table with more columns takes the width of the page."""
_SPECIAL = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"},
    **{"<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "–": "--", "±": "$\\pm$"},
    **{"↑": "$\\uparrow$", "↓": "$\\downarrow$", "→": "$\\rightarrow$", "°": "$^\\circ$"},
}


def latex(table: Table) -> str:
    """A ``table`` environment; origins stand in a column of their own, facts in comments above."""
    kind = "table*" if len(table.columns) > WIDE else "table"
    head = ["Row", "Origin", *(escape(heading(c)) for c in table.columns)]
    lines = [f"% {_one_line(text)}" for text in ("\\usepackage{booktabs}", *_facts(table))]
    lines += [f"\\begin{{{kind}}}", "\\centering", f"\\caption{{{escape(table.title)}}}"]
    lines += [f"\\label{{tab:{_label(table.slug)}}}", "\\setlength{\\tabcolsep}{4pt}", "\\small"]
    lines += [f"\\begin{{tabular}}{{ll{'r' * len(table.columns)}}}", "\\toprule", _line(head)]
    lines += ["\\midrule"]
    for row, cells in zip(table.rows, texts(table), strict=True):
        lines.append(_line([escape(row.title), escape(row.origin), *map(_cell, cells)]))
    lines += ["\\bottomrule", "\\end{tabular}"]
    below = [MARKS if text == MARKS else escape(text) for text in legend(table, MARKS)]
    if below:
        lines += ["", "\\smallskip", f"{{\\footnotesize {' '.join(below)}\\par}}"]
    return "\n".join([*lines, f"\\end{{{kind}}}"]) + "\n"


def escape(text: str) -> str:
    """Text as LaTeX shows it."""
    return "".join(_SPECIAL.get(c, c) for c in _one_line(text))


def _facts(table: Table) -> list[str]:
    return [f"{name}: {text}" for name, text in table.facts.items()]


def _cell(text: Text) -> str:
    shown = {"best": "\\textbf{{{}}}", "second": "\\underline{{{}}}"}.get(text.mark, "{}")
    made = shown.format(escape(text.value))
    if text.interval:
        made += f" {{\\scriptsize {escape(text.interval)}}}"
    return made + (f"$^{{\\mathrm{{{text.footnote}}}}}$" if text.footnote else "")


def _label(slug: str) -> str:
    """Labels are not typeset; braces and percent signs would end them."""
    return "".join(c for c in slug if c.isalnum() or c in "-_")


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _one_line(text: str) -> str:
    """A line break would end a comment."""
    return " ".join(text.split())
