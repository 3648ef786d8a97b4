"""The animation on README's first screen: the same clip in five orders of generation.

    python -m benchmarks.orders [--demo demo] [--out docs/orders.gif]

Takes the videos that ``thbench demo`` made of one portrait and one sound with the shipped weights,
and shows, call by call, which frames are denoised together. The frames are those of the videos; the
noise on them is drawn here, at the level at which the plan has them. Twelve frames stand for the
clip, and a window takes four calls.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from thbench.core.errors import UserError
from thbench.data.media import audio, video
from thbench.generation import plan_drawing, plans

FRAMES, CALLS = 12, 4
CELL, GAP, LABEL, HEAD, LINE = 56, 2, 144, 72, 64
MILLISECONDS, PAUSE = 160, 4000
COLOURS, SWATCHES = 64, 8
INK, FAINT, PAPER, BLANK = (32, 32, 32), (112, 112, 112), (255, 255, 255), (232, 232, 232)
OBSERVED, SOUND = (64, 120, 216), (96, 128, 176)
ROWS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "dawn": ("NAR: all at once", {"name": "nar"}),
    "ttr": ("TTR: keys, then gaps", {"name": "ttr", "stride": 4}),
    "sar": ("SAR: in segments", {"name": "sar", "segment": 4, "overlap": 1}),
    "rolling": ("Rolling: staggered", {"name": "rolling", "window": 4, "context": 1}),
    "ar": ("AR: one by one", {"name": "ar", "motion": 2}),
}
"""Strategies of the demo, the titles of their rows and their plans for twelve frames."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Row:
    """A strategy's row.

    Attributes:
        strategy: its name.
        title: what its plan does.
        frames: (FRAMES, CELL, CELL, 3), as generated.
        noise: shaped alike, float64 in [0, 255].
        grid: what happens to each frame in each call, see ``plan_drawing.grid``.
    """

    strategy: str
    title: str
    frames: Pixels
    noise: NDArray[np.float64]
    grid: list[list[float]]

    def done(self, call: int) -> set[int]:
        """Frames that are clean before a call."""
        left = self.grid[call:]
        return {i for i in range(FRAMES) if not any(row[i] > 0 for row in left)}

    def level(self, call: int, i: int) -> float:
        """Noise level in [0, 1] of a frame before a call, or ``UNTOUCHED``."""
        if call < len(self.grid) and self.grid[call][i] > 0:
            return self.grid[call][i]
        return 0.0 if i in self.done(call) else plan_drawing.UNTOUCHED

    def cell(self, call: int, i: int) -> Image.Image:
        """What is seen of a frame before a call."""
        level = self.level(call, i)
        if level == plan_drawing.UNTOUCHED:
            return Image.new("RGB", (CELL, CELL), BLANK)
        shown = (1 - level) * self.frames[i] + level * self.noise[i]
        image = Image.fromarray(shown.round().astype(np.uint8))
        if call < len(self.grid) and self.grid[call][i] == plan_drawing.OBSERVED:
            ImageDraw.Draw(image).rectangle((0, 0, CELL - 1, CELL - 1), outline=OBSERVED, width=3)
        return image


def main(argv: Sequence[str] | None = None) -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--demo", default="demo", help="the folder that thbench demo wrote")
    parser.add_argument("--out", default="docs/orders.gif")
    arguments = parser.parse_args(argv)
    images = draw(Path(arguments.demo))
    save(images, Path(arguments.out))
    print(f"{arguments.out}: {len(images)} images, {Path(arguments.out).stat().st_size} bytes")


def draw(demo: Path) -> list[Image.Image]:
    """An image before each call, and one after the last."""
    rows = [load(demo, name, title, plan) for name, (title, plan) in ROWS.items()]
    portrait = Image.open(demo / "portrait.png").resize((CELL, CELL), Image.Resampling.LANCZOS)
    head = header(portrait, audio.load(demo / "speech.wav"))
    calls = max(len(row.grid) for row in rows)
    return [page(head, rows, call) for call in range(calls + 1)]


