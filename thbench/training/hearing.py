"""Does a stage hear? Its validation losses with the clips' own audio, and with another clip's.

A network can lower its loss and ignore the audio: it then learns a mean mouth, and its loss does
not say so. With the same clips, noise and levels but other audio, such a loss stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thbench.core.types import Batch

OWN, OTHER = "val", "val_other_audio"
"""What the names of validation losses begin with, by whose audio they were measured with."""
HEARD = "val/heard"
"""Loss with another clip's audio over that with the own one; 1 where audio makes no difference."""
LEAST_HEARD = 1.02
"""Below this ratio a stage is said not to hear yet."""


def with_other_audio(batch: Batch) -> Batch | None:
    """The batch with another clip's audio beside each clip.

    A clip has the audio of the next clip of another id in the batch, around its end. Where there
    is none it has its own, reversed in time.

    Returns:
        A copy that shares all else; None for a single frame, which has no other audio.
    """
    audio = batch.audio
    if audio.shape[:2] == (1, 1):
        return None
    chosen = [_other(batch.ids, i) for i in range(len(batch))]
    own = torch.tensor([i == j for i, j in enumerate(chosen)], device=audio.device)
    audio = torch.where(own[:, None, None], audio.flip(1), audio[chosen])
    return replace(batch, audio=audio)


def _other(ids: tuple[str, ...], i: int) -> int:
    """The next place that holds another id than place ``i``, or ``i`` itself."""
    n = len(ids)
    return next((k % n for k in range(i + 1, i + n) if ids[k % n] != ids[i]), i)


class HeardRatio:
    """Sums of a loss over the batches of a validation, with own and with other audio.

    A ratio of sums: batches with a small loss would shake a mean of ratios.
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, own: Tensor, other: Tensor, clips: int) -> None:
        """Add a batch of so many clips and its mean losses, two scalars."""
        pair = clips * torch.stack([own.detach(), other.detach()]).float()
        self._sums = pair if self._sums is None else self._sums + pair

    def take(self, over_devices: Callable[[Tensor], Tensor]) -> Tensor | None:
        """The ratio other / own, a scalar, and begin anew.

        Args:
            over_devices: sums a tensor over all devices.

        Returns:
            NaN where the loss with own audio is not positive; None without batches.
        """
        if self._sums is None:
            return None
        own, other = over_devices(self._sums)
        self._sums = None
        return torch.where(own > 0, other / own, torch.nan)


@dataclass(frozen=True)
class Validation:
    """The figures of a stage's last validation.

    Attributes:
        loss: what is minimised.
        name: of the loss that audio should lower (``Stage.audio_loss``); "" where the stage does
            not hear, and there are no further figures.
        own, other, heard: that loss with own and with other audio, and their ratio.
    """

    loss: float
    name: str = ""
    own: float = 0.0
    other: float = 0.0
    heard: float = 0.0

    @classmethod
    def read(cls, logged: Mapping[str, Tensor], name: str) -> Validation | None:
        """From what was logged; None if nothing was validated."""
        if f"{OWN}/loss" not in logged:
            return None
        loss = float(logged[f"{OWN}/loss"])
        if HEARD not in logged:
            return cls(loss)
        own, other = (float(logged[f"{whose}/{name}"]) for whose in (OWN, OTHER))
        return cls(loss, name, own, other, float(logged[HEARD]))

    def __str__(self) -> str:
        text = f"last validation: loss {self.loss:.4g}"
        if not self.name:
            return text
        verdict = ": the audio is not heard yet" if self.heard < LEAST_HEARD else ""
        return (
            f"{text}; '{self.name}' {self.own:.4g} with own audio, {self.other:.4g} with another"
            f" clip's ({self.heard:.2f} x){verdict}"
        )
