"""The networks of DAWN's released PBNet: a variational autoencoder for poses, and one for eyes.

The paper has one network with a branch for each (``thbench.dawn.pbnet``). The released two are
trained apart, share nothing, and are otherwise laid out as ACTOR (Petrovich et al. 2021): the
encoder is a transformer normalised last with sinusoidal positions, the decoder lets queries that
hold nothing but their place attend to latents and sound.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from thbench.core.types import EYES_DIM, POSE_DIM
from thbench.nn.attention import LocalMask, local_attention, relative_bucket, rope

HEAD_DIM = 32
"""Channels of a head of the decoder's attentions."""


class MotionEncoder(nn.Module):
    """One kind of motion and audio to the mean and log-variance of a latent per frame.

    Args:
        width: of the motion, such as 6 of a pose.
        audio_dim: D, channels of the audio embedding.
        latent: width of the latent.
        embedded: widths of embedded motion and audio.
        depth, heads, hidden, dropout: of the transformer.
    """

    def __init__(
        self,
        width: int,
        audio_dim: int,
        latent: int,
        embedded: tuple[int, int],
        *,
        depth: int,
        heads: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        motion, audio = embedded
        dim = 2 * motion + audio
        self.source, self.motion = nn.Linear(width, motion), nn.Linear(width, motion)
        self.audio = nn.Linear(audio_dim, audio)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, hidden, dropout, "gelu", batch_first=True)
            for _ in range(depth)
        )
        self.head = nn.Linear(dim, 2 * latent)

    def forward(self, motion: Tensor, audio: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, T, latent) of the posterior; all inputs normalised.

        Args:
            motion: (B, T, width), differences to the portrait's.
            audio: (B, T, D).
            source: (B, width), the portrait's.
        """
        constant = self.source(source)[:, None].expand(-1, motion.shape[1], -1)
        x = torch.cat([constant, self.motion(motion), self.audio(audio)], dim=-1)
        x = x + places(x.shape[1], x.shape[2], x.device)
        for layer in self.layers:
            x = layer(x)
        mean, log_variance = self.head(x).chunk(2, dim=-1)
        return mean, log_variance.clamp(-20, 10)


def places(n: int, dim: int, device: torch.device) -> Tensor:
    """Sinusoidal encoding of places 0 to n - 1 (Vaswani et al. 2017), (n, dim)."""
    rates = 10_000.0 ** (-torch.arange(0, dim, 2, device=device) / dim)
    angles = torch.arange(n, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class FrameAttention(nn.Module):
    """Multi-head attention over frames, with a relative bias and RoPE on a head's first channels.

    Args:
        dim: channels of queries, keys and output.
        heads: how many; so many channels of each are rotated, too.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.ModuleList(nn.Linear(dim, heads * HEAD_DIM, bias=False) for _ in range(3))
        self.to_out = nn.Linear(heads * HEAD_DIM, dim, bias=False)

    def forward(self, x: Tensor, memory: Tensor, local_mask: LocalMask, bias: Tensor) -> Tensor:
        """Queries ``x`` and keys ``memory``, both (B, T, dim), to (B, T, dim)."""
        q, k, v = (
            layer(given).unflatten(-1, (self.heads, -1)).transpose(1, 2)[:, None]
            for layer, given in zip(self.to_qkv, (x, memory, memory), strict=True)
        )
        q, k = (self._rotated(part, local_mask.positions) for part in (q, k))
        made = local_attention(q, k, v, local_mask, bias)[:, 0]
        return self.to_out(made.transpose(1, 2).flatten(-2))

    def _rotated(self, x: Tensor, positions: Tensor) -> Tensor:
        turned = rope(x[..., : self.heads], positions)
        return torch.cat([turned, x[..., self.heads :]], dim=-1)


class RelativeBias(nn.Module):
    """T5's bias of the distance between frames (Raffel et al. 2020).

    Args:
        heads: of the attentions.
        buckets: for distances; the furthest begins at as many frames.
    """

    def __init__(self, heads: int, buckets: int) -> None:
        super().__init__()
        self.buckets = buckets
        self.weight = nn.Parameter(torch.zeros(buckets, heads))

    def forward(self, local_mask: LocalMask) -> Tensor:
        """(G, heads, blocks, queries, keys)."""
        bucket = relative_bucket(local_mask.distance, self.buckets, self.buckets)
        return self.weight[bucket].permute(0, 4, 1, 2, 3)


