"""Base classes of extractors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from metrics import weights
from metrics.frames import Frames, as_frames


class Extractor(ABC):
    """Turns a clip into a feature tensor.

    Attributes:
        name: of the feature, as metrics ask for it.
        version: raised whenever the same frames give other features than before.
        needs: other features that it reads beside the frames, such as ``landmarks``.
        domain: the only images for which its features mean something: ``synthetic``, or "" for any.
        digest: of the weight file in use, "" where there is none.

    Args:
        device: where it runs.
        batch_size: frames at a time.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ()
    domain: ClassVar[str] = ""
    digest: str = ""

    def __init__(self, device: torch.device | str = "cpu", batch_size: int = 32) -> None:
        self.device = torch.device(device)
        self.batch_size = batch_size

    @property
    def fingerprint(self) -> str:
        """Changes whenever the features might; names them in caches and results."""
        return "-".join(filter(None, (self.name, self._origin, str(self.version), self.digest)))

    @property
    def _origin(self) -> str:
        """The import path of another package's class, which may share a name with a third's."""
        kind = type(self)
        is_own = kind.__module__.partition(".")[0] == "metrics"
        return "" if is_own else f"{kind.__module__}:{kind.__qualname__}"

    def extract(self, frames: Frames | Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        """Features of a clip, batch by batch.

        Args:
            frames: (T, 3, H, W) uint8 RGB, read in parts; may be a tensor.
            given: the features that ``needs`` names, and maybe others.

        Returns:
            (T, d) float32 on the CPU. An extractor that reads several frames at a time overrides
            this, goes through ``as_frames(frames).split`` or ``.spans``, and may return another
            number of rows.
        """
        frames = as_frames(frames)
        with torch.inference_mode(), full_precision():
            parts = (self.forward(p.to(self.device)) for p in frames.split(self.batch_size))
            return gathered(parts, len(frames))

    @abstractmethod
    def forward(self, frames: Tensor) -> Tensor:
        """Features (n, d) of a batch of frames (n, 3, H, W) uint8 on ``device``."""


def gathered(parts: Iterable[Tensor], count: int) -> Tensor:
    """Parts (n, ...), concatenated to ``count`` rows, float32 on the CPU.

    Each part is copied at once into one allocation. Kept one by one, between the large tensors that
    are allocated and freed while they are computed, they would fragment memory by gigabytes.

    Raises:
        ValueError: there are not so many rows.
    """
    rows, at = torch.zeros(0), 0
    for part in parts:
        if not at:
            rows = torch.zeros((count, *part.shape[1:]))
        rows[at : at + len(part)] = part
        at += len(part)
    if at != count:
        raise ValueError(f"{at} rows were made, not {count}")
    return rows


class NetworkExtractor(Extractor):
    """An extractor with a weight file.

    Args:
        device: where it runs.
        batch_size: frames at a time.
        path: a file to use unchecked; by default what ``find`` finds.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        batch_size: int = 32,
        path: Path | None = None,
    ) -> None:
        super().__init__(device, batch_size)
        path = path or self.find()
        self.digest = weights.digest(path)
        self.load(path)

    @abstractmethod
    def find(self) -> Path:
        """The published file, its hash checked, or one that travels with the package."""

    @abstractmethod
    def load(self, path: Path) -> None:
        """Make the network with a file's weights."""


@contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products and convolutions without TF32, whatever ran in this process before.

    Training and generating allow it on GPUs; metric values must not depend on where they are
    measured.
    """
    matmul = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(
            enabled=torch.backends.cudnn.enabled, allow_tf32=False, deterministic=True
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
