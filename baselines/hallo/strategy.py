"""Hallo: segments of 14 frames in sequence, in an autoencoder's latents (section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from baselines.autoencoder import Autoencoder
from baselines.hallo.masks import ENLARGED, REGIONS, check_enlarged
from baselines.hallo.net import ConditionMask, HalloNet, Portrait
from baselines.hallo.vocals import KEYS, Vocals
from thbench.config import SamplerConfig
from thbench.core.errors import UserError, did_you_mean
from thbench.core.signatures import Blocks
from thbench.core.types import Request, to_unit
from thbench.generation import plans
from thbench.generation.strategy import Denoiser, GenerationPass, Strategy
from thbench.training.stage import StageContext

STARTS = ("zeros", "portrait")
REFERENCE_FACES = ("portrait", "released")


@dataclass
class HalloConditions:
    """Conditions of all segments of a video.

    Attributes:
        portrait: everything that is computed once per portrait.
        audio: (1, T, D), embeddings; each segment computes its own tokens, which saves memory.
        before: what the first segment sees of frames before it; None for nothing.
    """

    portrait: Portrait
    audio: Tensor
    before: MotionContext | None = None


@dataclass
class MotionContext:
    """``HalloNet.motion_maps`` of a segment's motion frames.

    Attributes:
        shown: where the portrait is shown.
        hidden: where it is hidden; the same but with ``reference_faces: released``.
    """

    shown: list[Tensor]
    hidden: list[Tensor]


class HalloDenoiser(Denoiser):
    """``HalloNet`` as ``thbench.generation.runner`` runs it, with classifier-free guidance.

    With ``e(image, audio)`` the prediction from portrait and audio (paper, section 4.4):
    ``e(-,-) + s_image (e(i,-) - e(-,-)) + s_audio (e(i,a) - e(i,-))``. Equal scales are the
    released code's joint guidance, and then the middle term is not computed.

    Args:
        net: trained.
        image, audio: the scales, 1 for none.
        weights: of the network's regions, in their order.
        reference_faces: see ``Hallo``.
    """

    def __init__(
        self,
        net: HalloNet,
        image: float = 1.0,
        audio: float = 1.0,
        weights: Sequence[float] = (),
        reference_faces: str = "portrait",
    ) -> None:
        self.net, self.weights = net, tuple(weights) or (1.0,) * len(net.regions)
        self.shares = {
            (True, True): audio,
            (True, False): image - audio,
            (False, False): 1 - image,
        }
        self.branches = sum(share != 0 for share in self.shares.values())
        self.mixes_faces = reference_faces == "released" and self.branches > 1

    def latent_shape(self, conditions: HalloConditions) -> tuple[int, ...]:
        return self.net.shape

    def observe(self, clean: Tensor, frames: Tensor, conditions: HalloConditions) -> MotionContext:
        """ReferenceNet's features of the motion frames, once for all steps of a segment.

        They are latents already: no frame goes through the autoencoder again.
        """
        return self.motion_context(clean, _expand(conditions.portrait, len(clean)))

    def motion_context(self, clean: Tensor, portrait: Portrait) -> MotionContext:
        """What is seen of motion frames (B, C, motion, h, w)."""
        if not self.mixes_faces:
            maps = self.net.motion_maps(clean, portrait)
            return MotionContext(maps, maps)
        n = clean.shape[2]
        either = torch.stack([self.net.hidden_tokens(portrait.face), portrait.face], dim=1)
        # Two rows of portrait and motion frames, counted through: even places have no face.
        hidden, shown = torch.arange(2 * (n + 1), device=clean.device).view(2, -1)[:, 1:] % 2
        return MotionContext(
            self.net.motion_maps(clean, portrait, either[:, shown]),
            self.net.motion_maps(clean, portrait, either[:, hidden]),
        )

    def denoise(
        self,
        noisy: Tensor,
        t: Tensor,
        frames: Tensor,
        conditions: HalloConditions,
        context: MotionContext | None,
    ) -> Tensor:
        seen = 0 if context is None else context.shown[0].shape[1]
        made, t, frames = noisy[:, :, seen:], t[:, seen:], frames[:, seen:]
        portrait = _expand(conditions.portrait, len(noisy))
        if context is None and conditions.before is not None:
            context = _expand_context(conditions.before, len(noisy))
        audio_tokens = self.net.tokens(conditions.audio.expand(len(noisy), -1, -1), frames)
        total = torch.zeros_like(made)
        for (image, audio), share in self.shares.items():
            if share:
                keep = ConditionMask.all(len(made), made.device, image=image, audio=audio)
                motion = None
                if context is not None:
                    motion = context.shown if image else context.hidden
                total += share * self.net(
                    made, t, portrait, keep, audio_tokens, motion, self.weights
                )
        # Predictions for observed frames are ignored.
        return torch.cat([total.new_zeros(*total.shape[:2], seen, *total.shape[3:]), total], dim=2)


class Hallo(Strategy):
    """Autoencoder, ReferenceNet and denoiser with the ``sar`` plan.

    The first segment has no frames before it: zeros stand in their place, as where training drops
    them (``start: portrait`` puts the portrait there). The last is as long as the others, since
    training shows no shorter ones: it runs past the video's end, where the last embedding of the
    audio is repeated, and what is too much is dropped (the released code pads the waveform with
    zeros and drops it likewise).

    Args:
        nets: ``autoencoder`` and ``denoiser``.
        context: as the stages were given.
        plan: ``{name: sar, segment: 14, overlap: 2}``; the overlap is the number of motion frames
            that the network was built for.
        sampler: see ``Strategy``.
        guidance: one scale for portrait and audio together, or ``{image: .., audio: ..}``
            (Table 6). 1 is none.
        weights: by region (``lip``, ``expression``, ``pose``), 1 being what was trained: more
            moves more (figure 11), 0 silences a region.
        enlarge: width and height of the portrait's ``lip`` and ``face`` boxes are multiplied by
            these, since lips and face will move; ``ENLARGED`` by default.
        start: what stands for the motion frames of the first segment: ``zeros`` in their features,
            or the ``portrait``, as in the released code.
        reference_faces: whose tokens ReferenceNet sees: the ``portrait``'s; or, as ``released``,
            with guidance those of no face for the portrait that every other frame attends to, and
            for every other motion frame, because that code lays out frames and tokens, hidden and
            shown, in different orders.
        vocals: the network hears what the released code does, the voice alone: arguments of
            ``Vocals``; None, the data's embeddings as they are.

    Raises:
        UserError: another plan, or an option that the network has no part for.
    """

    stable_name = "hallo"
    version = 2
    config_blocks: ClassVar[Blocks] = {
        "guidance": ("image", "audio"),
        "weights": REGIONS,
        "enlarge": ENLARGED,
        "vocals": KEYS,
    }
    roles: ClassVar[Mapping[str, type[nn.Module]]] = {
        "autoencoder": Autoencoder,
        "denoiser": HalloNet,
    }
    space = "vae"

    def __init__(
        self,
        nets: Mapping[str, nn.Module],
        context: StageContext,
        plan: Mapping[str, Any],
        sampler: SamplerConfig,
        *,
        guidance: float | Mapping[str, float] = 3.5,
        weights: Mapping[str, float] | None = None,
        enlarge: Mapping[str, float] | None = None,
        start: str = "zeros",
        reference_faces: str = "portrait",
        vocals: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(nets, context, plan, sampler)
        self.vae = self.network("autoencoder", Autoencoder)
        self.net = net = self.network("denoiser", HalloNet)
        _check_plan(self.plan, net)
        net.face.check()
        self.scales = _scales(guidance)
        self.weights = _weights(weights or {}, net.regions)
        check_enlarged(enlarge or {})
        if enlarge and net.boxes == "portrait":
            raise UserError("This network's regions are the portrait's own: drop options.enlarge.")
        self.enlarged = {**ENLARGED, **(enlarge or {})}
        for name, value, known in (
            ("start", start, STARTS),
            ("reference_faces", reference_faces, REFERENCE_FACES),
        ):
            if value not in known:
                raise UserError(f"options.{name} must be {' or '.join(known)}, not '{value}'.")
        if reference_faces == "released" and net.motion % 2:
            raise UserError("options.reference_faces=released needs an even net.motion.")
        self.vocals = Vocals.of(vocals) if vocals else None
        self.from_portrait = start == "portrait" and net.motion > 0
        self.denoiser = HalloDenoiser(
            net, **self.scales, weights=self.weights, reference_faces=reference_faces
        )

    def encode(self, request: Request) -> HalloConditions:
        latent = self.vae.encode(to_unit(request.source)[None])
        portrait = self.net.portrait(
            latent,
            request.source[None],
            request.source_landmarks[None],
            enlarged=self.enlarged,
        )
        if self.denoiser.mixes_faces:
            portrait = replace(portrait, faceless=self.net.faceless(portrait))
        before = None
        if self.from_portrait:
            still = latent[:, :, None].expand(-1, -1, self.net.motion, -1, -1)
            still = self.net.to_latent(still, latent)
            before = self.denoiser.motion_context(still, portrait)
        heard = request.audio if self.vocals is None else self.vocals.embed(request)
        return HalloConditions(portrait, heard[None], before)

    def passes(self, request: Request) -> Sequence[GenerationPass]:
        segment = plans.filled(self.plan)["segment"]
        whole = -(-request.n_frames // segment) * segment
        plan = plans.build(n=whole, **self.plan)
        denoisers = {"main": self.denoiser}
        return [GenerationPass(self.space, plan, denoisers, self.net.process, self.sampler)]

    def decode(self, latents: Tensor, frames: Tensor, conditions: HalloConditions) -> Tensor:
        return self.vae.decode(self.net.from_latent(latents, conditions.portrait.latent))


def _expand(portrait: Portrait, n: int) -> Portrait:
    """The portrait of one clip for ``n`` windows of it."""

    def alike(x: Tensor) -> Tensor:
        return x.expand(n, *x.shape[1:])

    return Portrait(
        alike(portrait.latent),
        [alike(x) for x in portrait.features],
        alike(portrait.face),
        {size: alike(mask) for size, mask in portrait.masks.items()},
        None if portrait.located is None else alike(portrait.located),
        None if portrait.faceless is None else [alike(x) for x in portrait.faceless],
    )


def _expand_context(context: MotionContext, n: int) -> MotionContext:
    """The motion frames' maps of one clip for ``n`` windows of it."""
    both = (context.shown, context.hidden)
    shown, hidden = ([x.expand(n, *x.shape[1:]) for x in maps] for maps in both)
    return MotionContext(shown, hidden)


