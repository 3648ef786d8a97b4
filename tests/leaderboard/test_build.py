import csv
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.leaderboard.rows import result
from thbench.core.errors import UserError
from thbench.evaluation.results import MEASURED, SYNTHETIC, Curve, WeightsRef, read_folder, write
from thbench.leaderboard import build, published
from thbench.leaderboard.cells import number

ROOT = Path(__file__).parents[2]
BOARDS = ROOT / "leaderboards"


@pytest.fixture
def results(tmp_path):
    for r in (result("a", fd=1.0, seconds=2.0), result("b", fd=7.5, origin="smoke")):
        write(r, tmp_path / "results")
    return tmp_path / "results"


def test_tables_are_written_in_every_format(results, tmp_path):
    index, md, table, tex = build(results, tmp_path / "out")
    assert tex.suffix == ".tex"
    assert index.read_text().count(".md") == 1
    text = md.read_text()
    assert "| Row | Origin | FD ↓ | PSNR (dB) ↑ | Blink/s →ref |" in text
    assert "| 30 [29, 31] |" in text
    assert "| 0.400 (0.500) |" in text
    assert "| smoke |" in text
    rows = list(csv.DictReader(table.open()))
    assert [(r["run"], r["FD"], r["PSNR low"], r["Blink/s reference"]) for r in rows] == [
        ("a", "1.0", "29.0", "0.5"),
        ("b", "7.5", "29.0", "0.5"),
    ]


def test_the_same_results_give_the_same_bytes(results, tmp_path):
    one, two = (build(results, tmp_path / name) for name in ("one", "two"))
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


def test_figures_over_time_stand_below_the_table(tmp_path):
    rows = {"a": (3.0, 2.0, None), "b": (3.0, 2.5, 1.0)}
    for name, values in rows.items():
        curve = Curve(25, values, (4, 4, 1), "higher", "dB")
        kept = replace(result(name), over_time={"PSNR": curve}, title=name.upper())
        write(kept, tmp_path / "results")
    _, md, _, _, numbers, picture = build(tmp_path / "results", tmp_path / "out")
    assert f"![values over time]({picture.name})" in md.read_text()
    lines = list(csv.reader(numbers.open()))
    assert lines[1] == ["PSNR", "A", "0", "24", "3.0", "4"]
    assert lines[3] == ["PSNR", "A", "50", "74", "", "1"]
    assert len(lines) == 1 + 6
    assert picture.stat().st_size > 5000


def test_plots_are_svg_as_well_on_request(tmp_path):
    for name in "ab":
        curve = Curve(25, (3.0, 2.0), (4, 4), "higher", "dB")
        own = replace(result(name, seconds=float(ord(name))), title=name.upper())
        write(replace(own, over_time={"PSNR": curve}), tmp_path / "results")
    made = build(tmp_path / "results", tmp_path / "out", formats=["md", "svg"])
    plots = [path for path in made if path.suffix in (".png", ".svg")]
    (page,) = [path for path in made if path.suffix == ".md" and path.name != "README.md"]
    for kind in ("over-time", "costs"):
        (png,) = [p for p in plots if p.name.endswith(f"-{kind}.png")]
        svg = png.with_suffix(".svg")
        assert svg in plots
        words = {text.strip() for text in ElementTree.parse(svg).getroot().itertext()}
        assert {"A", "B"} <= words
        assert f"({png.name})" in page.read_text()
    assert [p.read_bytes() for p in plots] == [
        p.read_bytes()
        for p in build(tmp_path / "results", tmp_path / "two", formats=["md", "svg"])
        if p.suffix in (".png", ".svg")
    ]


def test_cost_by_length_is_drawn_for_each_origin(tmp_path):
    weights = {"lfg": WeightsRef("0" * 64, 1)}
    for i, (frames, origin) in enumerate(((100, SYNTHETIC), (200, SYNTHETIC), (100, "smoke"))):
        own = result(f"r{i}", seconds=1.0, origin=origin)
        cost = replace(own.cost, frames=float(frames), depth=frames / 10)
        write(replace(own, cost=cost, weights=weights), tmp_path / "results")
    index, *made = build(tmp_path / "results", tmp_path / "out")
    assert [p.name for p in made if "length" in p.name] == ["cost-by-length-measured-synthetic.png"]
    assert "(cost-by-length-measured-synthetic.png)" in index.read_text()


def test_nothing_to_show_is_an_error(tmp_path):
    with pytest.raises(UserError, match="There are no results in"):
        build(tmp_path, tmp_path / "out")


