"""How Hallo's networks are trained in 14 GiB: what need not be in memory lies in files.

Nothing is computed otherwise: what the backward pass needs is written and read again, and frozen
weights are those of the checkpoint's file, which the system reads where they are used.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from thbench.training import fit

LEAST = 2**20
"""Bytes of a tensor that is worth a file."""


@contextlib.contextmanager
def in_files(folder: Path) -> Iterator[None]:
    """Within, tensors that wait for a backward pass, and loaded weights, lie in files."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = itertools.count()

    def pack(tensor: Tensor) -> Any:
        kept = isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)
        if kept or tensor.nbytes < LEAST:
            return tensor
        path = folder / f"{next(numbers)}.bin"
        flat = tensor.detach().contiguous().flatten()
        flat.view(torch.uint8).numpy().tofile(path)
        return path, tensor.dtype, tensor.shape

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        path, dtype, shape = packed
        found = torch.from_file(str(path), shared=False, size=shape.numel(), dtype=dtype)
        path.unlink()  # what is mapped stays readable
        return found.reshape(shape)

    def fill(net: nn.Module, checkpoint: Mapping[str, Any], what: str) -> None:
        state = checkpoint["state_dict"]
        own = {k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")}
        net.load_state_dict(own, assign=True)

    try:
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, unpack)
        with hooks, mock.patch.object(fit, "fill", fill):
            yield
    finally:
        shutil.rmtree(folder)


class Peak:
    """The most memory that this process has had for itself, in GiB, looked at ten times a second.

    Mapped files do not count: the system can drop them and read them again.
    """

    def __init__(self) -> None:
        self.gib = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.gib = max(self.gib, own_gib())
            time.sleep(0.1)


def own_gib() -> float:
    """Memory of this process that is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
    return kib / 2**20
