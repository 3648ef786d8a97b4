"""A data set, a stage and a command small enough to train, kill and resume within a test.

Run as ``python -m tests.toy_training ROOT RUNS [key=value ...]`` it trains the toy strategy. The
word ``signal=NAME@N`` makes it send itself that signal during batch N, and the words of the
environment variable TOY_TRACE name a file in which each rank notes what it was shown.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from thbench.config import (
    Config,
    DataConfig,
    DrawConfig,
    OptimConfig,
    StageConfig,
    TrackingConfig,
    TrainerConfig,
)
from thbench.core.errors import UserError
from thbench.core.types import Clip
from thbench.data import manifest
from thbench.data.media.video import VideoWriter
from thbench.training.stage import Stage

SIZE = 16
AUDIO_DIM = 3


def make_root(root: Path, lengths=(8, 9, 12, 10, 7, 11), splits="tttttv", size=SIZE) -> Path:
    """A prepared data set of flat grey clips: frame t of clip i has the grey 20 i + 8 t."""
    names = {"t": "train", "v": "val", "e": "test"}
    clips = []
    for i, (n, split) in enumerate(zip(lengths, splits, strict=True)):
        id = f"person{i}/clip"
        video, track = f"clips/{id}.mp4", f"clips/{id}.npz"
        for path in (root / video, root / "audio/toy" / f"{id}.npy"):
            path.parent.mkdir(parents=True, exist_ok=True)
        sound = 0.1 * np.sin(np.arange(n * 640) * 0.1).astype(np.float32)
        with VideoWriter(root / video, size, size, waveform=sound) as writer:
            writer.write(grey(i, torch.arange(n))[:, None, None, None].expand(n, 3, size, size))
        valid = np.ones(n, bool)
        valid[1] = False
        time = np.arange(n, dtype=np.float32)
        np.savez(
            root / track,
            landmarks=np.full((n, 478, 3), i, np.float16),
            pose=np.stack([time + 100 * i] * 6, 1),
            eyes=np.stack([time / 100] * 2, 1),
            valid=valid,
        )
        np.save(root / "audio/toy" / f"{id}.npy", np.stack([time, time + i, time * 0], 1))
        clips.append(Clip(id, f"person{i}", names[split], n, video, track, f"sha{i}"))
    manifest.write(root, clips)
    return root


def grey(clip, frame):
    return (20 * clip + 8 * frame).to(torch.uint8)


class ToyStage(Stage):
    """Predicts the mean grey of a frame from its audio, with noise, dropout and BatchNorm."""

    def __init__(self, context, width: int = 8, spoil_at: int = -1, break_at: int = -1):
        super().__init__(context)
        self.net = nn.Sequential(
            nn.Linear(context.audio_dim, width),
            nn.BatchNorm1d(width),
            nn.Dropout(0.1),
            nn.Linear(width, 1),
        )
        self.spoil_at, self.break_at = spoil_at, break_at

    signal = (None, -1)

    def shown(self, batch):
        """Be killed, and note what is shown, as the environment says."""
        if self.training and self.signal[1] == int(self.batches_seen):
            os.kill(os.getpid(), self.signal[0])
        if self.training and (trace := os.environ.get("TOY_TRACE")):
            line = " ".join(
                f"{i}:{int(f[0])}:{int(s)}"
                for i, f, s in zip(batch.ids, batch.frames, batch.source_frame, strict=True)
            )
            with open(f"{trace}.{self.global_rank}", "a") as file:
                file.write(f"{int(self.batches_seen)} {line}\n")

    def loss(self, batch):
        self.shown(batch)
        audio = batch.audio + 0.1 * torch.randn_like(batch.audio)
        wanted = batch.video.float().mean((2, 3, 4)) / 255
        error = (self.net(audio.flatten(0, 1)).flatten() - wanted.flatten()).square().mean()
        if self.training and int(self.batches_seen) == self.spoil_at:
            error = error * float("nan")
        if self.training and int(self.batches_seen) == self.break_at:
            # Zero, but its gradient is not finite.
            error = error + (0 * self.net[0].weight.sum()).sqrt()
        return {"loss": error, "twice": 2 * error}

    def samples(self, batch):
        return {"given": batch.video[0].float() / 255}

    def trained_for(self):
        return {"observe": 0}


class Needy(ToyStage):
    """Adds what the stage it needs predicts."""

    def loss(self, batch):
        with torch.no_grad():
            offset = self.frozen["toy"].module(batch.audio.flatten(0, 1)).mean()
        losses = super().loss(batch)
        return {"loss": losses["loss"] + offset.square()}


class Pairs(ToyStage):
    """Compares clips two by two, without chance: what a pair is must not depend on the devices.

    ``told`` is how far the frames' grey is from what the audio says of it.
    """

    audio_loss = "told"

    def __init__(self, setting, **options):
        super().__init__(setting, **options)
        self.net = nn.Sequential(nn.Linear(setting.audio_dim, 4, bias=False))

    def check_part(self, clips):
        if clips % 2:
            raise UserError(f"toy compares clips in pairs, and a part has {clips}.")

    def loss(self, batch):
        self.shown(batch)
        first, second = self.net(batch.audio / 10).mean(1).unflatten(0, (-1, 2)).unbind(1)
        t, both = batch.audio[..., 0], batch.audio[..., 1]
        away = 20 * (both - t) + 8 * t - batch.video.float().mean((2, 3, 4))
        loss = nn.functional.softplus(1 - (first - second).square().sum(-1)).mean()
        return {"loss": loss, "told": 1 + away.square().mean()}


class ByHand(ToyStage):
    """Two optimisers, as adversarial stages have."""

    def __init__(self, context, **options):
        super().__init__(context, **options)
        self.automatic_optimization = False

    def configure_optimizers(self):
        return [torch.optim.Adam(part.parameters(), 1e-3) for part in (self.net[0], self.net[3])]

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            loss = self.log_losses("train", self.loss(batch), len(batch))
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()


class Rivals(ByHand):
    """Two optimisers in turn, the other's weights held still, as a GAN's generator and judge."""

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            self.toggle_optimizer(optimizer)
            loss = self.log_losses("train", self.loss(batch), len(batch))
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)


def config(root: Path, runs: Path, **stage) -> Config:
    """One stage named ``toy``, four samples of three frames in a batch."""
    optim = OptimConfig("adamw", 0.01, schedule="cosine", warmup=3, decay_steps=20, floor=0.1)
    toy = StageConfig(
        "tests.toy_training:ToyStage",
        draw=DrawConfig([2, 4]),
        optim=optim,
        batch_size=4,
        max_steps=12,
        ema=0.9,
        clip=1.0,
    )
    return Config(
        strategy="toys",
        size=SIZE,
        runs=str(runs),
        stages={"toy": replace(toy, **stage)},
        data=DataConfig("toy", str(root), "toy"),
        tracking=TrackingConfig(wandb="off"),
        trainer=TrainerConfig(
            accelerator="cpu",
            devices=1,
            workers=0,
            checkpoint_every=4,
            validate_every=6,
            validate_batches=2,
            log_every=1,
            sample_every=0,
        ),
    )


def main(root: str, runs: str, *words: str) -> None:
    """Train; see the module."""
    from thbench.training.fit import fit

    torch.set_num_threads(1)
    made = config(Path(root), Path(runs))
    send, at = None, -1
    for word in words:
        key, _, value = word.partition("=")
        if key == "signal":
            name, _, step = value.partition("@")
            send, at = getattr(signal, name), int(step)
        elif key == "two":
            made.stages["second"] = replace(
                made.stages["toy"], target="tests.toy_training:Needy", needs=["toy"], max_steps=4
            )
        elif key in ("devices", "accumulate", "workers", "strategy", "checkpoint_every"):
            setattr(made.trainer, key, value if key == "strategy" else int(value))
        elif key == "target":
            made.stages["toy"].target = value
        else:
            setattr(made.stages["toy"], key, int(value))
    ToyStage.signal = (send, at)
    try:
        fit(made)
    finally:
        ToyStage.signal = (None, -1)


if __name__ == "__main__":
    # Stages are found by their module's name, so the class to train is the imported one.
    from tests import toy_training

    toy_training.main(*sys.argv[1:])
