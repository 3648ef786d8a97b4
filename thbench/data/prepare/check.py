"""Checking that a prepared data set is complete and agrees with its manifest and the contracts."""

from __future__ import annotations

import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from thbench.core.errors import UserError
from thbench.core.files import sha256
from thbench.core.types import EYES_DIM, N_LANDMARKS, POSE_DIM, Clip
from thbench.data import manifest
from thbench.data.embedding import cache
from thbench.data.media import video
from thbench.data.prepare import lookalikes

WARNING = "warning: "
_REDO = "delete it and run `thbench data prepare` again"
_AGAIN = "run `thbench data prepare` again"
_TRACK = {
    "landmarks": ((N_LANDMARKS, 3), np.float16),
    "pose": ((POSE_DIM,), np.float32),
    "eyes": ((EYES_DIM,), np.float32),
    "valid": ((), np.bool_),
}
_UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile)


def check(root: str | Path, progress: bool = True, faces: bool = True) -> list[str]:
    """Verify a prepared data set. Every mp4 is read once; of few more than one frame is decoded.

    Checked are the manifest; each clip's mp4 (its hash, number of frames and audio) and
    measurements (shapes, data types, finite values); and, for every encoder with a folder below
    ``audio``, the embedding of each clip that is not silent.

    Args:
        root: the data set.
        progress: show a bar.
        faces: also compare the faces of people in different splits (``lookalikes.warnings``).

    Returns:
        One line per problem, which names the clip and the remedy. Lines that begin with
        ``WARNING`` are about what may be intended: identities that are in several splits, and
        people in different splits who look alike.
    """
    root = Path(root)
    try:
        clips = manifest.read(root)
    except UserError as error:
        return [str(error)]
    folders = sorted(p for p in (root / "audio").glob("*") if p.is_dir())
    silent = all(map(manifest.is_silent, clips))
    problems = [] if folders or silent else [f"{root / 'audio'} has no embeddings: {_AGAIN}."]
    problems += _strangers(folders)
    for clip in tqdm(clips, "check", unit="clip", disable=None if progress else True):
        problems += [f"{clip.id}: {problem}." for problem in _problems(root, clip, folders)]
    problems += _crossings(clips)
    if faces:
        problems += [f"{WARNING}{line}" for line in lookalikes.warnings(root, clips, progress)]
    return problems


def _problems(root: Path, clip: Clip, folders: Sequence[Path]) -> Iterator[str]:
    yield from _video(root / clip.video, clip)
    yield from _track(root / clip.track, clip)
    for folder in () if manifest.is_silent(clip) else folders:
        yield from _embedding(folder, clip)


def _video(path: Path, clip: Clip) -> Iterator[str]:
    if not path.is_file():
        yield f"{path} is missing: {_AGAIN}"
        return
    if sha256(path) != clip.sha256:
        yield f"{path} has changed since it was prepared (sha256): {_REDO}"
    try:
        info = video.probe(path)
    except UserError:
        yield f"{path} cannot be decoded: {_REDO}"
        return
    if info.n_frames != clip.n_frames:
        yield f"{path} has {info.n_frames} frames, the manifest says {clip.n_frames}: {_REDO}"
    if info.has_audio == manifest.is_silent(clip):
        what = "audio, the manifest says that it is silent" if info.has_audio else "no audio"
        yield f"{path} has {what}: {_REDO}"


def _track(path: Path, clip: Clip) -> Iterator[str]:
    if not path.is_file():
        yield f"{path} is missing: {_AGAIN}"
        return
    try:
        with np.load(path) as npz:
            arrays = {name: npz[name] for name in npz.files}
    except _UNREADABLE:
        yield f"{path} cannot be read: {_REDO}"
        return
    for name, (shape, dtype) in _TRACK.items():
        if name not in arrays:
            yield f"{path} has no '{name}': {_REDO}"
        elif (found := arrays[name]).shape != (clip.n_frames, *shape) or found.dtype != dtype:
            wanted = f"{np.dtype(dtype)} {(clip.n_frames, *shape)}"
            yield f"'{name}' in {path} is {found.dtype} {found.shape}, not {wanted}: {_REDO}"
        elif not np.isfinite(found).all():
            yield f"'{name}' in {path} has values that are not finite: {_REDO}"


def _embedding(folder: Path, clip: Clip) -> Iterator[str]:
    path, encoder = folder / f"{clip.id}.npy", folder.name
    if not path.is_file():
        yield f"{path} is missing: {_AGAIN} with --audio {encoder}"
        return
    try:
        found = np.load(path)
    except _UNREADABLE:
        yield f"{path} cannot be read: {_REDO} with --audio {encoder}"
        return
    if found.ndim < 2 or len(found) != clip.n_frames or found.dtype != np.float32:
        wanted = f"float32 ({clip.n_frames}, D)"
        yield f"{path} is {found.dtype} {found.shape}, not {wanted}: {_REDO} with --audio {encoder}"
    elif not np.isfinite(found).all():
        yield f"{path} has values that are not finite: {_REDO} with --audio {encoder}"


def _strangers(folders: Sequence[Path]) -> Iterator[str]:
    """Folders whose embeddings another version of their encoder made."""
    for folder in folders:
        try:
            cache.check(folder, folder.name)
        except UserError as error:
            yield str(error)


def _crossings(clips: Sequence[Clip]) -> Iterator[str]:
    splits: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        splits[clip.identity].add(clip.split)
    crossing = sorted(identity for identity, found in splits.items() if len(found) > 1)
    if crossing:
        yield (
            f"{WARNING}{len(crossing)} identities are in several splits ({crossing[0]} is in"
            f" {', '.join(sorted(splits[crossing[0]]))}): fine where the data set is split by"
            " video, as HDTF is; else give each person one split."
        )
