"""One table in every format; hostile names are text, nothing more."""

import re
from html.parser import HTMLParser

import pytest

from tests.leaderboard.rows import figure, result
from thbench.cli.parser import main
from thbench.core.errors import UserError
from thbench.evaluation.results import write
from thbench.leaderboard.build import tables
from thbench.leaderboard.html import html
from thbench.leaderboard.latex import latex
from thbench.leaderboard.rank import Cell, Column, Row, Table, ranked
from thbench.leaderboard.render import FORMATS, markdown
from thbench.leaderboard.terminal import blocks, show

HOSTILE = "<img src=x onerror=alert(1)>"
WIDTH = 80


def table(*titles, columns=14):
    """A row for each title and so many columns, of which the last has a value in one row only."""
    named = tuple(
        Column(f"Metric number {i} (of_{i}%)", ("higher", "lower", "reference", None)[i % 4], "dB")
        for i in range(columns)
    )
    rows = tuple(
        Row(
            title,
            "measured",
            {
                c.name: Cell(float(10 * k + i), (k - 0.1, k + 0.1), reference=2.0)
                for i, c in enumerate(named)
                if k == 0 or i < columns - 1
            },
        )
        for k, title in enumerate(titles)
    )
    return ranked(Table("the-table", "A table & its rows", named, rows, {"Data": "d_1"}))


@pytest.mark.parametrize("render", FORMATS.values(), ids=FORMATS)
def test_every_format_has_every_value(render):
    made = table("a", "b")
    text = render(made)
    for row in made.rows:
        for cell in row.cells.values():
            assert re.search(rf"(?<![0-9.]){cell.value:g}(?![0-9])", text)


def test_latex_has_as_many_cells_as_columns_and_escapes_what_is_special():
    text = latex(table("50% of A_1 & {B} #2", "b \\end{table} ~^"))
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert len(rows) == 3
    assert all(len(re.findall(r"(?<!\\)&", row)) == 1 + 14 for row in rows)
    assert r"50\% of A\_1 \& \{B\} \#2 &" in text
    assert r"b \textbackslash{}end\{table\} \textasciitilde{}\textasciicircum{} &" in text
    for name in ("toprule", "midrule", "bottomrule", "begin{table*}", "end{table*}"):
        assert text.count(f"\\{name}") == 1
    assert r"\textbf{2 (2)}" in text  # 12 is farther from the reference's 2
    assert r"\textbf{10}" in text  # the higher of 0 and 10
    assert r"Metric number 0 (of\_0\%) (dB) $\uparrow$" in text
    assert text.startswith("% \\usepackage{booktabs}\n% Data: d_1\n")


def test_a_line_break_in_a_fact_does_not_end_latex_s_comment():
    made = Table("t", "T", (), (), {"Data": "one\n\\input{secrets}"})
    assert "% Data: one \\input{secrets}\n" in latex(made)


class Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.rows, self.text = [], 0, []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_html_has_as_many_cells_as_columns_and_hostile_names_are_text():
    read = Cells()
    read.feed(html(table(HOSTILE, "b & c")))
    assert read.tags.count("tr") == 3
    assert read.tags.count("td") == 2 * (14 + 1)
    assert read.tags.count("th") == 14 + 2 + 2
    assert not {"img", "script"} & set(read.tags)
    assert HOSTILE in read.text
    assert "b & c" in read.text


def test_a_dash_says_why_it_stands_there():
    made = result("a", metrics={"FD": figure(1.0), "CSIM": figure(None, unavailable="get arcface")})
    named = (Column("FD", "lower"), Column("CSIM", "higher"), Column("Other", "higher"))
    cells = {"FD": Cell(1.0), "CSIM": Cell(missing=made.metrics["CSIM"].unavailable)}
    text = markdown(Table("t", "T", named, (Row("a", "measured", cells),)))
    assert "| a | measured | 1.000 | –<sup>a</sup> | –<sup>b</sup> |" in text
    assert "–a: get arcface. –b: not measured for this row." in text


def test_the_terminal_s_table_fits_its_width_and_repeats_titles(capsys):
    names = ("DAWN (NAR), with the audio of another clip", "b", HOSTILE)
    made = table(*names)
    show(made, WIDTH)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    starts = [line for line in lines if line.startswith("b  ")]
    assert len(starts) > 2
    values = [word for line in starts for word in re.findall(r"\d+(?: \(2\))?|–a", line)]
    assert len(values) == 14
    assert "–a: not measured for this row." in " ".join(lines)


def test_blocks_have_every_column_once_in_order():
    made = table("a")
    cells = [[type("T", (), {"value": "1" * 9, "footnote": ""})() for _ in made.columns]]
    for room in (1, 30, 1000):
        found = list(blocks(made, cells, room))
        assert [i for block in found for i in block] == list(range(14))
    assert len(list(blocks(made, cells, 1000))) == 1


def test_rows_of_several_origins_say_theirs(capsys):
    made = table("a", "b")
    mixed = Table("t", "T", made.columns, (made.rows[0], Row("b", "smoke", made.rows[1].cells)))
    show(mixed, WIDTH)
    out = capsys.readouterr().out
    assert "a [measured]" in out
    assert "b [smoke]" in out


def test_columns_are_chosen_by_name_and_a_wrong_one_is_refused(tmp_path, capsys):
    write(result("a"), tmp_path / "results")
    (chosen,) = tables(tmp_path / "results", columns=["psnr", "FD"]).measured
    assert [column.name for column in chosen.columns] == ["PSNR", "FD"]
    with pytest.raises(UserError, match=r"No table has a column 'PSRN'\. Did you mean 'PSNR'"):
        tables(tmp_path / "results", columns=["PSRN"])
    words = ["leaderboard", "--results", tmp_path / "results", "--out", tmp_path / "out"]
    words += ["--columns", "PSNR", "--formats", "html", "--show"]
    assert main([str(word) for word in words]) == 0
    out = capsys.readouterr().out
    assert "origin: measured" in out
    assert "30" in out
    assert [path.suffix for path in (tmp_path / "out").iterdir()].count(".html") == 1
    assert not list((tmp_path / "out").glob("*.csv"))
