"""Results lined up: planted differences, ties, refusals, settings and curves."""

import json
from dataclasses import replace

import pytest

from tests.leaderboard.rows import figure, result
from thbench.cli.parser import main
from thbench.config import Config, to_yaml
from thbench.core.errors import UserError
from thbench.evaluation import results
from thbench.evaluation.results import ClipRow, CostSummary, Curve, WeightsRef
from thbench.leaderboard.compare import differing, line_up
from thbench.leaderboard.rank import tables_of

N = 12
NOISE = [0.3, -0.1, 0.2, -0.4, 0.5, -0.2, 0.1, 0.0, -0.3, 0.4, -0.5, 0.2]


def row(run, psnr=0.0, blinks=0.0, n=N, curve=0.0, **kwargs):
    """A result of n clips that are unlike each other; ``psnr`` and ``blinks`` are added to all."""
    clips = tuple(
        ClipRow(
            f"c{i:02}",
            frames=20,
            metrics={"PSNR": 30.0 + 3 * i + psnr, "Blink/s": 0.5 + 0.1 * NOISE[i] + blinks},
            reference={"Blink/s": 0.5},
            over_time={"PSNR": (30.0 + 3 * i, 29.0 + 3 * i + curve)},
        )
        for i in range(n)
    )
    mean = {name: sum(c.metrics[name] for c in clips) / n for name in clips[0].metrics}
    metrics = {
        "FD": figure(5.0, "lower", left_out=(4.0, 5.0, 6.0)),
        "PSNR": figure(mean["PSNR"], interval=(20.0, 60.0), unit="dB"),
        "Blink/s": figure(mean["Blink/s"], "reference", reference=0.5, interval=(0.3, 0.7)),
    }
    over_time = {"PSNR": Curve(10, (46.5, 45.5 + curve), (n, n), "higher", "dB")}
    made = result(run, metrics=metrics, scored=n)
    return replace(made, per_clip=clips, over_time=over_time, **kwargs)


def only(comparison):
    (pair,) = comparison.pairs
    return pair, {found.name: found for found in pair.figures}


def test_a_planted_difference_is_found_although_clips_are_unlike():
    better = row("b", psnr=0.25)
    noisy = tuple(
        replace(c, metrics={**c.metrics, "PSNR": c.metrics["PSNR"] + 0.1 * NOISE[i]})
        for i, c in enumerate(better.per_clip)
    )
    _, found = only(line_up([row("a"), replace(better, per_clip=noisy)], {}))
    apart = found["PSNR"]
    assert apart.difference == pytest.approx(0.25 + 0.1 * sum(NOISE) / N)
    assert apart.first == pytest.approx(30 + 3 * (N - 1) / 2)
    assert apart.second - apart.first == pytest.approx(apart.difference)
    low, high = apart.interval
    assert 0 < low < apart.difference < high < 0.5
    assert (apart.verdict, apart.clips) == ("better", N)


def test_the_other_way_round_it_is_worse():
    _, found = only(line_up([row("b", psnr=0.25), row("a")], {}))
    assert found["PSNR"].difference == pytest.approx(-0.25)
    assert found["PSNR"].verdict == "worse"


def test_what_differs_by_chance_ties_and_agrees_with_the_table():
    wobbling = row("b")
    noisy = tuple(
        replace(c, metrics={**c.metrics, "PSNR": c.metrics["PSNR"] + NOISE[i]})
        for i, c in enumerate(wobbling.per_clip)
    )
    pair = [row("a"), replace(wobbling, per_clip=noisy)]
    _, found = only(line_up(pair, {}))
    assert found["PSNR"].verdict == "tie"
    assert found["PSNR"].interval[0] < 0 < found["PSNR"].interval[1]
    (table,) = tables_of(pair)
    assert {r.cells["PSNR"].mark for r in table.rows} == {""}


def test_as_far_on_either_side_of_the_reference_ties():
    """The difference is clear and says nothing of which is better."""
    _, found = only(line_up([row("a", blinks=-0.2), row("b", blinks=0.2)], {}))
    assert found["Blink/s"].interval[0] > 0
    assert found["Blink/s"].verdict == "tie"
    _, found = only(line_up([row("a", blinks=0.01), row("b", blinks=0.2)], {}))
    assert found["Blink/s"].verdict == "worse"


