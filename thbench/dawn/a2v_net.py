"""The network of DAWN's audio-to-video flow diffusion model (section 3.3).

The latent of a frame is (flow x, flow y, 2 * occlusion - 1) at the latent flow generator's
resolution, normalised per location or as it is. Networks see poses and eyes as differences to the
portrait's, and all conditions normalised by the data's statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thbench.core.errors import UserError
from thbench.core.signatures import Blocks
from thbench.core.types import EYES_DIM, N_LANDMARKS, POSE_DIM
from thbench.dawn.lfg import SourceFeatures
from thbench.diffusion.gaussian import GaussianDiffusion
from thbench.generation.strategy import Denoiser
from thbench.nn.attention import local_attention_mask, portrait_positions
from thbench.nn.input_init import equal_shares
from thbench.nn.normalize import ConditionalStats, RunningStats, audio_stats, eyes_stats, pose_stats
from thbench.nn.regions import box_mask, region_box, region_mask
from thbench.nn.unet3d import UNet3D, UNet3DConfig
from thbench.nn.warp import grid_like

FLOW_DIM = 3
MOTION_BATCHES = 128
"""Batches from which the mean given motion is fitted: its slopes need more of them than a mean."""
AT_ONCE = 64
"""Frames in a call up to which guidance takes one call with both branches in place of two: what a
call of few frames takes does not depend on how many they are."""
NORMALIZE = ("none", "location", "motion")
"""What latents are normalised by, see ``A2VNetConfig``."""


@dataclass
class FlowConditions:
    """Conditions of flows, shared by all windows of a clip.

    Attributes:
        tokens: (B, T, width) by kind of condition (``audio``, ``pose``, ``eyes``), normalised.
        motion: (B, T, known), what ``normalize: motion`` knows of a frame, see ``A2VNet.motion``.
        static: (B, dim, h, w), what the portrait puts into the network's stem.
        source: the portrait's features, which ``decode`` needs.
    """

    tokens: dict[str, Tensor]
    motion: Tensor
    static: Tensor
    source: SourceFeatures

    def at(self, frames: Tensor) -> FlowConditions:
        """Conditions of one clip for windows of it, (B, T) true indices.

        The portrait (a negative index) has no audio; ``A2VNet`` hides its tokens. It does not
        differ from itself.
        """
        places = frames.clamp(min=0)
        chosen = {kind: token[0, places] for kind, token in self.tokens.items()}
        motion = self.motion[0, places] * (frames >= 0)[..., None]
        return replace(self, tokens=chosen, motion=motion)

    def doubled(self) -> FlowConditions:
        """The conditions of one clip's windows twice, one behind the other."""
        tokens = {kind: torch.cat([token, token]) for kind, token in self.tokens.items()}
        return replace(self, tokens=tokens, motion=torch.cat([self.motion, self.motion]))


@dataclass(frozen=True, kw_only=True)
class A2VNetConfig(UNet3DConfig):
    """The ``net:`` block of ``A2VStage``; the defaults are the paper's.

    Attributes:
        patch: the U-Net runs on ``patch`` x ``patch`` cells of the latent, moved to channels.
        mask_dim: channels of the embedded face mask.
        window: frames that temporal attention reaches over, half on either side, or None.
        use_pose, use_eyes: False leaves the condition out (the paper's "w/o PBNet" leaves both).
        normalize: of the latent: ``none`` (the paper's), ``location`` (mean and deviation of each
            location) or ``motion`` (mean given pose and eyes, quadratic in the pose, and the
            deviation that is left, of each location; ``location`` where no motion is followed).
            Conditions are always normalised.
        floor: of the latent's deviations, see ``RunningStats``.
        shortcut: add a linear map from conditions to the clean latent. Needs prediction ``x0``.
        process: arguments of ``GaussianDiffusion``.
        absolute: the latent holds the sampling grid itself, as in the released code, not the flow.
        boxed_mask: the face mask is the box around the face, embedded by two convolutions with
            ReLU, as in the released code; not the oval.
        offset: added to noise levels before the network sees them; -1 is how the released code
            counts.
        raw_pose: conditions and noisy latents are not normalised, as in the released code, and the
            elements of a pose's difference are multiplied by these six numbers, which turn our
            units into those that weights were trained with.
    """

    config_blocks: ClassVar[Blocks] = {"process": GaussianDiffusion}

    patch: int = 1
    mask_dim: int = 16
    window: int | None = 80
    use_pose: bool = True
    use_eyes: bool = True
    normalize: str = "none"
    floor: float = 0.3
    shortcut: bool = False
    process: Mapping[str, Any] | None = None
    absolute: bool = False
    boxed_mask: bool = False
    offset: int = 0
    raw_pose: Sequence[float] | None = None


