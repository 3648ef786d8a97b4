"""The runner: generates a video by any plan with any denoiser, streamed frame by frame.

The noise of a frame depends on the request, the space and the frame alone, and the noise of a
step on the window as well, so the same request gives the same video whatever the batching, the
number of devices and the order of clips.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thbench.core.seeding import noise_generator
from thbench.core.slices import iterate_slices
from thbench.core.types import Cost, Generation, Request, to_uint8
from thbench.generation import plans
from thbench.generation.plans import SOURCE, Round, Window, levels, steps_per_level, windows
from thbench.generation.strategy import Denoiser, GenerationPass, Strategy


def generate(strategy: Strategy, request: Request) -> Generation:
    """Start to make a video on the strategy's device. Work is done as ``chunks`` is consumed."""
    cost = Cost()
    clock = _Clock(cost, strategy.device)
    request = request.to(strategy.device)
    with clock, torch.inference_mode():
        conditions = strategy.encode(request)
    pose, eyes = strategy.motion(conditions)
    chunks = _chunks(strategy, request, conditions, clock)
    return Generation(request, chunks, cost, pose, eyes)


def _chunks(
    strategy: Strategy, request: Request, conditions: Any, clock: _Clock
) -> Iterator[Tensor]:
    """Decoded frames, ``strategy.decode_chunk`` at a time, in order."""
    stream = _decoded(strategy, request, conditions, clock.cost)
    while True:
        with clock:
            frames = next(stream, None)
        if frames is None:
            return
        clock.first_frame()
        yield frames


@torch.inference_mode()
def _decoded(strategy: Strategy, request: Request, conditions: Any, cost: Cost) -> Iterator[Tensor]:
    *before, last = strategy.passes(request)
    for current in (*before, last):
        if __debug__:
            plans.check(current.plan)
        cost.depth += plans.cost(current.plan, current.sampler.steps).depth
    for current in before:
        latents = torch.cat(
            [latent for _, latent in execute(current, strategy, conditions, request, cost)]
        )
        conditions = strategy.update_conditions(current, latents, conditions)
    for frames, latents in execute(last, strategy, conditions, request, cost):
        frames = frames[frames < request.n_frames]
        for part in iterate_slices(len(frames), strategy.decode_chunk):
            images = strategy.decode(latents[part], frames[part], conditions)
            yield to_uint8(images).cpu()


