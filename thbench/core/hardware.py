"""Readable names of devices."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def hardware(device: torch.device | str = "cpu") -> str:
    """The name of a GPU, or of the CPU with its threads and cores."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {torch.get_num_threads()} of {os.cpu_count()} cores"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
