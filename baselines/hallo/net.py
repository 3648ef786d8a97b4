"""Hallo's network: denoiser, ReferenceNet, face, audio, time (Xu et al. 2024, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from baselines.hallo.audio import (
    AUDIO_BLOCKS,
    AudioTokens,
    AudioTransformer,
    HierarchicalAttention,
)
from baselines.hallo.face import FaceLocator, FaceTokens
from baselines.hallo.masks import (
    ENLARGED,
    PARTS,
    RELEASED_UNION,
    boxes_around,
    check_boxes,
    check_regions,
    enlarge_boxes,
    region_masks,
)
from baselines.hallo.temporal import build_temporal, in_order, over_time
from baselines.hallo.unet_forward import (
    UNetConfig,
    build_unet,
    has_transformer,
    transformers,
    unet_forward,
)
from thbench.core.errors import UserError
from thbench.core.signatures import Blocks
from thbench.diffusion.gaussian import GaussianDiffusion
from thbench.nn.normalize import RunningStats, audio_stats
from thbench.nn.regions import fill_box

PROCESS = {
    "schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction": "v",
    "zero_snr": True,
}
"""The released code's noise process."""

MOTION_FEATURES = ("maps", "attention")
TEMPORAL_NORMS = ("clip", "frame")
HIDDEN_FACES = ("zeros", "unknown")


@dataclass
class Portrait:
    """Everything that is computed once per portrait.

    Attributes:
        latent: (B, C, h, w), the autoencoder's.
        features: inputs of ReferenceNet's self-attentions, (B, hw, C) for each transformer.
        face: (B, K, dim) tokens.
        masks: (B, regions, s, s) by size s of the feature map.
        located: ``FaceLocator``'s features (B, channels, h, w), None without one.
        faceless: ``features`` of a pass that saw no face's tokens, which every other frame gets in
            their place; None, and no frame does.
    """

    latent: Tensor
    features: list[Tensor]
    face: Tensor
    masks: dict[int, Tensor]
    located: Tensor | None = None
    faceless: list[Tensor] | None = None


@dataclass
class ConditionMask:
    """Which conditions of each clip the network is shown, (B,) bool each."""

    image: Tensor
    audio: Tensor
    motion: Tensor

    @classmethod
    def all(
        cls, b: int, device: torch.device, *, image: bool = True, audio: bool = True
    ) -> ConditionMask:
        """The same for all ``b`` clips."""
        here = torch.ones(b, dtype=torch.bool, device=device)
        return cls(here & image, here & audio, here)


@dataclass(frozen=True, kw_only=True)
class HalloNetConfig(UNetConfig):
    """The ``net:`` block of ``HalloStage``; ``UNetConfig`` has the sizes of both U-Nets.

    The defaults are the paper's (Stable Diffusion 1.5's layout) and, where it gives none, those of
    its released code.

    Attributes:
        face: see ``FaceTokens``; ``face_tokens`` of them, ``face_channels`` for ``encoder``.
        audio_context, audio_hidden, audio_tokens: see ``AudioTokens``.
        regions: where the audio acts; Table 4's rows are ``[full]``, ``[full, lip]``, ...
        masks: see ``region_masks``.
        boxes: where the regions lie. ``clip``: in training what lips and face reach in the whole
            clip, at generation the portrait's boxes, enlarged. ``released``, as the authors' code:
            the same, with the lips' union enlarged twice and, at generation, soft edges.
            ``portrait``: the portrait's own boxes in both, which lips and face soon leave.
        fusion: see ``HierarchicalAttention`` (Table 5).
        audio_block: ``attention`` (``HierarchicalAttention``) or ``transformer``
            (``AudioTransformer``, the released code's, which has no other ``fusion``).
        locator: channels of a ``FaceLocator``, as the released code has one; none by default.
        hidden_face: what the denoiser sees for a hidden portrait's tokens: ``zeros``, or
            ``unknown``, the tokens of an embedding of zeros, as in the released code.
        motion_features: of the motion frames' ReferenceNet, what the temporal modules see:
            ``maps``, after each residual block and its transformer; or ``attention``, as in the
            released code, the inputs of its self-attentions. In the latter case there is no module
            after blocks without a transformer: the released code has weights for those, and never
            runs them.
        temporal_norm: over what the temporal modules' group norms take mean and variance: the whole
            ``clip``, as in diffusers, or each ``frame``, as in AnimateDiff and the released code.
        motion: frames of the segment before that are seen.
        motion_heads, motion_max: of the temporal modules.
        motion_mid: there is a temporal module in the middle too; AnimateDiff's first version has
            none.
        shortcut: latents are differences to the portrait's, scaled as a whole, the network corrects
            their best linear estimate from what is noisy (``GaussianDiffusion.estimate``). A small
            network would take long to learn to copy.
        process: arguments of ``GaussianDiffusion``, beside those of ``PROCESS``.
    """

    config_blocks: ClassVar[Blocks] = {"process": GaussianDiffusion}

    face: str = "arcface"
    face_tokens: int = 4
    face_channels: Sequence[int] = (32, 64, 128, 256)
    audio_context: int = 2
    audio_hidden: int = 512
    audio_tokens: int = 32
    regions: Sequence[str] = ("lip", "expression", "pose")
    masks: str = "paper"
    boxes: str = "clip"
    fusion: str = "zero_conv"
    audio_block: str = "attention"
    locator: Sequence[int] = ()
    hidden_face: str = "zeros"
    motion_features: str = "maps"
    temporal_norm: str = "clip"
    motion: int = 2
    motion_heads: int = 8
    motion_max: int = 32
    motion_mid: bool = True
    shortcut: bool = False
    process: Mapping[str, Any] | None = None


