"""Do mouths follow the audio? Every trained strategy, the same held-out clips, an even hand.

    python -m benchmarks.mouths [--out runs/learning] [strategy ...]

Needs what ``benchmarks.learning``, ``strategies.py``, ``fd2talk.py`` and ``hallo.py`` trained.
Each strategy makes the same clips from portrait and audio, with no motion to follow, and once more
with another clip's audio. The mouth opening that ``synthetic-face`` reads off the images is
correlated, within clips, with the one planted beside the clip's own audio; how far it moves is its
standard deviation over that of the opening read off the true frames. Resumable.
Writes ``mouths.json`` and ``mouths.md`` to ``--report``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.held_out import amplitude, correlation, generate, mouth, table, told
from thbench import config
from thbench.core.files import write_atomic
from thbench.generation import assemble
from thbench.generation.requests import SplitRequests

NAMES = ("dawn", "sar", "ttr", "rolling", "ar", "diffused_heads", "fd2talk", "hallo")
READ = "r, amplitude"
"""What rows hold."""


def main(argv: Sequence[str] | None = None) -> None:
    """Generate, read, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", default="runs/learning", help="data (in data/) and checkpoints")
    parser.add_argument("--report", default="docs/strategies", help="the page's folder")
    parser.add_argument("--clips", type=int, default=8, help="held-out clips")
    parser.add_argument("--frames", type=int, default=44, help="of each clip")
    parser.add_argument("--split", default="test", help="val while looking for a recipe")
    parser.add_argument("strategies", nargs="*", default=NAMES)
    given = parser.parse_args(argv)
    folder = Path(given.report)
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "mouths.json"
    asked = {"clips": given.clips, "frames": given.frames, "split": given.split, "read": READ}
    rows: dict[str, list[str]] = {}
    # Rows of another question, or of before amplitude was read, are measured anew.
    if kept.is_file() and (known := json.loads(kept.read_text()))["asked"] == asked:
        rows = known["rows"]
    for name in given.strategies:
        if name not in rows:
            rows[name] = heard(name, given)
            write_atomic(kept, json.dumps({"asked": asked, "rows": rows}, indent=1) + "\n")
    write_atomic(folder / "mouths.md", page(rows, asked))


def page(rows: dict[str, list[str]], asked: dict[str, Any]) -> str:
    """The page; best first."""
    best = sorted(rows.values(), key=lambda row: float(row[1]), reverse=True)
    lines = [
        "# Do mouths follow the audio?",
        "",
        f"r of the mouth opening read off {asked['clips']} clips of {asked['frames']} frames"
        f" ({asked['split']} people; portrait and audio alone, no motion to follow) with the"
        " planted one: the mean, its range over clips, and the mean with another clip's audio."
        " Amplitude: its standard deviation over that of the opening read off the true frames, mean"
        " over clips; 1 is right.",
        "",
        *table([["", "own audio", "least and most", "amplitude", "another's audio"], *best]),
        "",
        "Made by `python -m benchmarks.mouths`; `smoke`: tiny networks, synthetic faces, one seed."
        " What each was trained with differs.",
        "",
    ]
    return "\n".join(lines)


def heard(name: str, given: argparse.Namespace) -> list[str]:
    """A strategy's row."""
    words = ["scale=tiny", f"data={given.out}/data", f"runs={given.out}"]
    loaded = config.load(name, words)
    strategy = assemble.assemble(loaded).strategy
    asked = SplitRequests(
        loaded.data, given.split, loaded.size, limit=given.clips, frames=given.frames
    )
    clips = told(asked, Path(loaded.data.root))
    found = []
    for i, (request, swapped, planted) in enumerate(tqdm(clips, name, total=given.clips)):
        read, other = (mouth(generate(strategy, each)) for each in (request, swapped))
        filmed = mouth(asked.store.frames(i, np.arange(request.n_frames)))
        far = amplitude(read, filmed)
        found.append((correlation(read, planted), far, correlation(other, planted)))
    own, far, other = np.array(found).T
    span = f"{own.min():.2f} to {own.max():.2f}"
    return [loaded.title, f"{own.mean():.2f}", span, f"{far.mean():.2f}", f"{other.mean():.2f}"]


if __name__ == "__main__":
    main()
