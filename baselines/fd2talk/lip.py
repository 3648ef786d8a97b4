"""The lip expert, which says whether lips belong to a sound (FD2Talk, section 3.4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.fd2talk.morphable import coefficients, needed
from thbench.core.signatures import Blocks
from thbench.core.types import Batch
from thbench.data.face.morphable import Morphable
from thbench.diffusion.losses import counted_mean
from thbench.nn.normalize import RunningStats, shown_once, sound_stats
from thbench.training.stage import Stage, StageContext

EPSILON = 1e-6
"""Least P_sync: without it two embeddings that share nothing have an infinite loss."""


def p_sync(lips: Tensor, sound: Tensor) -> Tensor:
    """Cosine of embeddings (..., d), nowhere negative: (...) in [``EPSILON``, 1] (eq. 10)."""
    sizes = (lips.norm(dim=-1) * sound.norm(dim=-1)).clamp(min=EPSILON)
    return ((lips * sound).sum(-1) / sizes).clamp(EPSILON, 1.0)


class Tower(nn.Sequential):
    """Five frames, or what there is of them, to an embedding per frame: (B, T, C) to (B, T, d)."""

    def __init__(self, channels: int, width: int, dim: int) -> None:
        super().__init__(
            nn.Conv1d(channels, width, 1),
            nn.SiLU(),
            nn.Conv1d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv1d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv1d(width, dim, 1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class LipExpert(nn.Module):
    """Embeds mouth vertices and sound so that their cosine says whether they belong together.

    After Wav2Lip's expert (Prajwal et al. 2020), with vertices in place of pixels.

    Args:
        vertices: M, of the mouth.
        audio_dim: D, channels of the audio embedding.
        width: of the convolutions.
        dim: of the embeddings.
    """

    def __init__(self, vertices: int, audio_dim: int, *, width: int = 512, dim: int = 256) -> None:
        super().__init__()
        self.scale_lips = RunningStats((3 * vertices,), floor=0.1)
        self.scale_sound = sound_stats(audio_dim)
        self.lips_tower = Tower(3 * vertices, width, dim)
        self.sound_tower = Tower(audio_dim, width, dim)

    def lips(self, vertices: Tensor) -> Tensor:
        """Mouth vertices (B, T, M, 3) of upright faces to embeddings (B, T, d), none negative."""
        return self.lips_tower(self.scale_lips(vertices.flatten(2)))

    def sound(self, audio: Tensor) -> Tensor:
        """Audio (B, T, D) to embeddings (B, T, d), none negative."""
        return self.sound_tower(self.scale_sound(audio))

    def forward(self, vertices: Tensor, audio: Tensor) -> Tensor:
        """P_sync (B, T) of each frame."""
        return p_sync(self.lips(vertices), self.sound(audio))


class LipStage(Stage):
    """Trains ``LipExpert`` to tell the sound of now from that of other moments and people.

    Binary cross-entropy of the cosine (Wav2Lip, section 3.2), over all pairs of frames in the
    batch; true pairs weigh as much as all false ones. Frames next to each other are neither. On
    several devices or in several parts, false pairs are only those within each.

    Args:
        context: ``needs`` holds ``morphable``.
        net: arguments of ``LipExpert``.
        near: frames of a clip this close are no false pairs.
    """

    stable_name = "fd2talk.lip"
    config_blocks: ClassVar[Blocks] = {"net": LipExpert}
    net: LipExpert
    version: ClassVar[int] = 2

    def __init__(
        self, context: StageContext, *, net: Mapping[str, Any] | None = None, near: int = 2
    ) -> None:
        super().__init__(context)
        model: Morphable = needed(self, "morphable")
        self.net = LipExpert(len(model.mouth), context.audio_dim, **(net or {}))
        self.near = near

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        model: Morphable = needed(self, "morphable")
        face = coefficients(model, batch)
        vertices = model.mouths(face.identity[:, None], face.motion[..., : model.n_expression])
        self.net.scale_lips.update(vertices.flatten(2)[batch.valid])
        self.net.scale_sound.update(batch.audio[shown_once(batch.frames)])
        lips, sound = self.net.lips(vertices), self.net.sound(batch.audio)
        return contrast(lips, sound, batch.frames, batch.valid, self.near)


def contrast(
    lips: Tensor, sound: Tensor, frames: Tensor, valid: Tensor, near: int
) -> dict[str, Tensor]:
    """Cross-entropy of P_sync over all pairs (lips of i, sound of j) of a batch.

    Args:
        lips: (B, T, d).
        sound: (B, T, d).
        frames: (B, T), where they stand in their clips.
        valid: (B, T) bool; lips that were not seen belong to nothing.
        near: see ``LipStage``.

    Returns:
        ``loss``, the mean of both kinds, and P_sync of true and of false pairs.
    """
    clip = torch.arange(len(frames), device=frames.device).repeat_interleave(frames.shape[1])
    at = frames.flatten()
    apart = (at[:, None] - at).abs()
    same = clip[:, None] == clip
    seen = valid.flatten()[:, None]
    true = torch.eye(len(at), dtype=torch.bool, device=at.device) & seen
    false = ~(same & (apart <= near)) & seen
    p = p_sync(lips.flatten(0, 1)[:, None], sound.flatten(0, 1)[None]).float()
    # Binary cross-entropy of probabilities cannot run in half precision.
    with torch.autocast(p.device.type, enabled=False):
        p = p.clamp(EPSILON, 1 - EPSILON)
        right = counted_mean(F.binary_cross_entropy(p, torch.ones_like(p), reduction="none"), true)
        wrong = counted_mean(
            F.binary_cross_entropy(p, torch.zeros_like(p), reduction="none"), false
        )
    return {
        "loss": (right + wrong) / 2,
        "true": counted_mean(p, true),
        "false": counted_mean(p, false),
    }
