import math
from dataclasses import replace

import pytest

from tests.leaderboard.rows import figure, result
from thbench.evaluation.results import ClipRow
from thbench.leaderboard.rank import APART, Cell, Column, Row, Table, rank_key, ranked, tables_of


def marks(direction, cells, origins=None, ranked_rows=None):
    rows = [
        Row(
            str(i),
            origins[i] if origins else "measured",
            {"m": cell},
            ranked_rows is None or ranked_rows[i],
        )
        for i, cell in enumerate(cells)
    ]
    table = ranked(Table("t", "t", (Column("m", direction),), tuple(rows)))
    return [row.cells["m"].mark for row in table.rows]


@pytest.mark.parametrize(
    ("direction", "values", "expected"),
    [
        ("lower", [3, 1, 2], ["", "best", "second"]),
        ("higher", [3, 1, 2], ["best", "", "second"]),
        ("zero", [0.3, -0.02, 0.04], ["", "best", "second"]),
        ("lower", [None, 1, 2], ["", "best", "second"]),
        ("lower", [1, 1, 2], ["best", "best", ""]),
        ("lower", [1, 2, 2], ["best", "second", "second"]),
        ("lower", [1, 1], ["", ""]),
        ("lower", [1], [""]),
    ],
)
def test_directions_and_equal_values(direction, values, expected):
    assert marks(direction, [Cell(v) for v in values]) == expected


def test_nearest_to_the_reference_is_best():
    cells = [Cell(0.1, reference=0.5), Cell(0.7, reference=0.5), Cell(0.45, reference=0.5)]
    assert marks("reference", cells) == ["", "second", "best"]
    assert rank_key(Column("m", "reference"), Cell(0.3)) is None


def test_overlapping_intervals_tie():
    close = [Cell(10, (9, 11)), Cell(10.5, (9.5, 11.5)), Cell(20, (19, 21))]
    assert marks("lower", close) == ["best", "best", ""]
    apart = [Cell(10, (9, 10.2)), Cell(10.5, (10.3, 11.5)), Cell(11, (10.6, 12))]
    assert marks("lower", apart) == ["best", "second", "second"]
    assert marks("higher", close) == ["second", "second", "best"]
    around = [Cell(-0.1, (-0.2, 0.02)), Cell(0.05, (0.01, 0.09)), Cell(0.9, (0.8, 1.0))]
    assert marks("zero", around) == ["best", "best", ""]


def test_origins_do_not_compete_and_unranked_rows_are_left_out():
    cells = [Cell(1), Cell(2), Cell(3), Cell(4)]
    origins = ["smoke", "smoke", "measured", "measured"]
    assert marks("lower", cells, origins) == ["best", "second", "best", "second"]
    assert marks("lower", cells, None, [False, True, True, True]) == ["", "best", "second", ""]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol_hash": "other"}, "another definition of the protocol (other)"),
        ({"digest": "other"}, "another content of the data (other)"),
        ({"clips": "other"}, "other clips (4)"),
        ({"split": "val"}, ""),
        ({"version": 2}, "another version of FD"),
        ({"extractors": ("pyramid-9",)}, "another version of FD"),
    ],
)
def test_what_cannot_be_compared_shares_no_table_and_each_says_so(change, said):
    own = replace(result("b", **change), title="Other")
    tables = tables_of([result("a"), own, result("c")])
    assert sorted(len(t.rows) for t in tables) == [1, 2]
    assert len({t.slug for t in tables}) == 2
    (many,) = [t for t in tables if len(t.rows) == 2]
    assert many.facts.get(APART, "") == (f"Other ({said})" if said else "")
    (one,) = [t for t in tables if len(t.rows) == 1]
    assert one.facts.get(APART, "").startswith("DAWN (a) / DAWN (c) (" if said else "")


def test_an_unavailable_metric_does_not_part_rows():
    missing = result("b", metrics={"FD": figure(None, unavailable="get it"), "PSNR": figure(1.0)})
    (table,) = tables_of([result("a"), missing])
    assert len(table.rows) == 2
    assert "FD is unavailable: get it." in table.notes


