"""What ``benchmarks.gpu`` measures: training steps, generation, ``torch.compile``."""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader

from benchmarks import untrained
from thbench import config
from thbench.config import Config, content_hash
from thbench.core import console
from thbench.core.files import write_atomic
from thbench.core.types import FPS, Cost, Request
from thbench.generation import plans
from thbench.generation.runner import generate
from thbench.generation.strategy import Strategy
from thbench.training import devices
from thbench.training.callbacks import Ema
from thbench.training.runs import order

WARM_UP, TIMED = 3, 10
"""Training steps that are not counted, and those that are, at most; in a dry run one of each."""


MIXED = "bf16-mixed"


@dataclass(frozen=True)
class Setup:
    """What is measured, and until when.

    Attributes:
        out: the folder of results.
        end: on ``time.time()``'s clock.
        dry: tiny networks on the CPU.
        strategies: their names.
    """

    out: Path
    end: float
    dry: bool
    strategies: tuple[str, ...]

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.dry else "cuda")

    @property
    def lengths(self) -> tuple[int, ...]:
        """Frames of the videos; those of DAWN's Table 2 and more."""
        return (3, 4, 5) if self.dry else (40, 200, 600)

    @property
    def warm_up(self) -> int:
        """Training steps that are not counted."""
        return 1 if self.dry else WARM_UP

    @property
    def steps(self) -> int:
        """Training steps in all."""
        return 2 if self.dry else WARM_UP + TIMED

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.time()

    def load(self, strategy: str) -> Config:
        """The strategy at the scale that is measured."""
        words = ["tracking.wandb=off", f"trainer.accelerator={'cpu' if self.dry else 'cuda'}"]
        if self.dry:
            words += ["scale=tiny", "trainer.threads=1"]
            return config.load(strategy, [*words, *_few_steps(strategy)])
        return config.load(strategy, ["scale=paper", *words])


@dataclass
class Results:
    """Rows of one part, on disk after each."""

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        write_atomic(self.path, json.dumps(self.rows, indent=1) + "\n")
        print(json.dumps(row), flush=True)


class OutOfTime(Exception):
    """The budget of a figure is spent."""


def training(setup: Setup, results: Results) -> None:
    """A few steps of every stage: samples and frames a second, and peak memory."""
    todo = [(name, stage) for name in setup.strategies for stage in order(setup.load(name))]
    done: dict[str, str] = {}
    with untrained.random_faces():
        for strategy in setup.strategies:
            loaded, nets = setup.load(strategy), Nets()
            for stage in order(loaded):
                todo.remove((strategy, stage))
                key = _identity(loaded, stage)
                row = {"strategy": strategy, "stage": stage}
                if key in done:
                    results.add(**row, same_as=done[key])
                    continue
                if not loaded.stages[stage].max_steps:
                    results.add(**row, skipped="has no steps to train")
                    continue
                if setup.left < 0:
                    results.add(**row, skipped="not reached")
                    continue
                done[key] = f"{strategy} {stage}"
                budget = setup.left / (1 + len(todo))
                results.add(**row, **_train(setup, loaded, stage, nets, budget))
            nets.clear()


def generation(setup: Setup, results: Results) -> None:
    """Videos of several lengths: time, time to the first frames, real-time factor, peak memory."""
    cells = len(setup.strategies) * len(setup.lengths)
    with untrained.random_faces():
        for name in setup.strategies:
            loaded = setup.load(name)
            made = untrained.strategy(loaded, setup.device) if setup.left > 0 else None
            for n in setup.lengths:
                row = {"strategy": name, "frames": n}
                if made is None or setup.left < 0:
                    results.add(**row, skipped="not reached")
                else:
                    if n == setup.lengths[0]:  # the first calls also choose algorithms
                        _generate(setup, made, loaded, min(n, 8), setup.left / cells / 2)
                    results.add(**row, **_generate(setup, made, loaded, n, setup.left / cells))
                cells -= 1
            made = None
            _clear()


