"""Training samples as pure functions of (seed, batch, slot).

Batch k has ``batch_size`` slots, whatever the number of devices; slot j of batch k is sample
n = k * batch_size + j. Samples run through the eligible clips pass by pass, each pass a new
permutation: every clip is seen once per pass, so identities stay balanced however long their
clips are. Within its clip a sample draws its window, portrait and colours from a generator seeded
by (seed, split, k, j). Nothing depends on workers, devices, or the samples before.

Where some clips are shorter than what is drawn and ``draw.least`` allows it, the samples of up to
``POOL`` batches in a row are sorted by length before they are assigned to these batches, which then
come in random order: clips of similar length share a batch, and a batch has as many frames as its
shortest clip. So no frame is padded, and hardly any is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from thbench.config import DrawConfig
from thbench.core.errors import UserError
from thbench.core.seeding import derive_seed
from thbench.core.types import Batch, Track
from thbench.data.store import Store

SEEN = 0.8
"""Windows with at least this share of frames in which the face was found are preferred."""
POOL = 64
"""Batches that are sorted by length together, at most."""
SOURCES = ("first", "opening", "random", "other")
"""Where a training sample's portrait comes from (``DrawConfig.source``)."""


@dataclass(frozen=True)
class SampleSpec:
    """Which frames of which clip one sample takes.

    Attributes:
        clip: index in ``Store.clips``.
        start: first frame of the window.
        source: index of the portrait's frame.
        rng: for the colour jitter.
    """

    clip: int
    start: int
    source: int
    rng: np.random.Generator = field(compare=False)