def load(demo: Path, name: str, title: str, plan: Mapping[str, Any]) -> Row:
    """A strategy's row, from its video.

    Raises:
        UserError: there is no such video.
    """
    made = demo / f"{name}.mp4"
    if not made.exists():
        raise UserError(f"No video of '{name}' in {demo}: run thbench demo first.")
    source = np.random.default_rng(0)
    noise = source.normal(128, 56, (FRAMES, CELL // 4, CELL // 4, 1)).clip(0, 255)
    large = noise.repeat(4, axis=1).repeat(4, axis=2).repeat(3, axis=3)
    grid = plan_drawing.grid(plans.build(n=FRAMES, **plan), CALLS)
    return Row(name, title, cells(video.read(made)), large, grid)


def cells(frames: Any) -> Pixels:
    """FRAMES of a clip (T, 3, H, W), evenly spaced, as (FRAMES, CELL, CELL, 3)."""
    chosen = np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)
    images = [Image.fromarray(frames[i].permute(1, 2, 0).numpy()) for i in chosen]
    return np.stack([np.asarray(i.resize((CELL, CELL), Image.Resampling.LANCZOS)) for i in images])


def header(portrait: Image.Image, waveform: Any) -> Image.Image:
    """Portrait and audio, which all rows are given."""
    width = LABEL + FRAMES * (CELL + GAP)
    image = Image.new("RGB", (width, HEAD), PAPER)
    pen = ImageDraw.Draw(image)
    image.paste(portrait, (LABEL - CELL - 5 * GAP, 2))
    _write(pen, (4, 14), "given:", INK, 13)
    _write(pen, (4, 30), "portrait", FAINT, 12)
    _write(pen, (4, 44), "and audio", FAINT, 12)
    columns = np.array_split(np.asarray(waveform), width - LABEL - GAP)
    loud = np.array([np.abs(part).max(initial=0) for part in columns])
    for x, height in enumerate(loud / max(loud.max(), 1e-6) * (CELL - 8) / 2):
        top, low = 2 + CELL / 2 - height, 2 + CELL / 2 + height
        pen.line((LABEL + x, top, LABEL + x, low), fill=SOUND)
    return image


def page(head: Image.Image, rows: Sequence[Row], call: int) -> Image.Image:
    """All rows before a call in sequence."""
    foot = 22
    image = Image.new("RGB", (head.width, HEAD + LINE * len(rows) + foot), PAPER)
    image.paste(head, (0, 0))
    pen = ImageDraw.Draw(image)
    for k, row in enumerate(rows):
        top, done = HEAD + LINE * k, min(call, len(row.grid))
        title, _, how = row.title.partition(": ")
        _write(pen, (4, top + 4), title, INK, 15)
        _write(pen, (4, top + 22), how, FAINT, 12)
        unit = "call" if done == 1 else "calls"
        _write(pen, (4, top + 38), f"{done} {unit}", FAINT if done == len(row.grid) else INK, 12)
        for i in range(FRAMES):
            image.paste(row.cell(call, i), (LABEL + i * (CELL + GAP), top))
    text = (
        "AI-generated by thbench demo: shipped weights, drawn faces."
        " Noise drawn for illustration; blue: observed."
    )
    _write(pen, (4, image.height - foot + 3), text, FAINT, 12)
    return image


def save(images: Sequence[Image.Image], out: Path) -> None:
    """An endless GIF that rests on its last image."""
    palette = _palette(images)
    drawn = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    times = [MILLISECONDS] * (len(drawn) - 1) + [PAUSE]
    out.parent.mkdir(parents=True, exist_ok=True)
    drawn[0].save(
        out, save_all=True, append_images=drawn[1:], duration=times, loop=0, optimize=True
    )


def _palette(images: Sequence[Image.Image]) -> Image.Image:
    """One palette for all images, so that what does not change costs nothing."""
    first = images[0]
    every = images[:: max(1, len(images) // SWATCHES)]
    sheet = Image.new("RGB", (first.width, first.height * (len(every) + 1)))
    for k, image in enumerate([*every, images[-1]]):
        sheet.paste(image, (0, k * first.height))
    return sheet.quantize(COLOURS, method=Image.Quantize.MEDIANCUT)


def _write(
    pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, ink: tuple[int, int, int], size: int
) -> None:
    pen.text(at, text, fill=ink, font=ImageFont.load_default(size))


if __name__ == "__main__":
    main()
