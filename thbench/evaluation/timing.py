"""Time and memory of generation, measured as a protocol says.

This is a short pass of its own after the split's videos have been generated. The first clips are
generated again, one at a time on one device, each first to warm up and then several times. As in
``core.types.Cost``, a run lasts from the portrait and the encoded audio to the last decoded frame:
encoding the audio and writing the file do not count.
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


def time_generation(
    strategy: Strategy,
    requests: SplitRequests,
    how: Timing,
    trainer: TrainerConfig,
    *,
    device: str,
    run: str,
    folder: Path,
) -> TimingSummary:
    """Measure time and memory, or read what was measured before on the same hardware.

    Args:
        strategy: ready to generate.
        requests: those of the protocol; the first clips with the first seed are taken.
        how: the protocol's ``timing``.
        trainer: threads and which device.
        device: ``cpu`` or ``cuda``.
        run: the hash of what determines the videos.
        folder: where the summary is kept, as ``timing-<hash>.json``.
    """
    with on_one_device(strategy, device, trainer) as place:
        determined_by = [run, asdict(how), hardware(place), trainer.frames_per_call]
        path = folder / f"timing-{content_hash(determined_by, 8)}.json"
        found = _read(path)
        if found is None:
            found = _measure(strategy, requests, how, place, trainer.progress)
            write_atomic(path, json.dumps(asdict(found)) + "\n")
    return found


def extended(request: Request, n: int | None) -> Request:
    """The request with audio, and motion to follow, of ``n`` frames.

    Args:
        request: what is longer in it is cut; what is shorter is repeated from its start.
        n: frames, or None to leave the request as it is.
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
    how: Timing,
    device: torch.device,
    progress: bool,
) -> TimingSummary:
    taken = [extended(requests[i], how.frames) for i in range(min(how.clips, len(requests)))]
    costs = []
    runs = [(request, k) for request in taken for k in range(how.warmup + how.repeats)]
    with _peak(device) as memory:
        for request, k in tqdm(runs, "time", unit="run", disable=None if progress else True):
            cost = _run(strategy, request)
            costs += [cost] if k >= how.warmup else []
    peak, kind = memory.read()
    return TimingSummary(
        seconds=median(cost.seconds for cost in costs),
        first_frame=median(cost.first_frame for cost in costs),
        frames=fmean(request.n_frames for request in taken),
        hardware=hardware(device),
        clips=len(taken),
        warmup=how.warmup,
        repeats=how.repeats,
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
    """The peak of memory since the process had ``before`` resident bytes."""

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
    """Reset the peak. Where the kernel cannot reset it, ``before`` is None and nothing is read."""
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
    """Bytes of resident memory: ``VmRSS`` now, ``VmHWM`` the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"no {key} in the process's status")


def _read(path: Path) -> TimingSummary | None:
    """None where there is no such file, or a damaged one, which is then written anew."""
    try:
        return TimingSummary(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
