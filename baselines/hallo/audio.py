"""How audio enters Hallo: tokens of each frame, and attention to them by region of the face."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from thbench.core.errors import UserError
from thbench.nn.input_init import unit_gain
from thbench.nn.zero_init import zero_init

FUSIONS = ("zero_conv", "addition", "self_attention")
AUDIO_BLOCKS = ("attention", "transformer")


class AudioTokens(nn.Module):
    """Three linear layers from the embeddings around a frame to its tokens (section 3.2).

    With wav2vec 2.0's twelve layers and two frames on either side: 46080 to 512 to 512 to
    32 x 768.

    Args:
        audio_dim: D, channels of one frame's embedding.
        context: frames on either side that are seen.
        hidden: width between the layers.
        tokens, dim: tokens of a frame, and their channels.
    """

    def __init__(
        self,
        audio_dim: int,
        *,
        context: int = 2,
        hidden: int = 512,
        tokens: int = 32,
        dim: int = 768,
    ) -> None:
        super().__init__()
        self.context = context
        self.layers = nn.Sequential(
            nn.Linear((2 * context + 1) * audio_dim, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, tokens * dim),
            nn.Unflatten(-1, (tokens, dim)),
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, audio: Tensor, at: Tensor) -> Tensor:
        """Tokens (B, K, tokens, dim) of frames ``at`` (B, K) of audio embeddings (B, T, D).

        Beyond the ends, the first and the last embedding are repeated.
        """
        around = torch.arange(-self.context, self.context + 1, device=at.device)
        places = (at[..., None] + around).clamp(0, audio.shape[1] - 1)
        rows = torch.arange(len(audio), device=at.device)[:, None, None]
        return self.norm(self.layers(audio[rows, places].flatten(2)))


class HierarchicalAttention(nn.Module):
    """One cross-attention to the audio, shared out to regions and fused again (eq. 11 to 15).

    A new one changes nothing: what it adds starts at zero.

    Args:
        channels: of the feature map.
        dim: of the audio's tokens.
        heads: of the attention.
        regions: how many masks there are.
        fusion: Table 5's mechanism: ``zero_conv`` (a convolution per region, the paper's),
            ``addition`` (the sum) or ``self_attention`` (the regions' values of a location attend
            to each other).
    """

    def __init__(
        self, channels: int, dim: int, heads: int, regions: int, fusion: str = "zero_conv"
    ) -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise UserError(f"net.fusion must be one of {', '.join(FUSIONS)}, not '{fusion}'.")
        self.fusion = fusion
        self.norm = nn.LayerNorm(channels)
        self.attention = _attention(channels, heads, dim)
        if fusion == "zero_conv":
            # Without a bias, so that a region's weight reaches no further than its mask.
            convs = (nn.Conv2d(channels, channels, 1, bias=False) for _ in range(regions))
            self.convs = nn.ModuleList(zero_init(conv) for conv in convs)
        elif fusion == "addition":
            zero_init(self.attention.to_out[0])
        else:
            self.mix = _attention(channels, heads)
            zero_init(self.mix.to_out[0])

    def forward(
        self, x: Tensor, audio_tokens: Tensor, masks: Tensor, weights: Sequence[float]
    ) -> Tensor:
        """The feature map (N, C, h, w) with the audio's share added.

        Args:
            x: (N, C, h, w).
            audio_tokens: (N, K, dim).
            masks: (N, regions, h, w).
            weights: of the regions, 1 for what was trained.
        """
        queries = self.norm(x.flatten(2).transpose(1, 2))
        seen = self.attention(queries, encoder_hidden_states=audio_tokens)
        seen = seen.transpose(1, 2).unflatten(-1, x.shape[-2:])
        parts = [seen * mask for mask in masks.split(1, dim=1)]
        for part, weight in zip(self._fused(parts), weights, strict=True):
            x = x + weight * part
        return x

    def _fused(self, parts: list[Tensor]) -> list[Tensor]:
        """What each region (N, C, h, w) contributes."""
        if self.fusion == "zero_conv":
            return [conv(part) for conv, part in zip(self.convs, parts, strict=True)]
        if self.fusion == "addition":
            return parts
        n, c, height, width = parts[0].shape
        tokens = torch.stack(parts, dim=1).permute(0, 3, 4, 1, 2).reshape(-1, len(parts), c)
        mixed = self.mix(tokens).view(n, height, width, len(parts), c)
        return list(mixed.permute(3, 0, 4, 1, 2))


class AudioTransformer(nn.Module):
    """The released code's block: a transformer with a cross-attention to the audio per region.

    Self-attention within each frame, then the sum over regions of a convolution of that region's
    cross-attention in its mask, then a feed-forward layer, each with a layer norm before and a
    shortcut around it; a group norm and convolutions around all of it. Unlike
    ``HierarchicalAttention`` a new one is not neutral: its convolutions start at zero, the rest
    does not. They have a bias, which acts outside their masks too.

    Args:
        channels: of the feature map.
        inner: channels within the block.
        dim: of the audio's tokens.
        heads: of the attentions.
        groups: of the group norm.
        regions: how many masks there are.
    """

    def __init__(
        self, channels: int, inner: int, dim: int, heads: int, groups: int, regions: int
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, inner, 1)
        self.norms = nn.ModuleList(nn.LayerNorm(inner) for _ in range(3))
        self.self_attention = _attention(inner, heads)
        self.attentions = nn.ModuleList(_attention(inner, heads, dim) for _ in range(regions))
        self.convs = nn.ModuleList(zero_init(nn.Conv2d(inner, inner, 1)) for _ in range(regions))
        self.feed_forward = FeedForward(inner, activation_fn="geglu")
        self.proj_out = nn.Conv2d(inner, channels, 1)

    def forward(
        self, x: Tensor, audio_tokens: Tensor, masks: Tensor, weights: Sequence[float]
    ) -> Tensor:
        """The feature map (N, C, h, w) after the block; arguments as ``HierarchicalAttention``."""
        size = x.shape[-2:]
        y = _to_rows(self.proj_in(self.norm(x)))
        y = y + self.self_attention(self.norms[0](y))
        queries = self.norms[1](y)
        parts = zip(self.attentions, self.convs, masks.split(1, dim=1), weights, strict=True)
        for attention, conv, mask, weight in parts:
            seen = _to_map(attention(queries, encoder_hidden_states=audio_tokens), size)
            y = y + weight * _to_rows(conv(seen * mask))
        y = y + self.feed_forward(self.norms[2](y))
        return x + self.proj_out(_to_map(y, size))


def _to_rows(x: Tensor) -> Tensor:
    """(N, C, h, w) as (N, hw, C)."""
    return x.flatten(2).transpose(1, 2)


def _to_map(x: Tensor, size: Sequence[int]) -> Tensor:
    """(N, hw, C) as (N, C, h, w)."""
    return x.transpose(1, 2).unflatten(-1, tuple(size))


def _attention(channels: int, heads: int, dim: int | None = None) -> Attention:
    made = Attention(channels, dim, heads=heads, dim_head=channels // heads)
    unit_gain(made.to_v)
    unit_gain(made.to_out[0])
    return made
