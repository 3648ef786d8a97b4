"""FD2Talk's Diffusion Transformers: motion coefficients from audio (section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from thbench.core.errors import UserError
from thbench.core.signatures import Blocks
from thbench.data.face.morphable import POSE_COEFFICIENTS
from thbench.diffusion.gaussian import GaussianDiffusion
from thbench.nn.attention import local_attention_mask, portrait_positions
from thbench.nn.normalize import RunningStats, audio_stats
from thbench.nn.transformer import transformer_layers
from thbench.nn.unet3d import sinusoid


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Sizes of ``DiT``; the paper has 6 layers and names no width.

    Attributes:
        dim, depth, heads: of the transformer.
        hidden: of the feed-forward layers; 4 ``dim`` by default.
        dropout: within the layers.
        align: k, or None for no mask.
    """

    dim: int = 512
    depth: int = 6
    heads: int = 8
    hidden: int | None = None
    dropout: float = 0.0
    align: int | None = 3


@dataclass(frozen=True, kw_only=True)
class MotionNetConfig(DiTConfig):
    """The ``net:`` block of ``MotionStage``.

    Attributes:
        single: one transformer for expression and pose, the ablation of Table 2.
        process: arguments of ``GaussianDiffusion``; the coefficients themselves are predicted
            (eq. 3).
    """

    config_blocks: ClassVar[Blocks] = {"process": GaussianDiffusion}

    single: bool = False
    process: Mapping[str, Any] | None = None


class DiT(nn.Module):
    """Denoises a sequence of coefficients that attends to time and audio.

    The condition of a frame is a linear layer over its embedded noise level and audio, joined; it
    enters by cross-attention alone, in which frame j sees the conditions i with |i - j| <= k
    (eq. 4). Frames see each other without limit.

    Args:
        dim_in: coefficients of a frame.
        audio_dim: D, channels of the audio embedding.
        config: sizes and the mask.

    Raises:
        UserError: a mask of no frame.
    """

    def __init__(self, dim_in: int, audio_dim: int, config: DiTConfig) -> None:
        super().__init__()
        dim, align = config.dim, config.align
        if align is not None and (not isinstance(align, int) or align < 1):
            raise UserError(f"net.align must be 1 frame or more, or null for none, not {align}.")
        self.dim, self.align = dim, align
        self.entry = nn.Linear(dim_in, dim)
        self.condition = nn.Linear(dim + audio_dim, dim)
        self.layers = transformer_layers(
            dim,
            cross=True,
            depth=config.depth,
            heads=config.heads,
            hidden=config.hidden or 4 * dim,
            dropout=config.dropout,
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, dim_in)

    def forward(self, x: Tensor, t: Tensor, frames: Tensor, audio: Tensor) -> Tensor:
        """(B, T, dim_in) at levels ``t`` (B, T), with ``frames`` (B, T) and audio (B, T, D)."""
        everywhere = local_attention_mask(frames, None, x.device)
        near = (
            None if self.align is None else local_attention_mask(frames, 2 * self.align, x.device)
        )
        memory = self.condition(torch.cat([sinusoid(t, self.dim), audio], dim=-1))
        x = self.entry(x)
        for layer in self.layers:
            x = layer(x, everywhere, memory, near)
        return self.head(self.norm(x))


class MotionNet(nn.Module):
    """The Exp and the Pose Transformer, side by side over one latent of expression and pose.

    Args:
        expression: E, expression coefficients.
        audio_dim: D, channels of the audio embedding.
        config: sizes and switches.
    """

    def __init__(self, expression: int, audio_dim: int, config: MotionNetConfig) -> None:
        super().__init__()
        self.expression, self.channels = expression, expression + POSE_COEFFICIENTS
        self.process = GaussianDiffusion(**{"prediction": "x0", **(config.process or {})})
        sizes = [self.channels] if config.single else [expression, POSE_COEFFICIENTS]
        self.sizes = sizes
        self.transformers = nn.ModuleList(DiT(size, audio_dim, config) for size in sizes)
        self.scale = RunningStats((self.channels,))
        self.scale_audio = audio_stats(audio_dim)

    def forward(self, noisy: Tensor, t: Tensor, frames: Tensor, audio: Tensor) -> Tensor:
        """The prediction (B, E + 6, T).

        Args:
            noisy: (B, E + 6, T), scaled coefficients; observed frames at level 0.
            t: (B, T).
            frames: (B, T), true indices, or ``SOURCE``.
            audio: (B, T, D), of those frames.
        """
        places, audio = portrait_positions(frames), self.scale_audio(audio)
        parts = noisy.transpose(1, 2).split(self.sizes, dim=-1)
        made = [
            transformer(part, t, places, audio)
            for transformer, part in zip(self.transformers, parts, strict=True)
        ]
        return torch.cat(made, -1).transpose(1, 2)

    def to_latent(self, motion: Tensor) -> Tensor:
        """Coefficients (B, T, E + 6) as latents (B, E + 6, T)."""
        return self.scale(motion).transpose(1, 2)

    def from_latent(self, latent: Tensor) -> Tensor:
        """Undo ``to_latent``: coefficients (B, T, E + 6) of latents (B, E + 6, T)."""
        return self.scale.inverse(latent.transpose(1, 2))
