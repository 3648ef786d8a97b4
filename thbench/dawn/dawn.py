"""DAWN: all frames of a clip at once, as flows of a portrait (Cheng et al. 2024, section 3.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from thbench.config import SamplerConfig
from thbench.core.errors import UserError
from thbench.core.seeding import noise_generator
from thbench.core.types import Request, to_unit
from thbench.dawn.a2v_net import A2VNet, FlowConditions, FlowDenoiser
from thbench.dawn.lfg import LatentFlowGenerator, SourceFeatures
from thbench.dawn.pbnet import PBNet
from thbench.generation import plans
from thbench.generation.strategy import GenerationPass, Strategy
from thbench.training.stage import StageContext


@dataclass
class Conditions:
    """Conditions of a clip.

    Attributes:
        flow: of its flows.
        portrait: (1, 3, H, W) in [0, 1].
        pose, eyes: (T, 6) and (T, 2), absolute, or None where the strategy follows none.
    """

    flow: FlowConditions
    portrait: Tensor
    pose: Tensor | None
    eyes: Tensor | None


class DAWN(Strategy):
    """Latent flow generator, PBNet and A2V-FDM put together.

    With another ``plan`` the same networks make frames in another order. Motion comes from the
    request where it has some, else from PBNet.

    Args:
        nets: ``lfg``, ``a2v`` and, unless ``a2v`` follows neither pose nor eyes, ``pbnet``.
        context: as the stages were given.
        plan, sampler: see ``Strategy``.
        guidance: scale of classifier-free guidance, 1 for none (the paper).
        temperature: of PBNet's latents, 1 in the paper. What training encodes fills more than the
            prior where the divergence weighs little, so that motion drawn from it is too calm.
        window: frames that temporal attention reaches over (the paper's Table 8), ``full`` for no
            limit; by default what the network was built with.
    """

    stable_name = "dawn"
    roles: ClassVar[Mapping[str, type[nn.Module]]] = {"lfg": LatentFlowGenerator, "a2v": A2VNet}
    optional_roles: ClassVar[Mapping[str, type[nn.Module]]] = {"pbnet": PBNet}
    space = "flow"

    def __init__(
        self,
        nets: Mapping[str, nn.Module],
        context: StageContext,
        plan: Mapping[str, Any],
        sampler: SamplerConfig,
        *,
        guidance: float = 1.0,
        temperature: float = 1.0,
        window: int | str | None = None,
    ) -> None:
        super().__init__(nets, context, plan, sampler)
        self.lfg = self.network("lfg", LatentFlowGenerator)
        self.a2v = self.network("a2v", A2VNet)
        self.guidance = _number("guidance", guidance)
        self.temperature = _number("temperature", temperature)
        if self.temperature < 0:
            raise UserError(f"options.temperature must be 0 or more, not {temperature}.")
        if window is not None:
            for net in self.denoising_networks():
                net.window = _window(window)

    def denoising_networks(self) -> list[A2VNet]:
        """All networks that denoise flows."""
        return [net for net in self.nets.values() if isinstance(net, A2VNet)]

    @property
    def follows(self) -> frozenset[str]:
        kinds = {kind for net in self.denoising_networks() for kind in net.kinds}
        return frozenset({"pose", "eyes"} & kinds)

    def encode(self, request: Request) -> Conditions:
        portrait = to_unit(request.source)[None]
        pose, eyes = self._motion(request)
        flow = self.flow_conditions(self.a2v, request, self.lfg.encode(portrait), pose, eyes)
        return Conditions(flow, portrait, pose, eyes)

    def flow_conditions(
        self,
        net: A2VNet,
        request: Request,
        source: SourceFeatures,
        pose: Tensor | None,
        eyes: Tensor | None,
    ) -> FlowConditions:
        """What ``net`` generates the clip's flows from.

        Args:
            net: the denoising network.
            request: of T frames.
            source: the portrait's features.
            pose: (T, 6), absolute, or None where no network follows poses.
            eyes: (T, 2), absolute, or None.
        """
        return net.conditions(
            source,
            request.source_landmarks[None],
            request.audio[None],
            _change(pose, request.source_pose, request.n_frames)[None],
            _change(eyes, request.source_eyes, request.n_frames)[None],
        )

    def plan_for(self, request: Request) -> plans.Plan:
        """The plan for a clip of this length."""
        return plans.build(n=request.n_frames, **self.plan)

    def passes(self, request: Request) -> Sequence[GenerationPass]:
        plan = self.plan_for(request)
        denoiser = FlowDenoiser(self.a2v, self.guidance)
        denoisers = dict.fromkeys(plans.models(plan), denoiser)
        return [GenerationPass(self.space, plan, denoisers, self.a2v.process, self.sampler)]

    def decode(self, latents: Tensor, frames: Tensor, conditions: Conditions) -> Tensor:
        given = conditions.flow
        motion = given.at(frames[None]).motion[0]
        return self.lfg.decode(given.source, *self.a2v.from_latent(latents, motion))

    def motion(self, conditions: Conditions) -> tuple[Tensor | None, Tensor | None]:
        return conditions.pose, conditions.eyes

    def source_latent(self, conditions: Conditions) -> Tensor:
        # In full precision, as the flows were on which the denoiser was trained.
        with torch.autocast(conditions.portrait.device.type, enabled=False):
            flow, occlusion = self.lfg.flow(conditions.portrait, conditions.portrait)
        still = conditions.flow.motion.new_zeros(1, self.a2v.known)
        return self.a2v.to_latent(flow, occlusion, still)[0]

    def _motion(self, request: Request) -> tuple[Tensor | None, Tensor | None]:
        """The motion to follow: each of pose and eyes from the request, else from PBNet."""
        if not {"pose", "eyes"} & set(self.a2v.kinds):
            return None, None
        if request.pose is not None and request.eyes is not None:
            return request.pose, request.eyes
        if "pbnet" not in self.nets:
            raise UserError(
                "This strategy follows a head motion but has no network that generates one: give a"
                " motion (eval: a protocol with ground-truth poses), or nets.pbnet=pbnet."
            )
        pose, eyes = self.network("pbnet", PBNet).sample(
            request.audio,
            request.source_pose,
            request.source_eyes,
            noise_generator(request, "pbnet"),
            self.temperature,
        )
        return (
            pose if request.pose is None else request.pose,
            eyes if request.eyes is None else request.eyes,
        )


def _change(motion: Tensor | None, source: Tensor, n: int) -> Tensor:
    """Differences (n, D) to the portrait's; of a motion that nobody follows, zeros."""
    return source.new_zeros(n, len(source)) if motion is None else motion - source


def _number(key: str, value: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"options.{key} must be a number, not {value}.")
    return value


def _window(value: int | str) -> int | None:
    if value == "full":
        return None
    if not isinstance(value, int) or value < 1:
        raise UserError(f"options.window must be a whole number of frames or 'full', not {value}.")
    return value
