"""A prepared data set and a trained DAWN as small as they can be, made once for all tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from thbench import config
from thbench.cli.parser import main
from thbench.data.media import audio, video
from thbench.data.media.video import VideoWriter
from thbench.data.synthetic.make import synthesize

FRAMES = 25
HDTF = "hdtf/WDA_KatieHill_000.mp4"
"""A clip among the real ones, 512 x 512 at 25 fps; for tests marked ``real``."""
NOISE = (
    *("WARNING", "GPU available", "XNNPACK", "absl", "Tip:", "UserWarning", "swscaler"),
    *("FutureWarning", "I0000", "W0000", "Traceback", "[libx264", "rank_zero", "LitLogger"),
)
"""Words that only other people's log lines have."""
TINY = (
    "scale=tiny",
    "size=64",
    "stages.lfg.model.net={regions: 3, expansion: 4, max_features: 16, bottleneck: 1,"
    " region_net: [4, 8, 2], background_net: [4, 8, 2], flow_net: [4, 8, 2],"
    " refinement: [4, 8, 2], own_gate: true, sees_flow: true}",
    "stages.lfg.max_steps=2",
    "stages.lfg.batch_size=2",
    "stages.pbnet.model.net={latent: 8, widths: [8, 8, 8], dim: 8, hidden: 16}",
    "stages.pbnet.max_steps=1",
    "stages.pbnet.batch_size=2",
    "stages.pbnet.draw.frames=24",
    "stages.a2v1.model.net={dim: 8, mults: [1], heads: 1, head_dim: 8}",
    "stages.a2v1.max_steps=1",
    "stages.a2v1.batch_size=2",
    "stages.a2v1.draw.frames=4",
    "stages.a2v2.model.net={dim: 8, mults: [1], heads: 1, head_dim: 8}",
    "stages.a2v2.max_steps=1",
    "stages.a2v2.batch_size=2",
    "stages.a2v2.draw.frames=[4, 6]",
    "sampler.steps=2",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.workers=0",
    "trainer.progress=false",
    "tracking.wandb=off",
    "eval.timing=false",
    "data.cache_gb=0.1",
)


@dataclass(frozen=True)
class Bench:
    """Where the small bench lies, and the words that lead a command to it.

    ``home`` has ``data`` (2 train, 1 val and 3 test clips of one second, 64 px) and ``runs`` (all
    four stages of DAWN, a step or two each). Tests read both and write elsewhere.
    """

    home: Path

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    @property
    def strategy(self) -> str:
        """DAWN's YAML, copied when the stages are trained: a strategy may be given as a file."""
        return str(self.home / "dawn.yaml")

    @property
    def words(self) -> tuple[str, ...]:
        return (*TINY, f"data={self.data}", f"runs={self.runs}", f"results={self.home / 'results'}")

    @property
    def dawn(self) -> tuple[str, ...]:
        return (self.strategy, *self.words)


@pytest.fixture(scope="session")
def bench(tmp_path_factory) -> Bench:
    made = Bench(tmp_path_factory.mktemp("bench"))
    shutil.copy(config.find("strategy", "dawn"), made.strategy)
    splits = {"train": 2, "val": 1, "test": 3}
    synthesize(made.data, identities=6, seconds=1.0, size=64, workers=1, splits=splits)
    assert main(["fit", *made.dawn]) == 0
    return made


@dataclass(frozen=True)
class Files:
    """A user's own files, good and bad, in one folder."""

    folder: Path

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="session")
def files(bench, tmp_path_factory) -> Files:
    """A portrait (me.png), speech of it (me.wav, 1 s) and what is wrong in various ways."""
    folder = tmp_path_factory.mktemp("files")
    clip = bench.data / "clips" / "p0005-00.mp4"
    portrait = video.read(clip, [0])[0].permute(1, 2, 0).numpy()
    Image.fromarray(portrait).save(folder / "me.png")
    audio.write_wav(folder / "me.wav", audio.fit_length(audio.load(clip), FRAMES))
    good = (folder / "me.wav").read_bytes()
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("no sound " * 100)
    (folder / "header.wav").write_bytes(good[:44])
    (folder / "cut.wav").write_bytes(good[:20])
    (folder / "cut.mp4").write_bytes(clip.read_bytes()[:3000])
    (folder / "cut.png").write_bytes((folder / "me.png").read_bytes()[:500])
    Image.new("RGB", (200, 200), "gray").save(folder / "wall.png")
    with VideoWriter(folder / "mute.mp4", 64, 64) as writer:
        writer.write(torch.zeros(30, 3, 64, 64, dtype=torch.uint8))
    return Files(folder)


def thbench(*words: object, **options) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    return subprocess.run(command(*words), capture_output=True, text=True, env=env(), **options)


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "thbench", *map(str, words)]


def env(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}
