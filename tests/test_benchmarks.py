"""Every benchmark can be imported, and tells how it is run."""

import importlib
import pkgutil
from dataclasses import replace

import pytest
import torch

import benchmarks
from benchmarks import strategies
from tests.leaderboard.rows import figure, result
from thbench.core.errors import UserError
from thbench.core.types import Clip
from thbench.data import manifest
from thbench.data.media.video import VideoWriter
from thbench.evaluation.protocol import Intervals
from thbench.evaluation.results import ClipRow, ProtocolRef
from thbench.leaderboard.paired import compare

SHARED = {"gpu_page", "gpu_parts", "held_out", "untrained"}
"""Modules that others import; all others are run."""
NAMES = sorted({module.name for module in pkgutil.iter_modules(benchmarks.__path__)} - SHARED)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_how_it_is_run(name, capsys):
    module = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert module.__doc__.split("\n")[0] in shown
    assert f"python -m benchmarks.{name}" in module.__doc__


@pytest.mark.parametrize("name", sorted(SHARED))
def test_what_they_share_can_be_imported(name):
    importlib.import_module(f"benchmarks.{name}")


def test_the_page_of_strategies_says_who_is_better_and_where_nobody_knows():
    """Paired by clip, whichever way is better."""
    values = {"dawn": [20.0, 30.0, 25.0, 27.0], "sar": [19.0, 29.1, 24.0, 26.1]}
    values["ttr"] = [21.0, 29.0, 26.0, 26.1]

    def row(name, direction, reference=None):
        clips = tuple(ClipRow(str(i), metrics={"M": v}) for i, v in enumerate(values[name]))
        metric = figure(sum(values[name]) / 4, direction, reference=reference)
        return replace(result(name, metrics={"M": metric}), strategy=name, per_clip=clips)

    def text(name, *how):
        one, base = row(name, *how), row("dawn", *how)
        (apart,) = compare(one, base, Intervals())
        return strategies.cell(apart, base, "M")

    assert text("sar", "higher").startswith("-0.95 (")
    assert text("sar", "higher").endswith("**worse**")
    assert text("sar", "lower").endswith("**better**")
    assert text("sar", "reference", 24.6).endswith("**better**")
    assert "**" not in text("ttr", "higher")
    assert strategies.cell(None, row("dawn", "lower"), "M") == "–"


def test_the_page_of_strategies_refuses_two_rows_of_one():
    protocol = ProtocolRef("synthetic-64", "x")
    one = replace(result("a"), protocol=protocol)
    assert list(strategies.of_part([one], "own")) == ["dawn"]
    assert strategies.of_part([one], "long") == {}
    with pytest.raises(UserError, match="two results of dawn"):
        strategies.of_part([one, replace(one, run="b")], "own")


def test_the_page_of_strategies_is_left_alone_while_there_are_no_rows(tmp_path):
    with pytest.raises(UserError, match=r"no row of dawn: run `python -m benchmarks.rows`"):
        strategies.main(["--results", str(tmp_path), "--report", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_the_sheet_of_strategies_shows_every_one_or_says_whose_video_is_missing(tmp_path):
    one = replace(result("dawn-x-0a"), strategy="dawn", per_clip=(ClipRow("p1"), ClipRow("p0")))
    still = replace(one, run="still-x-0b", strategy="still")
    data, sheet = tmp_path / "data", tmp_path / "sheet.png"
    made = tmp_path / "eval-dawn-0a/seed-0"
    frames = torch.full((5, 3, 32, 32), 200, dtype=torch.uint8)
    for folder in (data, made):
        folder.mkdir(parents=True)
    with VideoWriter(data / "p0.mp4", 32, 32) as writer:
        writer.write(frames)
    manifest.write(data, [Clip("p0", "p0", "test", 5, "p0.mp4", "p0.npz", "")])
    with pytest.raises(UserError, match=r"no .*eval-dawn-0a/seed-0/p0.mp4: leave out --runs"):
        strategies.draw_sheet([still, one], tmp_path, data, sheet)
    assert not sheet.exists()
    with VideoWriter(made / "p0.mp4", 32, 32) as writer:
        writer.write(frames)
    strategies.draw_sheet([still, one], tmp_path, data, sheet)
    assert sheet.stat().st_size
