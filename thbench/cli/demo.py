"""``thbench demo``: the commands that a user would type, one after another, on synthetic data.

First what is shipped: one portrait and one sound by every strategy. Then the pipeline in small.
Then the tables.
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from thbench import config as configs
from thbench.cli.zoo_train import SCALE, shipped_strategies
from thbench.config import Config
from thbench.core.errors import UserError

IDENTITIES = 20
SEED = 17
"""Of the faces: not of those that the shipped weights were trained on."""
SECONDS = 3
DEFAULT_STEPS = 50
"""Of a stage that the strategy's ``demo:`` block does not name."""
CLIPS = 2
SAMPLER_STEPS = 10
"""At most; a strategy that takes fewer keeps its own."""
COLUMNS = (
    *(
        "Time (s)",
        "First frame (s)",
        "Peak memory (GB)",
        "Depth",
        "Frames evaluated",
        "FD-pyramid",
        "FVD16-synthetic",
    ),
    *("LSE-C (synthetic-sync, valid pairs)", "Mouth r", "Mouth amplitude"),
    *("Pose error", "DR25 (pyramid)"),
)
"""Columns of the demo's own table."""
SHIPPED_COLUMNS = (
    *("Time (s)", "First frame (s)", "PSNR", "CSIM (synthetic-identity)", "CPBD"),
    *("LSE-C (synthetic-sync, valid pairs)", "Mouth r (synthetic-mouth)"),
    *("Mouth amplitude (synthetic-mouth)", "Blink/s", "Faces found", "DR25 (pyramid)"),
)
"""Columns of the shipped weights' tables."""


def demo(arguments: argparse.Namespace) -> None:
    """Generate with shipped weights; train, evaluate and tabulate in small; show the tables.

    Every strategy whose weights are shipped speaks in the first part, every strategy whose
    configuration has a ``demo:`` block takes part in the second.
    """
    out = Path(arguments.out)
    started = time.monotonic()
    data, results, tables = out / "data", out / "results", out / "leaderboards"
    size = ["--identities", str(IDENTITIES), "--seconds", str(SECONDS), "--seed", str(SEED)]
    _run(["data", "synth", "--out", str(data), *size])
    print("\nOne portrait and one sound, by every strategy whose weights are shipped", flush=True)
    side_by_side = _generate_shipped(data, out)
    print("\nThe pipeline in small: each strategy is trained briefly, generates and is scored")
    common = ["scale=tiny", f"data={data}", f"runs={out / 'runs'}", f"results={results}"]
    for name in strategies():
        loaded = configs.load(name, common)
        steps = [f"stages.{stage}.max_steps={n}" for stage, n in steps_of(loaded).items()]
        sampler_steps = min(loaded.sampler.steps, SAMPLER_STEPS)
        quick = [f"sampler.steps={sampler_steps}", f"eval.limit={CLIPS}"]
        _run(["fit", name, *common, *steps])
        _run(["eval", name, *common, *quick])
    _run(["leaderboard", "--results", str(results), "--out", str(tables)])
    _show_tables(results)
    minutes = (time.monotonic() - started) / 60
    print(f"\nDone in {minutes:.1f} minutes.")
    if side_by_side:
        print(f"  look at      {side_by_side}: every strategy with its shipped weights")
    print(f"  table        {tables / 'README.md'}: tiny networks, minutes of training, smoke")
    print(f"  videos       {out / 'runs'}/eval-*/")
    print(f"  checkpoints  {out / 'runs'}/<stage>-<hash>/last.ckpt")
    print(f"  data         {data}")


def _generate_shipped(data: Path, out: Path) -> Path | None:
    """One video by each strategy that is shipped, and all of them beside each other.

    Returns:
        The path of the latter, or None where no strategy is shipped.
    """
    portrait, speech = _write_inputs(data, out)
    videos = {}
    for name in shipped_strategies():
        words = [name, f"scale={SCALE}", "weights=zoo"]
        path = out / f"{name}.mp4"
        files = ["--image", str(portrait), "--audio", str(speech), "-o", str(path)]
        _run(["generate", *words, *files, "--watermark", "--force"])
        videos[configs.load(name, words[1:]).title] = path
    if not videos:
        print("No strategy's weights are shipped.")
        return None
    together = out / "side-by-side.mp4"
    tiles = [f"{title}={path}" for title, path in videos.items()]
    _run(["montage", *tiles, "-o", str(together), "--force"])
    return together


def strategies() -> list[str]:
    """Names of the strategies that take part: those whose configuration has a ``demo:`` block.

    Another package's strategy that cannot be loaded is left out, which is printed.
    """
    chosen = []
    for name in configs.names("strategy"):
        try:
            if configs.load(name).demo:
                chosen.append(name)
        except UserError as error:
            print(f"left out: {error}")
    return chosen


def steps_of(config: Config) -> dict[str, int]:
    """Training steps in the demo of each stage that the strategy needs."""
    from thbench.training.runs import order

    return {stage: config.demo.get(stage, DEFAULT_STEPS) for stage in order(config)}


def _run(argv: Sequence[str]) -> None:
    """Print a command and run it.

    Raises:
        UserError: it failed.
    """
    from thbench.cli.parser import main

    print(f"\n$ thbench {shlex.join(argv)}", flush=True)
    if main(argv):
        raise UserError(f"the demo stopped at: thbench {shlex.join(argv)}")


def _show_tables(results: Path) -> None:
    """Print the tables, the shipped ones first, with the columns that tell strategies apart."""
    from thbench.evaluation.results import SHIPPED_RESULTS, read_folder
    from thbench.leaderboard.rank import select_columns, tables_of
    from thbench.leaderboard.render import show

    for folder, columns in ((SHIPPED_RESULTS, SHIPPED_COLUMNS), (results, COLUMNS)):
        if folder.is_dir():
            for table in tables_of(read_folder(folder)):
                show(select_columns(table, columns))


def _write_inputs(data: Path, out: Path) -> tuple[Path, Path]:
    """Write an image and the audio of two test clips, as files that a user might bring.

    Returns:
        The paths of the PNG and of the WAV file.
    """
    from PIL import Image

    from thbench.data import manifest
    from thbench.data.media import audio, video

    clips = [clip for clip in manifest.read(data) if clip.split == "test"]
    portrait, speech = out / "portrait.png", out / "speech.wav"
    frame = video.read(data / clips[0].video, [0])[0]
    Image.fromarray(frame.permute(1, 2, 0).numpy()).save(portrait)
    audio.write_wav(speech, audio.load(data / clips[-1].video))
    return portrait, speech