def compiling(setup: Setup, results: Results) -> None:
    """``torch.compile`` against none: a training step of DAWN, and a call of its denoiser."""
    loaded = setup.load("dawn")
    nets = Nets()
    for compiled in (False, True):
        row = _train(setup, loaded, "a2v2", nets, setup.left / 3, compiled=compiled)
        results.add(what="training step (a2v2)", compiled=compiled, **row)
    for compiled in (False, True):
        row = {"what": f"denoiser call, {setup.lengths[1]} frames", "compiled": compiled}
        if compiled and setup.dry:
            results.add(**row, skipped="left out of dry runs, takes minutes on a CPU")
        else:
            results.add(**row, **_denoise(setup, loaded, compiled))


class Nets(dict[str, nn.Module]):
    """Networks of one strategy's stages, made when a stage first needs them."""

    def of(self, setup: Setup, loaded: Config, stage: str) -> Mapping[str, nn.Module]:
        """Those that ``stage`` needs."""
        for need in loaded.stages[stage].needs:
            if need not in self:
                given = self.of(setup, loaded, need)
                self[need] = untrained.untrained(loaded, need, given, setup.device).net
        return self


class Timer(Callback):
    """Ends training after enough steps or seconds, and keeps the time of each after warming up.

    Args:
        seconds: until when no further step begins.
        most: steps.
        device: whose work is waited for.
    """

    def __init__(self, seconds: float, most: int, device: torch.device) -> None:
        self.end, self.most, self.device = time.perf_counter() + seconds, most, device
        self.steps: list[float] = []
        self.first = 0.0
        self.began = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        _wait(self.device)
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        _wait(self.device)
        self.steps.append(time.perf_counter() - self.began)
        self.first = self.first or self.steps[0]
        late = time.perf_counter() > self.end
        trainer.should_stop = late or len(self.steps) >= self.most


def _train(
    setup: Setup, loaded: Config, name: str, nets: Nets, budget: float, *, compiled: bool = False
) -> dict[str, Any]:
    """Steps of one stage with the largest batch that fits, at most the configured one."""
    wanted = 2 if setup.dry else loaded.stages[name].batch_size
    size = wanted
    end = time.perf_counter() + budget
    while size:
        _clear()
        try:
            found = _steps(setup, loaded, name, nets, size, end - time.perf_counter(), compiled)
            return {"batch": size, "configured_batch": wanted, **found}
        except torch.OutOfMemoryError:
            size //= 2
    return {"skipped": "a batch of 1 does not fit"}


def _steps(
    setup: Setup,
    loaded: Config,
    name: str,
    nets: Nets,
    size: int,
    budget: float,
    compiled: bool,
) -> dict[str, Any]:
    settings = loaded.stages[name]
    given = nets.of(setup, loaded, name)
    stage = untrained.untrained(loaded, name, given, setup.device)
    if compiled:
        _compile(stage.net, setup)
    shown = untrained.batch(loaded, name, size)
    timer = Timer(budget, setup.steps, setup.device)
    _start_peak(setup.device)
    with console.quiet():
        trainer = devices.make_trainer(
            loaded.trainer,
            alternating=not stage.automatic_optimization,
            devices=1,
            precision=MIXED,
            max_epochs=1,
            gradient_clip_val=settings.clip or None if stage.automatic_optimization else None,
            callbacks=[timer, *([Ema(settings.ema)] if settings.ema else [])],
            logger=False,
            enable_checkpointing=False,
            default_root_dir=setup.out,
        )
        trainer.fit(stage, DataLoader(cast("Any", [shown] * setup.steps), batch_size=None))
    counted = timer.steps[setup.warm_up :] or timer.steps[-1:]
    seconds, frames = statistics.median(counted), shown.frames.shape[1]
    return {
        "frames": frames,
        "parameters": _parameters(stage),
        "step": seconds,
        "first_step": timer.first,
        "steps_timed": len(timer.steps[setup.warm_up :]),
        "samples_s": size / seconds,
        "frames_s": size * frames / seconds,
        "peak_gib": _peak(setup.device),
    }