class DecoderLayer(nn.Module):
    """Attention among frames, to the memory, and a feed-forward layer, each normalised last."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attend = nn.ModuleList(FrameAttention(dim, heads) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.feed = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim)
        )
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, memory: Tensor, local_mask: LocalMask, biases: tuple[Tensor, Tensor]
    ) -> Tensor:
        """(B, T, dim) to the same; ``biases`` are those among frames and to the memory."""
        within, across = self.attend
        x = self.norms[0](x + self.drop(within(x, x, local_mask, biases[0])))
        x = self.norms[1](x + self.drop(across(x, memory, local_mask, biases[1])))
        return self.norms[2](x + self.drop(self.feed(x)))


class MotionDecoder(nn.Module):
    """Latents, audio and portrait to one kind of motion.

    Args:
        width: of the motion.
        audio_dim: D.
        latent: width of the latent.
        audio: width of the embedded audio.
        dim: of the transformer.
        buckets: of the relative biases.
        depth, heads, hidden, dropout: of the transformer.
    """

    def __init__(
        self,
        width: int,
        audio_dim: int,
        latent: int,
        audio: int,
        dim: int,
        buckets: int,
        *,
        depth: int,
        heads: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.source, self.audio = nn.Linear(width, dim), nn.Linear(audio_dim, audio)
        self.join = nn.Linear(dim + latent + audio, dim)
        self.query = nn.Parameter(torch.zeros(dim))
        self.norm = nn.LayerNorm(dim)
        self.first = FrameAttention(dim, heads)
        self.biases = nn.ModuleList(RelativeBias(heads, buckets) for _ in range(2))
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, hidden, dropout) for _ in range(depth))
        self.head = nn.Linear(dim, width)

    def forward(
        self, latent: Tensor, audio: Tensor, source: Tensor, local_mask: LocalMask
    ) -> Tensor:
        """Motion (B, T, width), normalised differences to the portrait's.

        Args:
            latent: (B, T, latent).
            audio: (B, T, D), normalised.
            source: (B, width), the portrait's, normalised.
            local_mask: which frames attend to each other.
        """
        constant = self.source(source)[:, None].expand(-1, audio.shape[1], -1)
        memory = self.join(torch.cat([constant, latent, self.audio(audio)], dim=-1))
        within, across = (bias(local_mask) for bias in self.biases)
        x = self.query.expand_as(memory)
        normed = self.norm(x)
        x = x + self.first(normed, normed, local_mask, within)
        for layer in self.layers:
            x = layer(x, memory, local_mask, (within, across))
        return self.head(x)


class SplitEncoder(nn.Module):
    """An encoder for poses and one for eyes; latents are joined, those of poses first.

    Args:
        audio_dim: D.
        latent: width of each one's latent.
        widths: of embedded pose, eyes and audio.
        layer: options of the transformers.
    """

    def __init__(
        self, audio_dim: int, latent: int, widths: tuple[int, int, int], layer: dict[str, Any]
    ) -> None:
        super().__init__()
        pose, eyes, audio = widths
        self.pose = MotionEncoder(POSE_DIM, audio_dim, latent, (pose, audio), **layer)
        self.eyes = MotionEncoder(EYES_DIM, audio_dim, latent, (eyes, audio), **layer)

    def forward(
        self,
        motion: tuple[Tensor, Tensor],
        audio: Tensor,
        source: tuple[Tensor, Tensor],
        local_mask: LocalMask,
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, T, 2 latent); as ``thbench.dawn.pbnet.Encoder``.

        All frames see each other, whatever ``local_mask`` says.
        """
        pose = self.pose(motion[0], audio, source[0])
        eyes = self.eyes(motion[1], audio, source[1])
        mean, log_variance = (torch.cat(both, dim=-1) for both in zip(pose, eyes, strict=True))
        return mean, log_variance


class SplitDecoder(nn.Module):
    """A decoder for poses and one for eyes; arguments as of ``MotionDecoder``."""

    def __init__(
        self,
        audio_dim: int,
        latent: int,
        audio: int,
        dim: int,
        buckets: int,
        layer: dict[str, Any],
    ) -> None:
        super().__init__()
        sizes = (audio_dim, latent, audio, dim, buckets)
        self.pose = MotionDecoder(POSE_DIM, *sizes, **layer)
        self.eyes = MotionDecoder(EYES_DIM, *sizes, **layer)

    def forward(
        self, latent: Tensor, audio: Tensor, source: tuple[Tensor, Tensor], local_mask: LocalMask
    ) -> tuple[Tensor, Tensor]:
        """Poses (B, T, 6) and eyes (B, T, 2); as ``thbench.dawn.pbnet.Decoder``."""
        of_pose, of_eyes = latent.chunk(2, dim=-1)
        pose = self.pose(of_pose, audio, source[0], local_mask)
        return pose, self.eyes(of_eyes, audio, source[1], local_mask)
