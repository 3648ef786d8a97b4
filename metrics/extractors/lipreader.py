"""A lip reader of the user's own, since none may be redistributed."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from metrics.extractors.base import Extractor, full_precision
from metrics.frames import Frames, as_frames
from metrics.weights import WeightsMissing
from metrics.wer import encode

VARIABLE = "THBENCH_LIPREADER"


class Reader(Protocol):
    """What the named class must do.

    Attributes:
        version: names model and settings; another version makes features anew.
    """

    version: str

    def __call__(self, frames: Frames, landmarks: Tensor, valid: Tensor) -> str:
        """What is said on a clip.

        Args:
            frames: yields its frames in parts, (n, 3, H, W) uint8 RGB, T in all.
            landmarks: (T, 478, 3), as in ``metrics.base``.
            valid: (T,) bool, False where no face was found.
        """
        ...


class LipReader(Extractor):
    """The UTF-8 bytes (n, 1) uint8 of what a lip reader of the user's own reads.

    The environment variable ``THBENCH_LIPREADER`` names it as ``module:Class``; the class is built
    with the device as its only argument and does what ``Reader`` says.

    Raises:
        WeightsMissing: the variable is not set, or does not name such a class.
    """

    name = "lipreader"
    needs = ("landmarks", "valid")

    def __init__(self, device: torch.device | str = "cpu", batch_size: int = 32) -> None:
        super().__init__(device, batch_size)
        self._target = os.environ.get(VARIABLE, "")
        self.reader = _load(self._target, self.device)

    @property
    def fingerprint(self) -> str:
        return f"{super().fingerprint}-{self._target}-{self.reader.version}"

    def extract(self, frames: Frames | Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        """The text's bytes; see the class."""
        given = given or {}
        with torch.inference_mode(), full_precision():
            return encode(self.reader(as_frames(frames), given["landmarks"], given["valid"]))

    def forward(self, frames: Tensor) -> Tensor:
        """Not defined on single frames."""
        raise TypeError("a lip reader reads whole clips")


def _load(target: str, device: torch.device) -> Reader:
    if not target:
        raise WeightsMissing(
            f"no lip reader may be passed on: set {VARIABLE}=module:Class to one of your own"
            " (docs/metrics.md says what it must do)"
        )
    module, _, name = target.partition(":")
    try:
        reader: Reader = getattr(importlib.import_module(module), name)(device)
    except Exception as error:  # a module of the user's own can raise anything
        raise WeightsMissing(f"{VARIABLE}={target} cannot be loaded: {error}") from error
    if not hasattr(reader, "version") or not callable(reader):
        raise WeightsMissing(f"{VARIABLE}={target} has no 'version', or cannot be called")
    return reader
