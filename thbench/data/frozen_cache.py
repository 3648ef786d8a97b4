"""What a frozen network makes of each frame of a data set, kept on disk.

A stage that builds on a frozen network asks it about the same frames again and again. Where nothing
random comes before it (no colour jitter, a fixed portrait for each clip), the answer is always the
same, and is kept in ``<cache>/<kind>-<size>-<weights>-<data>.npy``, float32, one row for each frame
of a split. The name holds hashes of the network's weights and of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from thbench.core.tensors import tensors_digest
from thbench.data.store import Store, build_once, progress

CHUNK = 64
"""Frames that the network sees at once."""


def weights_hash(net: nn.Module, length: int = 12) -> str:
    """Hex digits that change with any weight or buffer of a network."""
    return tensors_digest(net.state_dict())[:length]


class FrozenCache:
    """Rows of a frozen network for the frames of several splits; built where they are missing.

    One process of a machine builds a split's file, the others wait for it.

    Args:
        stores: the splits, prepared.
        name: begins the files' names, such as ``flow``; add what the network's weights do not say.
        shape: of one row.
        compute: from a clip's portrait, uint8 (1, 3, H, W), and frames of it, uint8 (n, 3, H, W),
            to rows (n, *shape).
    """

    def __init__(
        self,
        stores: Iterable[Store],
        name: str,
        shape: Sequence[int],
        compute: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self.compute = compute
        self._rows: dict[str, tuple[np.ndarray, int]] = {}
        """By a clip's id: the rows of all clips of its split, and the first one of the clip."""
        for store in stores:
            if not store.clips:
                continue
            path = store.cache_path(f"{name}-{store.size}")
            build_once(
                path, (int(store.offsets[-1]), *shape), np.float32, self._filler(store, name)
            )
            rows = np.load(path, mmap_mode="r")
            for clip, first in zip(store.clips, store.offsets, strict=False):
                self._rows[clip.id] = rows, int(first)

    def rows(self, ids: Sequence[str], frames: Tensor) -> Tensor:
        """(B, T, *shape) of frames (B, T), true indices, of the clips named ``ids``; on the CPU."""
        found = []
        for clip, indices in zip(ids, frames.cpu().numpy(), strict=True):
            rows, first = self._rows[clip]
            found.append(torch.from_numpy(np.asarray(rows[first + indices])))
        return torch.stack(found)

    def _filler(self, store: Store, name: str) -> Callable[[np.ndarray], None]:
        @torch.no_grad()
        def fill(out: np.ndarray) -> None:
            title = f"{name.split('-')[0]}, {store.split}"
            for i, clip in enumerate(progress(store.clips, title)):
                portrait = store.frames(i, np.array([store.portrait(i)]))
                for start in range(0, clip.n_frames, CHUNK):
                    indices = np.arange(start, min(start + CHUNK, clip.n_frames))
                    made = self.compute(portrait, store.frames(i, indices))
                    at = int(store.offsets[i]) + start
                    out[at : at + len(indices)] = made.float().cpu().numpy()

        return fill
