"""Tables as an HTML document of their own, without scripts."""

from __future__ import annotations

from html import escape

from thbench.leaderboard.cells import Text, heading, legend, texts
from thbench.leaderboard.rank import Table

_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color-scheme: light dark }
div { overflow-x: auto }
table { border-collapse: collapse; border-block: 2px solid }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap }
thead { border-bottom: 1px solid }
thead th { vertical-align: bottom; white-space: normal }
th:first-child, th:nth-child(2), td:nth-child(2) { text-align: left }
td span { opacity: .7; font-size: .8em }
"""


def html(table: Table) -> str:
    """A page with one table, its facts, legend and notes."""
    title = escape(table.title)
    head = ["Row", "Origin", *(heading(c) for c in table.columns)]
    lines = ["<!doctype html>", '<html lang="en">', '<meta charset="utf-8">']
    lines += ['<meta name="viewport" content="width=device-width">', f"<title>{title}</title>"]
    lines += [f"<style>\n{_STYLE}</style>", f"<h1>{title}</h1>"]
    facts = [f"{name}: {text}" for name, text in table.facts.items()]
    lines += _list(facts)
    lines += ["<div><table>", "<thead><tr>"]
    lines += [f'<th scope="col">{escape(text)}</th>' for text in head]
    lines += ["</tr></thead>", "<tbody>"]
    for row, cells in zip(table.rows, texts(table), strict=True):
        first = f'<th scope="row">{escape(row.title)}</th><td>{escape(row.origin)}</td>'
        lines.append(f"<tr>{first}{''.join(map(_cell, cells))}</tr>")
    lines += ["</tbody>", "</table></div>"]
    if words := legend(table):
        lines.append(f"<p>{escape(' '.join(words))}</p>")
    return "\n".join([*lines, *_list(table.notes), "</html>"]) + "\n"


def _list(texts: list[str] | tuple[str, ...]) -> list[str]:
    items = [f"<li>{escape(text)}</li>" for text in texts]
    return ["<ul>", *items, "</ul>"] if items else []


def _cell(text: Text) -> str:
    shown = {"best": "<strong>{}</strong>", "second": "<u>{}</u>"}.get(text.mark, "{}")
    made = shown.format(escape(text.value))
    made += f" <span>{escape(text.interval)}</span>" if text.interval else ""
    return f"<td>{made}{f'<sup>{text.footnote}</sup>' if text.footnote else ''}</td>"
