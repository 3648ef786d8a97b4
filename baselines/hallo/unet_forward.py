"""The forward pass of a Stable Diffusion U-Net, with hooks between its blocks.

The network stays diffusers' ``UNet2DConditionModel`` with its names and shapes, so published
weights fit; only its forward pass is written out, because two things must happen inside it:
ReferenceNet's features enter the self-attention, and other modules act between the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from diffusers import UNet2DConditionModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, cat, nn

from thbench.nn.input_init import unit_gain


class FeatureHook(Protocol):
    """What happens inside the forward pass.

    Residual blocks and spatial transformers are numbered in the order in which they run.
    """

    def key_values(self, transformer: int, x: Tensor) -> Tensor:
        """What a self-attention takes its keys and values from.

        Args:
            transformer: the number of its transformer.
            x: (N, hw, C), what it takes its queries from.

        Returns:
            (N, L, C), any L.
        """

    def post_block(self, block: int, transformer: int | None, x: Tensor) -> Tensor:
        """The feature map after a residual block, and its transformer if it has one.

        Args:
            block: the number of the block.
            transformer: the number of its transformer, or None.
            x: (N, C, h, w).

        Returns:
            (N, C, h, w), which the pass goes on with.
        """


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Sizes of a U-Net; the defaults are Stable Diffusion 1.5's (859.5M parameters).

    Attributes:
        channels: at each resolution, finest first.
        attends: whether there are transformers at that resolution.
        layers: residual blocks at each resolution on the way down; one more on the way up.
        heads: of the attentions.
        groups: of the group norms.
        token_dim: channels of the tokens that its cross-attentions attend to.
    """

    channels: Sequence[int] = (320, 640, 1280, 1280)
    attends: Sequence[bool] = (True, True, True, False)
    layers: int = 2
    heads: int = 8
    groups: int = 32
    token_dim: int = 768


def build_unet(latent_dim: int, config: UNetConfig) -> nn.Module:
    """A U-Net of Stable Diffusion's kind, from and to latents of ``latent_dim`` channels."""
    down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in config.attends]
    up = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(config.attends)]
    unet: Any = UNet2DConditionModel(
        in_channels=latent_dim,
        out_channels=latent_dim,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        block_out_channels=tuple(config.channels),
        layers_per_block=config.layers,
        attention_head_dim=config.heads,  # diffusers' name for it; version 1.5 has 8 heads
        norm_num_groups=config.groups,
        cross_attention_dim=config.token_dim,
    )
    for transformer in transformers(unet):
        # The portrait is among all that a self-attention averages over.
        own = transformer.transformer_blocks[0].attn1
        unit_gain(own.to_v)
        unit_gain(own.to_out[0])
    return unet  # type: ignore[no-any-return]


def unet_forward(
    unet: nn.Module,
    x: Tensor,
    time: Tensor,
    tokens: Tensor,
    hook: FeatureHook,
    added: Tensor | None = None,
) -> Tensor:
    """The network's output, (N, C, h, w).

    Args:
        unet: see ``build_unet``.
        x: (N, C, h, w) noisy latents.
        time: (N,) indices of the scheduler.
        tokens: (N, K, token_dim), what its cross-attentions attend to.
        hook: called inside every transformer and after every residual block.
        added: to the first convolution's output, and of its shape.
    """
    net: Any = unet
    emb = net.time_embedding(net.time_proj(time).to(x.dtype))
    blocks = _HookedBlocks(hook, tokens)
    x = net.conv_in(x)
    if added is not None:
        x = x + added
    kept = [x]
    for block in net.down_blocks:
        for resnet, attention in _layers(block):
            x = blocks.after(resnet(x, emb), attention)
            kept.append(x)
        for down in block.downsamplers or ():
            x = down(x)
            kept.append(x)
    middle = net.mid_block
    x = blocks.after(middle.resnets[0](x, emb), middle.attentions[0])
    x = middle.resnets[1](x, emb)
    for block in net.up_blocks:
        for resnet, attention in _layers(block):
            x = blocks.after(resnet(cat([x, kept.pop()], 1), emb), attention)
        for up in block.upsamplers or ():
            x = up(x, kept[-1].shape[-2:])
    return net.conv_out(net.conv_act(net.conv_norm_out(x)))


def transformers(unet: nn.Module) -> list[Any]:
    """The spatial transformers in the order in which they run."""
    return [attention for _, attention in _blocks(unet) if attention is not None]


def has_transformer(unet: nn.Module) -> list[bool]:
    """For each residual block, in the order in which they run, whether it has a transformer."""
    return [attention is not None for _, attention in _blocks(unet)]


class _HookedBlocks:
    """Counts residual blocks and transformers, runs the latter and calls the hook."""

    def __init__(self, hook: FeatureHook, tokens: Tensor) -> None:
        self.hook, self.tokens = hook, tokens
        self.block, self.transformer = 0, 0

    def after(self, x: Tensor, attention: Transformer2DModel | None) -> Tensor:
        number = None
        if attention is not None:
            number = self.transformer
            x = _attend(attention, x, self.tokens, lambda y: self.hook.key_values(number, y))
            self.transformer += 1
        x = self.hook.post_block(self.block, number, x)
        self.block += 1
        return x


def _attend(
    net: Transformer2DModel, x: Tensor, tokens: Tensor, key_values: Callable[[Tensor], Tensor]
) -> Tensor:
    part: Any = net
    y = part.proj_in(part.norm(x)).flatten(2).transpose(1, 2)
    (block,) = part.transformer_blocks
    normed = block.norm1(y)
    y = y + block.attn1(normed, encoder_hidden_states=key_values(normed))
    y = y + block.attn2(block.norm2(y), encoder_hidden_states=tokens)
    y = y + block.ff(block.norm3(y))
    return x + part.proj_out(y.transpose(1, 2).unflatten(-1, x.shape[-2:]))


def _layers(block: Any) -> Iterator[tuple[nn.Module, Transformer2DModel | None]]:
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return zip(block.resnets, attentions, strict=True)


def _blocks(unet: Any) -> Iterator[tuple[nn.Module, Transformer2DModel | None]]:
    for block in unet.down_blocks:
        yield from _layers(block)
    yield unet.mid_block.resnets[0], unet.mid_block.attentions[0]
    for block in unet.up_blocks:
        yield from _layers(block)


def unused_by_features(unet: Any) -> Iterator[nn.Module]:
    """The modules after the last self-attention: no hook sees what they compute."""
    blocks = list(unet.up_blocks)
    while not getattr(blocks[-1], "attentions", None):
        yield blocks.pop()
    if blocks[-1].upsamplers:
        yield blocks[-1].upsamplers
    last = blocks[-1].attentions[-1]
    (block,) = last.transformer_blocks
    yield from (block.attn1, block.norm2, block.attn2, block.norm3, block.ff, last.proj_out)
    yield from unused_by_maps(unet)


def unused_by_maps(unet: Any) -> Iterator[nn.Module]:
    """The modules after the last residual block and its transformer."""
    yield from (unet.conv_norm_out, unet.conv_out)
