"""Do the metrics see what they should, and only that? Known damage on synthetic faces.

    python -m benchmarks.sensitivity [--people 12]
    python -m benchmarks.sensitivity --data data/vox

The first renders people whom the experts never saw, damages their videos in eight ways at growing
levels and scores every version against the undamaged one by the protocol ``synthetic``. The second
takes clips of a prepared data set, for which only damage to images and audio is possible, and
leaves the experts out. The page says for each damage which figures got worse level by level, and
which should have or should not have. Writes ``sensitivity.md`` (``real.md``) and the numbers as
JSON to ``--report``. Resumable; about ten minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision
from tqdm import tqdm

from thbench.core.files import write_atomic
from thbench.core.types import SAMPLES_PER_FRAME
from thbench.data import manifest
from thbench.data.media import audio, video
from thbench.data.media.video import VideoWriter
from thbench.data.store import resize
from thbench.data.synthetic.perform import Performance, perform
from thbench.data.synthetic.render import render
from thbench.evaluation import protocol
from thbench.evaluation.results import MetricValue
from thbench.evaluation.score import score

SEED = 977  # of people that no data set of ours holds
SIZE, FRAMES = 128, 100
CRF = 12


@dataclass(frozen=True)
class Take:
    """A clip: by whom, what was performed, frames (T, 3, H, W) uint8, audio (T * 640,)."""

    person: int
    played: Performance | None
    frames: Tensor
    sound: np.ndarray

    @property
    def chance(self) -> np.random.Generator:
        return np.random.default_rng([SEED, self.person])


def blur(take: Take, sigma: float) -> Take:
    """Gaussian, ``sigma`` pixels."""
    size = 2 * round(3 * sigma) + 1
    return replace(take, frames=vision.gaussian_blur(take.frames, [size, size], [sigma, sigma]))


def noise(take: Take, deviation: float) -> Take:
    """White, in grey levels."""
    grain = torch.from_numpy(take.chance.normal(0, deviation, take.frames.shape))
    return replace(take, frames=(take.frames + grain).round().clamp(0, 255).byte())


def swap(take: Take, share: float) -> Take:
    """Another person does the same from that share before the end on."""
    stranger = perform(SEED + 1, int(take.chance.integers(1000)), 0, len(take.frames)).who
    start = round((1 - share) * len(take.frames))
    other = render(stranger, _play(take).state[start:], SIZE)
    return replace(take, frames=torch.cat([take.frames[:start], other]))


def late(take: Take, frames: float) -> Take:
    """The audio comes so many frames late."""
    gap = int(frames) * SAMPLES_PER_FRAME
    sound = np.concatenate([np.zeros(gap, np.float32), take.sound])
    return replace(take, sound=sound[: len(take.sound)])


def _play(take: Take) -> Performance:
    assert take.played is not None, "only what was rendered can be acted again"
    return take.played


def _acted(take: Take, **changes: Any) -> Take:
    played = replace(_play(take), motion=replace(_play(take).motion, **changes))
    return replace(take, played=played, frames=render(played.who, played.state, SIZE))


def stiff(take: Take, share: float) -> Take:
    """The head moves less by that share."""
    motion = _play(take).motion
    names = ("yaw", "pitch", "roll", "tx", "ty")
    return _acted(take, **{n: (1 - share) * getattr(motion, n) for n in names})


def staring(take: Take, share: float) -> Take:
    """That share of the blinks is left out, the last ones first."""
    motion = _play(take).motion
    keep = round((1 - share) * len(motion.blinks))
    closure = motion.closure.copy()
    for first, end in motion.blinks[keep:]:
        closure[first:end] = 0
    return _acted(take, closure=closure, blinks=motion.blinks[:keep])


def mumble(take: Take, share: float) -> Take:
    """The mouth opens less by that share."""
    played = _play(take)
    said = replace(played.speech, mouth=(1 - share) * played.speech.mouth)
    played = replace(played, speech=said)
    return replace(take, played=played, frames=render(played.who, played.state, SIZE))


def jitter(take: Take, pixels: float) -> Take:
    """Every frame is shifted on its own."""
    shifts = take.chance.normal(0, pixels, (len(take.frames), 2))
    moved = [
        vision.affine(f, 0.0, [float(x), float(y)], 1.0, [0.0, 0.0],
                      interpolation=vision.InterpolationMode.BILINEAR, fill=None)
        for f, (x, y) in zip(take.frames, shifts.round().astype(int), strict=True)
    ]  # fmt: skip
    return replace(take, frames=torch.stack(moved))


Damage = Callable[[Take, float], Take]
PICTURE = ("PSNR", "SSIM", "FD-pyramid")

# Damage, its levels, the figures that must get worse with each, and those that must stay.
DAMAGES: dict[str, tuple[Damage, tuple[float, ...], tuple[str, ...], tuple[str, ...]]] = {
    "blur, px": (blur, (0.7, 1.5, 3.0), (*PICTURE, "CPBD"), ("|AV offset|", "Pose error")),
    "noise, grey levels": (noise, (6, 12, 24), PICTURE, ("|AV offset|", "Pose error")),
    "another person, share": (swap, (0.25, 0.5, 1.0), ("CSIM",), ("|AV offset|",)),
    "audio late, frames": (late, (1, 2, 4, 8), ("|AV offset|",), (*PICTURE, "CSIM", "Blink/s")),
    "still head, share": (stiff, (0.3, 0.6, 1.0), ("Pose error", "Diversity"), ("|AV offset|",)),
    "no blinks, share": (staring, (0.35, 0.7, 1.0), ("Blink/s",), ("|AV offset|", "CSIM")),
    "small mouth, share": (
        mumble,
        (0.3, 0.6, 1.0),
        ("LMD", "LSE-C", "Mouth amplitude"),
        ("Blink/s",),
    ),
    "jitter, px": (jitter, (0.7, 1.5, 3.0), ("FVD16-synthetic", "OFM"), ("Blink/s", "CSIM")),
}


FOR_ANY = (blur, noise, jitter)  # damages to any video that figures without experts should see


def main(argv: Sequence[str] | None = None) -> None:
    """Render, damage, score, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", default="runs/sensitivity", help="videos and features")
    parser.add_argument("--report", default="docs/scoring", help="page and figures")
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument(
        "--data", help="a prepared data set of real clips, in place of synthetic ones"
    )
    arguments = parser.parse_args(argv)
    out = Path(arguments.out) / ("real" if arguments.data else "synthetic")
    people = tqdm(range(arguments.people), "clips")
    clips = _real(Path(arguments.data)) if arguments.data else None
    takes = [_filmed(clips[i], i) if clips else _rendered(i) for i in people]
    _write(out / "truth", takes)
    rule = protocol.load("synthetic")
    rule = replace(rule, intervals=replace(rule.intervals, draws=2, groups=2))  # not shown
    damages = DAMAGES
    if clips:
        rule = replace(rule, metrics=tuple(m for m in rule.metrics if not _synthetic(m)))
        damages = {name: entry for name, entry in DAMAGES.items() if entry[0] in FOR_ANY}
    rows = []
    for name, (damage, levels, _, _) in damages.items():
        for level in (0.0, *levels):
            folder = out / (f"{damage.__name__}-{level:g}" if level else "undamaged")
            _write(folder, takes, damage if level else None, level)
            result = score(
                folder, out / "truth", rule, run="sensitivity", strategy=name,
                cache=out / "cache", progress=False,
            )  # fmt: skip
            figures = {key: _badness(figure) for key, figure in result.metrics.items()}
            values = {key: figure.value for key, figure in result.metrics.items()}
            rows.append({"damage": name, "level": level, "values": values, "badness": figures})
            print(name, level, flush=True)
    report(rows, Path(arguments.report), "real" if clips else "sensitivity")