class A2VNet(nn.Module):
    """The denoising network with all that belongs to it: face mask, statistics, noise process.

    Args:
        audio_dim: D, channels of the audio embedding.
        feature_dim: channels of the portrait's latent.
        latent_size: h = w of flow and latent.
        config: sizes and switches.

    Raises:
        UserError: a value out of range, or a size that the levels do not divide.
    """

    def __init__(
        self, audio_dim: int, feature_dim: int, latent_size: int, config: A2VNetConfig
    ) -> None:
        super().__init__()
        self.process = GaussianDiffusion(**(config.process or {}))
        _check(config, self.process, latent_size)
        self.latent_size, self.patch, self.window = latent_size, config.patch, config.window
        kinds = {"audio": audio_dim}
        kinds |= {"pose": POSE_DIM} if config.use_pose else {}
        kinds |= {"eyes": EYES_DIM} if config.use_eyes else {}
        area, mask_dim = config.patch**2, config.mask_dim
        if config.split is not None:
            config = replace(config, split=[area * part for part in config.split])
        self.unet = UNet3D(FLOW_DIM * area, (feature_dim + mask_dim) * area, kinds, config)
        self.absolute, self.boxed_mask = config.absolute, config.boxed_mask
        self.offset = config.offset
        self.mask_encoder = box_encoder(mask_dim) if config.boxed_mask else _mask_encoder(mask_dim)
        equal_shares(self.unet.stem_static, (feature_dim * area, mask_dim * area))
        shape = (FLOW_DIM, latent_size, latent_size)
        self.kinds, self.shape = kinds, shape
        found = {"audio": audio_stats(audio_dim), "pose": pose_stats(), "eyes": eyes_stats()}
        self.raw_pose = config.raw_pose
        normalised = kinds if config.raw_pose is None else ()
        self.statistics = nn.ModuleDict({kind: found[kind] for kind in normalised})
        still = (torch.zeros(1, 1, POSE_DIM), torch.zeros(1, 1, EYES_DIM))
        self.known = self.motion(*still, torch.zeros(1, N_LANDMARKS, 3)).shape[-1]
        if config.normalize == "motion" and self.known:
            self.statistics["left"] = ConditionalStats(
                self.known, shape, batches=MOTION_BATCHES, floor=config.floor
            )
        elif config.normalize != "none":
            self.statistics["flow"] = RunningStats(shape, floor=config.floor)
        elif config.raw_pose is None:
            self.statistics["entry"] = RunningStats((FLOW_DIM,))
        self.shortcut: nn.Linear | None = None
        if config.shortcut:
            self.shortcut = nn.Linear(sum(kinds.values()), FLOW_DIM * latent_size**2, bias=False)
            nn.init.zeros_(self.shortcut.weight)

    def to_latent(self, flow: Tensor, occlusion: Tensor, motion: Tensor) -> Tensor:
        """Flows (N, 2, h, w) and occlusions (N, 1, h, w) in [0, 1] to latents (N, 3, h, w).

        Args:
            flow: in [-1, 1] units.
            occlusion: in [0, 1].
            motion: (N, known), of ``motion``.
        """
        latent = self._joined(flow, occlusion)
        if "left" in self.statistics:
            return _conditional(self.statistics["left"])(latent, motion)
        return self.statistics["flow"](latent) if "flow" in self.statistics else latent

    def from_latent(self, latent: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        """Undo ``to_latent``: flow (N, 2, h, w), occlusion (N, 1, h, w) clamped to [0, 1]."""
        if "left" in self.statistics:
            latent = _conditional(self.statistics["left"]).inverse(latent, motion)
        elif "flow" in self.statistics:
            latent = _stats(self.statistics["flow"]).inverse(latent)
        flow = latent[:, :2]
        if self.absolute:
            flow = flow - grid_like(flow, flow.dtype).movedim(-1, 0)
        return flow, ((latent[:, 2:] + 1) / 2).clamp(0, 1)

    def _joined(self, flow: Tensor, occlusion: Tensor) -> Tensor:
        """Flows and occlusions as one latent (N, 3, h, w), not normalised."""
        if self.absolute:
            flow = flow + grid_like(flow, flow.dtype).movedim(-1, 0)
        return torch.cat([flow, 2 * occlusion - 1], dim=1)

    def observe_statistics(
        self, flow: Tensor, occlusion: Tensor, motion: Tensor, **conditions: Tensor
    ) -> None:
        """Add training data to the statistics until these are frozen.

        Args:
            flow: (N, 2, h, w).
            occlusion: (N, 1, h, w) in [0, 1].
            motion: (N, known), of ``motion``.
            conditions: (M, width) by kind; M may differ between kinds.
        """
        latent = self._joined(flow, occlusion)
        values = {"flow": latent, "entry": latent.movedim(1, -1), **conditions}
        for kind, module in self.statistics.items():
            if kind == "left":
                _conditional(module).update(latent, motion)
                continue
            stats = _stats(module)
            stats.update(values[kind].reshape(-1, *stats.mean.shape))

    def conditions(
        self,
        source: SourceFeatures,
        landmarks: Tensor,
        audio: Tensor,
        pose: Tensor,
        eyes: Tensor,
    ) -> FlowConditions:
        """What is computed once per clip.

        Args:
            source: features of B portraits.
            landmarks: (B, 478, 3), theirs.
            audio: (B, T, D).
            pose: (B, T, 6), differences to the portraits'; ignored by a network without poses.
            eyes: (B, T, 2), differences to the portraits'; ignored by a network without eyes.
        """
        given = {"audio": audio, "pose": pose, "eyes": eyes}
        if self.raw_pose is not None:
            given["pose"] = pose * pose.new_tensor(self.raw_pose)
            tokens = {kind: given[kind] for kind in self.kinds}
        else:
            tokens = {kind: self.statistics[kind](given[kind]) for kind in self.kinds}
        static = self.static(source.latent, landmarks)
        return FlowConditions(tokens, self.motion(pose, eyes, landmarks), static, source)

    def motion(self, pose: Tensor, eyes: Tensor, landmarks: Tensor) -> Tensor:
        """What ``normalize: motion`` knows of frames, terms that are all 0 for the portrait.

        They are the differences of eyes and pose that are followed, the products of two of a pose,
        and a pose times where the portrait's face stands: the same turn moves a large face further,
        and a face that is turned already otherwise.

        Args:
            pose: (B, T, 6), differences to the portraits'.
            eyes: (B, T, 2), likewise.
            landmarks: (B, 478, 3), the portraits'.

        Returns:
            (B, T, known).
        """
        terms = [pose[..., :0]]
        if "eyes" in self.kinds:
            terms.append(eyes)
        if "pose" in self.kinds:
            first, second = torch.triu_indices(POSE_DIM, POSE_DIM, device=pose.device)
            low, high = region_box(landmarks, "face")
            # From the frame's centre.
            place = torch.cat([(low + high - 1) / 2, high - low], dim=1).to(pose.dtype)
            placed = (place[:, None, :, None] * pose[:, :, None]).flatten(2)
            terms += [pose, pose[..., first] * pose[..., second], placed]
        return torch.cat(terms, dim=-1)

    def static(self, features: Tensor, landmarks: Tensor) -> Tensor:
        """The part of the stem that is the same for all frames, (B, dim, h, w) of the U-Net."""
        size = 4 * self.latent_size
        if self.boxed_mask:
            mask = box_mask(landmarks, "face", size, touched=True)
        else:
            mask = region_mask(landmarks, "face", size)
        mask = mask.to(features.dtype)
        constant = torch.cat([features, self.mask_encoder(mask)], dim=1)
        return self.unet.stem_static(F.pixel_unshuffle(constant, self.patch))

    def forward(
        self, noisy: Tensor, t: Tensor, frames: Tensor, given: FlowConditions, keep: Tensor
    ) -> Tensor:
        """The prediction of the noise process's kind, shaped as ``noisy``.

        Args:
            noisy: (B, 3, T, h, w).
            t: (B, T) noise levels.
            frames: (B, T) true indices in any order; negative for the portrait.
            given: conditions of exactly these frames.
            keep: (B, T) bool; False hides the conditions of a frame.
        """
        places = portrait_positions(frames.cpu())
        keep = keep & (frames >= 0)
        if bool((places.diff(dim=1) >= 0).all()):
            return self._ordered(noisy, t, places, given.tokens, given.static, keep)
        order = places.argsort(dim=1)
        here = order.to(noisy.device)
        tokens = {kind: _take(token, here, 1) for kind, token in given.tokens.items()}
        made = self._ordered(
            _take(noisy, here, 2),
            _take(t, here, 1),
            places.gather(1, order),
            tokens,
            given.static,
            _take(keep, here, 1),
        )
        return _take(made, here.argsort(dim=1), 2)

    def _ordered(
        self,
        noisy: Tensor,
        t: Tensor,
        places: Tensor,
        tokens: Mapping[str, Tensor],
        static: Tensor,
        keep: Tensor,
    ) -> Tensor:
        local_mask = local_attention_mask(places, self.window, noisy.device)
        seen = self._standardised(noisy, t).transpose(1, 2)
        cells = F.pixel_unshuffle(seen, self.patch).transpose(1, 2)
        made = self.unet(cells, t + self.offset, static, tokens, keep, local_mask).transpose(1, 2)
        made = F.pixel_shuffle(made, self.patch)
        if self.shortcut is not None:
            seen = torch.cat([tokens[kind] for kind in self.kinds], dim=-1) * keep[..., None]
            made = made + self.shortcut(seen).view_as(made)
        return made.transpose(1, 2)

    def _standardised(self, noisy: Tensor, t: Tensor) -> Tensor:
        """Noisy latents with mean 0 and deviation 1 in each channel, whatever their level.

        Flows are small: without this, observed frames would be hardly seen. (As c_in of Karras et
        al. 2022; latents that are normalised by location are about so already.)
        """
        if "entry" not in self.statistics:
            return noisy
        stats = _stats(self.statistics["entry"])
        mean, deviation = (x[:, None, None, None] for x in (stats.mean, stats.deviation))
        kept, added = self.process.variances(t, noisy)
        return (noisy - kept.sqrt() * mean) / (kept * deviation.square() + added).sqrt()


class HasFlow(Protocol):
    """Conditions of a clip, among them those of its flows."""

    flow: FlowConditions


class FlowDenoiser(Denoiser):
    """``A2VNet`` as ``thbench.generation.runner`` runs it.

    Args:
        net: trained.
        guidance: scale of classifier-free guidance (Ho and Salimans 2022), 1 for none.
    """

    def __init__(self, net: A2VNet, guidance: float = 1.0) -> None:
        self.net, self.guidance = net, guidance
        self.branches = 1 if guidance == 1 else 2

    def latent_shape(self, conditions: Any) -> tuple[int, ...]:
        return self.net.shape

    def observe(self, clean: Tensor, frames: Tensor, conditions: Any) -> Any:
        return None

    def flow_conditions(self, conditions: Any) -> FlowConditions:
        """Those of this network's flows, among the clip's conditions."""
        has_flow: HasFlow = conditions
        return has_flow.flow

    def denoise(
        self, noisy: Tensor, t: Tensor, frames: Tensor, conditions: Any, context: Any
    ) -> Tensor:
        given = self.flow_conditions(conditions).at(frames)
        keep = torch.ones_like(frames, dtype=torch.bool)
        if self.guidance == 1:
            return self.net(noisy, t, frames, given, keep)
        if frames.numel() > AT_ONCE:
            prediction = self.net(noisy, t, frames, given, keep)
            without = self.net(noisy, t, frames, given, ~keep)
        else:
            noisy, t, frames = (torch.cat([x, x]) for x in (noisy, t, frames))
            both = self.net(noisy, t, frames, given.doubled(), torch.cat([keep, ~keep]))
            prediction, without = both.chunk(2)
        return torch.lerp(without, prediction, self.guidance)


def box_encoder(dim: int) -> nn.Sequential:
    """Face masks (B, 1, 4 h, 4 w) to features (B, dim, h, w), as in the released code."""
    return nn.Sequential(
        nn.Conv2d(1, dim // 2, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1),
        nn.ReLU(),
    )


def _mask_encoder(dim: int) -> nn.Sequential:
    """Face masks (B, 1, 4 h, 4 w) to features (B, dim, h, w)."""
    return nn.Sequential(
        nn.Conv2d(1, dim // 2, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1),
        # A constant over the frame carries no information, and would drown where the face is.
        nn.InstanceNorm2d(dim),
    )


def _check(config: A2VNetConfig, process: GaussianDiffusion, latent_size: int) -> None:
    if config.normalize not in NORMALIZE:
        raise UserError(
            f"normalize must be one of {', '.join(NORMALIZE)}, not '{config.normalize}'."
        )
    if config.raw_pose is not None and len(config.raw_pose) != POSE_DIM:
        raise UserError(f"raw_pose must be {POSE_DIM} numbers, not {list(config.raw_pose)}.")
    multiple = config.patch * 2 ** (len(config.mults) - 1)
    if config.shortcut and process.prediction != "x0":
        raise UserError("shortcut needs process.prediction=x0: conditions do not predict noise.")
    if latent_size % multiple:
        raise UserError(
            f"A flow latent of {latent_size} x {latent_size} does not divide by {multiple}:"
            " take fewer mults, a smaller patch, or another size."
        )


def _conditional(module: nn.Module) -> ConditionalStats:
    assert isinstance(module, ConditionalStats)
    return module


def _stats(module: nn.Module) -> RunningStats:
    assert isinstance(module, RunningStats)
    return module


def _take(values: Tensor, order: Tensor, dim: int) -> Tensor:
    """Reorder axis ``dim`` (frames) of ``values`` (B, ...) by ``order`` (B, T), row by row."""
    rows = [row.index_select(dim - 1, o) for row, o in zip(values, order, strict=True)]
    return torch.stack(rows)
