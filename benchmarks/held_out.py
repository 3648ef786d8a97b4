"""What benchmarks of trained systems share: held-out clips with a ground truth, and figures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.utils import save_image

from metrics import motion
from metrics.extractors.synthetic import READS, SyntheticFace
from thbench import config
from thbench.core.types import Request
from thbench.data import manifest
from thbench.generation import runner
from thbench.generation.requests import SplitRequests
from thbench.generation.strategy import Strategy
from thbench.training.runs import stage_run


def arguments(doc: str, clips: int, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line of a benchmark that trains one system and measures it."""
    parser = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    parser.add_argument("--out", default="runs/learning", help="data (in data/) and checkpoints")
    parser.add_argument("--report", default="docs/learning", help="figures and page")
    parser.add_argument("--clips", type=int, default=clips, help="held-out clips")
    parser.add_argument("--split", default="test", help="val while looking for a recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the strategy")
    return parser.parse_args(argv)


def words(given: argparse.Namespace) -> list[str]:
    """What leads its configuration."""
    return ["scale=tiny", f"data={given.out}/data", f"runs={given.out}", *given.overrides]


def metadata(loaded: config.Config, stage: str) -> dict[str, float]:
    """Steps and seconds that a stage took."""
    note = json.loads((stage_run(loaded, stage).folder / "stage.json").read_text())
    return {"steps": note["steps"], "seconds": note["seconds"]}


def told(asked: SplitRequests, root: Path) -> Iterator[tuple[Request, Request, np.ndarray]]:
    """Each clip, the same with another's audio, and the mouth opening (T,) planted in it."""
    truths = {clip.id: clip.extra["truth"] for clip in manifest.read(root)}
    requests = [asked[i] for i in range(len(asked))]
    for request, other in zip(requests, [*requests[1:], requests[0]], strict=True):
        n = request.n_frames
        with np.load(root / truths[request.id]) as truth:
            yield request, replace(request, audio=other.audio[:n]), truth["mouth"][:n]


def generate(strategy: Strategy, request: Request) -> Tensor:
    """Frames (T, 3, H, W) uint8."""
    return torch.cat(list(runner.generate(strategy, request).chunks))


def readings(video: Tensor) -> dict[str, np.ndarray]:
    """What ``synthetic-face`` reads off a video, (T,) by name, in its own units."""
    return dict(zip(READS, _reader().read(video).T.numpy(), strict=True))


def mouth(video: Tensor) -> np.ndarray:
    """Mouth opening (T,) that ``synthetic-face`` reads off a video, in its own units."""
    return readings(video)["mouth"]


@cache
def _reader() -> SyntheticFace:
    return SyntheticFace()


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r. A video that does not move agrees with nothing: 0, not undefined."""
    if len(a) < 2 or b.std() == 0:
        return float("nan")
    return 0.0 if a.std() < 1e-9 else float(np.corrcoef(a, b)[0, 1])


def amplitude(made: np.ndarray, wanted: np.ndarray) -> float:
    """Ratio of the deviations of two openings (T,); NaN if ``wanted`` is still.

    Both must be read alike: what is read off generated frames has another unit than what the
    renderer planted, so ``wanted`` is read off the true frames.
    """
    return motion.amplitude(torch.from_numpy(made), torch.from_numpy(wanted))


def psnr(made: Tensor, wanted: Tensor) -> float:
    """Mean over frames, dB; the first frame is the portrait itself and does not count."""
    error = (made[1:] - wanted[1:]).square().mean((1, 2, 3))
    return float((-10 * torch.log10(error.clamp(min=1e-10))).mean())


def sheet(pictures: Sequence[Tensor], columns: int, path: Path) -> None:
    """Images (3, H, W) in [0, 1] in rows, twice as large: those of the tiny scale are small."""
    shown = torch.stack(list(pictures)).repeat_interleave(2, -2).repeat_interleave(2, -1)
    save_image(shown, path, nrow=columns)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of Markdown; the first row is the head."""
    head, *body = rows
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]
