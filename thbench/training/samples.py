"""Sample videos with audio during training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torchvision.utils import make_grid, save_image

from thbench.core.seeding import derive_seed
from thbench.core.types import SAMPLES_PER_FRAME, Batch, to_uint8, to_unit
from thbench.data.media import audio
from thbench.data.media.video import VideoWriter
from thbench.training.callbacks import Ema, StepCounter
from thbench.training.stage import Stage


class SampleVideos(Callback):
    """Writes ``Stage.samples`` of one fixed batch to ``samples/step-N``: an mp4 each, with the
    clip's audio where the frames are consecutive, and ``sheet.png`` with frames of all of them.

    Args:
        steps: the counter.
        every: steps between samples; 0 for none.
        folder: the run folder.
        fixed: returns the batch and the path of its first clip's mp4.
    """

    def __init__(
        self, steps: StepCounter, every: int, folder: Path, fixed: Callable[[], tuple[Batch, Path]]
    ) -> None:
        self.steps = steps
        self.every = every
        self.folder = folder / "samples"
        self.fixed = fixed

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        # A sharded model computes on all ranks together, any other on the first alone.
        sharded = isinstance(trainer.strategy, FSDPStrategy)
        if self.steps.due(self.every) and (trainer.is_global_zero or sharded):
            with self.steps.pause():
                self._sample(trainer, pl_module)

    def _sample(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, Stage)
        batch, video = self.fixed()
        averages = [c.averaged(module) for c in _callbacks(trainer) if isinstance(c, Ema)]
        torch.manual_seed(derive_seed(module.context.seed, "samples"))
        module.eval()
        with contextlib.ExitStack() as stack, torch.no_grad():
            for average in averages:
                stack.enter_context(average)
            stack.enter_context(trainer.precision_plugin.forward_context())
            found = module.samples(batch.to(module.device))
        module.train()
        if found and trainer.is_global_zero:
            self._write(
                trainer, {k: to_uint8(v.float()).cpu() for k, v in found.items()}, batch, video
            )

    def _write(
        self, trainer: L.Trainer, videos: dict[str, Tensor], batch: Batch, clip: Path
    ) -> None:
        folder = self.folder / f"step-{self.steps.done:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, frames in videos.items():
            path = folder / f"{name}.mp4"
            waveform = (
                clip_audio(clip, batch.frames[0]) if len(frames) == batch.frames.shape[1] else None
            )
            with VideoWriter(path, *frames.shape[-2:], waveform=waveform) as writer:
                writer.write(frames)
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_video(f"samples/{name}", [str(path)], step=None)
        save_image(contact_sheet(list(videos.values())), folder / "sheet.png")


def contact_sheet(videos: Sequence[Tensor], columns: int = 8) -> Tensor:
    """Frames spread over each video, a row per video, as one image.

    Args:
        videos: uint8 (T, 3, H, W), of one size.
        columns: frames of a row; a shorter video shows all of its frames and leaves the rest black.

    Returns:
        float (3, h, w) in [0, 1].
    """
    rows = []
    for video in videos:
        at = torch.linspace(0, len(video) - 1, min(columns, len(video))).round().long()
        blank = video.new_zeros(columns - len(at), *video.shape[1:])
        rows.append(torch.cat([video[at], blank]))
    return make_grid(to_unit(torch.cat(rows)), nrow=columns, padding=2)


def clip_audio(clip: Path, frames: Tensor) -> np.ndarray | None:
    """A clip's audio at frames (T,), float32 (T * 640,).

    None if the frames are not consecutive, or the clip is silent.
    """
    if len(frames) < 2 or not bool((frames.diff() == 1).all()):
        return None
    a, b = int(frames[0]) * SAMPLES_PER_FRAME, (int(frames[-1]) + 1) * SAMPLES_PER_FRAME
    try:
        return audio.load(clip)[a:b]
    except audio.NoAudioError:
        return None


def _callbacks(trainer: Any) -> list[Callback]:
    return trainer.callbacks  # an attribute that the type checker does not know