def test_few_clips_prove_nothing():
    _, found = only(line_up([row("a", n=3), row("b", psnr=0.25, n=3)], {}))
    assert found["PSNR"].interval[0] > 0
    assert found["PSNR"].verdict == "tie"  # their own intervals overlap


def test_metrics_of_sets_are_paired_by_what_is_left_out():
    lower = figure(4.0, "lower", left_out=(3.1, 4.0, 4.9))
    other = row("b")
    other = replace(other, metrics={**other.metrics, "FD": lower})
    _, found = only(line_up([row("a"), other], {}))
    assert found["FD"].difference == -1.0
    assert found["FD"].verdict == "better"


def test_what_cannot_be_compared_is_named():
    bare = row("b")
    metrics = {**bare.metrics, "FD": figure(None, "lower", unavailable="fetch it")}
    pair, found = only(line_up([row("a"), replace(bare, metrics=metrics)], {}))
    assert pair.left_out == {"FD": "no value in b"}
    assert "FD" not in found
    fewer = row("b", n=N - 1)
    pair, found = only(line_up([row("a"), fewer], {}))
    assert pair.left_out == {"FD": "not of the same clips"}
    assert found["PSNR"].clips == N - 1


def test_costs_are_compared_without_a_verdict():
    cost = CostSummary(2.0, 0.1, 25, 20, 20, 500, "CPU", 4)
    pair = [row("a", cost=cost), row("b", cost=replace(cost, depth=70))]
    _, found = only(line_up(pair, {}))
    assert (found["Depth"].difference, found["Depth"].interval, found["Depth"].verdict) == (
        50,
        None,
        "",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol_hash": "xyz"}, r"protocol synthetic \(abc\) and synthetic \(xyz\)"),
        ({"digest": "e"}, "digest of the data d and e"),
        ({"clips": "k"}, "clips c and k"),
        ({"split": "val"}, "split test and val"),
        ({"version": 2}, "versions or networks of FD"),
        ({"extractors": ("pyramid-2",)}, "versions or networks of FD"),
    ],
)
def test_what_may_not_share_a_table_is_refused(change, words):
    with pytest.raises(UserError, match=f"a and b may not be compared: {words}"):
        line_up([result("a"), result("b", **change)], {})


def test_each_is_set_against_the_first():
    found = line_up([row("a"), row("b", psnr=0.25), row("c", psnr=-0.5)], {})
    assert [(p.first, p.second) for p in found.pairs] == [("a", "b"), ("a", "c")]
    values = [next(f for f in p.figures if f.name == "PSNR").difference for p in found.pairs]
    assert values == pytest.approx([0.25, -0.5])


def test_other_origins_are_said():
    found = line_up([row("a"), row("b", origin="smoke")], {})
    assert found.notes == ("origins differ: a is measured, b is smoke",)


def test_curves_differ_bin_by_bin_with_paired_intervals():
    pair, _ = only(line_up([row("a"), row("b", curve=-2.0)], {}))
    (curve,) = pair.curves
    assert (curve.name, curve.frames) == ("PSNR", 10)
    assert curve.difference == pytest.approx((0.0, -2.0))
    assert curve.intervals[1] == pytest.approx((-2.0, -2.0))
    pair, _ = only(line_up([row("a", n=3), row("b", curve=-2.0, n=3)], {}))
    assert pair.curves[0].intervals == (None, None)


def test_settings_that_differ():
    left = {"scale": "tiny", "plan": {"name": "nar"}, "stages": {"a": {"lr": 1}, "b": {"lr": 1}}}
    right = {"scale": "tiny", "plan": {"name": "sar", "overlap": 2}, "stages": {"a": {"lr": 1.0}}}
    assert differing({"x": left, "y": right}) == {
        "plan.name": {"x": "nar", "y": "sar"},
        "plan.overlap": {"y": 2},
        "stages.b": {"x": {"lr": 1}},
    }
    weights = {"a2v2": WeightsRef("1", 5)}
    found = line_up(
        [row("a", weights=weights), row("b", weights={"a2v2": WeightsRef("1", 7)})],
        {"a": left, "b": right},
    )
    assert found.settings["result.weights.a2v2.steps"] == {"a": 5, "b": 7}
    assert found.settings["plan.name"] == {"a": "nar", "b": "sar"}
    assert found.unknown == ()
    found = line_up([row("a"), row("b")], {"a": left, "b": None})
    assert (found.settings, found.unknown) == ({}, ("b",))


