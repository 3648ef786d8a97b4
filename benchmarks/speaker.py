"""How often `--face speaking` finds whose audio it is, between two people who both talk.

    python -m benchmarks.speaker PREPARED [--seconds 8] [--pairs 400]

PREPARED is a data set of `thbench data prepare` (any size). Each trial takes two clips of different
people and one of their audio signals.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from thbench.core.types import FPS
from thbench.data import manifest
from thbench.data.face.pose import mouth_opening
from thbench.data.media import audio
from thbench.data.prepare.segments import MARGIN, mouth_audio_score

MARGINS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def main(argv: Sequence[str] | None = None) -> None:
    """Print how many trials are right, by the least difference of the scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--pairs", type=int, default=400)
    arguments = parser.parse_args(argv)
    clips = [_read(arguments.root, clip) for clip in manifest.read(arguments.root)]
    n, draw = round(arguments.seconds * FPS), random.Random(0)
    trials: list[tuple[float, bool]] = []
    while len(trials) < arguments.pairs:
        (who, mouth, sound), (other, another, _) = draw.sample(clips, 2)
        if who != other:
            length = min(len(mouth), len(another), n)
            own, wrong = (mouth_audio_score(m[:length], sound) for m in (mouth, another))
            trials.append((abs(own - wrong), own > wrong))
    print(f"{len(clips)} clips, {len(trials)} pairs of different people, {arguments.seconds:g} s")
    for margin in MARGINS:
        clear = [hit for difference, hit in trials if difference >= margin]
        taken = "  <- what prepare takes" if margin == MARGIN else ""
        print(f"differ by {margin}: {len(clear)} pairs, right {np.mean(clear):.1%}{taken}")


def _read(root: Path, clip: manifest.Clip) -> tuple[str, np.ndarray, np.ndarray]:
    with np.load(root / clip.track) as file:
        mouth = mouth_opening(file["landmarks"].astype(np.float32))
    return clip.identity, mouth, audio.load(root / clip.video)


if __name__ == "__main__":
    main()
