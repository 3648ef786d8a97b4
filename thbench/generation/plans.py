"""Generation strategies as data: which frames are generated together, observing which others.

A plan is a tuple of rounds, a round a tuple of windows. Windows of a round do not depend on each
other. The idea of listing (frames to generate, frames observed) is Harvey et al. (2022),
"Flexible Diffusion Modeling of Long Videos"; a noise level for each frame is Chen et al. (2024),
"Diffusion Forcing". Everything here is pure and needs no torch.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from thbench.core.errors import UserError, did_you_mean

SOURCE = -1
"""Stands for the portrait among observed frames."""


@dataclass(frozen=True, slots=True)
class Window:
    """Frames denoised together.

    Attributes:
        generate: indices of the frames, ascending.
        observe: clean frames it sees, finished indices or ``SOURCE``; repeats allowed.
        enter, leave: noise level of each generated frame before and after, from L (pure noise) to
            0 (clean). All frames of a window fall by the same number of levels.
        model: which denoiser.
    """

    generate: tuple[int, ...]
    observe: tuple[int, ...]
    enter: tuple[int, ...]
    leave: tuple[int, ...]
    model: str = "main"

    @property
    def drop(self) -> int:
        """How many levels the frames of this window fall."""
        return self.enter[0] - self.leave[0]

    def __len__(self) -> int:
        """Frames shown to the network: observed and generated."""
        return len(self.observe) + len(self.generate)


Round = tuple[Window, ...]
Plan = tuple[Round, ...]


@dataclass(frozen=True)
class PlanCost:
    """What a plan costs at a given number of sampler steps, before any clock is read.

    Attributes:
        depth: network calls that must happen one after another.
        evaluations: frames shown to a network, summed over all windows and steps.
        window: frames in the largest window.
    """

    depth: int
    evaluations: int
    window: int


def _whole(generate: range, observe: tuple[int, ...] = (), model: str = "main") -> Window:
    """A window that takes its frames from pure noise to clean in one go (L = 1)."""
    n = len(generate)
    return Window(tuple(generate), observe, (1,) * n, (0,) * n, model)


def nar(n: int) -> Plan:
    """All frames at once (DAWN)."""
    _need(n=n)
    return ((_whole(range(n)),),)


def frames(n: int) -> Plan:
    """``n`` independent frames in one round (FD2Talk's frame pass)."""
    _need(n=n)
    return (tuple(_whole(range(i, i + 1)) for i in range(n)),)


def ar(n: int, motion: int = 2, stabilize: int = 0) -> Plan:
    """One frame after another, each observing the ``motion`` before it (Diffused Heads).

    Motion frames that do not exist yet are the portrait. With ``stabilize=k``, in every k-th frame
    the oldest motion frame is the portrait.
    """
    _need(n=n, motion=motion, stabilize=stabilize, zero=("motion", "stabilize"))

    def observed(i: int) -> tuple[int, ...]:
        before = [max(j, SOURCE) for j in range(i - motion, i)]
        if stabilize and motion and i and i % stabilize == 0:
            before[0] = SOURCE
        return tuple(before)

    return tuple((_whole(range(i, i + 1), observed(i)),) for i in range(n))


def sar(n: int, segment: int = 40, overlap: int = 10) -> Plan:
    """Segments in sequence, each observing the last ``overlap`` frames before it (GAIA, VASA).

    ``segment`` counts generated frames; the first segment observes nothing.
    """
    _need(n=n, segment=segment, overlap=overlap, zero=("overlap",))
    return tuple(
        (_whole(range(a, min(a + segment, n)), tuple(range(max(0, a - overlap), a))),)
        for a in range(0, n, segment)
    )


def ttr(n: int, stride: int = 8, single_model: bool = False) -> Plan:
    """Two temporal resolutions: key frames first, then all gaps at once (Harvey et al. 2022).

    The last frame is always a key, so that each gap lies between two. A plan without gaps
    (``stride=1`` or ``n <= 2``) has one round.
    """
    _need(n=n, stride=stride)
    keys = sorted({*range(0, n, stride), n - 1})
    names = ("main", "main") if single_model else ("keys", "gaps")
    first = Window(tuple(keys), (), (1,) * len(keys), (0,) * len(keys), names[0])
    gaps = tuple(
        _whole(range(a + 1, b), (a, b), names[1]) for a, b in itertools.pairwise(keys) if b > a + 1
    )
    return ((first,), gaps) if gaps else ((first,),)


def rolling(n: int, window: int = 16, context: int = 4) -> Plan:
    """A sliding window whose frames stand at staggered levels, one leaving clean per round.

    Takes ``n + window - 1`` rounds. Each window observes up to ``context`` finished frames
    (Diffusion Forcing, 2024; AvatarForcing, 2026).
    """
    _need(n=n, window=window, context=context, zero=("context",))

    def at(r: int) -> Window:
        first, last = max(0, r - window + 1), min(n, r + 1)
        enter = tuple(window - (r - i) for i in range(first, last))
        seen = tuple(range(max(0, first - context), first))
        return Window(tuple(range(first, last)), seen, enter, tuple(e - 1 for e in enter))

    return tuple((at(r),) for r in range(n + window - 1))


BUILDERS: Mapping[str, Callable[..., Plan]] = {
    "nar": nar,
    "ar": ar,
    "sar": sar,
    "ttr": ttr,
    "rolling": rolling,
    "frames": frames,
}


def build(name: str, n: int, **options: Any) -> Plan:
    """The plan ``name`` for ``n`` frames; ``options`` are the builder's own.

    Raises:
        UserError: no such plan or option, or an option out of range.
    """
    if name not in BUILDERS:
        raise UserError(f"No plan '{name}'.{did_you_mean(name, BUILDERS)}")
    builder = BUILDERS[name]
    known = options_of(name)
    for option in options:
        if option not in known:
            hint = did_you_mean(option, ["name", *known])
            raise UserError(f"Plan '{name}' has no option '{option}'.{hint}")
    return builder(n, **options)


def check_options(plan: Any, where: str) -> None:
    """Check ``{name: NAME, option: value}`` before its length is known.

    Args:
        plan: as a configuration has it.
        where: its place there, for messages.

    Raises:
        UserError: no such plan or option, or an option out of range.
    """
    known = {"name", *(option for name in BUILDERS for option in options_of(name))}
    for key in plan if isinstance(plan, Mapping) else ():
        if key not in known:
            raise UserError(f"There is no key '{where}.{key}'.{did_you_mean(str(key), known)}")
    if not isinstance(plan, Mapping) or "name" not in plan:
        raise UserError(f"{where} is written {{name: NAME, option: value}}, not {plan}.")
    try:
        build(n=1, **plan)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def options_of(name: str) -> list[str]:
    """The options that the builder ``name`` takes beside the length."""
    return list(inspect.signature(BUILDERS[name]).parameters)[1:]


def filled(plan: Mapping[str, Any]) -> dict[str, Any]:
    """``{"name": ..., options}`` with the defaults of the options that it leaves out."""
    parameters = list(inspect.signature(BUILDERS[plan["name"]]).parameters.values())[1:]
    return {"name": plan["name"], **{p.name: plan.get(p.name, p.default) for p in parameters}}


def describe(plan: Mapping[str, Any]) -> str:
    """A plan by name and options, for people: ``sar (segment 40, overlap 10)``."""
    options = ", ".join(f"{k} {v}" for k, v in filled(plan).items() if k != "name")
    return f"{plan['name']} ({options})" if options else str(plan["name"])


def windows(plan: Plan) -> Iterator[Window]:
    """All windows, in order."""
    for round_ in plan:
        yield from round_


def levels(plan: Plan) -> int:
    """L, the level of pure noise; the sampler's step count must be a multiple of it."""
    return max(max(window.enter) for window in windows(plan))


def n_frames(plan: Plan) -> int:
    """The length of the clip that the plan makes."""
    return 1 + max(window.generate[-1] for window in windows(plan))


def models(plan: Plan) -> tuple[str, ...]:
    """The denoisers that the plan asks for, in order of first use."""
    return tuple(dict.fromkeys(window.model for window in windows(plan)))


def cost(plan: Plan, steps: int) -> PlanCost:
    """What the plan costs with ``steps`` sampler steps from pure noise to clean."""
    per_level = steps_per_level(plan, steps)
    return PlanCost(
        depth=per_level * sum(max(w.drop for w in round_) for round_ in plan),
        evaluations=per_level * sum(w.drop * len(w) for w in windows(plan)),
        window=max(len(w) for w in windows(plan)),
    )


def steps_per_level(plan: Plan, steps: int) -> int:
    """Sampler steps that take a frame down one level.

    Raises:
        UserError: ``steps`` is not a multiple of the plan's levels.
    """
    high = levels(plan)
    if steps < 1 or steps % high:
        below = max(high, steps - steps % high)
        raise UserError(
            f"sampler.steps={steps} is not a multiple of the plan's {high} noise levels:"
            f" take sampler.steps={below}, or another window."
        )
    return steps // high


def check(plan: Plan) -> None:
    """See that a plan can be executed; the runner does so, unless Python runs with ``-O``.

    The levels of each frame fall from L to 0 without gap or overlap; only the portrait and frames
    that an earlier round finished are observed; windows of a round share no frame.

    Raises:
        ValueError: naming the round and the frame.
    """
    high = levels(plan)
    level = dict.fromkeys(range(n_frames(plan)), high)
    for r, round_ in enumerate(plan):
        done: dict[int, int] = {}
        for window in round_:
            _check_window(window, level, r)
            for i, enter, leave in zip(window.generate, window.enter, window.leave, strict=True):
                if i in done:
                    raise ValueError(f"round {r}: frame {i} is made by two windows")
                if level[i] != enter or not 0 <= leave < enter:
                    raise ValueError(f"round {r}: frame {i} at {level[i]} goes {enter}->{leave}")
                done[i] = leave
        level.update(done)
    for i, left in level.items():
        if left:
            raise ValueError(f"frame {i} ends at level {left}")


def _check_window(window: Window, level: Mapping[int, int], r: int) -> None:
    if not window.generate or list(window.generate) != sorted(set(window.generate)):
        raise ValueError(f"round {r}: generated frames must ascend, and there must be one")
    if {a - b for a, b in zip(window.enter, window.leave, strict=True)} != {window.drop}:
        raise ValueError(f"round {r}: frames of a window must fall by the same number of levels")
    for j in window.observe:
        if j != SOURCE and level.get(j) != 0:
            raise ValueError(f"round {r}: frame {j} is observed before it is finished")


def _need(*, zero: tuple[str, ...] = (), **values: int) -> None:
    """Whole numbers, at least 1, or 0 for those named in ``zero``."""
    for name, value in values.items():
        least = 0 if name in zero else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"plan.{name} must be a whole number of at least {least}, not {value}.")