def _check_plan(plan: Mapping[str, Any], net: HalloNet) -> None:
    wanted = f"plan={{name: sar, segment: 14, overlap: {net.motion}}}"
    if plan["name"] != "sar":
        raise UserError(f"Hallo makes segments in sequence: take {wanted}.")
    whole = plans.filled(plan)
    segment, overlap = whole["segment"], whole["overlap"]
    if overlap != net.motion or segment < net.motion:
        raise UserError(
            f"This network sees {net.motion} motion frame(s) before a segment, which has at least"
            f" as many: take {wanted}, or train another with net.motion."
        )
    if segment + overlap > net.longest:
        raise UserError(
            f"Hallo's temporal modules know {net.longest} places, plan.segment and plan.overlap"
            f" make {segment + overlap}: take plan.segment={net.longest - overlap} or less."
        )


def _scales(guidance: float | Mapping[str, float]) -> dict[str, float]:
    parts = guidance if isinstance(guidance, Mapping) else {"image": guidance, "audio": guidance}
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in parts.values())
    if set(parts) != {"image", "audio"} or not numbers:
        raise UserError(
            f"options.guidance must be a number or {{image: .., audio: ..}}, not {guidance}."
        )
    return dict(parts)


def _weights(weights: Mapping[str, float], regions: Sequence[str]) -> list[float]:
    for region, value in weights.items():
        if region not in regions:
            known = did_you_mean(region, REGIONS)
            raise UserError(f"options.weights: this network has no region '{region}'.{known}")
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise UserError(f"options.weights.{region} must be a number, not {value}.")
    return [float(weights.get(region, 1)) for region in regions]
