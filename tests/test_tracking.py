import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb

from tests import toy_training as toy
from tests.leaderboard.rows import result
from tests.wandb_file import read_run
from thbench import api
from thbench.cli.parser import main
from thbench.config import Config, DataConfig, load
from thbench.core.errors import UserError
from thbench.evaluation import results
from thbench.evaluation import tracking as evaluations
from thbench.evaluation.results import ClipRow, Curve, WeightsRef
from thbench.training import tracking
from thbench.training.fit import fit
from thbench.training.loggers import CurveLogger, loggers, read_curves
from thbench.training.runs import StageRun
from thbench.training.tracking import check, wandb_mode, weights_artifact


@pytest.fixture
def keyless(monkeypatch, tmp_path):
    """No W&B key, and nobody has been told of it yet."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    netrc = tmp_path / "home" / "netrc"
    netrc.parent.mkdir()
    monkeypatch.setenv("NETRC", str(netrc))
    tracking.say_how.cache_clear()
    yield netrc
    tracking.say_how.cache_clear()


def test_curves_go_on_after_a_crash(tmp_path):
    path = tmp_path / "metrics.csv"
    first = CurveLogger(path)
    for step in range(6):
        first.log_metrics({"train/loss": 1 / (step + 1), "epoch": 0}, step)
    with open(path, "a") as file:
        file.write("7,train/lo")  # the process was killed here
    second = CurveLogger(path, resume_at=4)
    second.log_metrics({"train/loss": 0.5, "val/loss": 0.25}, 4)
    assert read_curves(path) == {
        "train/loss": [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.25), (5, 0.5)],
        "val/loss": [(5, 0.25)],
    }
    assert path.read_bytes().count(b"\r") == 0


def test_a_new_run_starts_a_new_file(tmp_path):
    path = tmp_path / "metrics.csv"
    CurveLogger(path).log_metrics({"a": 1.0}, 0)
    CurveLogger(path).log_metrics({"b": 2.0}, 0)
    assert read_curves(path) == {"b": [(1, 2.0)]}


def test_when_wandb_is_on(monkeypatch, keyless):
    assert [wandb_mode(m) for m in ("auto", "offline", "off")] == ["off", "offline", "off"]
    with pytest.raises(UserError, match="WANDB_API_KEY"):
        wandb_mode("online")
    with pytest.raises(UserError, match="Did you mean 'offline'"):
        wandb_mode("ofline")
    keyless.write_text("machine my.server login user password " + "x" * 40 + "\n")
    assert wandb_mode("auto") == "off"
    monkeypatch.setenv("WANDB_BASE_URL", "https://my.server")
    assert wandb_mode("auto") == wandb_mode("online") == "online"
    keyless.unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert wandb_mode("auto") == wandb_mode("online") == "online"


def test_without_a_key_it_says_once_how_to_switch_it_on(keyless, capsys):
    settings = Config().tracking
    assert [check(settings), check(settings)] == ["off", "off"]
    assert check(replace(settings, wandb="off")) == "off"
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "`wandb login`" in out
    assert "tracking.wandb=offline" in out
    tracking.say_how.cache_clear()
    check(replace(settings, wandb="off"))
    check(replace(settings, wandb="offline"))
    assert capsys.readouterr().out == ""


def test_other_loggers_are_a_word_away(keyless, monkeypatch):
    settings = Config().tracking
    with pytest.raises(UserError, match="Did you mean 'tensorboard'"):
        check(replace(settings, logger="tensorbord"))
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    for name in ("tensorboard", "mlflow"):
        with pytest.raises(UserError, match=f"needs the package {name}: `pip install {name}`"):
            check(replace(settings, logger=name))
    monkeypatch.setattr(tracking, "find_spec", lambda name: name == "tensorboardX" or None)
    assert check(replace(settings, logger="tensorboard")) == "tensorboard"


def test_wandb_offline_writes_into_the_run_folder(tmp_path, monkeypatch, capfd):
    wandb.teardown()
    monkeypatch.delenv("WANDB_MODE", raising=False)
    wandb.setup()  # as a program does that used W&B before: what it read of the environment stays
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "toy-123"
    folder.mkdir(parents=True)
    made = toy.config(tmp_path, tmp_path / "runs")
    made.tracking.wandb = "offline"
    run = StageRun("toy", "123", folder, {"target": "a:B"})
    curves, wandb_logger = loggers(made, run)
    try:
        wandb_logger.log_metrics({"train/loss": 0.5}, 3)
        experiment = wandb_logger.experiment
        assert (experiment.id, experiment.group) == ("toy-123", "toy")
        assert experiment.job_type == "fit/toy"
        assert experiment.project == "thbench"
    finally:
        wandb_logger.experiment.finish()
    assert isinstance(curves, CurveLogger)
    (found,) = (folder / "wandb").glob("offline-run-*-toy-123")
    written = read_run(found)
    assert written.tags == {"toys", "tiny", "toy"}
    assert written.config["stages"]["toy"]["max_steps"] == 12
    assert written.config["fingerprint"] == {"target": "a:B"}
    assert written.history[0]["train/loss"] == 0.5
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_each_stage_has_its_own_wandb_run_and_a_resumed_one_goes_on(tmp_path):
    made = toy.config(toy.make_root(tmp_path / "data"), tmp_path / "runs", max_steps=2)
    made.trainer.sample_every = 2
    made.tracking.wandb = "offline"
    made.tracking.group = "mine"
    made.stages["second"] = replace(made.stages["toy"], ema=0.0)
    for name, folder in fit(made).items():
        (found,) = (folder / "wandb").glob("offline-run-*")
        assert found.name.endswith(folder.name)
        assert list(found.glob("files/media/videos/**/*.mp4"))
        written = read_run(found)
        assert written.run.run_group == "mine"
        assert written.exit_code == 0
        artifact = written.artifacts[folder.name]
        digest = folder.name.removeprefix(f"{name}-")
        assert artifact.type == "weights"
        checkpoint = folder.resolve() / "last.ckpt"
        told = {"hash": digest, "steps": 2, "path": str(checkpoint)}
        assert json.loads(artifact.metadata) == told
        (entry,) = artifact.manifest.contents
        assert (entry.path, entry.ref) == ("step-2/last.ckpt", checkpoint.as_uri())
    made.stages["toy"].max_steps = 3
    folder = fit(made, "toy")["toy"]
    first, second = map(read_run, sorted((folder / "wandb").glob("offline-run-*")))
    assert first.run.run_id == second.run.run_id == folder.name
    assert first.artifacts[folder.name].digest != second.artifacts[folder.name].digest
    steps = [row["trainer/global_step"] for row in second.history if "train/loss" in row]
    assert steps == [2]


def test_a_failed_training_names_no_weights(tmp_path):
    made = toy.config(toy.make_root(tmp_path / "data"), tmp_path / "runs", model={"spoil_at": 6})
    made.tracking.wandb = "offline"
    with pytest.raises(UserError, match="diverged at step 6"):
        fit(made)
    (found,) = tmp_path.glob("runs/toy-*/wandb/offline-run-*")
    written = read_run(found)
    assert (written.exit_code, written.artifacts) == (1, {})


def test_tensorboard_follows_a_training_and_goes_on(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    made = toy.config(toy.make_root(tmp_path / "data"), tmp_path / "runs", max_steps=2)
    made.tracking.logger = "tensorboard"
    folder = fit(made)["toy"]
    made.stages["toy"].max_steps = 4
    fit(made)
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("train/loss")] == [0, 1, 2, 3]
    assert [step for step, _ in read_curves(folder / "metrics.csv")["train/loss"]] == [1, 2, 3, 4]
    assert not (folder / "wandb").exists()


# Evaluations


def evaluation(tmp_path, clips=3):
    """A configuration, and a result as written of clips whose videos are there."""
    config = load("dawn", ["scale=tiny", "tracking.wandb=offline", "tracking.videos=2"])
    config.runs, config.data = str(tmp_path / "runs"), DataConfig("synth", str(tmp_path))
    videos = tmp_path / "runs" / "eval-dawn-1"
    (videos / "seed-0").mkdir(parents=True)
    rows = []
    for i in range(clips):
        (videos / "seed-0" / f"c{i}.mp4").write_bytes(b"video %d" % i)
        rows.append(ClipRow(f"c{i}", 0, 20, (20, 20), {"PSNR": 30.0 + i, "Blink/s": None},
                            {"Blink/s": 0.5}))  # fmt: skip
    made = result("dawn-synth-synthetic-1", seconds=2.0, scored=clips, origin="smoke")
    made = replace(
        made,
        per_clip=tuple(rows),
        videos=str(videos),
        samples_seen=100,
        over_time={"PSNR": Curve(10, (31.0, None, 29.0), (3, 0, 3), "higher", "dB")},
        weights={"a2v2": WeightsRef("abc", 5), "lfg": WeightsRef("def", 7, True, "float16")},
    )
    return config, made


def runs_of(tmp_path, made):
    folder = tmp_path / "runs" / f"tracking-{made.run}" / "wandb"
    return [read_run(found) for found in sorted(folder.glob("offline-run-*"))]


def test_an_evaluation_is_whole_in_its_offline_run(tmp_path, capfd):
    config, made = evaluation(tmp_path)
    evaluations.track(config, made)
    (written,) = runs_of(tmp_path, made)
    run = written.run
    assert (run.run_id, run.project) == (made.run, "thbench")
    assert (run.run_group, run.job_type) == ("synthetic/synth", "eval")
    assert written.tags == {"dawn", "tiny", "synth", "synthetic", "smoke"}
    assert written.exit_code == 0
    assert written.config["plan"] == {"name": "nar"}
    assert written.config["weights_used"]["a2v2"] == {
        "run": "a2v2-abc", "hash": "abc", "steps": 5, "shipped": False, "dtype": None,
    }  # fmt: skip
    expected = {
        "metric/FD": 5.0,
        "metric/PSNR": 30.0,
        "interval/PSNR/low": 29.0,
        "interval/PSNR/high": 31.0,
        "metric/Blink/s": 0.4,
        "reference/Blink/s": 0.5,
        "cost/seconds": 2.0,
        "cost/depth": 20,
        "coverage/expected": 4,
        "coverage/scored": 3,
        "samples_seen": 100,
        "clip_table/rows": 3,
        "clip_table/videos": 2,
        "clip_table/videos_left_out": 1,
    }
    assert {name: written.summary.get(name) for name in expected} == expected
    assert "timed/seconds" not in written.summary
    assert written.steps["over_time/PSNR"] == "frame"
    points = [(r["frame"], r.get("over_time/PSNR")) for r in written.history if "frame" in r]
    assert points == [(0, 31.0), (20, 29.0)]
    assert capfd.readouterr().out == "tracking: 2 of 3 videos are in the table (tracking.videos)\n"


def test_the_table_has_a_row_per_clip_with_its_video(tmp_path):
    config, made = evaluation(tmp_path)
    evaluations.track(config, made)
    (written,) = runs_of(tmp_path, made)
    (logged,) = (row["clips/path"] for row in written.history if "clips/path" in row)
    shown = json.loads((written.folder / "files" / logged).read_text())
    assert shown["columns"] == [
        "id", "seed", "frames", "video", "PSNR", "Blink/s", "Blink/s (reference)",
    ]  # fmt: skip
    assert [row[:3] + row[4:] for row in shown["data"]] == [
        [f"c{i}", 0, 20, 30.0 + i, None, 0.5] for i in range(3)
    ]
    (table,) = (a for a in written.artifacts.values() if a.type == "run_table")
    entries = {entry.path: Path(entry.local_path) for entry in table.manifest.contents}
    videos = {Path(path).stem: place for path, place in entries.items() if path.endswith(".mp4")}
    assert sorted(videos) == ["c0", "c1"]
    for name, place in videos.items():
        assert place.read_bytes() == b"video " + name[1:].encode()
        assert place.is_relative_to(tmp_path / "runs")  # what is to be synced lies in one folder
    config.tracking.videos = 0
    evaluations.track(config, made)
    assert runs_of(tmp_path, made)[1].summary["clip_table/videos"] == 0


def test_evaluating_again_goes_on_in_one_id_and_keeps_the_result(tmp_path):
    config, made = evaluation(tmp_path)
    evaluations.track(config, made)
    evaluations.track(config, replace(made, samples_seen=200))
    first, second = runs_of(tmp_path, made)
    assert first.run.run_id == second.run.run_id == made.run
    folder = second.folder / "files" / "result"
    assert {f"result/{p.name}" for p in folder.iterdir()} <= second.files
    kept = results.read(folder / f"{made.run}.json")
    assert kept == replace(made, samples_seen=200, videos="")
    assert results.read_config(made.run, folder)["strategy"] == "dawn"


def test_what_was_used_is_linked_where_wandb_is_online(tmp_path, monkeypatch):
    """No server is asked: the run is one that notes what it is told."""
    config, made = evaluation(tmp_path)
    for folder in ("a2v2-abc", "run"):
        (tmp_path / "runs" / folder).mkdir()
    (tmp_path / "runs" / "a2v2-abc" / "last.ckpt").touch()
    made = replace(made, weights={"a2v2": WeightsRef("abc", 5)})
    used = []
    run = SimpleNamespace(
        offline=False,
        dir=str(tmp_path / "runs" / "run"),
        summary={},
        use_artifact=used.append,
        define_metric=lambda *_, **__: None,
        log=lambda values: None,
        save=lambda *_, **__: None,
        finish=lambda **_: None,
    )
    monkeypatch.setattr(evaluations, "tracker", lambda settings, about: fake_logger(run))
    evaluations.track(config, made)
    (artifact,) = used
    assert (artifact.name, artifact.type) == ("a2v2-abc", "weights")
    alike = weights_artifact("a2v2", "abc", 5, tmp_path / "runs" / "a2v2-abc" / "last.ckpt")
    assert artifact.digest == alike.digest  # what fit logs: the same version of it


def fake_logger(run):
    class Fake(evaluations.WandbLogger):
        def __init__(self):
            pass

        @property
        def experiment(self):
            return run

    return Fake()


def test_a_tracker_that_fails_loses_nothing(tmp_path, monkeypatch, capsys):
    config, made = evaluation(tmp_path)
    config.results = str(tmp_path / "results")

    def broken(*_):
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(evaluations, "tracker", broken)
    monkeypatch.setattr("thbench.evaluation.pipeline.evaluate", lambda *_, **__: made)
    found, path = api.evaluate_config(config, smoke=True)
    assert results.read(path).run == found.run == made.run
    told = f"tracking of {made.run} failed, all else is written: no route\n"
    assert capsys.readouterr().out == told


def test_settings_lie_beside_a_result(tmp_path, monkeypatch):
    config, made = evaluation(tmp_path)
    config.results, config.tracking.wandb = str(tmp_path / "results"), "off"
    monkeypatch.setattr("thbench.evaluation.pipeline.evaluate", lambda *_, **__: made)
    _, path = api.evaluate_config(config, smoke=True)
    assert results.read_config(made.run, path.parent)["plan"] == {"name": "nar"}
    assert not list((tmp_path / "runs").glob("tracking-*"))


def test_a_wrong_word_is_told_before_anything_is_generated(tmp_path, monkeypatch):
    config, _ = evaluation(tmp_path)
    config.tracking.logger = "mlfow"
    monkeypatch.delattr("thbench.evaluation.pipeline.evaluate")
    with pytest.raises(UserError, match="Did you mean 'mlflow'"):
        api.evaluate_config(config, smoke=True)


def test_tensorboard_takes_the_figures_of_an_evaluation(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config, made = evaluation(tmp_path)
    config.tracking.logger = "tensorboard"
    evaluations.track(config, made)
    folder = tmp_path / "runs" / f"tracking-{made.run}" / "tensorboard"
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    assert events.Scalars("metric/PSNR")[0].value == 30.0
    assert [(e.step, e.value) for e in events.Scalars("over_time/PSNR")] == [(0, 31.0), (20, 29.0)]


@pytest.mark.slow
def test_the_commands_evaluate_follow_and_compare(bench, tmp_path, capsys):
    words = [*bench.dawn, f"results={tmp_path}", "tracking.wandb=offline", "tracking.videos=1"]
    assert main(["eval", *words]) == 0
    assert main(["eval", *words, "--yardstick", "still"]) == 0
    names = sorted(path.stem for path in tmp_path.glob("*.json"))
    for name in names:
        (found,) = bench.runs.glob(f"tracking-{name}/wandb/offline-run-*")
        written = read_run(found)
        assert written.run.run_id == name
        assert set(written.config["weights_used"]) == (
            {"lfg", "pbnet", "a2v2"} if "dawn" in name else set()
        )
        (table,) = (a for a in written.artifacts.values() if a.type == "run_table")
        videos = [e for e in table.manifest.contents if e.path.endswith(".mp4")]
        assert len(videos) == written.summary["clip_table/videos"] == 1
    capsys.readouterr()
    assert main(["compare", *names, "--json", "--results", str(tmp_path)]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert compared["settings_unknown"] == []
    assert not [key for key in compared["settings"] if not key.startswith("result.")]


def test_notes_are_merged(tmp_path):
    run = StageRun("toy", "123", tmp_path, {"target": "a:B"})
    run.update_record(status="running", steps=3)
    run.update_record(steps=5)
    found = json.loads((tmp_path / "stage.json").read_text())
    assert (found["status"], found["steps"], found["fingerprint"]) == (
        "running",
        5,
        {"target": "a:B"},
    )