@pytest.fixture
def folder(tmp_path):
    for run, psnr, seed in (("one", 0.0, 0), ("two", 0.25, 1)):
        results.write(row(run, psnr=psnr, curve=-psnr), tmp_path)
        (tmp_path / f"{run}.config.yaml").write_text(to_yaml(Config(strategy="dawn", seed=seed)))
    return tmp_path


def test_the_command_prints_lines_of_80(folder, capsys):
    png = folder / "curves.png"
    words = ["compare", "one", str(folder / "two.json"), "--results", str(folder), "-o", str(png)]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if str(png) not in line) <= 80
    (psnr,) = (line.split() for line in lines if "↑ PSNR" in line)
    assert psnr == ["↑", "PSNR", "46.5", "46.75", "+0.25", "+0.25,", "+0.25", "better"]
    (seed,) = (line.split() for line in lines if line.startswith("seed"))
    assert seed == ["seed", "0", "1"]
    assert any(line.split() == ["PSNR", "+0", "-0.25*"] for line in lines)
    assert png.read_bytes().startswith(b"\x89PNG")
    svg = png.with_suffix(".svg")
    assert main([*words[:-1], str(svg)]) == 0
    assert "<svg" in svg.read_text()
    capsys.readouterr()
    assert main([*words[:-1], str(png.with_suffix(".pdf"))]) == 2
    assert "a plot's name ends in .png or .svg" in capsys.readouterr().err


def test_the_command_prints_json(folder, capsys):
    assert main(["compare", "one", "two", "--json", "--results", str(folder)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [r["run"] for r in found["results"]] == ["one", "two"]
    figures = {f["name"]: f for f in found["against_first"][0]["figures"]}
    assert figures["PSNR"]["difference"] == pytest.approx(0.25)
    assert figures["PSNR"]["verdict"] == "better"
    assert found["settings"]["seed"] == {"one": 0, "two": 1}
    assert found["against_first"][0]["curves"][0]["difference"] == pytest.approx([0.0, -0.25])


def test_results_of_one_name_in_two_folders(folder, tmp_path_factory, capsys):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    results.write(row("one", psnr=1.0), elsewhere)
    words = ["compare", "one", str(elsewhere / "one.json"), "--json", "--results", str(folder)]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [r["run"] for r in found["results"]] == ["one", str(elsewhere / "one.json")]
    figures = {f["name"]: f for f in found["against_first"][0]["figures"]}
    assert figures["PSNR"]["difference"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one"], "Name two results or more"),
        (["one", "one"], "named twice"),
        (["one", "tow"], "Did you mean 'two'?"),
        (["one", "two", "--jsn"], "Did you mean '--json'?"),
    ],
)
def test_the_command_refuses_in_one_line(folder, capsys, words, message):
    assert main(["compare", *words, "--results", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


def test_wandb_runs_need_a_key(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert main(["compare", "me/thbench/a", "me/thbench/b", "--wandb"]) == 2
    assert "--wandb needs a key" in capsys.readouterr().err


class Stored:
    """A file of a W&B run, as its public API hands it out."""

    def __init__(self, name, source):
        self.name, self.source = name, source

    def download(self, root, replace):
        target = f"{root}/{self.name}"
        import pathlib
        import shutil

        pathlib.Path(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.source, target)


def test_wandb_runs_are_read_as_results_here_are(folder, monkeypatch, capsys):
    import wandb

    class Run:
        def __init__(self, name):
            self.name = name

        def files(self):
            kept = [Stored(f"result/{p.name}", p) for p in folder.glob(f"{self.name}.*")]
            return [Stored("media/x.mp4", folder / "one.json"), *kept]

    class Api:
        def run(self, path):
            entity, project, name = path.split("/")
            assert (entity, project) == ("me", "thbench")
            return Run(name)

    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setattr(wandb, "Api", Api)
    assert main(["compare", "me/thbench/one", "me/thbench/two", "--wandb", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["seed"] == {"one": 0, "two": 1}
    assert main(["compare", "me/thbench/one", "me/thbench/none", "--wandb"]) == 2
    assert "me/thbench/none keeps no result" in capsys.readouterr().err
