"""The network of Diffused Heads with all that belongs to it: portrait, motion, sound, noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.diffused_heads.unet import UNet
from thbench.core.errors import UserError
from thbench.core.signatures import Blocks
from thbench.diffusion.gaussian import GaussianDiffusion
from thbench.nn.input_init import level
from thbench.nn.normalize import sound_stats

RGB = 3
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey picture (ITU-R BT.601)."""


@dataclass
class FrameConditions:
    """What all frames of a clip are made from, computed once per portrait and sound.

    Attributes:
        portrait: (B, 3, H, W) in [-1, 1].
        still: (B, dim, h, w), what the portrait puts into the network's first convolution.
        sound: (B, T, width), the embedded motion audio embedding of each frame.
    """

    portrait: Tensor
    still: Tensor
    sound: Tensor


class FrameNet(nn.Module):
    """Denoises one frame, seeing the portrait, the frames before it and the sound around it.

    The input (paper, eq. 16) is the noisy frame, the portrait and the motion frames, joined as
    channels. A convolution of joined channels is the sum of the convolutions of its parts, so each
    part has its own, run as often as the part changes: the portrait's once per clip, the motion
    frames' once per frame, and only the noisy frame's in every step.

    The defaults are the paper's, and where it says nothing those of its released code.

    Args:
        audio_dim: D, channels of the audio embedding.
        size: frames are ``size`` x ``size`` pixels.
        motion: motion frames (m_x), the frames just before.
        audio_context: audio embeddings (m_y) before and after the frame's own.
        grey: motion frames lose their colours, so that the portrait has to give them (section 4.5).
        audio_width: channels to which each audio embedding is brought.
        width: of the embedded time and sound; 4 ``dim`` by default.
        dim, mults, blocks, dropout, heads, head_dim, attention, groups: see ``UNet``; the released
            code has ``attention: [32]``.
        patch: the U-Net runs on ``patch`` x ``patch`` cells of the frame, moved to channels.
        shortcut: predict the clean frame as a change of the portrait, which a small network would
            take long to learn to copy. Needs prediction ``x0``.
        process: arguments of ``GaussianDiffusion``.

    Raises:
        UserError: a number out of range, a size that the levels do not divide, or a shortcut to
            another prediction.
    """

    config_blocks: ClassVar[Blocks] = {"process": GaussianDiffusion}

    def __init__(
        self,
        audio_dim: int,
        size: int,
        *,
        motion: int = 2,
        audio_context: int = 2,
        grey: bool = True,
        audio_width: int = 256,
        width: int | None = None,
        dim: int = 256,
        mults: Sequence[int] = (1, 2, 3),
        blocks: int = 2,
        dropout: float = 0.1,
        heads: int = 4,
        head_dim: int = 64,
        attention: Sequence[int] = (),
        groups: int = 32,
        patch: int = 1,
        shortcut: bool = False,
        process: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _whole(motion=motion, audio_context=audio_context)
        if size % (patch * 2 ** (len(mults) - 1)):
            raise UserError(
                f"size={size} does not divide by patch={patch} and the halvings between"
                f" {len(mults)} levels: take another size, or fewer mults."
            )
        self.process = GaussianDiffusion(**{"variance": "learned", **(process or {})})
        if shortcut and self.process.prediction != "x0":
            raise UserError("net.shortcut=true needs net.process.prediction=x0.")
        self.size, self.patch, self.shortcut = size, patch, shortcut
        self.motion, self.audio_context, self.grey = motion, audio_context, grey
        width, cell = width or 4 * dim, patch**2
        self.scale_sound = sound_stats(audio_dim)
        self.embed = level(nn.Linear(audio_dim, audio_width))
        self.mix = nn.Sequential(
            level(nn.Linear((2 * audio_context + 1) * audio_width, width)),
            nn.SiLU(),
            level(nn.Linear(width, width)),
        )
        self.stem_portrait = nn.Conv2d(RGB * cell, dim, 3, padding=1, bias=False)
        seen = motion * (1 if grey else RGB) * cell
        self.stem_motion = nn.Conv2d(seen, dim, 3, padding=1, bias=False) if motion else None
        self.unet = UNet(
            RGB * cell,
            RGB * cell * (2 if self.process.learns_variance else 1),
            size // patch,
            dim=dim,
            mults=mults,
            blocks=blocks,
            dropout=dropout,
            heads=heads,
            head_dim=head_dim,
            attention=attention,
            groups=groups,
            width=width,
        )

    def conditions(self, portrait: Tensor, audio: Tensor) -> FrameConditions:
        """What is computed once per clip.

        Args:
            portrait: (B, 3, H, W) in [-1, 1].
            audio: (B, T, D).
        """
        everywhere = torch.arange(audio.shape[1], device=audio.device)
        sound = self.sound(audio, everywhere)
        return FrameConditions(portrait, self.still(portrait), sound)

    def still(self, portrait: Tensor) -> Tensor:
        """The portrait's part of the first convolution, (B, dim, h, w)."""
        return self.stem_portrait(self._cells(portrait))

    def sound(self, audio: Tensor, at: Tensor) -> Tensor:
        """Motion audio embeddings (section 4.3) of frames ``at`` (K,): (B, T, D) to (B, K, width).

        Beyond the ends, the first and the last embedding are repeated.
        """
        around = torch.arange(-self.audio_context, self.audio_context + 1, device=at.device)
        places = (at[:, None] + around).clamp(0, audio.shape[1] - 1)
        return self.mix(self.embed(self.scale_sound(audio))[:, places].flatten(2))

    def moving(self, before: Tensor) -> Tensor:
        """The motion frames' part of the first convolution, (B, dim, h, w).

        Args:
            before: (B, 3, motion, H, W) in [-1, 1], oldest first.
        """
        assert self.stem_motion is not None
        frames = before.transpose(1, 2)
        if self.grey:
            frames = to_grey(frames)
        return self.stem_motion(self._cells(frames.flatten(1, 2)))

    def forward(
        self, noisy: Tensor, t: Tensor, portrait: Tensor, still: Tensor, sound: Tensor
    ) -> Tensor:
        """The prediction, and the variance's channels behind it where it is learned.

        Args:
            noisy: (N, 3, H, W).
            t: (N,) noise levels.
            portrait: (N, 3, H, W); only the shortcut looks at it, ``still`` holds it already.
            still: (N, dim, h, w), the sum of ``still`` and ``moving``.
            sound: (N, width).
        """
        made = F.pixel_shuffle(self.unet(self._cells(noisy), t, still, sound), self.patch)
        if not self.shortcut:
            return made
        return torch.cat([made[:, :RGB] + portrait, made[:, RGB:]], dim=1)

    def _cells(self, pictures: Tensor) -> Tensor:
        return F.pixel_unshuffle(pictures, self.patch)


def to_grey(frames: Tensor) -> Tensor:
    """Pictures (..., 3, H, W) as grey ones (..., 1, H, W), in the range that they were in."""
    weights = torch.tensor(LUMA, device=frames.device, dtype=frames.dtype)
    return (frames * weights[:, None, None]).sum(-3, keepdim=True)


def _whole(**values: int) -> None:
    for key, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise UserError(f"net.{key} must be a whole number, 0 or more, not {value}.")
