"""A clip's frames, read in parts: all of them at once may be more than memory holds.

Four minutes at 512 pixels are 6,000 frames: 4.7 GB as bytes, 19 GB as floats. So nothing here, or
that reads frames through it, ever holds more than a part of a clip.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import NoReturn

import torch
from torch import Tensor

PART_BYTES = 2**22
PART_FRAMES = 32
"""A part has at most so many frames and so many bytes, but at least one frame."""


class Frames(ABC):
    """The frames of a clip, (T, 3, H, W) uint8 RGB, read in order and as often as wanted.

    Iterating yields chunks (n, 3, H, W) from the first frame on, of any sizes. ``split`` and
    ``spans`` cut where the caller wants it. There is no conversion to a tensor.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int, int]:
        """(T, 3, H, W)."""

    @abstractmethod
    def __iter__(self) -> Iterator[Tensor]:
        """Chunks (n, 3, H, W) uint8 of T frames together."""

    def __len__(self) -> int:
        return self.shape[0]

    def split(self, size: int | None = None, before: int = 0) -> Iterator[Tensor]:
        """Parts of ``size`` frames; the last one may be shorter.

        Args:
            size: by default as many as ``PART_BYTES`` hold, at most ``PART_FRAMES``.
            before: every part but the first begins with so many frames of the one before, as far
                as there are so many.

        Returns:
            uint8 (n, 3, H, W). Of a clip without frames one part of none, as ``Tensor.split``.
        """
        size = size or part_size(*self.shape[-2:])
        return self.spans(list(parts(len(self), size, before)) or [(0, 0)])

    def spans(self, wanted: Iterable[tuple[int, int]]) -> Iterator[Tensor]:
        """Frames [start, stop) for each pair; neither may be less than in the pair before.

        Only the span and the chunk that it ends in are held.

        Raises:
            ValueError: a span goes back, or beyond the end.
        """
        chunks = iter(self)
        held: list[tuple[int, Tensor]] = []  # with the place of its first frame
        end = last = 0
        for start, stop in wanted:
            if start < last:
                raise ValueError(f"frames are read onwards: {start} comes before {last}")
            last = start
            while end < stop:
                chunk = next(chunks, None)
                if chunk is None:
                    raise ValueError(f"{stop} frames are wanted of {end}")
                held = [(at, c) for at, c in [*held, (end, chunk)] if at + len(c) > start]
                end += len(chunk)
            found = [c[max(0, start - at) : max(0, stop - at)] for at, c in held]
            found = [part for part in found if len(part)]
            if len(found) == 1:
                yield found[0]
            elif found:
                yield torch.cat(found)
            else:
                yield torch.zeros((0, *self.shape[1:]), dtype=torch.uint8)

    def __getitem__(self, key: object) -> NoReturn:
        raise TypeError(_WORDS)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"no '{name}': {_WORDS}")


_WORDS = (
    "the frames of a clip are read part by part ('for part in frames', or its split and spans),"
    " since all at once they may be more than memory holds"
)


class HeldFrames(Frames):
    """Frames (T, 3, H, W) that are in memory."""

    def __init__(self, frames: Tensor) -> None:
        self._frames = frames

    @property
    def shape(self) -> tuple[int, int, int, int]:
        length, channels, height, width = self._frames.shape
        return length, channels, height, width

    def __iter__(self) -> Iterator[Tensor]:
        if len(self):
            yield self._frames


def as_frames(frames: Frames | Tensor) -> Frames:
    """``Frames`` as they are; a tensor (T, 3, H, W) as ``HeldFrames``."""
    return HeldFrames(frames) if isinstance(frames, Tensor) else frames


def part_size(height: int, width: int) -> int:
    """How many frames (3, height, width) a part has."""
    return max(1, min(PART_FRAMES, PART_BYTES // (3 * height * width)))


def parts(length: int, size: int, before: int = 0) -> Iterator[tuple[int, int]]:
    """Where the parts of a clip begin and end: ``size`` frames and the ``before`` before them."""
    for start in range(0, length, size):
        yield max(0, start - before), min(length, start + size)
