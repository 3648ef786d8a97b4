"""Rows to compare strategies with, of the same requests: videos that no network generated, or from
another clip's audio.

    still          the portrait, for every frame
    nearest        the training clip whose portrait is most like the test clip's, with the test
                   clip's audio: what remembering the training data would give
    shuffled       the strategy's own videos, generated from another test clip's audio and scored
                   with their own: what is left where the audio says nothing
    ground-truth   the reference itself

``thbench eval STRATEGY --yardstick NAME`` writes such a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from thbench.config import Config, EvalConfig, content_hash
from thbench.core.console import is_rank_zero
from thbench.core.errors import UserError, did_you_mean
from thbench.core.slices import iterate_slices
from thbench.core.types import Cost, Generation, Request
from thbench.data import manifest
from thbench.data.store import Store
from thbench.evaluation import pipeline
from thbench.evaluation.protocol import Protocol
from thbench.evaluation.results import GROUND_TRUTH, SHUFFLED, Result
from thbench.evaluation.score import score, score_ground_truth
from thbench.generation.requests import SplitRequests
from thbench.generation.writer import tags_of, write_video

STILL, NEAREST = "still", "nearest"
YARDSTICKS = (STILL, NEAREST, SHUFFLED, GROUND_TRUTH)
TITLES = {STILL: "Still portrait", NEAREST: "Nearest training clip (portrait's pixels)"}
VERSION = 1
"""Raised where the same request gives another video."""
_CHUNK = 64
"""Portraits that are compared, or frames that are decoded, at once."""


def evaluate(config: Config, yardstick: str, *, device: str, origin: str) -> Result | None:
    """Make the videos of a yardstick, resuming, and score them as a strategy's are.

    Args:
        config: a strategy, whose requests are taken; ``shuffled`` alone needs it trained.
        yardstick: one of ``YARDSTICKS``.
        device: where scoring runs.
        origin: ``measured`` or ``smoke``; the ground truth is always measured.

    Returns:
        The result, not yet written; None on ranks other than the first.

    Raises:
        UserError: there is no such yardstick, or what it needs is not there.
    """
    if yardstick not in YARDSTICKS:
        hint = did_you_mean(yardstick, YARDSTICKS)
        raise UserError(f"There is no yardstick '{yardstick}'.{hint}")
    if yardstick == SHUFFLED:
        return pipeline.evaluate(config, device=device, origin=origin, others_audio=True)
    if not is_rank_zero():
        return None
    if yardstick == GROUND_TRUTH:
        return _ground_truth(config, device)
    protocol = pipeline.protocol_of(config)
    videos = write_videos(config, protocol, yardstick)
    fields = pipeline.row_fields(config, protocol, yardstick, videos, device, origin)
    whole = replace(protocol, frames=pipeline.requests_of(config, protocol).frames)
    note = _note(config) if yardstick == NEAREST else ""
    return score(
        videos,
        Path(config.eval_data.root),
        whole,
        title=TITLES[yardstick],
        by=config.eval.by,
        notes=(note,) if note else (),
        **fields,
    )


def write_videos(config: Config, protocol: Protocol, yardstick: str) -> Path:
    """Write the videos of ``still`` or ``nearest`` that are missing, named as ``score`` pairs them.

    Args:
        config: says what is asked for, and the size (``config.size``).
        protocol: of ``pipeline.protocol_of``.
        yardstick: ``still`` or ``nearest``.

    Returns:
        The folder, in which they are called ``seed-<n>/<clip id>.mp4``.

    Raises:
        UserError: no training clip is long enough, or is another than the test clip.
    """
    requests = pipeline.requests_of(config, protocol)
    training = manifest.digest(config.data.root) if yardstick == NEAREST else None
    run = f"{yardstick}-{content_hash([VERSION, config.size, training], 8)}"
    folder = pipeline.folder_of(config, yardstick, run, protocol)
    paths = [_path(folder, *requests.name(i)) for i in range(len(requests))]
    # A file appears whole or not at all, in a folder that names all that determines it.
    missing = [i for i, path in enumerate(paths) if not path.is_file()]
    if not missing:
        return folder
    nearest = Nearest(config) if yardstick == NEAREST else None
    for i in tqdm(
        missing, yardstick, unit="clip", disable=None if config.trainer.progress else True
    ):
        request = requests[i]
        chunks = nearest(request) if nearest else iter([_still(request)])
        tags = tags_of(yardstick, run, request.seed)
        write_video(paths[i], Generation(request, chunks, Cost()), tags, config.eval.watermark)
    return folder


class Nearest:
    """Finds the training clip whose portrait is nearest to a request's.

    A clip's portrait is its first frame with a face. The distance is the mean squared difference of
    pixels at ``config.size``; of equal ones the first by id is taken. Training clips that are
    shorter than the request, from their portrait on, do not count.

    Args:
        config: whose ``data`` has the training clips.

    Raises:
        UserError: there are none, or they are those that are to be generated.
    """

    def __init__(self, config: Config) -> None:
        same = Path(config.data.root).resolve() == Path(config.eval_data.root).resolve()
        if same and config.eval.split == "train":
            raise UserError("eval.split=train: the nearest training clip is the clip itself.")
        self.store = Store.of(config.data, "train", config.size, cache_gb=0)
        if not self.store.clips:
            raise UserError(f"{config.data.root} has no clips in its split 'train'.")
        self.store.prepare()
        self.starts = [self.store.portrait(i) for i in range(len(self.store.clips))]
        self.lengths = torch.tensor(
            [clip.n_frames - at for clip, at in zip(self.store.clips, self.starts, strict=True)]
        )
        found = [self.store.frames(i, np.array([at])) for i, at in enumerate(self.starts)]
        self.portraits = torch.cat(found)

    def __call__(self, request: Request) -> Iterator[Tensor]:
        """The nearest clip's frames, uint8 (n, 3, size, size), as many as are requested."""
        i, n = self.find(request.source, request.n_frames), request.n_frames
        for part in iterate_slices(n, _CHUNK):
            yield self.store.frames(i, self.starts[i] + np.arange(n)[part])

    def find(self, portrait: Tensor, n: int) -> int:
        """The index of the nearest clip to a portrait (3, size, size) that has ``n`` frames.

        Raises:
            UserError: none is long enough.
        """
        enough = self.lengths >= n
        if not enough.any():
            raise UserError(
                f"No training clip has the {n} frames that are asked for: say eval.frames="
                f"{int(self.lengths.max())} for strategies and yardsticks alike."
            )
        parts = iterate_slices(len(self.portraits), _CHUNK)
        far = torch.cat([_distance(self.portraits[part], portrait) for part in parts])
        return int(far.masked_fill(~enough, torch.inf).argmin())


