"""Mixing any channels to one, so that speech keeps its level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np

CANCELS = 12.0
"""Decibels: a mix so far below its loudest channel has cancelled itself."""
ALONE = 30.0
"""Decibels: channels that lie so far below the loudest count as empty."""
_FRONT = {"FL": 0.5, "FR": 0.5, "DL": 0.5, "DR": 0.5, "FC": 1.0, "LFE": 0.0, "LFE2": 0.0}
_AROUND = {"BL", "BR", "FLC", "FRC", "BC", "SL", "SR", "TC", "TFL", "TFC", "TFR", "TBL", "TBC",
           "TBR", "WL", "WR", "SDL", "SDR", "TSL", "TSR", "BFC", "BFL", "BFR"}  # fmt: skip
EMPTY = -90.0
"""Decibels below full scale: what lies below counts as silence."""
UNPLACED = "NONE"
"""FFmpeg's name of a channel without a position."""
_USUAL = {6: "5.1", 8: "7.1"}
_LOWEST = 1e-10


def channel_names(layout: Any) -> list[str]:
    """Positions of the channels; six or eight without one count as 5.1 and 7.1, as in players."""
    names = [channel.name for channel in layout.channels]
    if set(names) == {UNPLACED} and len(names) in _USUAL:
        return channel_names(av.AudioLayout(_USUAL[len(names)]))
    return names


def weights(names: Sequence[str]) -> np.ndarray:
    """Share of each channel in the mix, (channels,) float32.

    Of a known layout the centre counts whole, left and right half each, so that speech in the
    centre, or the same left and right, keeps its level; surrounds count a quarter, the bass channel
    nothing. Two channels, and those of unknown places, are averaged.
    """
    n = len(names)
    if n <= 2 or any(name not in _FRONT and name not in _AROUND for name in names):
        return np.full(n, 1 / n, np.float32)
    return np.array([_FRONT.get(name, 0.25) for name in names], np.float32)


def samples(frame: av.AudioFrame) -> np.ndarray:
    """Samples of a decoded frame, float32 (channels, n), full scale at 1."""
    count = frame.layout.nb_channels
    if frame.format.is_planar and count >= 8:
        # PyAV looks for the end of eight or more planes behind the end of their list, and crashes
        frame.pts = None
        packed = av.AudioResampler(frame.format.packed.name, frame.layout, frame.sample_rate)
        (frame,) = packed.resample(frame)
    found = frame.to_ndarray()
    if not frame.format.is_planar:
        found = found.reshape(-1, count).T
    if found.dtype == np.uint8:
        return (found.astype(np.float32) - 128) / 128
    if found.dtype.kind == "i":
        return found.astype(np.float32) / np.float32(2.0 ** (8 * found.itemsize - 1))
    return found.astype(np.float32)


@dataclass
class Mixer:
    """Mixes frames to one channel, and measures whether that was right.

    Args:
        chosen: indices of the channels to average, the others left out, by the name of a layout.

    Attributes:
        unreal: samples that were not finite, now zero.
    """

    chosen: dict[str, list[int]] = field(default_factory=dict)
    non_finite: int = 0
    _energies: dict[str, _Energy] = field(default_factory=dict)

    def __call__(self, frame: Any) -> np.ndarray:
        """Mix a decoded frame (``av.AudioFrame``) to float32 (n,)."""
        layout, found = frame.layout.name, samples(frame)
        if not np.isfinite(found).all():
            self.non_finite += int((~np.isfinite(found)).any(0).sum())
            found = np.where(np.isfinite(found), found, 0).astype(np.float32)
        if layout in self.chosen:
            return found[self.chosen[layout]].mean(0)
        if layout not in self._energies:
            self._energies[layout] = _Energy(layout, channel_names(frame.layout))
        energy = self._energies[layout]
        if len(found) == 1:
            return found[0]
        mixed = energy.weights @ found
        energy.add(found, mixed)
        return mixed

    def choose_channels(self) -> tuple[dict[str, list[int]], list[str]]:
        """Channels to use in place of the mix of all, by layout, with the reasons."""
        found = {layout: energy.verdict() for layout, energy in self._energies.items()}
        found = {layout: verdict for layout, verdict in found.items() if verdict}
        chosen = {layout: verdict[0] for layout, verdict in found.items() if verdict}
        return chosen, [verdict[1] for verdict in found.values() if verdict]

    def notes(self) -> list[str]:
        """Lines on what was mixed and how, where it matters."""
        return [line for energy in self._energies.values() if (line := energy.describe())]

    @property
    def can_clip(self) -> bool:
        """Whether some mix may be louder than full scale."""
        return any(energy.weights.sum() > 1.01 for energy in self._energies.values())


class _Energy:
    """Energy of the channels of one layout, and of their mix."""

    def __init__(self, layout: str, names: list[str]) -> None:
        self.layout = layout
        self.names = names
        self.weights = weights(names)
        self._each = np.zeros(len(names))
        self._mix = 0.0
        self._count = 0

    def add(self, found: np.ndarray, mixed: np.ndarray) -> None:
        self._each += np.einsum("cn,cn->c", found, found, dtype=np.float64)
        self._mix += float(np.dot(mixed, mixed))
        self._count += len(mixed)

    def verdict(self) -> tuple[list[int], str] | None:
        """The channels to take, and why; None for the mix of all."""
        if len(self.names) < 2 or not self._count:
            return None
        # The bass channel carries no speech: it is in no mix.
        levels = np.where(self.weights > 0, self._decibels(self._each), -np.inf)
        shares = 20 * np.log10(np.maximum(self.weights / self.weights.max(), _LOWEST))
        loudest = int((levels + shares).argmax())
        sounding = np.flatnonzero(levels > levels[loudest] - ALONE).tolist()
        below = float(levels[loudest] + shares[loudest] - self._decibels(self._mix))
        place = "" if self.names[loudest] == UNPLACED else f" ({self.names[loudest]})"
        taken = f"channel {loudest + 1} of {len(self.names)}{place}"
        if levels[loudest] < EMPTY:
            return None
        if len(sounding) == 1:
            return sounding, f"only {taken} has audio: it is taken alone"
        if below >= CANCELS:
            return [loudest], (
                f"the channels cancel each other, their mix is {below:.0f} dB quieter: {taken} is"
                " taken alone"
            )
        if self._is_average and len(sounding) < len(self.names):
            return sounding, f"{len(sounding)} of {len(self.names)} channels have audio: averaged"
        return None

    def describe(self) -> str:
        """How the mix was made, where that changes more than nothing."""
        if len(self.names) < 2 or not self._count:
            return ""
        if not self._is_average:
            return (
                f"{len(self.names)} channels ({self.layout}) mixed, the front ones at their own"
                " level"
            )
        below = self._decibels(self._each).max() - self._decibels(self._mix)
        return f"{len(self.names)} channels averaged" if below > 1 else ""

    @property
    def _is_average(self) -> bool:
        return bool(np.isclose(self.weights, 1 / len(self.names)).all())

    def _decibels(self, energy: Any) -> Any:
        return 10 * np.log10(np.maximum(np.asarray(energy) / max(1, self._count), _LOWEST))
