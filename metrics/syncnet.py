"""Synchronisation of lips and audio: LSE-D, LSE-C, AV offset, AV confidence.

Chung and Zisserman, "Out of time: automated lip sync in the wild" (2016): lips and audio of a short
window are embedded in one space, and distances between lips now and audio a little earlier or
later show whether, and where, they agree. The names LSE-D and LSE-C are Wav2Lip's (Prajwal et al.
2020).

The embeddings come as one feature, by default ``syncnet``: (T', 2d), a row per window, the lips' d
columns first, then the audio's. Any extractor of that layout will do. A clip without rows (too
short, no face, silence) has no value.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metrics.base import ClipMetric, Features

EPSILON = 1e-6


class Sync(NamedTuple):
    """Least mean distance; median less least of the mean distances; offset in frames."""

    distance: float
    confidence: float
    offset: float


NO_SYNC = Sync(math.nan, math.nan, math.nan)


def sync_distances(
    lip: Tensor, audio: Tensor, vshift: int = 15, valid_only: bool = False
) -> Tensor:
    """Distance of each lip window from the audio windows around it.

    Args:
        lip: (T', d), a row per window.
        audio: (T', d), the row of the same instant.
        vshift: how far to look, in frames.
        valid_only: NaN where the audio would lie outside the clip, instead of the distance from
            zeros, as in the authors' code, which biases short clips.

    Returns:
        (T', 2 vshift + 1) float64: column j is the norm of lip(i) - audio(i + j - vshift) + 1e-6.
    """
    count = len(lip)
    lip, audio = lip.double(), audio.double()
    padded = torch.nn.functional.pad(audio, (0, 0, vshift, vshift))
    shifts = range(2 * vshift + 1)
    columns = [(lip - padded[j : j + count] + EPSILON).norm(dim=1) for j in shifts]
    distances = torch.stack(columns, 1)
    if valid_only:
        place = torch.arange(count)[:, None] + torch.arange(-vshift, vshift + 1)
        outside = (place < 0) | (place >= count)
        distances = distances.masked_fill(outside.to(distances.device), math.nan)
    return distances


def mean_distances(distances: Tensor, least_pairs: int = 5) -> Tensor:
    """Mean over time of each offset, (2 vshift + 1,); NaN with fewer than ``least_pairs`` values.

    Only values left out by ``valid_only`` count as missing: without it every offset has T' values,
    and a clip of fewer than ``least_pairs`` windows has a mean as well.
    """
    known = ~distances.isnan()
    least = 1 if known.all() else least_pairs
    return distances.nanmean(0).masked_fill(known.sum(0) < least, math.nan)


def sync(
    lip: Tensor,
    audio: Tensor,
    vshift: int = 15,
    valid_only: bool = False,
    least_pairs: int = 5,
) -> Sync:
    """LSE-D, LSE-C and offset of a clip; NaN without windows.

    The offset is ``vshift`` less the place of the least mean distance: k if the audio runs k frames
    ahead of the lips, -k if it lags behind. Of equal distances the first counts.

    Args:
        lip: (T', d), a row per window.
        audio: (T', d), the row of the same instant.
        vshift: the largest offset, in frames.
        valid_only: leave out audio outside the clip instead of comparing with zeros.
        least_pairs: with ``valid_only``, offsets with fewer pairs are left out.
    """
    if not len(lip):
        return NO_SYNC
    means = mean_distances(sync_distances(lip, audio, vshift, valid_only), least_pairs)
    if means.isnan().all():
        return NO_SYNC
    least, place = means.nan_to_num(nan=math.inf).min(0)
    return Sync(float(least), float(means.nanmedian() - least), float(vshift - place))


class _SyncMetric(ClipMetric):
    """A metric of lips and audio.

    Args:
        features: the extractor of the embeddings, (T', 2d), lips first.
        vshift: the largest offset, in frames.
        valid_only: leave out audio outside the clip instead of comparing with zeros.
        least_pairs: with ``valid_only``, offsets with fewer pairs are left out.
    """

    title: str

    def __init__(
        self,
        features: str = "syncnet",
        vshift: int = 15,
        valid_only: bool = False,
        least_pairs: int = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.features = features
        self.needs = (features,)
        self.how: dict[str, Any] = {
            "vshift": vshift,
            "valid_only": valid_only,
            "least_pairs": least_pairs,
        }

    @property
    def name(self) -> str:
        return self._named(self.title)

    def _named(self, title: str) -> str:
        source = "" if self.features == "syncnet" else self.features
        pairs = "valid pairs" if self.how["valid_only"] else ""
        span = "" if self.how["vshift"] == 15 else f"±{self.how['vshift']}"
        marks = ", ".join(mark for mark in (source, pairs, span) if mark)
        return f"{title} ({marks})" if marks else title

    @property
    def reads_audio(self) -> bool:
        return True

    def exchange_audio(self, clip: Features, other: Features) -> tuple[Features, Features]:
        rows = min(len(clip[self.features]), len(other[self.features]))
        lip, own = clip[self.features][:rows].chunk(2, dim=1)
        theirs = other[self.features][:rows].chunk(2, dim=1)[1]
        first, second = (torch.cat([lip, audio], 1) for audio in (own, theirs))
        return {self.features: first}, {self.features: second}

    def agreement(self, generated: Features) -> Sync:
        """Distance, confidence and offset of a clip."""
        lip, audio = generated[self.features].chunk(2, dim=1)
        return sync(lip, audio, **self.how)


class LSED(_SyncMetric):
    """Lip-sync error, distance: the least mean distance over offsets. See ``sync``."""

    title = "LSE-D"
    direction = "lower"
    bounds = (0.0, math.inf)
    needs = ("syncnet",)

    def measure(self, generated: Features, reference: Features | None) -> float:
        return self.agreement(generated).distance


class LSEC(_SyncMetric):
    """Lip-sync error, confidence: median less least of the mean distances. See ``sync``."""

    title = "LSE-C"
    direction = "higher"
    bounds = (0.0, math.inf)
    needs = ("syncnet",)

    def measure(self, generated: Features, reference: Features | None) -> float:
        return self.agreement(generated).confidence


class AVConfidence(LSEC):
    """LSE-C under the name that SyncNet's authors give it."""

    title = "AV confidence"

    @property
    def same_as(self) -> str:
        return self._named(LSEC.title)


class AVOffset(_SyncMetric):
    """Offset of the audio in frames, positive where it runs ahead of the lips. See ``sync``.

    Args:
        features: the extractor of the embeddings, (T', 2d), lips first.
        vshift: the largest offset, in frames.
        valid_only: leave out audio outside the clip instead of comparing with zeros.
        least_pairs: with ``valid_only``, offsets with fewer pairs are left out.
        absolute: without the sign, so that clips early and late do not cancel in the mean.
    """

    unit = "frames"
    direction = "zero"
    needs = ("syncnet",)

    def __init__(
        self,
        features: str = "syncnet",
        vshift: int = 15,
        valid_only: bool = False,
        least_pairs: int = 5,
        absolute: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(features, vshift, valid_only, least_pairs, **kwargs)
        self.absolute = absolute
        self.title = "|AV offset|" if absolute else "AV offset"
        self.bounds = (0.0 if absolute else -float(vshift), float(vshift))

    def measure(self, generated: Features, reference: Features | None) -> float:
        offset = self.agreement(generated).offset
        return abs(offset) if self.absolute else offset
