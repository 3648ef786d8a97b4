"""Every stage of every strategy at paper scale, with real shapes: ``make test-paper``.

Not part of ``make test``: it takes well over half an hour on two cores. What it saw stands in
docs/paper-scale.md.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from baselines.autoencoder import Autoencoder
from baselines.hallo.face import WIDTHS, FaceTokens
from benchmarks import untrained
from tests.paper.run import GENERATE, PLANS, stages_of
from thbench import config
from thbench.training.runs import build_stage

pytestmark = pytest.mark.paper

MOST_GIB = 14.0
"""Memory that a stage may take here, so that a machine with 16 GiB suffices."""


@pytest.fixture(scope="session")
def place(request):
    """The folder for data, weights and runs. Checkpoints are made anew, and do not stay."""
    folder = Path(request.config.getoption("scratch")).resolve()
    runs = folder / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    (folder / "log.jsonl").unlink(missing_ok=True)
    yield folder
    shutil.rmtree(runs, ignore_errors=True)


@pytest.mark.parametrize(
    ("plan", "what"),
    [(plan, what) for plan in PLANS for what in (*stages_of(plan), GENERATE)],
    ids=lambda value: value.replace(" ", "+"),
)
def test_it_trains_a_step_validates_and_generates(place, plan, what):
    command = [sys.executable, "-m", "tests.paper.run", str(place), what, *plan.split()]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    row = {"plan": plan, "what": what}
    if done.returncode:
        row["error"] = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
    else:
        row |= json.loads(done.stdout.splitlines()[-1])
    with (place / "log.jsonl").open("a") as log:
        log.write(json.dumps(row) + "\n")
    assert not done.returncode, done.stderr[-3000:]
    assert row["peak_gib"] < MOST_GIB, row


def environment():
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}


@pytest.mark.parametrize("stage", ["image", "video"])
def test_hallos_stages_as_the_paper_has_them_reach_every_weight(stage):
    """All that is trained, whole batches, whole segments: shapes alone, which take no memory."""
    loaded = config.load("hallo", ["scale=paper"])
    with torch.device("meta"):
        needs = {"autoencoder": Autoencoder()}
        made = build_stage(loaded, stage, needs, untrained.audio_dim(loaded))
        shown = untrained.batch(loaded, stage, loaded.stages[stage].batch_size)
        face = torch.zeros(len(shown), WIDTHS["arcface"])
        with mock.patch.object(FaceTokens, "embed", return_value=face):
            made.loss(shown)["loss"].backward()
    trained = {n: p for n, p in made.net.named_parameters() if p.requires_grad}
    assert len(trained) > 500
    assert not [name for name, weight in trained.items() if weight.grad is None]
