"""The shipped weights made anew: planned, trained, gone on with, and compared."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml
from scipy import stats

from tests import toy_training as toy
from tests.test_first_pages import FAST
from tests.toys import Recorder
from thbench import config as configs
from thbench.cli.parser import main
from thbench.data import manifest
from thbench.diffusion.gaussian import GaussianDiffusion
from thbench.evaluation import results
from thbench.evaluation.protocol import Intervals
from thbench.evaluation.results import ClipRow, DataRef, MetricValue, ProtocolRef, Result
from thbench.generation import plans
from thbench.generation.strategy import GenerationPass, Strategy
from thbench.leaderboard.paired import compare
from thbench.training import zoo

STEPS = 4


class Grey(Strategy):
    """Each frame has the grey that the network hears in its audio."""

    space = "pixels"

    def __init__(self, nets, context, plan, sampler):
        super().__init__(nets, context, plan, sampler)
        self.denoiser = Recorder()
        self.process = GaussianDiffusion(prediction="x0")

    def encode(self, request):
        return request

    def passes(self, request):
        plan = plans.build(n=request.n_frames, **self.plan)
        return [GenerationPass("pixels", plan, {"main": self.denoiser}, self.process, self.sampler)]

    def decode(self, latents, frames, conditions):
        heard = self.nets["toy"](conditions.audio[frames].to(self.device)).flatten()
        return heard.clamp(0, 1)[:, None, None, None].expand(-1, 3, toy.SIZE, toy.SIZE)


def strategy_file():
    draw, optim = {"frames": [2, 4]}, {"name": "adamw", "lr": 0.01}
    stage = {"target": "tests.toy_training:ToyStage", "draw": draw, "optim": optim, "batch_size": 4}
    return {
        "title": "Toys",
        "target": "tests.test_zoo_train:Grey",
        "size": toy.SIZE,
        "protocol": "synthetic",
        "nets": {"toy": "toy"},
        "stages": {"toy": {**stage, "max_steps": STEPS}},
        "sampler": {"steps": 1, "eta": 0.0},
        "data": {"audio": "toy"},
        "trainer": {
            **{"accelerator": "cpu", "devices": 1, "workers": 0, "progress": False},
            **{"sample_every": 0, "checkpoint_every": 2, "validate_every": 0, "threads": 1},
        },
        "tracking": {"wandb": "off"},
        "scales": {"small": {"data": "toy"}, "tiny": {"data": "toy"}},
    }


def configure(home, patch):
    """Lead commands to the configurations, the zoo and the data in a folder."""
    root = home / "data"
    synth = f"thbench data synth --out {root} --identities 7 --liveliness 0.5"
    for kind, name, content in (
        ("strategy", "toys", strategy_file()),
        ("data", "toy", {"name": "toy", "root": str(root), "made_by": synth}),
        ("protocol", "psnr", FAST),
    ):
        path = home / "configs" / kind / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    patch.setenv("THBENCH_CONFIG_DIR", str(home / "configs"))
    patch.setattr(configs, "names", lambda kind: ["toys"])
    patch.setattr(zoo, "FOLDER", home / "zoo")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A folder with data, a zoo that ships the strategy ``toys``, and a result of it."""
    home = tmp_path_factory.mktemp("shipped")
    (home / "zoo").mkdir()
    toy.make_root(home / "data", (8, 9, 12, 10, 7, 8, 9), "ttttvee")
    first = ["toys", "scale=small", f"runs={home / 'first'}"]
    shown = [f"results={home / 'shared'}", "eval.protocol=psnr", "weights=zoo"]
    with pytest.MonkeyPatch.context() as patch:
        configure(home, patch)
        assert main(["fit", *first]) == 0
        assert main(["zoo", "add", *first, "--dtype", "float32"]) == 0
        assert main(["eval", *first, *shown]) == 0
    return home


