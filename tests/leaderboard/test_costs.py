"""Which costs and qualities are drawn, and which rows no other beats in both."""

from dataclasses import replace

from tests.leaderboard.rows import figure, result
from thbench.evaluation.results import GROUND_TRUTH
from thbench.leaderboard.costs import front, is_cost, is_quality, plotted
from thbench.leaderboard.plots import draw_costs
from thbench.leaderboard.rank import tables_of

VALUES = {  # seconds, FD (lower), blinks (the nearer to .5 the better)
    "cheap": (1.0, 9.0, 0.1),
    "middle": (2.0, 5.0, 0.7),
    "beaten": (3.0, 6.0, 0.2),
    "dear": (4.0, 4.0, 0.9),
    "the same": (4.0, 4.0, 0.9),
}


def table(hardware=None, values=VALUES):
    rows = []
    for i, (name, (seconds, fd, blinks)) in enumerate(values.items()):
        metrics = {
            "FD": figure(fd, "lower"),
            "Blink/s": figure(blinks, "reference", reference=0.5),
            "Faces": figure(None, "higher"),
        }
        where = "CPU" if hardware is None else f"{hardware} {i}"
        own = result(name, metrics=metrics, seconds=seconds, hardware=where)
        rows.append(replace(own, title=name))
    (found,) = tables_of(rows)
    return found


def column(found, name):
    (wanted,) = [c for c in found.columns if c.name == name]
    return wanted


def test_the_front_has_the_rows_that_no_other_beats_in_both():
    found = table()
    cost = column(found, "Time (s)")
    by_fd = [row.title for row in front(found.rows, cost, column(found, "FD"))]
    assert by_fd[:2] == ["cheap", "middle"]
    assert set(by_fd[2:]) == {"dear", "the same"}
    by_blinks = [row.title for row in front(found.rows, cost, column(found, "Blink/s"))]
    assert by_blinks == ["cheap", "middle"]


def test_seconds_are_the_cost_where_they_compare_and_calls_elsewhere():
    cost, qualities = plotted(table())
    assert (cost.name, [c.name for c in qualities]) == ("Time (s)", ["FD", "Blink/s"])
    assert plotted(table(hardware="machine"))[0].name == "Depth"
    assert plotted(table(values={"cheap": VALUES["cheap"]})) is None


def test_a_column_is_a_cost_a_quality_or_neither():
    found = table()
    kinds = {c.name: (is_cost(c), is_quality(c)) for c in found.columns}
    assert kinds["Depth"] == kinds["Time (s)"] == (True, False)
    assert kinds["FD"] == (False, True)


def test_what_generates_nothing_has_no_mark(tmp_path):
    truth = result("truth", metrics={"FD": figure(0.0, "lower")})
    (found,) = tables_of([replace(truth, strategy=GROUND_TRUTH, title="Ground truth")])
    assert draw_costs(found, tmp_path / "a.png") is None
    assert not list(tmp_path.iterdir())