def _synthetic(spec: Mapping[str, Any]) -> bool:
    return "synthetic" in " ".join(map(str, spec.values()))


def _real(root: Path) -> list[Path]:
    return [root / clip.video for clip in sorted(manifest.read(root), key=lambda clip: clip.id)]


def _filmed(path: Path, person: int) -> Take:
    frames = resize(video.read(path, slice(0, FRAMES)), SIZE)
    return Take(person, None, frames, audio.fit_length(audio.load(path), len(frames)))


def _rendered(person: int) -> Take:
    played = perform(SEED, person, 0, FRAMES)
    return Take(person, played, render(played.who, played.state, SIZE), played.speech.waveform)


def _write(
    folder: Path, takes: Sequence[Take], damage: Damage | None = None, level: float = 0.0
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for person, take in enumerate(takes):
        path = folder / f"{person:03d}.mp4"
        if not path.is_file():
            made = damage(take, level) if damage else take
            with VideoWriter(path, SIZE, SIZE, waveform=made.sound, crf=CRF) as writer:
                writer.write(made.frames)


def _badness(figure: MetricValue) -> float | None:
    """Grows as the figure gets worse, whichever way that is."""
    if figure.value is None:
        return None
    if figure.direction == "reference":
        return None if figure.reference is None else abs(figure.value - figure.reference)
    signs = {"higher": -figure.value, "lower": figure.value, "zero": abs(figure.value)}
    return signs[figure.direction]


def report(rows: Sequence[dict[str, Any]], folder: Path, page: str) -> None:
    """The page and the numbers; says which expectations failed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{page}.json", json.dumps(list(rows), indent=1) + "\n")
    lines = ["# What the metrics see", "", _HEAD[page] + _INTRODUCTION]
    broken = []
    for title, (damage, levels, worse, same) in DAMAGES.items():
        mine = [row for row in rows if row["damage"] == title]
        if not mine:
            continue
        lines += ["", f"## {title}", "", (damage.__doc__ or "").strip(), ""]
        heads = [f"{level:g}" if level else "none" for level in (0.0, *levels)]
        lines += [f"| figure | {' | '.join(heads)} | |", "|---" * (len(heads) + 2) + "|"]
        for key in mine[0]["values"]:
            verdict = _verdict(key, mine, worse, same)
            broken += [f"{title}: {key}"] if "NOT" in verdict else []
            cells = [_number(row["values"][key]) for row in mine]
            title_cell = key.replace("|", "\\|")
            lines.append(f"| {title_cell} | {' | '.join(cells)} | {verdict} |")
    lines += ["", "Expectations that failed: " + ("; ".join(broken) or "none") + ".", ""]
    write_atomic(folder / f"{page}.md", "\n".join(lines))
    print(lines[-2])


_HEAD = {
    "sensitivity": "People whom the experts never saw, by `python -m benchmarks.sensitivity`",
    "real": "Clips of real people, by `python -m benchmarks.sensitivity --data FOLDER`",
}
_INTRODUCTION = """.

Videos are damaged at growing levels and scored against the undamaged ones by the protocol
`synthetic`, of real people without its experts. "worse": gets worse from each level to the next, as
it should. "stays": gets worse by no more than the amount named, as it should. Other figures are
shown for comparison. The column "none" is the videos against themselves: the ground truth."""


def _verdict(
    key: str, rows: Sequence[dict[str, Any]], worse: Sequence[str], same: Sequence[str]
) -> str:
    title, bad = key.split(" (")[0], [row["badness"][key] for row in rows]
    if title in worse:
        grows = None not in bad and all(a < b for a, b in pairwise(bad))
        return "worse" if grows else "NOT steadily worse"
    if title in same:
        stays = None not in bad and max(bad) - bad[0] <= LEEWAY[title]
        return f"stays within {LEEWAY[title]:g}" if stays else "NOT the same"
    return ""


# By how much a figure that should stay may get worse: well below what the damage it is for does.
LEEWAY = {
    "|AV offset|": 0.5, "Pose error": 2.0, "PSNR": 0.01, "SSIM": 1e-4, "FD-pyramid": 0.01,
    "CSIM": 0.1, "Blink/s": 0.06,
}  # fmt: skip


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    main()