def _generate(
    setup: Setup, made: Strategy, loaded: Config, n: int, budget: float
) -> dict[str, Any]:
    """One video; where the time does not suffice, its whole time by what was done of it."""
    _clear()
    _start_peak(setup.device)
    request = untrained.request(loaded, n)
    row: dict[str, Any] = {"steps": loaded.sampler.steps}
    with Budget(made, budget, setup.device) as held:
        try:
            generation = generate(made, request)
            held.cost = generation.cost
            for _ in generation.chunks:
                pass
            held.done = held.cost.evaluations
        except OutOfTime:
            pass
        except torch.OutOfMemoryError:
            return {**row, "skipped": "does not fit"}
    cost = held.cost
    share = held.done / planned(made, request)
    if not share:
        return {**row, "skipped": "not reached"}
    seconds = cost.seconds / share
    row |= {
        "seconds": seconds,
        "measured_share": round(share, 4),
        "first_frame": cost.first_frame or None,
        "real_time": n / FPS / seconds,
        "peak_gib": _peak(setup.device),
    }
    return row


def planned(made: Strategy, request: Request) -> int:
    """Frames that all network calls of a generation will be shown, as ``Cost`` counts them."""
    return sum(
        plans.cost(sweep.plan, sweep.sampler.steps).evaluations
        * next(iter(sweep.denoisers.values())).branches
        for sweep in made.passes(request)
    )


def _denoise(setup: Setup, loaded: Config, compiled: bool) -> dict[str, Any]:
    """Median time of the denoiser's calls in one video, which are all alike."""
    made = untrained.strategy(loaded, setup.device)
    if compiled:
        _compile(made.nets["a2v"], setup)
    times: list[float] = []
    began = [0.0]

    def before(*_: Any) -> None:
        _wait(setup.device)
        began[0] = time.perf_counter()

    def after(*_: Any) -> None:
        _wait(setup.device)
        times.append(time.perf_counter() - began[0])

    made.nets["a2v"].register_forward_pre_hook(before)
    made.nets["a2v"].register_forward_hook(after)
    _start_peak(setup.device)
    for _ in generate(made, untrained.request(loaded, setup.lengths[1])).chunks:
        pass
    peak = _peak(setup.device)
    return {"call": statistics.median(times[1:]), "first_call": times[0], "peak_gib": peak}


def _compile(net: nn.Module, setup: Setup) -> None:
    """As ``training.fit`` does; a dry run traces, and leaves out writing code for the CPU."""
    for part in net.children():
        part.compile(backend="eager" if setup.dry else "inductor")


class Budget:
    """Stops a generation when its time is spent, and knows how far it came.

    Args:
        made: its networks are looked at before each call.
        seconds: after which a call raises ``OutOfTime``.
        device: whose work is waited for.

    Attributes:
        cost: of the generation, once it has begun.
        done: frames shown to networks in calls that have ended.
    """

    def __init__(self, made: Strategy, seconds: float, device: torch.device) -> None:
        self.made, self.device = made, device
        self.end = time.perf_counter() + seconds
        self.cost = Cost()
        self.done = 0

    def __enter__(self) -> Budget:
        self.hooks = [net.register_forward_pre_hook(self._check) for net in self.made.nets.values()]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _check(self, *_: Any) -> None:
        _wait(self.device)
        if time.perf_counter() > self.end:
            raise OutOfTime
        self.done = (
            self.cost.evaluations
        )  # the call that begins is in it, and ends before the next check


def _identity(loaded: Config, name: str) -> str:
    """Equal for stages that do the same work, whatever strategy names them."""
    settings = asdict(loaded.stages[name])
    for key in ("max_steps", "init_from", "optim"):
        del settings[key]
    needs = [_identity(loaded, need) for need in loaded.stages[name].needs]
    return content_hash([settings, needs, loaded.size, loaded.data.audio])


def _few_steps(strategy: str) -> list[str]:
    """Sampler steps of a dry run: a multiple of the plan's noise levels."""
    tiny = config.load(strategy, ["scale=tiny"])
    return [f"sampler.steps={plans.levels(plans.build(n=2, **tiny.plan)) * 2}"]


def _parameters(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _start_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> float | None:
    """GiB that tensors took at most; None on the CPU, where nobody counts them."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def _clear() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
