import json
from dataclasses import replace

import pytest

from tests import toy_training as toy
from thbench.core.errors import UserError
from thbench.training.fit import fit
from thbench.training.loggers import CurveLogger, loggers, read_curves, wandb_mode
from thbench.training.runs import StageRun


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


def test_when_wandb_is_on(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    assert [wandb_mode(m) for m in ("auto", "offline", "off")] == ["off", "offline", "off"]
    with pytest.raises(UserError, match="WANDB_API_KEY"):
        wandb_mode("online")
    with pytest.raises(UserError, match="Did you mean 'offline'"):
        wandb_mode("ofline")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert wandb_mode("auto") == wandb_mode("online") == "online"


def test_wandb_offline_writes_into_the_run_folder(tmp_path, monkeypatch, capfd):
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
        assert (experiment.id, experiment.group, experiment.job_type) == ("toy-123", "toys", "toy")
        assert experiment.project == "thbench"
    finally:
        wandb_logger.experiment.finish()
    assert isinstance(curves, CurveLogger)
    assert list((folder / "wandb").glob("offline-run-*-toy-123/run-toy-123.wandb"))
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_each_stage_has_its_own_wandb_run(tmp_path):
    made = toy.config(toy.make_root(tmp_path / "data"), tmp_path / "runs", max_steps=2)
    made.trainer.sample_every = 2
    made.tracking.wandb = "offline"
    made.stages["second"] = replace(made.stages["toy"], ema=0.0)
    for folder in fit(made).values():
        (found,) = (folder / "wandb").glob("offline-run-*")
        assert found.name.endswith(folder.name)
        assert list(found.glob("files/media/videos/**/*.mp4"))


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
