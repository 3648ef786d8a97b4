"""A U-Net over single images that time and audio scale and shift.

The network of Dhariwal and Nichol (2021), "Diffusion Models Beat GANs on Image Synthesis", section
3, with the conditioning of Diffused Heads (2024), eq. 17.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thbench.nn.attention import SpatialAttention
from thbench.nn.unet3d import sinusoid
from thbench.nn.zero_init import zero_init


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Sizes of ``UNet``; the defaults are the paper's, or where it gives none the released code's.

    Attributes:
        dim, mults: channels at the levels are ``dim`` times ``mults``.
        blocks: residual blocks per level on the way down; one more on the way up.
        dropout: in every block.
        heads, head_dim: of the attention.
        attention: heights of the image at which there is attention beside the middle's; the
            released code has ``[32]``.
        groups: of the group norms.
        grouped_attention: the norm before an attention has ``groups`` groups too, not one, as in
            the released code.
        qkv_bias: queries, keys and values have biases, as there.
        high_rates: the noise level is embedded as there: by ``high_sinusoid``, counted from 0.
    """

    dim: int = 256
    mults: Sequence[int] = (1, 2, 3)
    blocks: int = 2
    dropout: float = 0.1
    heads: int = 4
    head_dim: int = 64
    attention: Sequence[int] = ()
    groups: int = 32
    grouped_attention: bool = False
    qkv_bias: bool = False
    high_rates: bool = False


def high_sinusoid(t: Tensor, dim: int) -> Tensor:
    """Sines and cosines of noise levels at the released code's rates: (...) to (..., dim), float32.

    Rate k of ``dim / 2`` is 10000^(-k / (2 dim)), so that even the lowest turns about 16 times over
    1000 levels; in ``sinusoid`` the lowest turns by .1 radian.
    """
    rates = 10_000.0 ** (-torch.arange(dim // 2, device=t.device) / (2 * dim))
    angles = t[..., None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class FilmBlock(nn.Module):
    """Two convolutions; between them time, then audio, scales and shifts what is normalised.

    ``h = y_s (t_s GN(h) + t_b) + y_b`` (eq. 17), with scales written as 1 plus what is learned.

    Args:
        dim_in, dim_out: channels.
        width: of the embedded time and audio.
        groups: of the group norms.
        dropout: before the second convolution.
        resize: ``up`` or ``down`` by two inside the block, or None.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        width: int,
        groups: int,
        dropout: float,
        resize: str | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, dim_in)
        self.conv1 = nn.Conv2d(dim_in, dim_out, 3, padding=1)
        self.time = nn.Linear(width, 2 * dim_out)
        self.audio = nn.Linear(width, 2 * dim_out)
        self.norm2 = nn.GroupNorm(groups, dim_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(nn.Conv2d(dim_out, dim_out, 3, padding=1))
        self.skip = nn.Conv2d(dim_in, dim_out, 1) if dim_in != dim_out else nn.Identity()
        self.resize = resize

    def forward(self, x: Tensor, time: Tensor, audio: Tensor) -> Tensor:
        """(N, dim_in, h, w) with ``time`` and ``audio`` (N, width) to (N, dim_out, ...)."""
        h = self.conv1(self._resized(F.silu(self.norm1(x))))
        h = _film(self.norm2(h), self.time(F.silu(time)))
        h = _film(h, self.audio(F.silu(audio)))
        h = self.conv2(self.dropout(F.silu(h)))
        return self.skip(self._resized(x)) + h

    def _resized(self, x: Tensor) -> Tensor:
        if self.resize == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resize == "down" else x


def _film(x: Tensor, parameters: Tensor) -> Tensor:
    scale, shift = parameters[:, :, None, None].chunk(2, dim=1)
    return x * (1 + scale) + shift


class UNet(nn.Module):
    """The denoising network.

    What the portrait and the motion frames put into the first convolution is added to ``stem``'s
    result (see ``forward``), so that it is worked out once for all steps.

    Args:
        channels: of the noisy image.
        outputs: channels of the output.
        size: h = w of the image.
        width: of the embedded time and audio.
        config: sizes of the network.
    """

    def __init__(
        self, channels: int, outputs: int, size: int, width: int, config: UNetConfig
    ) -> None:
        super().__init__()
        dim, mults, blocks = config.dim, config.mults, config.blocks
        self.dim, self.high_rates = dim, config.high_rates

        def attention(dim: int) -> SpatialAttention:
            made = SpatialAttention(dim, config.heads, config.head_dim)
            if config.grouped_attention:
                made.norm = nn.GroupNorm(config.groups, dim)
            if config.qkv_bias:
                made.to_qkv = nn.Conv2d(dim, 3 * config.heads * config.head_dim, 1)
            return made

        def layer(a: int, b: int, at: int, resize: str | None = None) -> _Layer:
            block = FilmBlock(a, b, width, config.groups, config.dropout, resize)
            attends = at in config.attention and resize is None
            return _Layer(block, attention(b) if attends else None)

        self.time = nn.Sequential(nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, width))
        self.stem = nn.Conv2d(channels, dim, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        kept, now, at = [dim], dim, size
        for i, mult in enumerate(mults):
            for _ in range(blocks):
                self.down.append(layer(now, dim * mult, at))
                now = dim * mult
                kept.append(now)
            if i < len(mults) - 1:
                self.down.append(layer(now, now, at, "down"))
                kept.append(now)
                at //= 2
        self.middle = nn.ModuleList(layer(now, now, 0) for _ in range(2))
        self.attention = attention(now)
        for i, mult in reversed(list(enumerate(mults))):
            for _ in range(blocks + 1):
                self.up.append(layer(now + kept.pop(), dim * mult, at))
                now = dim * mult
            if i:
                self.up.append(layer(now, now, at, "up"))
                at *= 2
        self.norm = nn.GroupNorm(config.groups, now)
        self.head = zero_init(nn.Conv2d(now, outputs, 3, padding=1))

    def forward(self, noisy: Tensor, t: Tensor, static: Tensor, audio: Tensor) -> Tensor:
        """The output, (N, outputs, h, w).

        Args:
            noisy: (N, channels, h, w).
            t: (N,) noise levels.
            static: (N, dim, h, w), the rest of the first convolution.
            audio: (N, width).
        """
        place = high_sinusoid(t - 1, self.dim) if self.high_rates else sinusoid(t, self.dim)
        time = self.time(place.to(noisy.dtype))
        x = self.stem(noisy) + static
        kept = [x]
        for layer in _layers(self.down):
            x = layer(x, time, audio)
            kept.append(x)
        first, last = _layers(self.middle)
        x = last(self.attention(first(x, time, audio)), time, audio)
        for layer in _layers(self.up):
            if layer.block.resize is None:
                x = torch.cat([x, kept.pop()], dim=1)
            x = layer(x, time, audio)
        return self.head(F.silu(self.norm(x)))


class _Layer(nn.Module):
    """A block, and attention where there is one."""

    def __init__(self, block: FilmBlock, attention: SpatialAttention | None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, x: Tensor, time: Tensor, audio: Tensor) -> Tensor:
        x = self.block(x, time, audio)
        return x if self.attention is None else self.attention(x)


def _layers(modules: Iterable[nn.Module]) -> Iterable[_Layer]:
    return modules  # type: ignore[return-value]
