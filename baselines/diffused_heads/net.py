"""The network of Diffused Heads with all that belongs to it: portrait, motion, audio, noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.diffused_heads.unet import UNet, UNetConfig
from baselines.drawn_over import draw_over
from thbench.core.errors import UserError
from thbench.core.signatures import Blocks
from thbench.diffusion.gaussian import GaussianDiffusion
from thbench.nn.input_init import unit_gain
from thbench.nn.normalize import audio_stats

RGB = 3
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey image (ITU-R BT.601)."""


@dataclass
class FrameConditions:
    """Conditions of all frames of a clip, computed once per portrait and audio.

    Attributes:
        portrait: (B, 3, H, W) in [-1, 1].
        static: (B, dim, h, w), what the portrait puts into the network's first convolution.
        audio: (B, T, width), the embedded motion audio embedding of each frame.
    """

    portrait: Tensor
    static: Tensor
    audio: Tensor


@dataclass(frozen=True, kw_only=True)
class FrameNetConfig(UNetConfig):
    """The ``net:`` block of ``FrameStage``.

    The defaults are the paper's, and where it gives none those of its released code.

    Attributes:
        motion: motion frames (m_x), the frames just before.
        audio_context: audio embeddings (m_y) before and after the frame's own.
        grey: motion frames lose their colours, so that the portrait has to give them (section 4.5).
        audio_width: channels to which each audio embedding is brought; None takes embeddings as
            they are, neither normalised nor mapped, as the released code does with those of SDA.
        width: of the embedded time and audio; 4 ``dim`` by default.
        patch: the U-Net runs on ``patch`` x ``patch`` cells of the frame, moved to channels.
        shortcut: draw over the portrait, which a small network would take long to learn to copy: a
            mask says for each pixel how much of it is drawn (``baselines.drawn_over``; what is left
            of a portrait to which something is added burns in, frame after frame). Needs prediction
            ``x0``.
        process: arguments of ``GaussianDiffusion``.
    """

    config_blocks: ClassVar[Blocks] = {"process": GaussianDiffusion}

    motion: int = 2
    audio_context: int = 2
    grey: bool = True
    audio_width: int | None = 256
    width: int | None = None
    patch: int = 1
    shortcut: bool = False
    process: Mapping[str, Any] | None = None


class FrameNet(nn.Module):
    """Denoises one frame, seeing the portrait, the frames before it and the audio around it.

    The input (paper, eq. 16) is the noisy frame, the portrait and the motion frames, joined as
    channels. A convolution of joined channels is the sum of the convolutions of its parts, so each
    part has its own, run as often as the part changes: the portrait's once per clip, the motion
    frames' once per frame, and only the noisy frame's in every step.

    Args:
        audio_dim: D, channels of the audio embedding.
        size: frames are ``size`` x ``size`` pixels.
        config: sizes and switches.

    Raises:
        UserError: a number out of range, a size that the levels do not divide, or a shortcut to
            another prediction.
    """

    def __init__(self, audio_dim: int, size: int, config: FrameNetConfig) -> None:
        super().__init__()
        self.process = GaussianDiffusion(**{"variance": "learned", **(config.process or {})})
        _check(config, self.process, size)
        self.size, self.patch, self.shortcut = size, config.patch, config.shortcut
        self.motion, self.audio_context = config.motion, config.audio_context
        self.grey = config.grey
        dim, cell = config.dim, config.patch**2
        width = config.width or 4 * dim
        embedded = config.audio_width or audio_dim
        around = (2 * config.audio_context + 1) * embedded
        self.scale_audio = audio_stats(audio_dim) if config.audio_width else None
        self.embed = unit_gain(nn.Linear(audio_dim, embedded)) if config.audio_width else None
        self.mix = nn.Sequential(
            unit_gain(nn.Linear(around, width)), nn.SiLU(), unit_gain(nn.Linear(width, width))
        )
        self.stem_portrait = nn.Conv2d(RGB * cell, dim, 3, padding=1, bias=False)
        seen = config.motion * (1 if config.grey else RGB) * cell
        self.stem_motion = nn.Conv2d(seen, dim, 3, padding=1, bias=False) if seen else None
        outputs = RGB * (2 if self.process.learns_variance else 1) + self.shortcut
        self.unet = UNet(RGB * cell, outputs * cell, size // config.patch, width, config)

    def conditions(self, portrait: Tensor, audio: Tensor) -> FrameConditions:
        """What is computed once per clip.

        Args:
            portrait: (B, 3, H, W) in [-1, 1].
            audio: (B, T, D).
        """
        everywhere = torch.arange(audio.shape[1], device=audio.device)
        embedded = self.audio_features(audio, everywhere)
        return FrameConditions(portrait, self.portrait_features(portrait), embedded)

    def portrait_features(self, portrait: Tensor) -> Tensor:
        """The portrait's part of the first convolution, (B, dim, h, w)."""
        return self.stem_portrait(self._cells(portrait))

    def audio_features(self, audio: Tensor, at: Tensor) -> Tensor:
        """Motion audio embeddings (section 4.3) of frames ``at`` (K,): (B, T, D) to (B, K, width).

        Beyond the ends, the first and the last embedding are repeated.
        """
        around = torch.arange(-self.audio_context, self.audio_context + 1, device=at.device)
        places = (at[:, None] + around).clamp(0, audio.shape[1] - 1)
        if self.scale_audio is not None and self.embed is not None:
            audio = self.embed(self.scale_audio(audio))
        return self.mix(audio[:, places].flatten(2))

    def motion_features(self, before: Tensor) -> Tensor:
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
        self, noisy: Tensor, t: Tensor, portrait: Tensor, static: Tensor, audio: Tensor
    ) -> Tensor:
        """The prediction, and the variance's channels behind it where it is learned.

        Args:
            noisy: (N, 3, H, W).
            t: (N,) noise levels.
            portrait: (N, 3, H, W); only the shortcut looks at it, ``static`` holds it already.
            static: (N, dim, h, w), the sum of ``portrait_features`` and ``motion_features``.
            audio: (N, width), embedded.
        """
        made = F.pixel_shuffle(self.unet(self._cells(noisy), t, static, audio), self.patch)
        if not self.shortcut:
            return made
        drawn, rest, mask = made.tensor_split([RGB, made.shape[1] - 1], dim=1)
        return torch.cat([draw_over(portrait, drawn, mask), rest], dim=1)

    def _cells(self, images: Tensor) -> Tensor:
        return F.pixel_unshuffle(images, self.patch)


def to_grey(frames: Tensor) -> Tensor:
    """Pictures (..., 3, H, W) as grey ones (..., 1, H, W), in the range that they were in."""
    weights = torch.tensor(LUMA, device=frames.device, dtype=frames.dtype)
    return (frames * weights[:, None, None]).sum(-3, keepdim=True)


def _check(config: FrameNetConfig, process: GaussianDiffusion, size: int) -> None:
    if size % (config.patch * 2 ** (len(config.mults) - 1)):
        raise UserError(
            f"size={size} does not divide by patch={config.patch} and the halvings between"
            f" {len(config.mults)} levels: take another size, or fewer mults."
        )
    if config.shortcut and process.prediction != "x0":
        raise UserError("net.shortcut=true needs net.process.prediction=x0.")
    for key in ("motion", "audio_context"):
        value = getattr(config, key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise UserError(f"net.{key} must be a whole number, 0 or more, not {value}.")