@pytest.fixture
def home(shipped, tmp_path, monkeypatch):
    """The same, to be changed, without runs."""
    for part in ("data", "zoo", "shared"):
        shutil.copytree(shipped / part, tmp_path / part, copy_function=shutil.copy2)
    configure(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def train(home, capsys):
    """Run the command with other words; what it prints, or its error."""

    def run(*words, code=0):
        capsys.readouterr()
        given = [f"runs={home / 'runs'}", "eval.protocol=psnr", "--against", str(home / "shared")]
        assert main(["zoo", "train", *given, *words]) == code
        out = capsys.readouterr()
        return out.err if code else out.out

    return run


def checkpoints(home):
    return {path: path.stat().st_mtime_ns for path in (home / "runs").rglob("last.ckpt")}


def test_it_trains_evaluates_and_compares_and_goes_on_where_it_stopped(home, train):
    out = train("--dry-run")
    assert f"toy: {STEPS} of {STEPS} steps left, {home / 'runs'}/toy-" in out
    assert "shipped figures: toys-toy-psnr-" in out
    assert not (home / "runs").exists()

    out = train("--no-eval", "stages.toy.max_steps=2")
    assert "toy: training to step 2" in out
    assert "metric" not in out
    assert f"toy: 2 of {STEPS} steps left" in train("--dry-run")

    out = train("toys")
    assert f"toy: training from step 2 to step {STEPS}" in out
    (path,) = (home / "runs" / "zoo-results").glob("*.json")
    (theirs,) = results.read_folder(home / "shared")
    assert results.read(path).weights["toy"].shipped is False
    assert "the shipped weights' hash\n" in out
    row = next(line.split() for line in out.splitlines() if line.startswith("PSNR (dB)"))
    value = f"{theirs.metrics['PSNR'].value:.3f}"
    # Trained alike, in two parts, and stored in float32: the same to the last digit shown.
    assert row[2:] == [value, value, "+0.000", "+0.000", "to", "+0.000", "yes", "2"]
    assert f"shipped: {theirs.run}" in out

    before, videos = checkpoints(home), sorted((home / "runs").rglob("*.mp4"))
    assert f"toy: trained, {STEPS} steps" in train("--clips", "2")
    assert f"toy: 0 of {STEPS} steps left" in train("--dry-run")
    assert checkpoints(home) == before
    assert set(videos) <= set((home / "runs").rglob("*.mp4"))
    assert len(list((home / "shared").glob("*.json"))) == 1, "nothing of it is among the shared"


def test_a_missing_data_set_is_rendered_by_its_own_recipe(home, train, monkeypatch):
    (home / "data" / manifest.NAME).rename(home / "kept")
    calls = []

    def synthesize(out, **options):
        calls.append((out, options["identities"], options["liveliness"]))
        (home / "kept").rename(out / manifest.NAME)
        return "rendered"

    monkeypatch.setattr("thbench.data.synthetic.make.synthesize", synthesize)
    out = train("--dry-run")
    assert f"would run `thbench data synth --out {home / 'data'} --identities 7" in out
    assert f"toy: {STEPS} of {STEPS} steps left (runs are found once" in out
    assert not calls
    out = train("--no-eval")
    assert calls == [(home / "data", 7, 0.5)]
    assert out.index("rendered") < out.index("training to step")
    train("--no-eval")
    assert len(calls) == 1
    assert "There is no prepared data set at 'nowhere'" in train("data.root=nowhere", code=2)


def test_other_hashes_are_explained(home, train):
    rows = manifest.read(home / "data")
    manifest.write(home / "data", [replace(c, sha256=f"new{c.id}") for c in rows])
    assert "the same settings on other data (digest " in train("--dry-run")
    assert "settings were changed" in train("--dry-run", "stages.toy.clip=3")


def test_without_figures_of_the_shipped_weights_ones_own_are_shown_alone(home, train):
    (home / "none").mkdir()
    out = train("--against", str(home / "none"))
    assert "these are yours alone" in out
    assert "PSNR" in out
    (shared,) = (home / "shared").glob("*.json")
    known = results.read(shared)
    own = {stage: replace(used, shipped=False) for stage, used in known.weights.items()}
    for i, change in enumerate((
        {"weights": own}, {"title": "Toys, other"}, {"notes": ("zero-shot: x",)},
        {"protocol": replace(known.protocol, name="other")},
    )):  # fmt: skip
        folder = home / f"other{i}"
        results.write(replace(known, **change), folder)
        assert "shipped figures: none is there" in train("--dry-run", "--against", str(folder))
    results.write(replace(known, run="again"), home / "shared")
    out = train()
    assert "several fit (" in out
    assert "holds 0" in train("--against", str(shared))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["toy"], "No whole 'toy' is shipped at scale=small, but toys. Did you mean 'toys'"),
        (["scale=tiny"], "shipped at scale=small alone"),
        (["weights=zoo"], "leave out weights="),
        (["results=leaderboards/results"], "name another results="),
        (["--clips", "0"], "--clips 0: evaluate on 1 or more"),
        (["--against", "none.json"], "There is no result none.json"),
        (["stages.toi.max_steps=1"], "Did you mean 'stages.toy.max_steps'"),
        (["--clip", "3"], "'--clip' is not understood here. Did you mean '--clips'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(words, says, home, train):
    assert says in train(*words, code=2)
    assert not (home / "runs").exists()


def test_a_strategy_of_which_a_stage_is_not_shipped_is_none(home, train):
    path = home / "configs" / "strategy" / "toys.yaml"
    content = strategy_file()
    content["stages"]["second"] = {**content["stages"]["toy"], "clip": 2.0}
    content["nets"]["more"] = "second"
    path.write_text(yaml.safe_dump(content))
    assert "No strategy is shipped whole" in train("--dry-run", code=2)


# Differences


def result(values, seeds=(0,), name="PSNR"):
    """A result whose clip i has ``values[i]``, a number or None for each seed."""
    rows = tuple(
        ClipRow(f"c{i}", seed, metrics={name: value})
        for i, of_clip in enumerate(values)
        for seed, value in zip(seeds, of_clip, strict=True)
    )
    metrics = {name: MetricValue(0.0, "higher", unit="dB"), "FID": MetricValue(1.0, "lower")}
    protocol, data = ProtocolRef("p", "h"), DataRef("d", "x")
    return Result("r", "s", "t", "smoke", protocol, data, metrics, per_clip=rows)


def test_clips_are_paired_by_id_and_seed_and_the_rest_is_left_out():
    first = result([(1.0, 3.0), (5.0, None), (None, 8.0), (4.0, 4.0)], (0, 1))
    second = result([(0.0, 1.0), (2.0, 9.0), (9.0, None)], (0, 1))
    (found,) = compare(first, second, Intervals())
    # Clip 0: means 2 and .5; clip 1: seed 0 alone, 5 and 2; nothing else is in both.
    assert (found.name, found.unit, found.clips) == ("PSNR", "dB", 2)
    assert (found.first, found.second, found.value) == (3.5, 1.25, 2.25)
    assert found.interval == (1.5, 3.0)
    assert found.contains_zero is False


def test_one_clip_has_no_interval_and_none_no_row():
    (found,) = compare(result([(2.0,)]), result([(1.0,)]), Intervals())
    assert (found.value, found.interval, found.contains_zero) == (1.0, None, None)
    assert compare(result([(None,)]), result([(1.0,)]), Intervals()) == []


def test_values_of_sets_are_paired_by_the_groups_that_are_left_out():
    """Of a mean, with a group per clip, that is Student's paired interval."""
    random = np.random.default_rng(5)
    values = random.normal(size=(2, 12)) + random.normal(size=12)

    def of_sets(row, clips=12):
        mean, clip_ids = row.mean(), [(1.0,)] * clips
        left_out = tuple(np.delete(row, i).mean() for i in range(len(row)))
        metrics = {"FD": MetricValue(float(mean), "lower", left_out=left_out)}
        return replace(result(clip_ids), metrics=metrics)

    (found,) = compare(of_sets(values[0]), of_sets(values[1]), Intervals())
    wanted = stats.ttest_rel(*values).confidence_interval()
    assert found.interval == pytest.approx((wanted.low, wanted.high))
    assert (found.first, found.second) == pytest.approx(tuple(values.mean(1)))
    assert compare(of_sets(values[0]), of_sets(values[1], 11), Intervals()) == []


@pytest.mark.parametrize(("shift", "zero"), [(0.0, True), (1.0, False), (-1.0, False)])
def test_the_interval_is_that_of_scipy_s_bootstrap_of_the_differences(shift, zero):
    random = np.random.default_rng(3)
    hard = random.normal(20, 5, 40)  # what is hard for both does not widen the interval
    ours, theirs = hard + shift + random.normal(0, 0.5, 40), hard
    apart = ours - theirs - (ours - theirs).mean() + shift
    ours = theirs + apart
    first, second = ([(float(v),) for v in values] for values in (ours, theirs))
    (found,) = compare(result(first), result(second), Intervals(draws=4000))
    wanted = stats.bootstrap(
        (apart,),
        np.mean,
        n_resamples=9999,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    assert found.value == pytest.approx(shift, abs=1e-9)
    assert found.interval == pytest.approx((wanted.low, wanted.high), abs=0.02)
    assert found.contains_zero is zero
