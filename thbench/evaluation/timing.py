"""How long a strategy takes and how much memory, measured as a protocol says.

A short pass of its own, after the split's videos are there: the first clips are made again, alone
on one device, each first to warm up and then several times. What counts is what ``contracts.Cost``
counts: from the portrait and the encoded sound to the last decoded frame. Encoding the sound and
writing the file do not.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median

import torch
from torch import Tensor
from tqdm import tqdm

from thbench.config import TrainerConfig, content_hash
from thbench.core.files import write_atomic
from thbench.core.hardware import hardware
from thbench.core.types import SAMPLES_PER_FRAME, Cost, Request
from thbench.evaluation.protocol import Timing
from thbench.evaluation.results import TimingSummary
from thbench.generation.execution import on_one_device
from thbench.generation.requests import SplitRequests
from thbench.generation.runner import generate
from thbench.generation.strategy import Strategy

CUDA = "CUDA memory allocated at most, weights included"
RISE = "rise of the process's resident memory, weights not included"


def timed(
    strategy: Strategy,
    requests: SplitRequests,
    rule: Timing,
    trainer: TrainerConfig,
    *,
    device: str,
    run: str,
    folder: Path,
) -> TimingSummary:
    """Measure, or read what was measured before of the same run on the same hardware.

    Args:
        strategy: ready to generate.
        requests: those of the protocol; the first clips with the first seed are taken.
        rule: the protocol's.
        trainer: threads and which device.
        device: ``cpu`` or ``cuda``.
        run: names what determines the videos.
        folder: where the figures are kept, ``timing-<hash>.json``.
    """
    with on_one_device(strategy, device, trainer) as place:
        how = [run, asdict(rule), hardware(place), trainer.frames_per_call]
        key = content_hash(how, 8)
        path = folder / f"timing-{key}.json"
        found = _read(path)
        if found is None:
            found = _measure(strategy, requests, rule, place, trainer.progress)
            write_atomic(path, json.dumps(asdict(found)) + "\n")
    return found


def extended(request: Request, n: int | None) -> Request:
    """The request with the sound, and the motion to follow, of ``n`` frames; None: as it is.

    What is longer is cut; what is shorter is repeated from its start.
    """
    if n is None:
        return request
    return replace(
        request,
        audio=_fit(request.audio, n),
        waveform=_fit(request.waveform, n * SAMPLES_PER_FRAME),
        pose=None if request.pose is None else _fit(request.pose, n),
        eyes=None if request.eyes is None else _fit(request.eyes, n),
    )


def _fit(values: Tensor, n: int) -> Tensor:
    return values.repeat(-(-n // len(values)), *[1] * (values.ndim - 1))[:n]


def _measure(
    strategy: Strategy,
    requests: SplitRequests,
    rule: Timing,
    device: torch.device,
    progress: bool,
) -> TimingSummary:
    asked = [extended(requests[i], rule.frames) for i in range(min(rule.clips, len(requests)))]
    costs = []
    runs = [(request, k) for request in asked for k in range(rule.warmup + rule.repeats)]
    with _peak(device) as memory:
        for request, k in tqdm(runs, "time", unit="run", disable=None if progress else True):
            cost = _run(strategy, request)
            costs += [cost] if k >= rule.warmup else []
    peak, kind = memory.read()
    return TimingSummary(
        seconds=median(cost.seconds for cost in costs),
        first_frame=median(cost.first_frame for cost in costs),
        frames=fmean(request.n_frames for request in asked),
        hardware=hardware(device),
        clips=len(asked),
        warmup=rule.warmup,
        repeats=rule.repeats,
        memory=peak,
        memory_is=kind,
    )


def _run(strategy: Strategy, request: Request) -> Cost:
    generation = generate(strategy, request)
    for _ in generation.chunks:
        pass
    return generation.cost


@dataclass
class _Peak:
    """The most memory in use since ``before`` bytes were."""

    device: torch.device
    before: int | None = None

    def read(self) -> tuple[int | None, str]:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device), CUDA
        if self.before is None:
            return None, ""
        return max(0, _resident("VmHWM") - self.before), RISE


@contextlib.contextmanager
def _peak(device: torch.device) -> Iterator[_Peak]:
    """Forget what was used before. Where the kernel cannot forget, there is no figure."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield _Peak(device)
        return
    # Memory that was freed but kept by the allocator would hide a rise.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    before = None
    with contextlib.suppress(OSError, ValueError):
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
    yield _Peak(device, before)


def _resident(key: str) -> int:
    """Bytes of a line of the process's status: ``VmRSS`` now, ``VmHWM`` at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"no {key} in the process's status")


def _read(path: Path) -> TimingSummary | None:
    """None where there is no such file, or a damaged one, which is then made anew."""
    try:
        return TimingSummary(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
