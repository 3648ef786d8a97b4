"""Whether there is room on the disk for caches, checkpoints and videos."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path

from thbench.config import StageConfig
from thbench.core.errors import UserError
from thbench.evaluation import pipeline
from thbench.preflight.context import Preflight
from thbench.preflight.report import ERROR, OK, WARNING, StageReport, size_text


def check_disk(run: Preflight) -> None:
    """Compare what will be written, by disk, with what is free there."""
    wanted: dict[Path, dict[str, int]] = defaultdict(dict)
    if run.files:
        draws = [s.draw.video for s in _untrained(run) if s.max_steps]
        for store in run.stores.values() if draws else ():
            for path, size in store.unbuilt(video=any(draws)):
                folder = _existing(path)
                wanted[folder]["caches"] = wanted[folder].get("caches", 0) + size
        for path, size in _kept_rows(run).items():
            folder = _existing(path)
            wanted[folder]["caches"] = wanted[folder].get("caches", 0) + size
    runs = wanted[_existing(Path(run.config.runs) / "run")]
    runs["checkpoints"] = sum(_checkpoint_bytes(run, found) for found in run.report.stages)
    runs["videos"] = _video_bytes(run)
    by_disk: dict[int, tuple[Path, dict[str, int]]] = {}
    for folder, sizes in wanted.items():
        _, known = by_disk.setdefault(folder.stat().st_dev, (folder, {}))
        for kind, size in sizes.items():
            known[kind] = known.get(kind, 0) + size
    for folder, sizes in by_disk.values():
        _report_room(run, folder, {kind: size for kind, size in sizes.items() if size})


def _report_room(run: Preflight, folder: Path, sizes: dict[str, int]) -> None:
    free, needed = shutil.disk_usage(folder).free, sum(sizes.values())
    parts = ", ".join(f"{kind} {size_text(size)}" for kind, size in sizes.items())
    what = (
        f"about {size_text(needed)} to be written ({parts})" if needed else "nothing to be written"
    )
    text = f"{what}, {size_text(free)} free at {folder}"
    if needed > free:
        remedy = "free some, or point runs= and data.cache_gb elsewhere"
        run.add(ERROR, "disk", f"{text}: {remedy}.", local=True)
    else:
        run.add(OK if needed < 0.8 * free else WARNING, "disk", text, local=True)


def _checkpoint_bytes(run: Preflight, found: StageReport) -> int:
    """Bytes of the last and the best checkpoint, and of the one that is being written."""
    if found.need is None:
        return 0
    return found.need.saved * (1 + len(run.splits) if found.steps else 1)


def _video_bytes(run: Preflight) -> int:
    """Bytes of the generated videos: those of the test clips' own files, for each seed."""
    try:
        seeds = len(pipeline.protocol_of(run.config).seeds)
        paths = [Path(run.config.eval_data.root) / clip.video for clip in run.eval_data]
    except UserError:
        return 0
    some = [path for path in paths[:: max(1, len(paths) // 50)] if path.is_file()]
    mean = sum(path.stat().st_size for path in some) / len(some) if some else 0
    return int(mean * len(paths) * seeds)


def _kept_rows(run: Preflight) -> dict[Path, int]:
    """Bytes of what stages will keep of frozen networks (``model.cache``), by a path of its kind.

    Nothing of a kind that is there for these clips, though it may be of other weights.
    """
    sizes = {}
    for found in run.report.stages:
        if found.trained or not found.steps or found.need is None:
            continue
        rows = run.networks.stage(found.name).frozen_rows()
        if rows is None:
            continue
        for store in run.stores.values():
            path = store.cache_path(f"{rows.kind}-*-{store.size}")
            if not any(path.parent.glob(path.name)):
                sizes[path] = int(store.offsets[-1]) * rows.bytes
    return sizes


def _untrained(run: Preflight) -> list[StageConfig]:
    return [run.config.stages[f.name] for f in run.report.stages if not f.trained]


def _existing(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())
