"""One stage, or one generation, at paper scale on the CPU; prints a line of JSON.

    python -m tests.paper.run FOLDER STAGE STRATEGY [key=value ...]
    python -m tests.paper.run FOLDER generate STRATEGY [key=value ...]

A stage makes one training step and one validation of batch 1, through ``thbench.training.fit``, and
leaves its checkpoint in ``FOLDER/runs``; the stages that it builds on must be there. A process does
one thing, so that its peak memory is that thing's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from tests.paper import given
from tests.paper.frugal import Peak, in_files
from thbench import config
from thbench.config import Config
from thbench.generation import assemble, runner
from thbench.generation.requests import SplitRequests
from thbench.training import fit
from thbench.training.runs import StageRun, order, read_checkpoint, stage_run

GENERATE = "generate"
PLANS = (
    *("dawn", "ar", "sar", "ttr", "ttr single_model=true", "rolling"),
    *("diffused_heads", "fd2talk", "hallo"),
)
"""Strategies, with the words of a switch, in the order of running: later ones share stages."""
COMMON = (
    "scale=paper",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.workers=0",
    "trainer.validate_every=1",
    "trainer.validate_batches=1",
    "trainer.sample_every=0",
    "trainer.log_every=1",
    "trainer.progress=false",
    "tracking.wandb=off",
)
FEW = {
    "hallo": (
        "stages.image.model.trains=attention",
        "stages.video.model.segment=2",
        "stages.video.draw.frames=4",
    )
}
"""Words of a strategy without which it does not fit here; the page says them."""
FRAMES, STEPS = {"rolling": 6, "hallo": 4}, {"rolling": 20}
"""Frames that are generated and sampler steps, where they are other than 20 and 2: Rolling takes
no fewer steps than its window has frames, and Hallo's frames are large."""


class Clock(Callback):
    """Takes the time of the training step and of the validation."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.began = 0.0
        self.frames = 0

    def on_train_batch_start(self, trainer: Any, stage: Any, batch: Any, index: int) -> None:
        self.frames = batch.frames.shape[1]
        self.began = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds["step"] = time.perf_counter() - self.began

    def on_validation_start(self, *_: Any) -> None:
        self.began = time.perf_counter()

    def on_validation_end(self, *_: Any) -> None:
        self.seconds["validation"] = time.perf_counter() - self.began


def stages_of(plan: str) -> list[str]:
    """The stages of one of ``PLANS``, each after those that it builds on."""
    strategy, *words = plan.split()
    return order(config.load(strategy, ["scale=paper", *words]))


def load(folder: Path, strategy: str, words: Sequence[str] = ()) -> Config:
    """The strategy as it is run here, with all that it is given."""
    own = config.load(strategy, ["scale=paper", *words])
    root = given.faces(folder, own.size)
    chosen = [*COMMON, f"data={root}", f"data.audio={own.data.audio}", f"runs={folder / 'runs'}"]
    for stage, settings in own.stages.items():
        chosen += [f"stages.{stage}.batch_size=1"]
        chosen += [f"stages.{stage}.max_steps={min(1, settings.max_steps)}"]
    chosen += [f"sampler.steps={STEPS.get(strategy, 2)}"]
    if strategy == "hallo":
        chosen += [f"stages.autoencoder.model.init_from={given.autoencoder(folder / 'vae')}"]
    if strategy == "fd2talk":  # the lip expert compares the clip's own moments alone
        chosen += ["stages.lip.model.group=1"]
    given.sound(root, own.data.audio)
    given.published(folder / "weights", ("vgg19", "arcface"))
    return config.load(strategy, [*chosen, *FEW.get(strategy, ()), *words])


def train(loaded: Config, name: str) -> dict[str, Any]:
    """A step and a validation of one stage."""
    before = stage_run(loaded, name)
    if before.last.is_file():
        return {"hash": before.hash, "shared": True}
    clock, callbacks = Clock(), fit._callbacks
    fit._callbacks = lambda *given: [clock, *callbacks(*given)]
    settings = loaded.stages[name]
    held = in_files(Path(loaded.runs) / "waiting") if loaded.size > 256 else nullcontext()
    with held:
        run = fit.fit_stage(loaded, name)
    if settings.max_steps:
        assert {"step", "validation"} <= set(clock.seconds), clock.seconds
        assert run.steps == 1
    run.best.unlink(missing_ok=True)  # Hallo's fill a disk
    return {
        "hash": run.hash,
        "parameters": _count(run),
        "precision": settings.precision or loaded.trainer.precision,
        "frames": clock.frames,
        **clock.seconds,
    }


def _count(run: StageRun) -> int:
    """Parameters and buffers of the stage's network."""
    state = read_checkpoint(run)["state_dict"]
    return sum(value.numel() for key, value in state.items() if key.startswith("net."))


def generate(loaded: Config, frames: int) -> dict[str, Any]:
    """A short video of the test clip's portrait and sound."""
    made = assemble.assemble(loaded)
    asked = SplitRequests(loaded.data, "test", loaded.size, frames=frames)
    generation = runner.generate(made.strategy, asked[0])
    chunks = list(generation.chunks)
    shapes = {tuple(chunk.shape[1:]) for chunk in chunks}
    assert sum(map(len, chunks)) == frames
    assert shapes == {(3, loaded.size, loaded.size)}
    assert all(chunk.float().std() > 0 for chunk in chunks), "a picture of one colour"
    return {
        "frames": frames,
        "steps": loaded.sampler.steps,
        "generation": generation.cost.seconds,
        "parameters": sum(p.numel() for p in made.strategy.parameters()),
        "precision": loaded.trainer.precision,
    }


def main(folder: str, what: str, strategy: str, *words: str) -> None:
    """See the module."""
    os.environ["THBENCH_WEIGHTS"] = str(Path(folder) / "weights")
    os.environ["HF_HUB_OFFLINE"] = "1"
    loaded = load(Path(folder), strategy, words)
    began, peak = time.perf_counter(), Peak()
    frames = FRAMES.get(strategy, 20)
    row = generate(loaded, frames) if what == GENERATE else train(loaded, what)
    row |= {"whole": time.perf_counter() - began, "peak_gib": peak.gib}
    print(json.dumps(row))


if __name__ == "__main__":
    main(*sys.argv[1:])
