"""Training of Diffused Heads: a frame of a clip from noise (paper, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from baselines.augmentation import spoil
from baselines.diffused_heads.net import FrameNet, FrameNetConfig
from thbench.config import DrawConfig, OptimConfig, SamplerConfig
from thbench.core.errors import UserError
from thbench.core.signatures import Blocks
from thbench.core.types import Batch, to_unit
from thbench.data.dataset import frame_range
from thbench.diffusion.losses import clip_mean
from thbench.diffusion.process import sample_together
from thbench.diffusion.vlb import bound_term
from thbench.nn.normalize import unrepeated_frames
from thbench.nn.regions import box_mask
from thbench.training.optim import check_optim
from thbench.training.stage import Stage, StageContext

BOUNDS = ("mean", "sum")
"""What the variational bound's terms at all levels are brought to."""


@dataclass
class Example:
    """Frames to learn, and the conditions that they are generated from.

    Attributes:
        clean: (B, 3, 1, H, W) in [-1, 1].
        portrait: (B, 3, H, W) in [-1, 1].
        static: (B, dim, h, w), the sum of the portrait's and the motion frames' features.
        audio: (B, width), embedded.
    """

    clean: Tensor
    portrait: Tensor
    static: Tensor
    audio: Tensor


class FrameStage(Stage):
    """Trains ``FrameNet`` on random frames of clips, with the frames filmed before them.

    Loss (eq. 19): ``L_simple + w_bound L_vlb + w_lip L_ls``, the last in the box around the lips
    (figure 3). L_vlb is estimated from one level per frame: the mean over all levels, times their
    number with ``bound: sum`` (eq. 10).

    A draw is one frame with ``context`` frames on either side; motion frames that lie before the
    clip's start are the portrait (section 4.2), and audio beyond its ends is that of the end.

    Args:
        context: see ``Stage``.
        net: ``FrameNetConfig``, as a mapping.
        w_lip: lambda_ls, of the mean error over the pixels of each frame's box; 0 is the ablation
            without.
        w_bound: lambda_vlb. The paper gives none; 1e-4 is the released code's, for the mean.
        bound: what L_vlb is: ``mean`` over the levels, as in the released code, or their ``sum``
            (eq. 10; so Nichol and Dhariwal, whose weight is 1e-3).
        lip_margin: what is added on each side to the box around the lips, as a fraction of the
            frame's width.
        motion_noise: the motion frames of a sample get noise of one deviation, drawn from 0 to
            this, in units of [-1, 1]: at generation they are not filmed but made, and a network
            that trusts them adds its own errors up (``baselines.augmentation``). The paper has
            none.
        rollout: up to so many of the frames before are the network's own, each from those before
            it, in one call from pure noise and without a gradient; how many, is drawn for each
            batch. So training meets the errors that generation adds up (the pushforward trick,
            Brandstetter et al. 2022, "Message Passing Neural PDE Solvers", section 3.1). The draw's
            ``context`` must reach as much further back. The paper has none.
        lr_steps: so many times over ``optim.decay_steps`` steps, evenly, the learning rate is
            multiplied by ``lr_gamma``: 18 times by .8 in the released code. The paper has none.
        lr_gamma: see ``lr_steps``.
    """

    stable_name = "diffused_heads.frame"
    audio_loss = "lip"
    config_blocks: ClassVar[Blocks] = {"net": FrameNetConfig}
    net: FrameNet
    version: ClassVar[int] = 4

    def __init__(
        self,
        context: StageContext,
        *,
        net: Mapping[str, Any] | None = None,
        w_lip: float = 0.2,
        w_bound: float = 1e-4,
        bound: str = "mean",
        lip_margin: float = 0.05,
        motion_noise: float = 0.0,
        rollout: int = 0,
        lr_steps: int = 0,
        lr_gamma: float = 0.8,
    ) -> None:
        super().__init__(context)
        if bound not in BOUNDS:
            raise UserError(f"bound must be {' or '.join(BOUNDS)}, not '{bound}'.")
        self.net = FrameNet(context.audio_dim, context.size, FrameNetConfig(**(net or {})))
        self.w_lip, self.w_bound, self.lip_margin = w_lip, w_bound, lip_margin
        if motion_noise < 0:
            raise UserError(f"motion_noise must be 0 or more, not {motion_noise}.")
        if type(rollout) is not int or rollout < 0:
            raise UserError(f"rollout must be a whole number, 0 or more, not {rollout}.")
        self.motion_noise, self.rollout = motion_noise, rollout
        self.levels = self.net.process.steps if bound == "sum" else 1
        _check_rate(lr_steps, lr_gamma, context.optim)
        self.lr_steps, self.lr_gamma = lr_steps, lr_gamma

    def configure_optimizers(self) -> Any:
        made = super().configure_optimizers()
        if self.lr_steps:
            made["lr_scheduler"]["scheduler"] = LambdaLR(made["optimizer"], self.rate_scale)
        return made

    def rate_scale(self, step: int) -> float:
        """The learning rate of a step (from 0) as a fraction of ``optim.lr``."""
        scale = check_optim(self.context.optim)(step)
        if not self.lr_steps:
            return scale
        length = (self.context.optim.decay_steps or 0) // self.lr_steps
        return scale * self.lr_gamma ** min(step // length, self.lr_steps)

    def trained_for(self) -> dict[str, Any]:
        """Exactly so many observed frames, and one noise level for what is made."""
        return {"observed": self.net.motion, "levels": "clip", "frames": 1}

    def check_draw(self, draw: DrawConfig) -> None:
        """Raise a UserError if the frames around the one to be made are not drawn with it."""
        reach = max(self.net.motion, self.net.audio_context) + self.rollout
        if frame_range(draw.frames) != (1, 1) or draw.context < reach:
            raise UserError(
                f"This network sees {reach} frames beside the one that it makes: draw.frames must"
                f" be 1, and draw.context {reach} or more."
            )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        example, process, middle = self.prepare(batch), self.net.process, _middle(batch)
        clean = example.clean
        t = torch.randint(1, process.steps + 1, (len(clean), 1), device=clean.device)
        noise = torch.randn_like(clean)
        noisy = process.add_noise(clean, noise, t)
        output = self._predict(example, noisy, t)
        prediction, channels = process.split(output)
        error = (prediction.float() - process.target(clean, noise, t)).square()
        simple = error.mean()
        losses = {"simple": simple}
        total = simple
        if self.w_lip or not self.training:
            box = box_mask(batch.landmarks[:, middle], "lips", self.net.size, self.lip_margin)
            box = box * batch.valid[:, middle, None, None, None]
            losses["lip"] = clip_mean(error[:, :, 0].mean(1, keepdim=True), box)
            total = total + self.w_lip * losses["lip"]
        if channels is not None:
            term = bound_term(process, output, clean, noisy, t).mean()
            losses["bound"] = self.levels * term
            total = total + self.w_bound * losses["bound"]
        return {"loss": total, **losses}

    def prepare(self, batch: Batch) -> Example:
        """The middle frame of each sample, and what it is made from."""
        middle = _middle(batch)
        if self.net.scale_audio is not None:
            self.net.scale_audio.update(batch.audio[unrepeated_frames(batch.frames)])
        portrait = _signed(batch.source)
        static = self.net.portrait_features(portrait)
        if self.net.motion:
            static = static + self.net.motion_features(self._motion_frames(batch, portrait))
        at = torch.tensor([middle], device=batch.audio.device)
        audio = self.net.audio_features(batch.audio, at)[:, 0]
        clean = _signed(batch.video[:, middle])[:, :, None]
        return Example(clean, portrait, static, audio)

    def _motion_frames(self, batch: Batch, portrait: Tensor) -> Tensor:
        """Motion frames (B, 3, motion, H, W), as training shows them."""
        middle, training = _middle(batch), self.training
        back = int(torch.randint(self.rollout + 1, ())) if self.rollout and training else 0
        before = self._before(batch, portrait, back)
        for place in range(middle - back, middle):
            made = self._estimate(batch, portrait, before, place)
            missing = batch.frames[:, middle] < middle - place
            made = torch.where(missing[:, None, None, None], portrait, made)
            before = torch.cat([before[:, :, 1:], made[:, :, None]], dim=2)
        if self.motion_noise and training:
            before = spoil(before, self.motion_noise)
        return before

    def _before(self, batch: Batch, portrait: Tensor, back: int) -> Tensor:
        """The frames filmed before the one ``back`` frames ago; the portrait where there is none.

        Returns:
            (B, 3, motion, H, W).
        """
        middle, n = _middle(batch), self.net.motion
        steps_back = back + torch.arange(n, 0, -1, device=batch.frames.device)
        missing = batch.frames[:, middle, None] < steps_back
        filmed = _signed(batch.video[:, middle - back - n : middle - back]).transpose(1, 2)
        return torch.where(missing[:, None, :, None, None], portrait[:, :, None], filmed)

    @torch.no_grad()
    def _estimate(self, batch: Batch, portrait: Tensor, before: Tensor, place: int) -> Tensor:
        """What the network makes of the frame at a place of the window from noise, (B, 3, H, W)."""
        process = self.net.process
        static = self.net.portrait_features(portrait) + self.net.motion_features(before)
        audio = self.net.audio_features(batch.audio, torch.tensor([place], device=before.device))
        noise = torch.randn_like(portrait)[:, :, None]
        t = torch.full((len(noise), 1), process.steps, device=noise.device)
        example = Example(noise, portrait, static, audio[:, 0])
        prediction, _ = process.split(self._predict(example, noise, t))
        return process.to_clean(prediction.float(), noise, t)[:, :, 0].clamp(-1, 1)

    def _predict(self, example: Example, noisy: Tensor, t: Tensor) -> Tensor:
        """(B, 3 or 6, 1, H, W) of noisy frames (B, 3, 1, H, W) at levels (B, 1)."""
        made = self.net(noisy[:, :, 0], t[:, 0], example.portrait, example.static, example.audio)
        return made[:, :, None]

    @torch.no_grad()
    def samples(self, batch: Batch) -> dict[str, Tensor]:
        """Portrait, frame, and what is made from noise in few steps, of the first clip."""
        first = batch.first()
        example = self.prepare(first)
        config = SamplerConfig(steps=min(50, self.net.process.steps), threshold=0)
        noisy = torch.randn_like(example.clean)
        made = sample_together(
            self.net.process, lambda x, t: self._predict(example, x, t), noisy, config
        )
        filmed = to_unit(first.video[:, _middle(first)])
        return {
            "generated": torch.cat([to_unit(first.source), filmed, (made[:, :, 0] + 1) / 2], -1)
        }


def _check_rate(steps: int, gamma: float, optim: OptimConfig) -> None:
    if type(steps) is not int or steps < 0:
        raise UserError(f"lr_steps must be a whole number, 0 or more, not {steps}.")
    if not 0 < gamma <= 1:
        raise UserError(f"lr_gamma must be more than 0 and at most 1, not {gamma}.")
    if not steps:
        return
    if optim.schedule != "constant":
        raise UserError(f"lr_steps takes optim.schedule=constant, not {optim.schedule}.")
    if optim.decay_steps is None or optim.decay_steps < steps:
        raise UserError(
            f"lr_steps={steps} needs optim.decay_steps, over which the steps are spread:"
            f" {steps} or more."
        )


def _middle(batch: Batch) -> int:
    """Where the frame to be made stands in its window."""
    return batch.frames.shape[1] // 2


def _signed(frames: Tensor) -> Tensor:
    """uint8 frames as float32 in [-1, 1]."""
    return 2 * to_unit(frames) - 1
