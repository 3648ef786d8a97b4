"""The lip expert, which says whether lips belong to some audio (FD2Talk, section 3.4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.fd2talk.morphable import coefficients
from thbench.core.errors import UserError
from thbench.core.signatures import Blocks
from thbench.core.types import Batch
from thbench.data.face.morphable import Morphable
from thbench.diffusion.losses import counted_mean
from thbench.nn.normalize import RunningStats, audio_stats, unrepeated_frames
from thbench.training.stage import Stage, StageContext

EPSILON = 1e-6
"""Least P_sync: without it two embeddings that share nothing have an infinite loss."""


def p_sync(lips: Tensor, audio: Tensor) -> Tensor:
    """Cosine of embeddings (..., d), nowhere negative: (...) in [``EPSILON``, 1] (eq. 10)."""
    sizes = (lips.norm(dim=-1) * audio.norm(dim=-1)).clamp(min=EPSILON)
    return ((lips * audio).sum(-1) / sizes).clamp(EPSILON, 1.0)


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
        """(B, T, channels) to (B, T, dim), none negative."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class LipExpert(nn.Module):
    """Embeds mouth vertices and audio so that their cosine says whether they belong together.

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
        self.scale_audio = audio_stats(audio_dim)
        self.lips_tower = Tower(3 * vertices, width, dim)
        self.audio_tower = Tower(audio_dim, width, dim)

    def lips(self, vertices: Tensor) -> Tensor:
        """Mouth vertices (B, T, M, 3) of upright faces to embeddings (B, T, d), none negative."""
        return self.lips_tower(self.scale_lips(vertices.flatten(2)))

    def audio(self, audio: Tensor) -> Tensor:
        """Audio (B, T, D) to embeddings (B, T, d), none negative."""
        return self.audio_tower(self.scale_audio(audio))

    def forward(self, vertices: Tensor, audio: Tensor) -> Tensor:
        """P_sync (B, T) of each frame."""
        return p_sync(self.lips(vertices), self.audio(audio))


class LipStage(Stage):
    """Trains ``LipExpert`` to tell the audio of now from that of other moments and people.

    Binary cross-entropy of the cosine (Wav2Lip, section 3.2), over all pairs of frames in a group
    of clips; true pairs weigh as much as all false ones. Frames next to each other are neither. The
    loss is a mean over groups, so it does not depend on how a batch is divided, as long as no group
    is: ``check_part``.

    Args:
        context: ``needs`` holds ``morphable``.
        net: arguments of ``LipExpert``.
        near: frames of a clip this close are no false pairs.
        group: clips, consecutive ones of a batch, whose frames are each other's false pairs;
            Wav2Lip takes pairs from the same video alone.

    Raises:
        UserError: ``group`` is no number of clips.
    """

    stable_name = "fd2talk.lip"
    config_blocks: ClassVar[Blocks] = {"net": LipExpert}
    net: LipExpert
    version: ClassVar[int] = 3

    def __init__(
        self,
        context: StageContext,
        *,
        net: Mapping[str, Any] | None = None,
        near: int = 2,
        group: int = 2,
    ) -> None:
        super().__init__(context)
        if type(group) is not int or group < 1:
            raise UserError(f"group must be a whole number of clips, 1 or more, not {group}.")
        model = self.needed("morphable", Morphable)
        self.net = LipExpert(len(model.mouth), context.audio_dim, **(net or {}))
        self.near, self.group = near, group

    def check_part(self, clips: int) -> None:
        """Raise a UserError if parts of so many clips would divide a group."""
        if clips % self.group:
            raise UserError(
                f"The lip expert compares clips in groups of {self.group} (model.group), and a part"
                f" of its batch has {clips}: raise batch_size, take fewer trainer.devices or a"
                f" smaller trainer.accumulate, or set model.group to a divisor of {clips}."
            )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        model = self.needed("morphable", Morphable)
        face = coefficients(model, batch)
        vertices = model.mouths(face.identity[:, None], face.motion[..., : model.n_expression])
        self.net.scale_lips.update(vertices.flatten(2)[batch.valid])
        self.net.scale_audio.update(batch.audio[unrepeated_frames(batch.frames)])
        lips, audio = self.net.lips(vertices), self.net.audio(batch.audio)
        return contrast_in_groups(lips, audio, batch.frames, batch.valid, self.near, self.group)


def contrast_in_groups(
    lips: Tensor, audio: Tensor, frames: Tensor, valid: Tensor, near: int, group: int
) -> dict[str, Tensor]:
    """``contrast`` of each ``group`` consecutive clips, as a mean over clips.

    A last group that is not full weighs as much as it has clips; training never meets one
    (``LipStage.check_part``).
    """
    found = []
    for parts in zip(*(x.split(group) for x in (lips, audio, frames, valid)), strict=True):
        own_lips, own_sound, own_frames, seen = parts
        share = len(own_lips) / len(lips)
        found.append((share, contrast(own_lips, own_sound, own_frames, seen, near)))
    return {k: torch.stack([w * each[k] for w, each in found]).sum() for k in found[0][1]}


def contrast(
    lips: Tensor, audio: Tensor, frames: Tensor, valid: Tensor, near: int
) -> dict[str, Tensor]:
    """Cross-entropy of P_sync over all pairs (lips of i, audio of j) of some clips.

    Args:
        lips: (B, T, d).
        audio: (B, T, d).
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
    p = p_sync(lips.flatten(0, 1)[:, None], audio.flatten(0, 1)[None]).float()
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
