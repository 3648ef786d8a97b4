"""Memory and time of the stages on this device."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial

import torch

from thbench.preflight.context import Preflight
from thbench.preflight.estimate import EFFICIENCY, known_rate
from thbench.preflight.report import ERROR, OK, WARNING, StageReport, size_text


def check_cost(run: Preflight, found: StageReport) -> None:
    """Estimate a stage's time, into ``found.seconds``, and compare its memory with the device's."""
    need, settings = found.need, run.config.stages[found.name]
    if need is None or not settings.max_steps:
        return
    if need.flops is None:
        run.add(OK, found.name, f"memory and time are not known: {need.why_not}")
    else:
        precision = settings.precision or run.config.trainer.precision
        speed = EFFICIENCY * _rate(run, precision)
        step = need.flops * run.config.trainer.accumulate / speed
        found.seconds = step * settings.max_steps
    there = memory_of(run.torch_device)
    where = "this GPU" if run.torch_device.type == "cuda" else "this machine"
    least = replace(need, peak=None).memory
    if least > there:
        run.add(
            ERROR,
            found.name,
            f"weights, gradients and moments alone take {size_text(least)}, {where} has"
            f" {size_text(there)}: take another device, or smaller networks.",
            local=True,
        )
    elif need.memory > there:
        run.add(
            WARNING,
            found.name,
            f"takes about {size_text(need.memory)}, {where} has {size_text(there)}: set"
            " trainer.accumulate, which leaves the result as it is.",
            local=True,
        )


def report_device(run: Preflight) -> None:
    """Say what speed the times assume, and on how many devices."""
    rates = sorted({_rate(run, precision) for precision in _precisions(run)})
    if not rates:
        return
    kind = torch.cuda.get_device_name() if run.torch_device.type == "cuda" else "CPU"
    threads = run.config.trainer.threads or torch.get_num_threads()
    kind = f"{kind}, {threads} thread(s)" if kind == "CPU" else kind
    text = " and ".join(f"{rate / 1e12:.2g}" for rate in rates)
    run.add(
        OK,
        "device",
        f"times assume {EFFICIENCY:.0%} of a matrix product's {text} TFLOP/s, "
        + ("as given" if run.rate else f"measured now on {kind}")
        + f"; {run.world} device(s); memory and times are estimates",
        local=True,
    )


def _rate(run: Preflight, precision: str) -> float:
    """FLOP/s of a large matrix product."""
    return (run.rate or partial(known_rate, run.torch_device.type))(precision)


def _precisions(run: Preflight) -> set[str]:
    left = [found.name for found in run.report.stages if found.seconds is not None]
    default = run.config.trainer.precision
    return {run.config.stages[name].precision or default for name in left}


def memory_of(device: torch.device) -> int:
    """Bytes of a device's memory; on a CPU, of the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