def _distance(portraits: Tensor, one: Tensor) -> Tensor:
    """Mean squared difference (n,) of uint8 (n, 3, H, W) from (3, H, W)."""
    return (portraits.double() - one.double()).square().mean((1, 2, 3))


def _still(request: Request) -> Tensor:
    return request.source.expand(request.n_frames, -1, -1, -1)


def _path(folder: Path, clip_id: str, seed: int) -> Path:
    return folder / f"seed-{seed}" / f"{clip_id}.mp4"


def _note(config: Config) -> str:
    return (
        f"frames of the training clip of {config.data.name} whose portrait differs least (mean"
        f" squared difference at {config.size} px), with the test clip's audio"
    )


def _ground_truth(config: Config, device: str) -> Result:
    """The reference's own row, in the table of the strategy's: of the same clips and frames."""
    protocol, asked = pipeline.protocol_of(config), config.eval
    requests: SplitRequests = pipeline.requests_of(config, protocol)
    result = score_ground_truth(
        Path(config.eval_data.root),
        replace(protocol, frames=requests.frames),
        split=asked.split,
        limit=asked.limit,
        data=config.eval_data.name,
        by=asked.by,
        named=asked.protocol is not None,
        device=device,
        progress=config.trainer.progress,
    )
    return replace(result, run=ground_truth_run(config, protocol))


def ground_truth_run(config: Config, protocol: Protocol) -> str:
    """The name of the ground truth's result, as `thbench score --ground-truth` names the same row.

    Args:
        config: says what is asked for.
        protocol: of ``pipeline.protocol_of``.
    """
    asked = config.eval
    chosen = replace(EvalConfig(), split=asked.split, limit=asked.limit, frames=asked.frames)
    chosen.seeds = asked.seeds
    part = "" if chosen == EvalConfig() else f"-{content_hash(chosen, 8)}"
    return f"{GROUND_TRUTH}-{config.eval_data.name}-{protocol.name}{part}"