def test_rows_are_sorted_and_told_apart():
    (table,) = tables_of([result("a", fd=3.0), result("b", fd=1.0), result("c", fd=2.0)])
    assert [row.run for row in table.rows] == ["b", "c", "a"]
    assert table.rows[0].title == "DAWN (b)"
    again = tables_of([result("c", fd=2.0), result("b", fd=1.0), result("a", fd=3.0)])
    assert again == [table]


def test_times_of_one_machine_are_ranked_those_of_two_are_not():
    def of(table):
        return [row.cells["Time (s)"].mark for row in table.rows]

    (same,) = tables_of([result("a", seconds=1.0, fd=1.0), result("b", seconds=2.0, fd=2.0)])
    assert of(same) == ["best", "second"]
    (mixed,) = tables_of([result("a", seconds=1.0), result("b", seconds=2.0, hardware="GPU")])
    assert of(mixed) == ["", ""]


def test_a_row_without_times_has_none_and_a_table_of_such_rows_has_no_column():
    timed, cost = result("a", seconds=1.0), result("b", seconds=2.0).cost
    untimed = replace(result("b"), cost=replace(cost, seconds=None, first_frame=None))
    (both,) = tables_of([timed, untimed])
    assert {row.run: row.cells["Time (s)"].value for row in both.rows} == {"a": 1.0, "b": None}
    (alone,) = tables_of([untimed])
    names = [column.name for column in alone.columns]
    assert "Depth" in names
    assert not {"Time (s)", "First frame (s)"} & set(names)


def test_what_rows_have_in_common_is_said_once():
    def of(run, *notes, missing=0):
        metrics = {"FD": figure(1.0, missing=missing)}
        return replace(result(run, metrics=metrics), title=run, notes=notes)

    (table,) = tables_of(
        [
            of("a", "made at night", "parts: x 1", "alone", missing=2),
            of("b", "made at night", "parts: x 2", missing=2),
            of("c", "made at night", "parts: x 3", "parts of two: y", missing=1),
            of("d", "made at night", "parts of two: y"),
        ]
    )
    assert set(table.notes) == {
        "All rows: made at night",
        "All rows but d: parts: a: x 1; b: x 2; c: x 3.",
        "a: alone",
        "c / d: parts of two: y",
        "FD: not defined on 1 clips of c; on 2 clips of a / b.",
    }


def test_missing_clips_and_seeds_are_noted():
    (table,) = tables_of([result("a", scored=3)])
    assert "DAWN: 3 of 4 clips were scored." in table.notes


def cell(values, references=None, interval=None):
    references = references or [math.nan] * len(values)
    clips = {str(i): pair for i, pair in enumerate(zip(values, references, strict=True))}
    reference = None if math.isnan(references[0]) else sum(references) / len(references)
    return Cell(sum(values) / len(values), interval, reference, clips=clips)


HARD = [1.0, 9.0, 4.0, 16.0, 25.0, 2.0, 7.0, 12.0]
WIDE = (2.0, 20.0)


def test_rows_tie_where_the_paired_difference_covers_zero():
    """Intervals that overlap widely do not tie rows that differ alike on every clip."""
    better = cell(HARD, interval=WIDE)
    worse = cell([v + 0.5 + 0.01 * (i % 2) for i, v in enumerate(HARD)], interval=WIDE)
    as_good = cell([v + 0.5 * (-1) ** i for i, v in enumerate(HARD)], interval=WIDE)
    far = cell([v + 40 for v in HARD], interval=(40, 60))
    assert marks("lower", [better, worse, far]) == ["best", "second", ""]
    assert marks("higher", [better, worse, far]) == ["", "second", "best"]
    assert marks("lower", [better, as_good, far]) == ["best", "best", ""]
    assert marks("zero", [cell([-v for v in HARD]), worse, far]) == ["best", "second", ""]


def test_pairs_are_the_clips_that_both_have():
    one, other = cell(HARD), cell([v + 0.5 for v in HARD])
    shifted = Cell(other.value, WIDE, clips={f"other {k}": v for k, v in other.clips.items()})
    far = cell([v + 40 for v in HARD], interval=(40, 60))
    one_wide = Cell(one.value, WIDE, clips=one.clips)
    # Without a common clip the intervals decide.
    assert marks("lower", [one_wide, shifted, far]) == ["best", "best", ""]
    for common, expected in ((6, "second"), (5, "best")):
        some = Cell(other.value, WIDE, clips=dict(list(other.clips.items())[:common]))
        assert marks("lower", [one_wide, some, far]) == ["best", expected, ""]


