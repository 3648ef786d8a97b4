"""What a frozen network makes of each frame of a data set, kept on disk.

A stage that builds on a frozen network asks it about the same frames again and again. Where nothing
random comes before it (no colour jitter, a fixed portrait for each clip), the answer is always the
same, and is kept in ``<cache>/<kind>-<size>-<weights>-<data>.npy``, float32, one row for each frame
of a split. The name holds hashes of the network's weights and of the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from thbench.config import DrawConfig
from thbench.core.errors import UserError
from thbench.core.tensors import tensors_digest
from thbench.core.types import Batch
from thbench.data.store import Store, build_once, progress

CHUNK = 64
"""Frames that the network sees at once."""
WITHOUT = "set the stage's model.cache=false to ask the network each time"
"""What to do where there is no room."""


def weights_hash(net: nn.Module, length: int = 12) -> str:
    """Hex digits that change with any weight or buffer of a network."""
    return tensors_digest(net.state_dict())[:length]


@dataclass(frozen=True)
class FrozenRows:
    """What a frozen network makes of a frame.

    Attributes:
        kind: begins the files' names, such as ``flow``; one result for each network and kind.
        net: the network.
        shape: of a frame's row.
        compute: from a clip's portrait, uint8 (1, 3, H, W), and frames of it, uint8 (n, 3, H, W),
            to rows (n, *shape).
        follows_portrait: rows depend on the portrait, so it must always be the same one.
    """

    kind: str
    net: nn.Module
    shape: Sequence[int]
    compute: Callable[[Tensor, Tensor], Tensor]
    follows_portrait: bool = False

    def check_draw(self, draw: DrawConfig) -> None:
        """Raise a UserError if a stage would not always see the same frames and portraits."""
        if any(draw.jitter) or (self.follows_portrait and draw.source != "opening"):
            fixed = "draw.source=opening and " if self.follows_portrait else ""
            raise UserError(
                f"model.cache keeps a {self.kind} for each frame, which must always be the same: it"
                f" needs {fixed}draw.jitter=[0,0,0,0]."
            )

    @property
    def bytes(self) -> int:
        """Of a row on the disk."""
        return 4 * math.prod(self.shape)


class FrozenCache:
    """Rows of a frozen network for the frames of several splits; built where they are missing.

    One process of a machine builds a split's file, the others wait for it.

    Args:
        stores: the splits, prepared.
        what: is kept.
    """

    def __init__(self, stores: Iterable[Store], what: FrozenRows) -> None:
        name = f"{what.kind}-{weights_hash(what.net)}"
        self._rows: dict[str, tuple[np.ndarray, int]] = {}
        """By a clip's id: the rows of all clips of its split, and the first one of the clip."""
        for store in stores:
            if not store.clips:
                continue
            path = store.cache_path(f"{name}-{store.size}")
            shape = (int(store.offsets[-1]), *what.shape)
            build_once(path, shape, np.float32, _filler(store, what), without=WITHOUT)
            rows = np.load(path, mmap_mode="r")
            for clip, first in zip(store.clips, store.offsets, strict=False):
                self._rows[clip.id] = rows, int(first)

    def of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows of a batch's portraits (B, *shape) and frames (B, T, *shape), on its device.

        A portrait among the frames (a negative index) has its own row.
        """
        frames = torch.where(batch.frames < 0, batch.source_frame[:, None], batch.frames)
        asked = torch.cat([batch.source_frame[:, None], frames], dim=1)
        rows = self.rows(batch.ids, asked).to(batch.frames.device)
        return rows[:, 0], rows[:, 1:]

    def rows(self, ids: Sequence[str], frames: Tensor) -> Tensor:
        """(B, T, *shape) of frames (B, T), true indices, of the clips named ``ids``; on the CPU."""
        found = []
        for clip, indices in zip(ids, frames.cpu().numpy(), strict=True):
            rows, first = self._rows[clip]
            found.append(torch.from_numpy(np.asarray(rows[first + indices])))
        return torch.stack(found)


def _filler(store: Store, what: FrozenRows) -> Callable[[np.ndarray], None]:
    @torch.no_grad()
    def fill(out: np.ndarray) -> None:
        for i, clip in enumerate(progress(store.clips, f"{what.kind}, {store.split}")):
            portrait = store.frames(i, np.array([store.portrait(i)]))
            for start in range(0, clip.n_frames, CHUNK):
                indices = np.arange(start, min(start + CHUNK, clip.n_frames))
                made = what.compute(portrait, store.frames(i, indices))
                at = int(store.offsets[i]) + start
                out[at : at + len(indices)] = made.float().cpu().numpy()

    return fill