def test_checked_in_tables_are_those_of_the_checked_in_results(tmp_path, monkeypatch):
    # Pictures differ with the release of matplotlib that drew them: none are drawn here.
    for name in ("draw_curves", "draw_costs", "draw_lengths"):
        monkeypatch.setattr(import_module("thbench.leaderboard.build"), name, lambda _, path: path)
    made = build(BOARDS / "results", tmp_path, BOARDS / "published")
    fresh = {p.relative_to(tmp_path): p.read_text() for p in made if p.suffix != ".png"}
    kept = {
        p.relative_to(BOARDS): p.read_text()
        for p in BOARDS.rglob("*")
        if p.suffix in (".md", ".csv", ".tex") and "results" not in p.parts
    }
    assert set(kept) == set(fresh), "run `thbench leaderboard`"
    for name, text in fresh.items():
        assert kept[name] == text, f"{name} is stale: run `thbench leaderboard`"


def test_checked_in_results_are_valid():
    for r in read_folder(BOARDS / "results"):
        assert r.origin in (MEASURED, SYNTHETIC, "smoke")
        assert "/" not in str(r.coverage.unreadable.get("", ""))


def test_published_rows_rank_as_the_paper_says():
    tables = {t.slug: t for t in published.read(BOARDS / "published" / "dawn.yaml")}
    assert len(tables) == 12
    crema = {row.title: row for row in tables["dawn-table-1-crema"].rows}
    assert crema["DAWN"].cells["FID"].mark == "best"
    assert crema["DAWN"].cells["Blink/s"].mark == "second"
    assert crema["Diffused Heads"].cells["Blink/s"].mark == "best"
    assert crema["Wav2Lip"].cells["LSE-C"].mark == ""
    hdtf = {row.title: row for row in tables["dawn-table-1-hdtf"].rows}
    for title, column in (
        ("Hallo", "FID"),
        ("DAWN", "FVD16"),
        ("Hallo", "FVD32"),
        ("Audio2Head", "LSE-C"),
        ("DAWN", "LSE-D"),
        ("SadTalker", "Blink/s"),
    ):
        assert hdtf[title].cells[column].mark == "second", (title, column)
    assert all(row.origin == "reported" for t in tables.values() for row in t.rows)


PAPERS = {path.stem: path for path in sorted((BOARDS / "published").glob("*.yaml"))}


def test_published_rows_of_fd2talk_rank_as_the_paper_says():
    """What is left of its underlines in the text."""
    tables = {table.slug: table for table in published.read(PAPERS["fd2talk"])}
    seconds = {
        "fd2talk-table-1-hdtf": {
            **{"LSE-C": "FD2Talk", "SyncNet": "FD2Talk", "Diversity": "SadTalker"},
            **{
                "Beat Align": "SadTalker",
                "FID": "Wav2Lip",
                "PSNR": "DiffTalk",
                "SSIM": "SadTalker",
            },
        },
        "fd2talk-table-1-voxceleb": {
            **{"LSE-C": "FD2Talk", "SyncNet": "FD2Talk", "Diversity": "SadTalker"},
            **{"Beat Align": "SadTalker", "FID": "DreamTalk", "PSNR": "SadTalker"},
            "SSIM": "DreamTalk",
        },
    }
    for slug, columns in seconds.items():
        for column, title in columns.items():
            (found,) = [r.title for r in tables[slug].rows if r.cells[column].mark == "second"]
            assert found == title, (slug, column)


@pytest.mark.papers
@pytest.mark.parametrize("name", PAPERS)
def test_published_figures_are_the_papers(papers, name):
    """Each row's figures stand side by side in a line of the paper, or in every second place.

    FD2Talk prints two data sets in one table, "8.32 / 6.29".
    """
    text = (papers / f"{name.replace('_', '-')}.txt").read_text()
    lines = [
        re.findall(r"-?\d+(?:\.\d+)?", re.sub(r"</?u>|\[[0-9, ]+\]", "", line.replace("*", "")))
        for line in text.splitlines()
    ]
    for table in published.read(PAPERS[name]):
        for row in table.rows:
            cells = [text for c in table.columns if (text := row.cells[c.name].text)]
            found = any(
                line[i : i + len(cells) * step : step] == cells
                for line in lines
                for step in (1, 2)
                for i in range(len(line))
            )
            assert found, (table.slug, row.title, cells)


def test_a_row_may_be_called_none():
    """DAWN's Table 8 has one, without a window; it is not the ground truth."""
    tables = {table.slug: table for table in published.read(PAPERS["dawn"])}
    rows = tables["dawn-table-8"].rows
    assert {row.title for row in rows if row.ranked} == {"20", "40", "80", "200", "None"}
    assert all(cell.reference is None for row in rows for cell in row.cells.values())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('A: "1 2"', "2 values for 1 columns"),
        ('A: "x"', "'x' is no number"),
    ],
)
def test_wrong_published_rows_are_explained(line, message, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        "paper: P\nprefix: p\nname: P\ndirections: {FID: lower}\n"
        f"tables:\n  - table: 1\n    caption: c\n    columns: [FID]\n    rows: {{{line}}}\n"
    )
    with pytest.raises(UserError, match=message):
        published.read(path)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.04567, "0.046"), (12.345, "12.35"), (123.456, "123.5"), (-0.5, "-0.500"), (1.0, "1.000"),
     (2000.0, "2000"), (20.0, "20")],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert number(value) == text