class PreparedDataset:
    """Batches of a split of a prepared data set.

    Args:
        store: the split, prepared.
        draw: how samples are drawn.
        batch_size: the global one.
        seed: of the run.
        needs_sound: silent clips are not drawn; else their audio is zeros.

    Raises:
        UserError: the draw's settings are invalid, or no clip is long enough for it, or has sound.
    """

    def __init__(
        self,
        store: Store,
        draw: DrawConfig,
        batch_size: int,
        seed: int = 0,
        needs_sound: bool = True,
    ) -> None:
        self.store = store
        self.draw = draw
        self.batch_size = batch_size
        self.seed = seed
        self.fewest, self.most = frame_range(draw.frames)
        self.least = least_frames(draw)
        if draw.source not in SOURCES:
            known = ", ".join(SOURCES)
            raise UserError(f"draw.source must be one of {known}, not '{draw.source}'.")
        if len(draw.jitter) != 4 or min(draw.jitter) < 0 or draw.jitter[3] > 0.5:
            raise UserError("draw.jitter must be four numbers >= 0, the last (hue) <= 0.5.")
        if draw.context < 0:
            raise UserError(f"draw.context must be 0 or more frames, not {draw.context}.")
        found = [usable_frames(store.valid(i), draw) for i in range(len(store.clips))]
        usable = np.array(found, np.int64)
        self._unheard = store.silent & needs_sound
        self.eligible = np.flatnonzero((usable >= self.least) & ~self._unheard)
        self.lengths = np.minimum(usable[self.eligible], self.most)
        if not len(self.eligible):
            self._explain_none()
        # Of more than one pass, a pool would put a clip beside itself.
        self.pool = max(1, min(POOL, len(self.eligible) // max(1, batch_size)))

    @property
    def left_out(self) -> str | None:
        """A line on how many clips are never drawn and why; None where all are."""
        silent = int(self._unheard.sum())
        short = len(self.store.clips) - len(self.eligible) - silent
        why = [f"{silent} have no sound, which this stage needs"] if silent else []
        if short:
            who = f"{short} of them" if silent else "they"
            why.append(f"{who} do not have {self.least} frames from one with a face on")
        if not why:
            return None
        return (
            f"{short + silent} of {len(self.store.clips)} clips of the split '{self.store.split}'"
            f" are left out: {'; '.join(why)}"
        )

    def length(self, batch: int) -> int:
        """T of batch ``batch``: drawn once for all its samples, at most the shortest clip's."""
        rng = np.random.default_rng(derive_seed(self.seed, self.store.split, batch, "frames"))
        drawn = int(rng.integers(self.fewest, self.most + 1))
        return min(drawn, int(self.lengths[self._assigned(batch)].min()))

    def plan(self, batch: int, slot: int) -> SampleSpec:
        """Draw the clip, window and portrait of sample ``slot`` of batch ``batch``."""
        clip = int(self.eligible[self._assigned(batch)[slot]])
        rng = np.random.default_rng(derive_seed(self.seed, self.store.split, batch, slot))
        valid = self.store.valid(clip)
        first = self.draw.source == "first"
        start = int(rng.choice(window_starts(valid, self.length(batch), first)))
        if self.draw.source == "other":
            valid = valid.copy()
            valid[start : start + self.length(batch)] = False
        if first:
            source = start
        elif self.draw.source == "opening":
            source = self.store.portrait(clip)
        else:
            source = int(rng.choice(np.flatnonzero(valid)))
        return SampleSpec(clip, start, source, rng)

    def batch(self, batch: int, slots: Sequence[int]) -> Batch:
        """Load the samples ``slots`` of batch ``batch``, as a ``Batch`` of B = len(slots)."""
        n_frames = self.length(batch)
        draws = [self.plan(batch, slot) for slot in slots]
        frames = np.stack([self._window(d, n_frames) for d in draws])
        tracks = [self.store.track(d.clip, f) for d, f in zip(draws, frames, strict=True)]
        heads = [self.store.track(d.clip, np.array([d.source])) for d in draws]
        features = [
            self.store.audio_features(d.clip, f) for d, f in zip(draws, frames, strict=True)
        ]
        images = self._images(draws, frames)
        return Batch(
            video=images[:, 1:].contiguous(),
            source=images[:, 0].contiguous(),
            audio=torch.from_numpy(np.stack(features)),
            **_stacked(tracks, ("pose", "eyes", "landmarks", "valid")),
            **{
                f"source_{name}": value[:, 0]
                for name, value in _stacked(heads, ("pose", "eyes", "landmarks")).items()
            },
            frames=torch.from_numpy(frames),
            source_frame=torch.tensor([d.source for d in draws]),
            extent=torch.from_numpy(np.stack([self.store.extent(d.clip) for d in draws])),
            ids=tuple(self.store.clips[d.clip].id for d in draws),
        )

    def _window(self, draw: SampleSpec, n_frames: int) -> np.ndarray:
        """Indices (T,) of the window with its context, clamped to the clip."""
        around = self.draw.context
        frames = np.arange(draw.start - around, draw.start + n_frames + around)
        return frames.clip(0, self.store.clips[draw.clip].n_frames - 1)

    def _images(self, draws: Sequence[SampleSpec], frames: np.ndarray) -> Tensor:
        """uint8 (B, 1 + T, 3, H, W): the portrait, then the frames."""
        if not self.draw.video:
            return torch.empty(len(draws), 1 + frames.shape[1], 3, 0, 0, dtype=torch.uint8)
        return torch.stack(
            [
                jitter(self.store.frames(d.clip, np.array([d.source, *f])), self.draw.jitter, d.rng)
                for d, f in zip(draws, frames, strict=True)
            ]
        )

    def _assigned(self, batch: int) -> np.ndarray:
        """Indices into ``eligible`` (batch_size,), one for each slot of batch ``batch``."""
        size = self.batch_size
        if int(self.lengths.min()) == self.most:
            return self._samples(np.arange(batch * size, (batch + 1) * size))
        pool, place = divmod(batch, self.pool)
        first = pool * self.pool * size
        samples = self._samples(np.arange(first, first + self.pool * size))
        # Stable: among equals the order stays that of the random permutation.
        by_length = samples[np.argsort(self.lengths[samples], kind="stable")]
        order = _permutation(derive_seed(self.seed, self.store.split, "pool", pool), self.pool)
        return by_length.reshape(self.pool, size)[order[place]]

    def _samples(self, numbers: np.ndarray) -> np.ndarray:
        """Indices into ``eligible`` of samples by their consecutive numbers, (n,) each."""
        n = len(self.eligible)
        passes = range(int(numbers[0]) // n, int(numbers[-1]) // n + 1)
        seeds = [derive_seed(self.seed, self.store.split, "pass", number) for number in passes]
        order = np.concatenate([_permutation(seed, n) for seed in seeds])
        return order[numbers - passes[0] * n]

    def _explain_none(self) -> None:
        split, longest = self.store.split, max((c.n_frames for c in self.store.clips), default=0)
        if not longest:
            raise UserError(f"{self.store.root} has no clips in its split '{split}'.")
        if self._unheard.all():
            raise UserError(
                f"No clip of the split '{split}' in {self.store.root} has sound, which this stage"
                " needs: train it on a data set with sound."
            )
        raise UserError(
            f"No clip of the split '{split}' in {self.store.root} has {self.least} frames with a"
            f" face (the longest has {longest}): lower the stage's draw.frames or draw.least, or"
            f" prepare longer clips"
            f"{', or set trainer.validate_batches=0' if split == 'val' else ''}."
        )


def least_frames(draw: DrawConfig) -> int:
    """Frames that a clip must have to be drawn from.

    Raises:
        UserError: the draw's settings are invalid.
    """
    most = frame_range(draw.frames)[1]
    if draw.least is None:
        return most
    if type(draw.least) is not int or draw.least < 1:
        raise UserError(f"draw.least must be 1 frame or more, or null, not {draw.least}.")
    return min(draw.least, most)


def fewest_frames(draw: DrawConfig) -> int:
    """The least number of frames of a batch.

    Raises:
        UserError: the draw's settings are invalid.
    """
    return min(frame_range(draw.frames)[0], least_frames(draw))


def usable_frames(valid: np.ndarray, draw: DrawConfig) -> int:
    """Frames of a clip from the first at which a window may begin; 0 without a portrait.

    Args:
        valid: (N,) bool, the face was found.
        draw: the draw's settings; ``source`` decides where the portrait comes from.
    """
    # Of more frames with a face than a window has, one lies outside any window.
    most = frame_range(draw.frames)[1] if draw.source == "other" else 0
    if valid.sum() <= most:
        return 0
    return len(valid) - (int(valid.argmax()) if draw.source == "first" else 0)


def window_starts(valid: np.ndarray, n_frames: int, first: bool) -> np.ndarray:
    """Frames at which a window may begin, ascending, int64 (n,).

    Args:
        valid: (N,) bool, the face was found.
        n_frames: length of the window, at most N.
        first: the window's first frame is the portrait, so it must be valid.

    Returns:
        The starts of windows with at least 80% valid frames; where there are none, those with
        the largest share.
    """
    count = np.concatenate([[0], np.cumsum(valid)])
    share = (count[n_frames:] - count[:-n_frames]) / n_frames
    if first:
        share = np.where(valid[: len(share)], share, -1.0)
    return np.flatnonzero(share >= min(SEEN, share.max()))


def jitter(frames: Tensor, strength: Sequence[float], rng: np.random.Generator) -> Tensor:
    """Colour jitter with one draw for all frames, in random order.

    Args:
        frames: uint8 (n, 3, H, W).
        strength: of brightness, contrast, saturation (factors in 1 +- strength, never negative)
            and hue (a shift in +-strength turns).
        rng: the source of randomness.
    """
    for i in rng.permutation(4):
        amount, amplitude = float(rng.uniform(-1, 1)), strength[i]
        if amplitude:
            neutral, least = (0.0, -0.5) if i == 3 else (1.0, 0.0)
            frames = _ADJUST[i](frames, max(least, neutral + amount * amplitude))
    return frames


_ADJUST = (
    vision.adjust_brightness,
    vision.adjust_contrast,
    vision.adjust_saturation,
    vision.adjust_hue,
)


@lru_cache(maxsize=8)
def _permutation(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(n)


def _stacked(tracks: Sequence[Track], names: Sequence[str]) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(np.stack([getattr(track, name) for track in tracks]))
        for name in names
    }


def frame_range(frames: Any) -> tuple[int, int]:
    """Fewest and most frames of ``draw.frames``.

    Raises:
        UserError: it is neither a number nor two.
    """
    bounds = list(frames) if isinstance(frames, list | tuple) else [frames, frames]
    whole = all(isinstance(f, int) and not isinstance(f, bool) for f in bounds)
    if len(bounds) != 2 or not whole or not 1 <= bounds[0] <= bounds[1]:
        raise UserError(f"draw.frames must be a whole number >= 1, or [least, most], not {frames}.")
    return bounds[0], bounds[1]