@torch.inference_mode()
def execute(
    current: GenerationPass,
    strategy: Strategy,
    conditions: Any,
    request: Request,
    cost: Cost,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Carry out a pass.

    Yields:
        (frames (n,), latents (n, C, ...)) of finished frames, in order, as soon as all frames
        before them are finished. A latent is forgotten once it is yielded and no later window
        observes it, so a sequential plan takes constant memory.
    """
    state = _State(current, strategy, conditions, request, cost)
    last_seen = {i: r for r, round_ in enumerate(current.plan) for w in round_ for i in w.observe}
    given = 0
    for r, round_ in enumerate(current.plan):
        for group in _groups(round_, strategy.frames_per_call):
            state.denoise(r, group)
        finished = []
        while given in state.clean:
            finished.append(given)
            given += 1
        if finished:
            frames = torch.tensor(finished, device=strategy.device)
            yield frames, torch.stack([state.clean[i] for i in finished])
        for i in [i for i in state.clean if i < given and last_seen.get(i, -1) <= r]:
            del state.clean[i]


@dataclass(frozen=True)
class _Place:
    """A window and where it stands in its round, which names its noise."""

    index: int
    window: Window


def _groups(round_: Round, frames_per_call: int | None) -> Iterator[Sequence[_Place]]:
    """Windows of a round that one network call can take together."""
    alike: dict[tuple, list[_Place]] = defaultdict(list)
    for index, window in enumerate(round_):
        key = (window.model, len(window.observe), len(window.generate), window.drop)
        alike[key].append(_Place(index, window))
    for places in alike.values():
        at_once = len(places)
        if frames_per_call:
            at_once = max(1, frames_per_call // len(places[0].window))
        for part in iterate_slices(len(places), at_once):
            yield places[part]


class _State:
    """Latents in play, and what it takes to move them down their noise levels."""

    def __init__(
        self,
        current: GenerationPass,
        strategy: Strategy,
        conditions: Any,
        request: Request,
        cost: Cost,
    ) -> None:
        self.current, self.conditions, self.request, self.cost = (
            current,
            conditions,
            request,
            cost,
        )
        self.strategy, self.device = strategy, strategy.device
        self.clean: dict[int, Tensor] = {}
        self.noisy: dict[int, Tensor] = {}
        self.grid = current.process.grid(current.sampler)
        self.high = levels(current.plan)
        self.per_level = steps_per_level(current.plan, current.sampler.steps)
        self.portrait: Tensor | None = None
        if any(SOURCE in window.observe for window in windows(current.plan)):
            self.portrait = strategy.source_latent(conditions)

    def denoise(self, r: int, places: Sequence[_Place]) -> None:
        """Take all frames of some windows, alike in shape, from ``enter`` to ``leave``."""
        process, sampler = self.current.process, self.current.sampler
        group = [place.window for place in places]
        denoiser = self.current.denoisers[group[0].model]
        shape = denoiser.latent_shape(self.conditions)
        frames = torch.tensor([[*w.observe, *w.generate] for w in group], device=self.device)
        seen = self._observed(group)
        noisy = self._gather(group, shape)
        sources = [noise_generator(self.request, self.current.space, r, p.index) for p in places]
        context = None
        if seen is not None:
            n_seen = seen.shape[2]
            context = denoiser.observe(seen, frames[:, :n_seen], self.conditions)
        entered = torch.tensor([w.enter for w in group])
        at = (self.high - entered) * self.per_level
        for k in range(group[0].drop * self.per_level):
            t, s = self.grid[at + k].to(self.device), self.grid[at + k + 1].to(self.device)
            prediction = self._predict(denoiser, seen, noisy, t, frames, context)
            noise = _draw(sources, noisy) if process.draws_noise(sampler) else None
            noisy = process.step(noisy, prediction, t, s, noise, sampler)
        self._scatter(group, noisy)

    def _predict(
        self,
        denoiser: Denoiser,
        seen: Tensor | None,
        noisy: Tensor,
        t: Tensor,
        frames: Tensor,
        context: Any,
    ) -> Tensor:
        self.cost.calls += denoiser.branches
        self.cost.evaluations += frames.numel() * denoiser.branches
        if seen is None:
            return denoiser.denoise(noisy, t, frames, self.conditions, context)
        n_seen = seen.shape[2]
        whole = torch.cat([seen, noisy], dim=2)
        t = torch.cat([t.new_zeros(len(t), n_seen), t], dim=1)
        return denoiser.denoise(whole, t, frames, self.conditions, context)[:, :, n_seen:]

    def _observed(self, group: Sequence[Window]) -> Tensor | None:
        if not group[0].observe:
            return None
        return torch.stack(
            [torch.stack([self._latent(i) for i in w.observe], dim=1) for w in group]
        )

    def _latent(self, i: int) -> Tensor:
        if i == SOURCE:
            assert self.portrait is not None
            return self.portrait
        return self.clean[i]

    def _gather(self, group: Sequence[Window], shape: tuple[int, ...]) -> Tensor:
        for window in group:
            for i, enter in zip(window.generate, window.enter, strict=True):
                if enter == self.high:
                    source = noise_generator(self.request, self.current.space, "frame", i)
                    self.noisy[i] = torch.randn(shape, generator=source).to(self.device)
        return torch.stack([torch.stack([self.noisy[i] for i in w.generate], dim=1) for w in group])

    def _scatter(self, group: Sequence[Window], noisy: Tensor) -> None:
        for b, window in enumerate(group):
            for j, (i, leave) in enumerate(zip(window.generate, window.leave, strict=True)):
                self.noisy[i] = noisy[b, :, j]
                if leave == 0:
                    self.clean[i] = self.noisy.pop(i)


def _draw(sources: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """Standard normal noise shaped as ``like``, each window from its own source."""
    return torch.stack([torch.randn(like.shape[1:], generator=source) for source in sources]).to(
        like.device
    )


class _Clock:
    """Adds the time spent inside it to ``cost.seconds``; the consumer's time does not count."""

    def __init__(self, cost: Cost, device: torch.device) -> None:
        self.cost = cost
        self.device = device
        self.started = 0.0

    def __enter__(self) -> None:
        self._wait()
        self.started = time.perf_counter()

    def __exit__(self, *raised: object) -> None:
        self._wait()
        self.cost.seconds += time.perf_counter() - self.started

    def first_frame(self) -> None:
        """Note the time at which the first frames were there."""
        self.cost.first_frame = self.cost.first_frame or self.cost.seconds

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