def test_values_of_sets_tie_by_the_groups_that_both_leave_out():
    """As clips do: wide intervals do not tie rows that differ alike without each group."""
    people = frozenset(f"c{i}" for i in range(8))

    def of_sets(shift, jitter=0.0, scored=people, sign=1.0):
        left_out = tuple(sign * (v + shift + jitter * (-1) ** i) for i, v in enumerate(HARD))
        return Cell(sign * (9.5 + shift), WIDE, left_out=left_out, scored=scored)

    far = Cell(60.0, (50, 70), left_out=tuple(v + 50 for v in HARD), scored=people)
    best, worse = of_sets(0.0), of_sets(0.5, 0.01)
    assert marks("lower", [best, worse, far]) == ["best", "second", ""]
    assert marks("higher", [best, worse, far]) == ["", "second", "best"]
    assert marks("zero", [of_sets(0.0, sign=-1.0), worse, far]) == ["best", "second", ""]
    assert marks("lower", [best, of_sets(0.5, 2.0), far]) == ["best", "best", ""]
    others = of_sets(0.5, 0.01, people - {"c0"})
    assert marks("lower", [best, others, far]) == ["best", "best", ""], "other groups"


def test_the_reference_is_drawn_with_its_clips():
    truth = [0.2, 0.9, 0.4, 0.6, 0.1, 0.8]
    near = cell([v + 0.01 for v in truth], truth)
    off = cell([v - 0.1 for v in truth], truth)
    assert marks("reference", [off, near, cell([9.0] * 6, truth)]) == ["second", "best", ""]
    # As far above the reference as below it: their values differ alike on every clip, and they tie.
    above, below = (
        cell([v + d + 0.02 * (-1) ** i for i, v in enumerate(truth)], truth) for d in (0.1, -0.1)
    )
    assert marks("reference", [above, below, cell([9.0] * 6, truth)]) == ["best", "best", ""]


def test_clips_come_from_results_with_the_mean_over_seeds():
    rows = tuple(
        ClipRow(str(i), seed, metrics={"PSNR": 20.0 + i + seed})
        for i in range(3)
        for seed in range(2)
    )
    rows += (ClipRow("undefined", metrics={"PSNR": None}),)
    (table,) = tables_of([replace(result("a"), per_clip=rows)])
    clips = table.rows[0].cells["PSNR"].clips
    assert {k: v for k, (v, _) in clips.items()} == {"0": 20.5, "1": 21.5, "2": 22.5}


def test_ground_truth_stands_above_and_does_not_compete():
    truth = replace(
        result("ground-truth", fd=None),
        strategy="ground-truth",
        title="Ground truth",
    )
    (table,) = tables_of([result("a", fd=1.0), result("b", fd=9.0), truth])
    assert [row.title for row in table.rows] == ["Ground truth", "DAWN (a)", "DAWN (b)"]
    assert [row.ranked for row in table.rows] == [False, True, True]
    assert [row.cells["FD"].mark for row in table.rows] == ["", "best", "second"]
    assert table.rows[0].cells["PSNR"].mark == ""


def test_how_long_a_clip_waits_for_its_first_frame_and_how_much_was_trained_are_columns():
    rows = [
        result("a", seconds=1.0),
        replace(result("b", seconds=2.0), samples_seen=6400),
    ]
    (table,) = tables_of(rows)
    columns = {column.name: column for column in table.columns}
    assert columns["First frame (s)"].direction == "lower"
    assert columns["Samples seen"].direction is None
    assert [row.cells["First frame (s)"].value for row in table.rows] == [0.1, 0.1]
    seen = {row.run: row.cells["Samples seen"].value for row in table.rows if row.run == "b"}
    assert seen == {"b": 6400}
    (without,) = tables_of([result("a", seconds=1.0)])
    assert "Samples seen" not in [column.name for column in without.columns]
