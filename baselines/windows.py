"""Training of DAWN's denoiser on the windows of any plan.

With this stage AR, SAR, TTR and rolling differ from DAWN in nothing but the order in which frames
are generated: latent flow generator, conditions, network, clips and number of samples are the same.
Observed frames of a window are clean values at level 0: the indicator of Harvey et al. (2022),
section 3, as a noise level per frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from baselines.augmentation import spoil
from thbench.config import DrawConfig, SamplerConfig
from thbench.core.errors import UserError
from thbench.core.signatures import Blocks
from thbench.core.types import Batch, to_unit
from thbench.data.dataset import fewest_frames, frame_range
from thbench.dawn.a2v import A2VStage
from thbench.dawn.a2v_net import FlowConditions
from thbench.diffusion.process import sample_together
from thbench.generation import plans
from thbench.generation.plans import SOURCE, Window
from thbench.training.stage import StageContext

LONG = 200
"""Frames of a plan that shows all kinds of windows that there are."""


class WindowStage(A2VStage):
    """Trains ``A2VNet`` on the windows that a plan shows it at generation.

    For each batch a clip length is drawn, then a round of the plan for it, then a window of that
    round. The window is placed in each drawn clip at random, as often as the frames to be shown
    allow, so that a plan of small windows learns as much from a clip as one of large ones.
    Where the batch's clips are too short for the window, it is one of the plan for clips as short.

    Args:
        context, net, loss, w_lip, w_eyes, dropout, chunk, cache: see ``A2VStage``.
        plan: ``{"name": ..., options}``.
        window: windows of which model are trained, where the plan has more than one.
        clip: lengths ``[least, most]`` of the clips whose plans are taken; by default clips are
            as long as what is drawn, as windows that grow with their clip (key frames) need.
        shown: frames of each clip that the network is shown, in as many windows as that makes, at
            least one; by default as many as are drawn.
        levels: ``plan`` (frames stand at the levels at which the window meets them) or ``frame``
            (independent levels, Chen et al. 2024, "Diffusion Forcing", algorithm 1).
        observed_noise: in training the observed frames of a window get noise of one deviation,
            drawn from 0 to this, in deviations of the latents (``baselines.augmentation``). Beside
            filmed frames a network learns to repeat the mouth that it sees, and once it has made
            them itself, that one.
    """

    stable_name = "windows"
    config_blocks: ClassVar[Blocks] = {"plan": plans.check_options}

    def __init__(
        self,
        context: StageContext,
        *,
        plan: Mapping[str, Any],
        window: str = "main",
        clip: Sequence[int] | None = None,
        shown: int | None = None,
        levels: str = "plan",
        observed_noise: float = 0.0,
        net: Mapping[str, Any] | None = None,
        loss: str = "paper",
        w_lip: float | None = None,
        w_eyes: float = 0.0,
        dropout: float = 0.1,
        drop: str = "clip",
        chunk: int = 64,
        cache: bool = False,
    ) -> None:
        super().__init__(
            context,
            net=net,
            loss=loss,
            w_lip=w_lip,
            w_eyes=w_eyes,
            dropout=dropout,
            drop=drop,
            chunk=chunk,
            cache=cache,
        )
        if levels not in ("plan", "frame"):
            raise UserError(f"levels must be 'plan' or 'frame', not '{levels}'.")
        if observed_noise < 0:
            raise UserError(f"observed_noise must be 0 or more, not {observed_noise}.")
        self.observed_noise = observed_noise
        self.plan, self.window, self.levels = dict(plan), window, levels
        self.clip, self.shown = _lengths(clip), shown
        known = plans.models(plans.build(n=self.clip[1] if self.clip else LONG, **plan))
        if window not in known:
            raise UserError(f"window must be one of plan '{plan['name']}': {', '.join(known)}.")

    def trained_for(self) -> dict[str, Any]:
        plan = plans.build(n=LONG, **self.plan)
        shown = [w for w in plans.windows(plan) if w.model == self.window]
        staggered = self.levels == "frame" or plans.levels(plan) > 1
        return {
            "observed": max(len(w.observe) for w in shown),
            "levels": "frame" if staggered else "clip",
            "plan": plans.filled(self.plan),
            "window": self.window,
        }

    def check_draw(self, draw: DrawConfig) -> None:
        """Raise a UserError if the draw is too short for the plan's windows, or not fixed."""
        super().check_draw(draw)
        name, fewest = self.plan["name"], frame_range(draw.frames)[0]
        rounds = self._rounds(plans.build(n=self.clip[1], **self.plan)) if self.clip else []
        needed = max((_span(window) for round_ in rounds for window in round_), default=1)
        if needed > fewest:
            raise UserError(
                f"A window of plan '{name}' spans {needed} frames, and the stage draws"
                f" {fewest}: raise its draw.frames, or lower the plan's sizes or model.clip."
            )
        shortest = fewest_frames(draw)
        if not self._rounds(plans.build(n=shortest, **self.plan)):
            raise UserError(self._no_window(shortest))

    def draw_window(self, n_drawn: int) -> tuple[Window, int]:
        """A window of the plan, and the number of noise levels of that plan.

        Args:
            n_drawn: consecutive frames that there are. If the window spans more, another one is
                taken, of the plan for a clip of that length.

        Raises:
            UserError: that plan has no window for this network.
        """
        least, most = self.clip or (n_drawn, n_drawn)
        for n in (least + _random(most - least + 1), n_drawn):
            plan = plans.build(n=n, **self.plan)
            rounds = self._rounds(plan)
            if not rounds:
                continue
            round_ = rounds[_random(len(rounds))]
            window = round_[_random(len(round_))]
            if _span(window) <= n_drawn:
                return window, plans.levels(plan)
        raise UserError(self._no_window(n_drawn))

    def _rounds(self, plan: plans.Plan) -> list[list[Window]]:
        """The windows of a plan that this network is for, by round."""
        rounds = [[w for w in round_ if w.model == self.window] for round_ in plan]
        return [round_ for round_ in rounds if round_]

    def _no_window(self, n: int) -> str:
        return (
            f"A clip of {n} frames has no window '{self.window}' in plan '{self.plan['name']}':"
            " raise the stage's draw.frames or draw.least."
        )

    def place_windows(self, window: Window, batch: Batch) -> Tensor:
        """Draws where the window lies in each clip of a batch.

        Args:
            window: of n frames, observed ones first.
            batch: of B clips of T frames.

        Returns:
            (B, K, n) int64, positions in [0, T), ``SOURCE`` for the portrait: K windows per clip.
        """
        b, n_drawn = batch.frames.shape
        members = torch.tensor([*window.observe, *window.generate])
        first = int(members[members >= 0].min())
        times = max(1, (self.shown or n_drawn) // len(window))
        start = torch.randint(0, n_drawn - _span(window) + 1, (b, times, 1))
        placed = torch.where(members < 0, SOURCE, members - first + start)
        return placed.to(batch.frames.device)

    def levels_of(self, window: Window, high: int, shape: Sequence[int], device: Any) -> Tensor:
        """Noise levels (*shape, n) of a window: 0 for what it observes.

        Args:
            window: of a plan with ``high`` levels.
            high: its level of pure noise.
            shape: how many windows.
            device: of the result.
        """
        steps = self.net.process.steps
        n_seen, n_made = len(window.observe), len(window.generate)
        if self.levels == "frame":
            generated = torch.randint(1, steps + 1, (*shape, n_made), device=device)
        else:
            # All frames of a window fall together, so how far they have come is one number.
            entered = torch.tensor(window.enter, device=device)
            fallen = window.drop * torch.rand(*shape, 1, device=device)
            generated = ((entered - fallen) * steps / high).ceil().long().clamp(1, steps)
        return torch.cat([generated.new_zeros(*shape, n_seen), generated], dim=-1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        window, high = self.draw_window(batch.frames.shape[1])
        shown, latent, given = self.window_batch(batch, self.place_windows(window, batch))
        t = self.levels_of(window, high, latent.shape[:1], latent.device)
        if self.observed_noise and self.training and window.observe:
            seen, made = latent.tensor_split([len(window.observe)], dim=2)
            latent = torch.cat([spoil(seen, self.observed_noise), made], dim=2)
        return self.error(shown, latent, given, torch.randn_like(latent), t)

    def window_batch(self, batch: Batch, places: Tensor) -> tuple[Batch, Tensor, FlowConditions]:
        """The windows at ``places`` as a batch of B * K rows.

        Args:
            batch: of B clips.
            places: (B, K, n), from ``place_windows``.

        Returns:
            A batch with the windows' frames, valid and landmarks (its other fields stay those of
            the clips); their clean latents (B * K, 3, n, h, w); their conditions.
        """
        k, n = places.shape[1:]
        shown = gather_frames(batch, places.flatten(1))
        latent, given = self.prepare(shown)

        def rows(values: Tensor) -> Tensor:
            return values.unflatten(1, (k, n)).flatten(0, 1)

        shown = replace(
            shown,
            frames=rows(shown.frames),
            valid=rows(shown.valid),
            landmarks=rows(shown.landmarks),
        )
        given = replace(
            given,
            tokens={kind: rows(token) for kind, token in given.tokens.items()},
            motion=rows(given.motion),
            static=given.static.repeat_interleave(k, dim=0),
        )
        return shown, rows(latent.transpose(1, 2)).transpose(1, 2), given

    @torch.no_grad()
    def samples(self, batch: Batch) -> dict[str, Tensor]:
        """A window of the first clip, filmed beside generated in ten steps.

        Nothing where levels are learned only as the plan staggers them: such a network generates no
        window from pure noise alone.

        Returns:
            ``generated``: (frames, 3, H, 2 W) in [0, 1].
        """
        first = batch.first()
        window, high = self.draw_window(first.frames.shape[1])
        if high > 1 and self.levels == "plan":
            return {}
        places = self.place_windows(window, first)[:, :1]
        shown, latent, given = self.window_batch(first, places)
        n_seen = len(window.observe)
        seen, wanted = latent[:, :, :n_seen], latent[:, :, n_seen:]
        keep = torch.ones_like(shown.valid)

        def predict(noisy: Tensor, t: Tensor) -> Tensor:
            t = torch.cat([t.new_zeros(1, n_seen), t], dim=1)
            whole = torch.cat([seen, noisy], dim=2)
            return self.net(whole, t, shown.frames, given, keep)[:, :, n_seen:]

        noise, config = torch.randn_like(wanted), SamplerConfig(steps=10)
        made = sample_together(self.net.process, predict, noise, config)[0].transpose(0, 1)
        motion = given.motion[0, n_seen:]
        images = self.lfg.decode(given.source, *self.net.from_latent(made, motion))
        filmed = to_unit(first.video[0, places[0, 0, n_seen:]])
        return {"generated": torch.cat([filmed, images], dim=-1)}


def gather_frames(batch: Batch, places: Tensor) -> Batch:
    """Some frames of each clip, the portrait among them.

    The portrait has frame index ``SOURCE``, its own image, pose, eyes and landmarks, and does not
    count as valid; its audio is arbitrary.

    Args:
        batch: of B clips.
        places: (B, n) int64, positions in the clips, ``SOURCE`` for the portrait.

    Returns:
        A batch of B clips of n frames.
    """
    rows = torch.arange(len(places), device=places.device)[:, None]
    missing = places < 0

    def chosen(values: Tensor, portrait: Tensor | None = None) -> Tensor:
        values = values[rows, places.clamp(min=0)]
        if portrait is None:
            return values
        where = missing.reshape(*missing.shape, *(1,) * (values.ndim - 2))
        return torch.where(where, portrait, values)

    return replace(
        batch,
        video=chosen(batch.video, batch.source[:, None]),
        audio=chosen(batch.audio),
        pose=chosen(batch.pose, batch.source_pose[:, None]),
        eyes=chosen(batch.eyes, batch.source_eyes[:, None]),
        landmarks=chosen(batch.landmarks, batch.source_landmarks[:, None]),
        valid=chosen(batch.valid) & ~missing,
        frames=chosen(batch.frames).masked_fill(missing, SOURCE),
    )


def _span(window: Window) -> int:
    """Consecutive frames from the first to the last that a window holds."""
    members = [i for i in (*window.observe, *window.generate) if i != SOURCE]
    return max(members) - min(members) + 1


def _random(n: int) -> int:
    """From 0 to n - 1; torch's generator is what the trainer seeds."""
    return int(torch.randint(n, ()))


def _lengths(clip: Sequence[int] | None) -> tuple[int, int] | None:
    if clip is None:
        return None
    bounds = list(clip) if isinstance(clip, Sequence) else [clip, clip]
    if (
        len(bounds) != 2
        or any(type(n) is not int for n in bounds)
        or not 1 <= bounds[0] <= bounds[1]
    ):
        raise UserError(f"clip must be [least, most] frames or null, not {clip}.")
    return bounds[0], bounds[1]
