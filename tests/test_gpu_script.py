"""benchmarks/gpu.sh as one runs it, without a GPU and without what it need not have."""

import itertools
import json
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu, gpu_parts, untrained
from tests.tiny import env
from thbench import config

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.sh"
UNNEEDED = ("decord", "lpips", "scenedetect", "wandb")


@pytest.fixture
def without(tmp_path):
    """A folder for PYTHONPATH in which packages that are not needed cannot be imported."""
    for name in UNNEEDED:
        (tmp_path / "no" / name).mkdir(parents=True)
        (tmp_path / "no" / name / "__init__.py").write_text(f"raise ImportError('no {name}')")
    return tmp_path / "no"


def run(*words, **more):
    environment = env(PYTHON=sys.executable, **more)
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, words)], capture_output=True, text=True, env=environment
    )


def figures(done, out):
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads((out / "gpu.json").read_text())
    assert "dry" in found["device"]
    assert "dry" in (out / "gpu.md").read_text()
    return found["results"]


@pytest.mark.slow
def test_it_measures_generation_of_every_length(tmp_path, without):
    chosen = ("--parts", "generation", "--strategies", "diffused_heads")
    done = run(tmp_path / "out", "--dry", *chosen, PYTHONPATH=str(without))
    rows = figures(done, tmp_path / "out")["generation"]
    assert [row["frames"] for row in rows] == [3, 4, 5]
    for row in rows:
        assert row["measured_share"] == 1
        assert 0 < row["first_frame"] < row["seconds"]
        assert row["real_time"] == pytest.approx(row["frames"] / 25 / row["seconds"])


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([str(tmp_path)]) == 2
    assert "--dry" in capsys.readouterr().err


def test_a_part_that_is_late_is_ended_and_what_it_had_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE", 0.0)
    (tmp_path / "training.json").write_text('[{"strategy": "dawn", "stage": "lfg", "step": 0.5}]')
    asked = Namespace(out=str(tmp_path), dry=True, strategies=["dawn"])
    status = gpu._run_part("training", asked, 0.1)
    assert status == "ended: out of time"
    gpu.report(tmp_path, {**gpu.describe(True), "parts": {"training": status}})
    page = (tmp_path / "gpu.md").read_text()
    assert "training: ended" in page
    assert "| dawn | lfg |" in page


def test_a_video_that_outlasts_its_budget_is_reckoned_from_its_share(tmp_path, monkeypatch):
    setup = gpu_parts.Setup(tmp_path, time.time() + 60, dry=True, strategies=("diffused_heads",))
    loaded = setup.load("diffused_heads")
    made = untrained.strategy(loaded, "cpu")
    whole = gpu_parts._generate(setup, made, loaded, 4, 1e9)
    assert whole["measured_share"] == 1
    ticks = itertools.count()
    clock = SimpleNamespace(time=time.time, perf_counter=lambda: float(next(ticks)))
    monkeypatch.setattr(gpu_parts, "time", clock)
    cut = gpu_parts._generate(setup, made, loaded, 4, 4.5)  # each call of the network is a tick
    assert cut["measured_share"] == 4 / 8  # of four frames with two steps each
    assert cut["first_frame"] < cut["seconds"]
    assert gpu_parts._generate(setup, made, loaded, 4, 0.5) == {
        "steps": 2,
        "skipped": "not reached",
    }


def test_a_batch_that_does_not_fit_is_halved(tmp_path, monkeypatch):
    setup = gpu_parts.Setup(tmp_path, time.time() + 60, dry=False, strategies=("dawn",))
    seen = []

    def steps(setup, loaded, name, nets, size, *_):
        seen.append(size)
        if size > 4:
            raise torch.OutOfMemoryError
        return {"step": 1.0}

    monkeypatch.setattr(gpu_parts, "_steps", steps)
    row = gpu_parts._train(setup, setup.load("dawn"), "lfg", gpu_parts.Nets(), 1.0)
    assert (row["batch"], row["configured_batch"]) == (4, 32)
    assert seen == [32, 16, 8, 4]


@pytest.mark.paper
def test_a_dry_run_of_everything_fits_its_time(tmp_path, without):
    done = run(tmp_path / "out", "--dry", "--seconds", "300", PYTHONPATH=str(without))
    found = figures(done, tmp_path / "out")
    assert all(found.values()), found
    assert sum("skipped" in row for row in found["compile"]) == 1
    for part in ("training", "generation"):
        assert not any("skipped" in row for row in found[part]), part
    trained = {row["strategy"] for row in found["training"]}
    assert trained == {row["strategy"] for row in found["generation"]}
    assert trained == set(config.names("strategy"))
    assert all(row["measured_share"] == 1 for row in found["generation"])


def test_hallo_learns_from_its_random_batches():
    """Its stages want more of a batch than others do: the extent of each clip."""
    loaded = config.load("hallo", ["data=synthetic", "data.audio=logmel"])
    nets = {}
    for name in ("autoencoder", "image", "video"):
        with untrained.random_faces():
            stage = untrained.untrained(loaded, name, nets, "cpu")
            nets[name] = stage.net
            if name != "autoencoder":
                loss = stage.loss(untrained.batch(loaded, name, 1))["loss"]
                assert torch.isfinite(loss), name
