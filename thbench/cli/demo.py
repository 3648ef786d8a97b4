"""``thbench demo``: the commands that a user would type, one after another, on synthetic data."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from thbench.core.errors import UserError

IDENTITIES = 20
SECONDS = 3
SHARED = {"lfg": 100, "pbnet": 60}
STEPS = {
    "dawn": {**SHARED, "a2v1": 25, "a2v2": 10},
    "sar": {**SHARED, "a2v1": 25, "a2v2": 10},
    "ttr": {**SHARED, "keys1": 15, "keys2": 5, "gaps1": 15, "gaps2": 5},
    "rolling": {**SHARED, "a2v1": 25, "a2v2": 10},
    "diffused_heads": {"frame": 60},
    "fd2talk": {"morphable": 8, "lip": 60, "motion": 100, "autoencoder": 60, "frame": 120},
    "hallo": {"vae": 60, "image": 100, "video": 40},
}
"""Steps of each strategy's stages: to see every part work, not to see it learn."""
CLIPS = 2
SAMPLED = 10
"""Steps of the sampler, where the strategy does not take fewer."""
SHOWN = (
    *(
        "Time (s)",
        "First frame (s)",
        "Peak memory (GB)",
        "Depth",
        "Frames evaluated",
        "FD-pyramid",
        "FVD16-synthetic",
    ),
    *("LSE-C (synthetic-sync, valid pairs)", "Mouth r", "Pose error", "DR25 (pyramid)"),
)
"""Columns of the table that ends it."""


def demo(arguments: argparse.Namespace) -> None:
    """Make data, train, evaluate, make a video from a picture and a sound, build the table."""
    from thbench import config

    out = Path(arguments.out)
    started = time.monotonic()
    data, results = out / "data", out / "results"
    common = ["scale=tiny", f"data={data}", f"runs={out / 'runs'}", f"results={results}"]
    amount = ["--identities", str(IDENTITIES), "--seconds", str(SECONDS)]
    _run(["data", "synth", "--out", str(data), *amount])
    portrait, speech = _own_files(data, out)
    videos = []
    for name, stages in STEPS.items():
        steps = [f"stages.{stage}.max_steps={n}" for stage, n in stages.items()]
        own = config.load(name, common).sampler.steps
        quick = [f"sampler.steps={min(own, SAMPLED)}", f"eval.limit={CLIPS}"]
        _run(["fit", name, *common, *steps])
        _run(["eval", name, *common, *quick])
        videos.append(out / f"{name}.mp4")
        files = ["--image", str(portrait), "--audio", str(speech), "-o", str(videos[-1])]
        _run(["generate", name, *common, *quick, *files, "--watermark", "--force"])
    tables = out / "leaderboards"
    _run(["leaderboard", "--results", str(results), "--out", str(tables)])
    _show(results)
    minutes = (time.monotonic() - started) / 60
    print(f"\nDone in {minutes:.1f} minutes. Tiny nets, minutes of training: smoke, not a figure.")
    print(f"  table        {tables / 'README.md'}")
    print(f"  videos       {', '.join(map(str, videos))} and {out / 'runs'}/eval-*/")
    print(f"  checkpoints  {out / 'runs'}/<stage>-<hash>/last.ckpt")
    print(f"  data         {data}")


def _run(argv: Sequence[str]) -> None:
    """Run a command as a user would, and show it."""
    from thbench.cli.parser import main

    print(f"\n$ thbench {shlex.join(argv)}", flush=True)
    if main(argv):
        raise UserError(f"the demo stopped at: thbench {shlex.join(argv)}")


def _show(results: Path) -> None:
    """The tables' columns that tell strategies apart, in the terminal."""
    from thbench.evaluation.results import read_folder
    from thbench.leaderboard.rank import select_columns, tables_of
    from thbench.leaderboard.render import show

    for table in tables_of(read_folder(results)):
        show(select_columns(table, SHOWN))


def _own_files(data: Path, out: Path) -> tuple[Path, Path]:
    """A picture and a sound of two test clips, as files of a user's own."""
    from PIL import Image

    from thbench.data import manifest
    from thbench.data.media import audio, video

    clips = [clip for clip in manifest.read(data) if clip.split == "test"]
    portrait, speech = out / "portrait.png", out / "speech.wav"
    frame = video.read(data / clips[0].video, [0])[0]
    Image.fromarray(frame.permute(1, 2, 0).numpy()).save(portrait)
    audio.write_wav(speech, audio.load(data / clips[-1].video))
    return portrait, speech
