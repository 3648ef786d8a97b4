"""Plans as pictures."""

import pytest

from thbench.cli.parser import main
from thbench.generation import plan_drawing, plans
from thbench.leaderboard.plots import draw_plan


@pytest.mark.parametrize("name", plans.BUILDERS)
@pytest.mark.parametrize("n", [1, 7, 40])
def test_a_picture_has_a_row_for_each_call_and_every_frame_falls_to_clean(name, n):
    plan = plans.build(name, n)
    rows = plan_drawing.grid(plan, 4)
    per_level = max(1, 4 // plans.levels(plan))
    assert len(rows) == plans.cost(plan, per_level * plans.levels(plan)).depth
    for frame in range(n):
        levels = [row[frame] for row in rows if row[frame] > 0]
        assert levels[0] == 1
        assert levels == sorted(levels, reverse=True)
        assert len(levels) == per_level * plans.levels(plan)


def test_a_small_plan_reads_as_it_should():
    assert list(plan_drawing.text(plans.sar(5, 3, 1), 2)) == ["███  ", "▒▒▒  ", "  o██", "  o▒▒"]
    assert list(plan_drawing.text(plans.ttr(5, 2), 1)) == ["█ █ █", "o█o█o"]
    assert list(plan_drawing.text(plans.rolling(3, 2, 1), 2)) == ["█  ", "▒█ ", "o▒█", " o▒"]


def test_the_command_draws_all_plans(capsys):
    assert main(["ls", "plans", "--draw"]) == 0
    shown = capsys.readouterr().out
    for name in plans.BUILDERS:
        assert f"\n{name}" in shown
    assert plan_drawing.LEGEND in shown
    assert main(["ls", "data", "--draw"]) == 2


def test_the_command_writes_a_figure_of_each_plan(tmp_path, capsys):
    assert main(["ls", "plans", "--draw", str(tmp_path)]) == 0
    assert sorted(p.stem for p in tmp_path.glob("*.png")) == sorted(plans.BUILDERS)


def test_a_figure_is_written_and_is_the_same_each_time(tmp_path):
    one = draw_plan(plans.ttr(20, 5), tmp_path / "new" / "a.png", "TTR")
    two = draw_plan(plans.ttr(20, 5), tmp_path / "b.png", "TTR")
    assert one.read_bytes() == two.read_bytes()
    assert len(one.read_bytes()) > 1000
