"""The morphable model as a stage: found from the training set like everything else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thbench.core.hub import MissingResource
from thbench.core.types import Batch
from thbench.data.face.morphable import (
    Moments,
    Morphable,
    pose_coefficients,
    read_bfm,
    vertex_error,
)
from thbench.training.optim import build_optimizer
from thbench.training.stage import Stage, StageContext


class MorphableStage(Stage):
    """Finds ``Morphable`` by PCA of the training landmarks, or takes a user's BFM.

    No gradient trains it: every batch adds to the moments, and the bases are solved for after steps
    1, 2, 4, 8, ..., before a validation and before a checkpoint. ``loss`` is the vertex error, as a
    fraction of the face's height, so ``val/loss`` is the error on held-out people.

    Args:
        context: see ``Stage``.
        identity, expression: coefficients; with ``bfm`` as many as the file's columns.
        bfm: Deep3D's ``BFM_model_front.mat``. One step suffices.
    """

    stable_name = "fd2talk.morphable"
    net: Morphable
    uses_audio = False
    sources = ("bfm",)

    def __init__(
        self,
        context: StageContext,
        *,
        identity: int = 80,
        expression: int = 64,
        bfm: str | None = None,
    ) -> None:
        super().__init__(context)
        self.bfm = bfm
        self.net = Morphable(identity, expression, keys=bfm is not None)
        self.moments = None if bfm else Moments(len(self.net.mean))

    def configure_optimizers(self) -> Any:
        # The trainer, DDP and the guards want an optimiser; at a rate of 0 it changes nothing.
        still = replace(self.context.optim, lr=0.0, weight_decay=0.0, schedule="constant")
        return build_optimizer(self.net.parameters(), still)

    def start(self) -> None:
        if self.bfm:
            self.net.set(read_bfm(Path(self.bfm)))

    def missing(self, steps: int) -> Iterator[MissingResource]:
        if self.bfm and not Path(self.bfm).is_file():
            yield MissingResource(
                f"there is no file {self.bfm}: give the Basel Face Model as model.bfm"
            )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        if self.training and self.moments is not None:
            vertices = self.net.align(batch.landmarks, batch.pose)
            self.moments.update(vertices, batch.valid)
            steps = int(self.batches_seen)
            if steps & (steps - 1) == 0:
                self.solve()
        return {"loss": vertex_error(self.net, batch.landmarks, batch.pose, batch.valid)}

    @torch.no_grad()
    def solve(self) -> None:
        """Bring the bases up to date with the moments."""
        if self.moments is None or not int(self.moments.people):
            return
        net = self.net
        net.set(self.moments.solve(net.n_identity, net.n_expression, net.corners, net.rigid))

    def on_validation_start(self) -> None:
        self.solve()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.solve()
        state = checkpoint["state_dict"]
        state.update({f"net.{k}": v.detach() for k, v in self.net.state_dict().items()})


@dataclass(frozen=True)
class Coefficients:
    """A batch as the morphable model has it.

    Attributes:
        identity: (B, A), of the portrait.
        source: (B, E + 6), the portrait's expression and pose coefficients.
        motion: (B, T, E + 6), the frames'.
    """

    identity: Tensor
    source: Tensor
    motion: Tensor


@torch.no_grad()
def coefficients(model: Morphable, batch: Batch) -> Coefficients:
    """Coefficients of a batch, in full precision whatever the trainer's."""
    with torch.autocast(batch.pose.device.type, enabled=False):
        identity, still = model.fit(batch.source_landmarks, batch.source_pose)
        moving = model.follow(batch.landmarks, batch.pose, identity[:, None])
        portrait = batch.source_pose[:, None]
        pose = pose_coefficients(batch.pose, portrait)
        source = torch.cat([still, pose_coefficients(portrait, portrait)[:, 0]], -1)
    return Coefficients(identity, source, torch.cat([moving, pose], -1))
