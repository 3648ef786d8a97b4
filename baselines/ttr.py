"""TTR: key frames first, then all gaps between them, by networks of two temporal resolutions.

Harvey et al. (2022), "Flexible Diffusion Modeling of Long Videos", as DAWN's Table 2 compares it:
one network makes every s-th frame, another fills the gaps, both on DAWN's flows and conditions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from thbench.core.errors import UserError
from thbench.core.types import Request
from thbench.dawn.a2v_net import A2VNet, FlowConditions, FlowDenoiser
from thbench.dawn.dawn import DAWN, Conditions
from thbench.generation import plans
from thbench.generation.strategy import GenerationPass


@dataclass
class TTRConditions:
    """Conditions of a clip, for the network of the key frames and for that of the gaps.

    Attributes:
        keys: as DAWN's, for the network of the key frames.
        gaps: of the flows, for the network of the gaps.
        in_gap: (T,) bool, the frames that the gaps' network generates.
    """

    keys: Conditions
    gaps: FlowConditions
    in_gap: Tensor

    @property
    def flow(self) -> FlowConditions:
        """Of the key frames' flows."""
        return self.keys.flow


class GapDenoiser(FlowDenoiser):
    """Fills gaps between key frames of another network, which has latents of its own scale.

    Each network measures on its training data how flows are normalised, so observed keys are taken
    from the one's scale to the other's.

    Args:
        net: fills the gaps.
        keys: made the key frames.
        guidance: see ``FlowDenoiser``.
    """

    def __init__(self, net: A2VNet, keys: A2VNet, guidance: float = 1.0) -> None:
        super().__init__(net, guidance)
        self.keys = keys

    def flow_conditions(self, conditions: TTRConditions) -> FlowConditions:
        return conditions.gaps

    def observe(self, clean: Tensor, frames: Tensor, conditions: TTRConditions) -> Tensor:
        """The observed latents (B, 3, n, h, w) at the scale of this network."""
        rows = clean.transpose(1, 2)
        of_keys = conditions.flow.at(frames).motion.flatten(0, 1)
        of_gaps = conditions.gaps.at(frames).motion.flatten(0, 1)
        moved = self.net.to_latent(*self.keys.from_latent(rows.flatten(0, 1), of_keys), of_gaps)
        return moved.unflatten(0, rows.shape[:2]).transpose(1, 2)

    def denoise(
        self, noisy: Tensor, t: Tensor, frames: Tensor, conditions: TTRConditions, context: Tensor
    ) -> Tensor:
        noisy = torch.cat([context, noisy[:, :, context.shape[2] :]], dim=2)
        return super().denoise(noisy, t, frames, conditions, None)


def _process_of(net: A2VNet) -> tuple[Any, ...]:
    """What a network's noise process is, and what it predicts."""
    process = net.process
    return process.schedule, process.steps, process.prediction, process.zero_snr


class TTR(DAWN):
    """Two networks of different temporal resolution.

    ``nets``: ``lfg``, ``pbnet``, ``a2v`` for the key frames and ``gaps``. One network may play
    both roles; a plan with ``single_model: true`` asks the first for everything.
    """

    stable_name = "ttr"
    roles: ClassVar[Mapping[str, type[nn.Module]]] = {**DAWN.roles, "gaps": A2VNet}

    @property
    def gaps(self) -> A2VNet:
        """Fills the gaps."""
        return self.network("gaps", A2VNet)

    def encode(self, request: Request) -> TTRConditions:  # type: ignore[override]
        keys = super().encode(request)
        gaps = self.flow_conditions(self.gaps, request, keys.flow.source, keys.pose, keys.eyes)
        in_gap = torch.zeros(request.n_frames, dtype=torch.bool, device=keys.portrait.device)
        for window in plans.windows(self.plan_for(request)):
            if window.model == "gaps":
                in_gap[list(window.generate)] = True
        return TTRConditions(keys, gaps, in_gap)

    def passes(self, request: Request) -> Sequence[GenerationPass]:
        plan = self.plan_for(request)
        denoisers: dict[str, FlowDenoiser] = {
            name: FlowDenoiser(self.a2v, self.guidance) for name in plans.models(plan)
        }
        if "gaps" in denoisers:
            if _process_of(self.gaps) != _process_of(self.a2v):
                raise UserError(
                    "The networks of key frames and gaps were trained with other noise processes:"
                    " give their stages the same model.net.process."
                )
            denoisers["gaps"] = GapDenoiser(self.gaps, self.a2v, self.guidance)
        return [GenerationPass(self.space, plan, denoisers, self.a2v.process, self.sampler)]

    def motion(self, conditions: TTRConditions) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        return super().motion(conditions.keys)

    def source_latent(self, conditions: TTRConditions) -> Tensor:  # type: ignore[override]
        return super().source_latent(conditions.keys)

    def decode(self, latents: Tensor, frames: Tensor, conditions: TTRConditions) -> Tensor:  # type: ignore[override]
        in_gap = conditions.in_gap[frames][:, None, None, None]
        of_keys, of_gaps = (
            given.at(frames[None]).motion[0] for given in (conditions.flow, conditions.gaps)
        )
        parts = zip(
            self.a2v.from_latent(latents, of_keys),
            self.gaps.from_latent(latents, of_gaps),
            strict=True,
        )
        flow, occlusion = (torch.where(in_gap, b, a) for a, b in parts)
        return self.lfg.decode(conditions.flow.source, flow, occlusion)
