"""One clip before it is rendered: the person, the speech, the motion of the face."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from thbench.data.synthetic import identity, motion, speech
from thbench.data.synthetic.identity import Identity
from thbench.data.synthetic.motion import Motion
from thbench.data.synthetic.render import State
from thbench.data.synthetic.speech import Speech


@dataclass(frozen=True)
class Performance:
    """The ground truth of a clip."""

    who: Identity
    speech: Speech
    motion: Motion

    @property
    def state(self) -> State:
        """The motion that is rendered."""
        s, m = self.speech, self.motion
        curves = {
            "yaw": m.yaw, "pitch": m.pitch, "roll": m.roll, "scale": m.scale, "tx": m.tx,
            "ty": m.ty, "mouth": s.mouth, "width": s.width, "closure": m.closure,
            "brow": m.brow, "gaze_x": m.gaze_x, "gaze_y": m.gaze_y,
        }  # fmt: skip
        return State(**{name: torch.from_numpy(curve) for name, curve in curves.items()})

    def truth(self) -> dict[str, Any]:
        """The ground truth as arrays, for an npz.

        ``pose`` (T, 3) holds yaw, pitch and roll; ``blinks`` (K, 2) the first frame and the frame
        after the last of each blink; ``beats`` (K,) seconds; ``who/<name>`` the identity.
        """
        s, m = self.speech, self.motion
        values = {
            "pose": np.stack([m.yaw, m.pitch, m.roll], axis=1),
            "scale": m.scale, "shift": np.stack([m.tx, m.ty], axis=1),
            "mouth": s.mouth, "width": s.width, "loudness": s.loudness, "vowel": s.vowel,
            "beats": s.beats, "closure": m.closure, "blinks": m.blinks, "brow": m.brow,
            "gaze": np.stack([m.gaze_x, m.gaze_y], axis=1),
        }  # fmt: skip
        looks = {f"who/{name}": np.asarray(value) for name, value in asdict(self.who).items()}
        return values | looks


def perform(
    seed: int,
    person: int,
    clip: int,
    n_frames: int,
    *,
    blink_rate: float = motion.BLINK_RATE,
    liveliness: float = 1.0,
) -> Performance:
    """The ``clip``-th performance of a person; a pure function of its arguments."""
    rng = identity.generator(seed, "clip", person, clip)
    said = speech.speak(n_frames, speech.voice(seed, person), rng)
    moved = motion.move(n_frames, said.beats, rng, blink_rate=blink_rate, liveliness=liveliness)
    return Performance(identity.draw(seed, person), said, moved)