class HalloNet(nn.Module):
    """Denoises the latents of a segment, seeing portrait, audio and the frames before it.

    Args:
        audio_dim: D, channels of one frame's audio embedding.
        latent_dim: C, channels of the autoencoder's latent.
        size: h = w of that latent.
        config: sizes and switches.

    Raises:
        UserError: an unknown region, or a value out of range.
    """

    def __init__(self, audio_dim: int, latent_dim: int, size: int, config: HalloNetConfig) -> None:
        super().__init__()
        check_regions(config.regions, config.masks)
        check_boxes(config.boxes)
        _check_switches(config)
        self.process = GaussianDiffusion(**{**PROCESS, **(config.process or {})})
        self.shape = (latent_dim, size, size)
        self.regions, self.masks = tuple(config.regions), config.masks
        self.boxes, self.shortcut = config.boxes, config.shortcut
        self.motion, self.longest = config.motion, config.motion_max
        self.hidden_face, self.motion_features = config.hidden_face, config.motion_features
        self.frames_alone = config.temporal_norm == "frame"
        self.unet = build_unet(latent_dim, config)
        self.reference = build_unet(latent_dim, config)
        self.face = FaceTokens(
            config.face,
            tokens=config.face_tokens,
            dim=config.token_dim,
            channels=config.face_channels,
        )
        self.locator = None
        if config.locator:
            self.locator = FaceLocator(config.locator, config.channels[0])
        self.audio_tokens = _audio_tokens(audio_dim, config)
        self.audio_attention = _audio_attention(self.unet, config)
        self.temporal = _temporal(config)
        self.grids = _grids(size, len(config.channels))
        self.statistics = nn.ModuleDict({"audio": audio_stats(audio_dim)})
        if self.shortcut:
            self.statistics["latent"] = RunningStats(self.shape)

    @property
    def change(self) -> RunningStats:
        """Statistics of differences between latents of frames and of their portraits."""
        return cast(RunningStats, self.statistics["latent"])

    def portrait(
        self,
        latent: Tensor,
        image: Tensor,
        landmarks: Tensor,
        extent: Tensor | None = None,
        enlarged: Mapping[str, float] = ENLARGED,
    ) -> Portrait:
        """What is computed once per portrait.

        Args:
            latent: (B, C, h, w), the autoencoder's.
            image: (B, 3, H, W) uint8.
            landmarks: (B, 478, 3).
            extent: (B, 2, 478, 2) of the clips that are trained on, as ``Batch.extent``; None at
                generation, where only the portrait is known.
            enlarged: by what the portrait's boxes are multiplied then, by part.
        """
        face = self.face(image, landmarks)
        boxes = self.boxes_of(landmarks, extent, enlarged)
        blurred = self.boxes == "released" and extent is None
        masks = {
            s: region_masks(boxes, s, self.regions, self.masks, blurred=blurred) for s in self.grids
        }
        features = self._reference_pass(latent, face).features
        return Portrait(latent, features, face, masks, self._located(boxes))

    def faceless(self, portrait: Portrait) -> list[Tensor]:
        """``Portrait.faceless`` of a portrait."""
        return self._reference_pass(portrait.latent, self.hidden_tokens(portrait.face)).features

    def _located(self, boxes: Tensor) -> Tensor | None:
        """``FaceLocator``'s features of the faces' boxes, whose edges are never soft."""
        if self.locator is None:
            return None
        face = boxes[:, list(PARTS).index("face")]
        size = self.shape[-1] * 2**self.locator.halvings
        return self.locator(fill_box(face[:, 0], face[:, 1], size))  # type: ignore[no-any-return]

    def boxes_of(
        self,
        landmarks: Tensor,
        extent: Tensor | None = None,
        enlarged: Mapping[str, float] = ENLARGED,
    ) -> Tensor:
        """Boxes (B, 2, 2, 2) of lips and face, see ``boxes_around``; arguments as ``portrait``."""
        own = boxes_around(landmarks[:, None])
        if self.boxes == "portrait":
            return own
        if extent is None:
            return enlarge_boxes(own, enlarged)
        union = boxes_around(extent)
        return enlarge_boxes(union, RELEASED_UNION) if self.boxes == "released" else union

    def motion_maps(
        self, clips: Tensor, portrait: Portrait, faces: Tensor | None = None
    ) -> list[Tensor]:
        """What the temporal modules see of motion frames, (B, motion, C, h, w) for each block.

        Args:
            clips: (B, C, motion, h, w), the frames before the segment, as ``to_latent`` gives them.
            portrait: of B clips.
            faces: (B, motion, K, dim), tokens that ReferenceNet sees with each frame; the
                portrait's by default.

        Returns:
            ReferenceNet's maps after each residual block, or, with ``motion_features: attention``,
            its self-attention's inputs where the block has one.
        """
        b, _, n = clips.shape[:3]
        latents = self.from_latent(
            clips.transpose(1, 2).flatten(0, 1), portrait.latent.repeat_interleave(n, 0)
        )
        if faces is None:
            faces = portrait.face[:, None].expand(-1, n, -1, -1)
        seen = self._reference_pass(latents, faces.flatten(0, 1))
        maps = list(seen.maps)
        if self.motion_features == "attention":
            places = [i for i, has in enumerate(has_transformer(self.reference)) if has]
            for i, rows in zip(places, seen.features, strict=True):
                maps[i] = rows.transpose(1, 2).unflatten(-1, maps[i].shape[-2:])
        return [x.unflatten(0, (b, n)) for x in maps]

    def hidden_tokens(self, like: Tensor) -> Tensor:
        """Tokens in place of ``like`` (B, K, dim), those of portraits that are hidden."""
        if self.hidden_face == "zeros":
            return torch.zeros_like(like)
        return self.face.unknown().to(like.dtype).expand_as(like)

    def to_latent(self, clips: Tensor, portrait: Tensor) -> Tensor:
        """The autoencoder's latents (B, C, T, h, w), relative to the portrait's with ``shortcut``.

        Args:
            clips: (B, C, T, h, w), the autoencoder's latents.
            portrait: (B, C, h, w).

        Returns:
            (B, C, T, h, w), what noise is added to.
        """
        if not self.shortcut:
            return clips
        return (clips - portrait[:, :, None]) / self.change.size

    def from_latent(self, latents: Tensor, portrait: Tensor) -> Tensor:
        """Undo ``to_latent`` for frames (N, C, h, w) and portraits (N or 1, C, h, w)."""
        return latents * self.change.size + portrait if self.shortcut else latents

    def observe_statistics(self, change: Tensor, audio: Tensor) -> None:
        """Let training data count towards the statistics, while they are being found.

        Args:
            change: (N, C, h, w), latents of frames less their portraits'.
            audio: (M, D).
        """
        values = {"latent": change, "audio": audio}
        for kind, stats in self.statistics.items():
            cast(RunningStats, stats).update(values[kind])

    def tokens(self, audio: Tensor, at: Tensor) -> Tensor:
        """Tokens (B, K, tokens, dim) of frames ``at`` (B, K) of audio embeddings (B, T, D)."""
        return self.audio_tokens(self.statistics["audio"](audio), at)

    def forward(
        self,
        noisy: Tensor,
        t: Tensor,
        portrait: Portrait,
        keep: ConditionMask,
        audio_tokens: Tensor | None = None,
        motion: Sequence[Tensor] | None = None,
        weights: Sequence[float] | None = None,
    ) -> Tensor:
        """The prediction of the noise process's kind, shaped as ``noisy``.

        Args:
            noisy: (B, C, T, h, w), the frames to generate, without observed ones.
            t: (B, T) noise levels.
            portrait: of B clips.
            keep: which conditions of each clip are shown.
            audio_tokens: (B, T, tokens, dim), or None for single images: then there is neither
                audio nor time.
            motion: see ``motion_maps``; None where no frame comes before.
            weights: of the regions; 1 each by default.
        """
        b, _, n = noisy.shape[:3]
        frames = noisy.transpose(1, 2).flatten(0, 1)
        shown = keep.image[:, None, None]
        face = torch.where(shown, portrait.face, self.hidden_tokens(portrait.face))
        face = face.repeat_interleave(n, 0)
        located = portrait.located
        if located is not None:
            located = (located * shown[..., None]).repeat_interleave(n, 0)
        hook = _DenoisingHook(self, n, portrait, keep, audio_tokens, motion, weights)
        time = (t.flatten() - 1).clamp(min=0)
        output = unet_forward(self.unet, frames, time, face, hook, located)
        output = output.unflatten(0, (b, n)).transpose(1, 2)
        return self._correct(output, noisy, t) if self.shortcut else output

    def _correct(self, output: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """The prediction, where the network gives the error of an estimate in deviations."""
        size = self.change.size
        mean, deviation = self.change.mean / size, self.change.deviation / size
        guess, doubt = self.process.estimate(noisy, t, mean[:, None], deviation[:, None])
        return self.process.from_clean(guess + doubt * output, noisy, t)

    def _reference_pass(self, latents: Tensor, face: Tensor) -> _FeatureRecorder:
        """ReferenceNet's features of latents (N, C, h, w), at noise level 0."""
        recorder = _FeatureRecorder()
        time = torch.zeros(len(latents), dtype=torch.int64, device=latents.device)
        unet_forward(self.reference, latents, time, face, recorder)
        return recorder


class _FeatureRecorder:
    """A hook that records features and changes nothing."""

    def __init__(self) -> None:
        self.features: list[Tensor] = []
        self.maps: list[Tensor] = []

    def key_values(self, transformer: int, x: Tensor) -> Tensor:
        self.features.append(x)
        return x

    def post_block(self, block: int, transformer: int | None, x: Tensor) -> Tensor:
        self.maps.append(x)
        return x


class _DenoisingHook:
    """The denoiser's hook: attention to the portrait, then to the audio, then along time."""

    def __init__(
        self,
        net: HalloNet,
        n: int,
        portrait: Portrait,
        keep: ConditionMask,
        audio_tokens: Tensor | None,
        motion: Sequence[Tensor] | None,
        weights: Sequence[float] | None,
    ) -> None:
        self.net, self.n, self.portrait, self.keep = net, n, portrait, keep
        self.shown = keep.image.repeat_interleave(n)[:, None, None]
        self.modules = in_order(net.temporal)
        self.weights = weights or (1.0,) * len(net.regions)
        self.audio_tokens = None
        if audio_tokens is not None:
            self.audio_tokens = (audio_tokens * keep.audio[:, None, None, None]).flatten(0, 1)
        self.motion = motion

    def key_values(self, transformer: int, x: Tensor) -> Tensor:
        """The frame's own features and the portrait's, (N, 2 hw, C).

        Where the portrait is hidden the frame's own are there twice: plain self-attention.
        """
        reference = self.portrait.features[transformer].repeat_interleave(self.n, 0)
        if self.portrait.faceless is not None:
            without = self.portrait.faceless[transformer].repeat_interleave(self.n, 0)
            # Even places in a batch whose first half is the clip with the portrait hidden.
            even = (torch.arange(len(x), device=x.device) % self.n + self.n) % 2 == 0
            reference = torch.where(even[:, None, None], without, reference)
        return torch.cat([x, torch.where(self.shown, reference, x)], dim=1)

    def post_block(self, block: int, transformer: int | None, x: Tensor) -> Tensor:
        if self.audio_tokens is None:
            return x
        if transformer is not None:
            masks = self.portrait.masks[x.shape[-1]].repeat_interleave(self.n, 0)
            x = self.net.audio_attention[transformer](
                x, self.audio_tokens, masks.to(x.dtype), self.weights
            )
        module = self.modules[block]
        if module is None or (transformer is None and self.net.motion_features == "attention"):
            return x
        return self._over_time(module, block, x)

    def _over_time(self, module: nn.Module, block: int, x: Tensor) -> Tensor:
        """Self-attention along time, over motion frames and the segment: the segment's (N, ...).

        Motion frames that do not exist or are hidden are zeros.
        """
        clips = x.unflatten(0, (-1, self.n))
        if self.motion is None:
            before = clips.new_zeros(len(clips), self.net.motion, *clips.shape[2:])
        else:
            before = self.motion[block] * self.keep.motion[:, None, None, None, None]
        whole = torch.cat([before.to(clips.dtype), clips], dim=1)
        moved = over_time(
            module, whole.flatten(0, 1), whole.shape[1], alone=self.net.frames_alone
        ).view_as(whole)
        return moved[:, self.net.motion :].flatten(0, 1)


def _check_switches(config: HalloNetConfig) -> None:
    for name, known in (
        ("audio_block", AUDIO_BLOCKS),
        ("hidden_face", HIDDEN_FACES),
        ("motion_features", MOTION_FEATURES),
        ("temporal_norm", TEMPORAL_NORMS),
    ):
        value = getattr(config, name)
        if value not in known:
            raise UserError(f"net.{name} must be one of {', '.join(known)}, not '{value}'.")
    if config.audio_block == "transformer" and config.fusion != "zero_conv":
        raise UserError("net.audio_block=transformer fuses by zero_conv: drop net.fusion.")


def _audio_tokens(audio_dim: int, config: HalloNetConfig) -> AudioTokens:
    return AudioTokens(
        audio_dim,
        context=config.audio_context,
        hidden=config.audio_hidden,
        tokens=config.audio_tokens,
        dim=config.token_dim,
    )


def _audio_attention(unet: nn.Module, config: HalloNetConfig) -> nn.ModuleList:
    """An attention to the audio for each of the U-Net's transformers."""
    n, dim, heads = len(config.regions), config.token_dim, config.heads
    widths = [transformer.config.in_channels for transformer in transformers(unet)]
    if config.audio_block == "transformer":
        return nn.ModuleList(
            AudioTransformer(width, inner, dim, heads, config.groups, n)
            for width, inner in zip(widths, _inner_widths(config), strict=True)
        )
    return nn.ModuleList(
        HierarchicalAttention(width, dim, heads, n, config.fusion) for width in widths
    )


def _inner_widths(config: HalloNetConfig) -> list[int]:
    """Channels within each ``AudioTransformer``, as the released code has them.

    On the way down the first at a resolution has the channels of the resolution before; on the way
    up all have those of the next.
    """
    widths = config.channels
    finer = [widths[max(i - 1, 0)] for i in range(len(widths))]
    attending = [i for i, attends in enumerate(config.attends) if attends]
    down = [w for i in attending for w in (finer[i], *[widths[i]] * (config.layers - 1))]
    up = [finer[i] for i in reversed(attending) for _ in range(config.layers + 1)]
    return [*down, widths[-1], *up]


def _temporal(config: HalloNetConfig) -> nn.Module:
    return build_temporal(
        config.channels,
        config.layers,
        heads=config.motion_heads,
        groups=config.groups,
        longest=config.motion_max,
        mid=config.motion_mid,
    )


def _grids(size: int, levels: int) -> list[int]:
    """Sizes of the feature maps; a halving rounds up."""
    return [-(-size // 2**i) for i in range(levels)]


def spatial_parts(net: HalloNet) -> list[nn.Module]:
    """The modules of the first training stage; the second trains the others."""
    located = [] if net.locator is None else [net.locator]
    return [net.unet, net.reference, net.face, *located]


def unused_in_time(net: HalloNet) -> list[nn.Module]:
    """The temporal modules that are never run."""
    if net.motion_features == "maps":
        return []
    pairs = zip(in_order(net.temporal), has_transformer(net.unet), strict=True)
    return [module for module, runs in pairs if module is not None and not runs]
