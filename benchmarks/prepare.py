"""How fast `thbench data prepare` is, and what takes its time.

    python -m benchmarks.prepare KIND SOURCE [--limit 40] [--size 128]

Prepares so many videos in one process with one thread and prints clips and frames per minute, and
the share of each part. Parts are timed within one run; their sum is less than the whole.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from thbench.cli.data import spread
from thbench.data.embedding import encoders
from thbench.data.face import crop, landmarks
from thbench.data.media import video
from thbench.data.prepare import adapters, process, scan
from thbench.data.prepare.prepare import prepare

SPENT: defaultdict[str, float] = defaultdict(float)
_OPEN: list[float] = []


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind")
    parser.add_argument("source", type=Path)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--size", type=int, default=128)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    watch()
    videos = spread(adapters.adapter(arguments.kind)(arguments.source).videos, arguments.limit)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        report = prepare(videos, folder, size=arguments.size)
        seconds = time.perf_counter() - start
    frames = sum(clip.n_frames for clip in report.clips)
    minutes = seconds / 60
    print(f"{len(videos)} videos, {len(report.clips)} clips, {frames} frames in {seconds:.0f} s")
    print(f"{len(report.clips) / minutes:.1f} clips and {frames / minutes:.0f} frames per minute\n")
    print("| part | seconds | share |\n|---|---|---|")
    for part, spent in sorted(SPENT.items(), key=lambda item: -item[1]):
        print(f"| {part} | {spent:.1f} | {spent / seconds:.0%} |")
    rest = seconds - sum(SPENT.values())
    print(f"| the rest | {rest:.1f} | {rest / seconds:.0%} |")


def watch() -> None:
    """Count the time within the parts; what one does inside another counts for the inner one."""
    for part, owner, name in (
        ("reading frames", video, "_chunked"),
        ("finding cuts", scan.ShotFinder, "__call__"),
        ("finding faces", crop.FaceLocator, "faces"),
        ("tracking", landmarks.FaceMesh, "__call__"),
        ("cropping", process, "crop_square"),
        ("writing", video.VideoWriter, "write"),
        ("reading audio", encoders, "read"),
        ("embedding audio", process, "_embed"),
    ):
        setattr(owner, name, _timed(part, getattr(owner, name)))


def _timed(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def timed(*args: Any, **options: Any) -> Any:
        found = _clocked(part, lambda: call(*args, **options))
        return _each(part, found) if hasattr(found, "__next__") else found

    return timed


def _each(part: str, items: Any) -> Any:
    while True:
        try:
            item = _clocked(part, lambda: next(items))
        except StopIteration:
            return
        yield item


def _clocked(part: str, call: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    _OPEN.append(0.0)
    try:
        return call()
    finally:
        whole = time.perf_counter() - start
        SPENT[part] += whole - _OPEN.pop()
        if _OPEN:
            _OPEN[-1] += whole


if __name__ == "__main__":
    main()
