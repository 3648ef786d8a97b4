"""Whether the data set holds what training reads: files, embeddings, clips long enough."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from thbench import config as configs
from thbench.core.errors import UserError
from thbench.core.hub import missing_weights
from thbench.core.types import Clip
from thbench.data.dataset import least_frames, usable_frames
from thbench.data.embedding.encoders import ENCODERS
from thbench.data.manifest import is_silent
from thbench.data.media import video
from thbench.preflight.context import Preflight
from thbench.preflight.report import ERROR, OK, WARNING, ClipCount
from thbench.training.runs import stage_kind


def check_files(run: Preflight, names: Iterable[str]) -> None:
    """Check that the videos and tracks in the manifest are here, and the audio's embeddings.

    Args:
        run: the run of the checks.
        names: stages to train; videos are needed only where one of them draws frames.
    """
    if not run.files:
        run.add(OK, "data", "judged from the manifest alone, the clips' files are not read")
        return
    root = Path(run.config.data.root)
    draws_frames = any(run.config.stages[name].draw.video for name in names)
    used = [clip for split in run.splits for clip in run.stores[split].clips]
    wanted = {
        "track": [root / clip.track for clip in used],
        "video": [root / clip.video for clip in used] if draws_frames else [],
    }
    for kind, paths in wanted.items():
        missing = [path for path in paths if not path.is_file()]
        if missing:
            run.add(
                ERROR,
                "data",
                f"{len(missing)} of {len(used)} clips have no {kind}, such as {missing[0]}:"
                " prepare the data set again.",
            )
    if not run.report.of(ERROR):
        run.add(OK, "data", f"{len(used)} clips with video and track")
    _check_embeddings(run, used)


def check_encoder(run: Preflight) -> None:
    """Check that the audio encoder is the one of the strategy's paper, at paper scale."""
    config, given = run.config, run.config.data.audio.partition("=")[0]
    if config.scale != "paper" or config.strategy not in configs.names("strategy"):
        return
    own = configs.load(config.strategy, ["scale=paper"]).data.audio
    if given == own:
        run.add(OK, "audio", f"{given}, as in the paper")
        return
    run.add(
        WARNING,
        "audio",
        f"data.audio={given}, but the paper's strategy uses {own}: results will not compare"
        f" with the paper's; set data.audio={own}.",
    )


def _check_embeddings(run: Preflight, used: Sequence[Clip]) -> None:
    """Check that the audio of the clips is embedded, or can be."""
    store, audio = run.stores["train"], run.config.data.audio
    heard = [clip for clip in used if not is_silent(clip)]
    missing = [clip for clip in heard if not store.embeddings.path(clip.id).is_file()]
    if not missing:
        return
    what = f"{len(missing)} of {len(heard)} clips have no '{audio}' embedding"
    kind, _, source = audio.partition("=")
    try:
        encoder = ENCODERS.load(kind)
    except UserError as error:
        run.add(ERROR, "audio", f"{what}: {error}")
        return
    if encoder.file:
        try:
            encoder(source or None)
        except UserError as error:
            run.add(ERROR, "audio", f"{what}: {error}", local=True)
            return
        source = ""
    else:
        source = source or getattr(encoder, "default", "")
    for resource in missing_weights(source, "", f"the weights of '{kind}'") if source else ():
        if resource.is_fatal:
            run.add(ERROR, "audio", f"{what}, and {resource.what}", local=True)
            return
    run.add(OK, "audio", f"{what}: they are computed once, before the first step", local=True)


def check_size(run: Preflight) -> None:
    """Check the frame size against the strategy's own and the clips', in pixels."""
    config = run.config
    if config.strategy in configs.names("strategy"):
        own = configs.load(config.strategy, [f"scale={config.scale}"]).size
        if own != config.size:
            run.add(WARNING, "size", f"size={config.size}, the strategy's own is {own}.")
    first = next(iter(run.stores["train"].clips), None)
    path = Path(config.data.root) / first.video if first else None
    if not run.files or path is None or not path.is_file():
        return
    try:
        info = video.probe(path)
    except UserError as error:
        run.add_error("data", error)
        return
    if min(info.height, info.width) < config.size:
        run.add(
            WARNING,
            "size",
            f"size={config.size}, but the clips have {info.width} x {info.height} pixels and"
            f" are enlarged: prepare them with --size {config.size}, or lower size.",
        )


def count_clips(run: Preflight, name: str, split: str) -> ClipCount | None:
    """Count the clips of a split that a stage's draw takes; none is an error in the report.

    Returns:
        None where the split is not read, is empty, or the draw itself is wrong.
    """
    draw, clips = run.config.stages[name].draw, run.stores[split].clips
    if split not in run.splits:
        if split == "train":
            run.add(ERROR, name, f"{run.config.data.root} has no clips in its split 'train'.")
        return None
    if not clips:
        run.add(ERROR, name, f"{run.config.data.root} has no clips in its split '{split}'.")
        return None
    try:
        least = least_frames(draw)
    except UserError as error:
        run.add_error(name, error)
        return None
    lengths = np.array([clip.n_frames for clip in clips])
    usable = lengths.copy()
    for i, valid in run.faces[split].items():
        usable[i] = usable_frames(valid, draw)
    heard = ~run.stores[split].silent
    if not heard.all() and stage_kind(run.config, name).uses_audio:
        if not _report_silent(run, name, split, heard):
            return None
        usable, lengths = usable[heard], lengths[heard]
    kept, short = int((usable >= least).sum()), int((lengths < least).sum())
    total = len(lengths)
    counted = ClipCount(total, kept, short, total - kept - short, least, int(lengths.max()))
    _report_left_out(run, name, split, counted)
    return counted


def _report_silent(run: Preflight, name: str, split: str, heard: np.ndarray) -> bool:
    """Say how many clips a stage leaves out for want of sound; whether any other is left.

    Args:
        run: the run of the checks.
        name: of a stage that uses audio.
        split: of the clips.
        heard: bool (clips,), they have sound.
    """
    silent = int((~heard).sum())
    if silent == len(heard):
        text = f"no clip of '{split}' has sound, which this stage needs: use a data set with sound."
        run.add(ERROR, name, text)
    elif silent:
        text = f"{silent} of {len(heard)} clips of '{split}' are left out: they have no sound"
        run.add(WARNING, name, text)
    return silent < len(heard)


def _report_left_out(run: Preflight, name: str, split: str, counted: ClipCount) -> None:
    if counted.kept == counted.total:
        return
    why = [f"{counted.short} have fewer than {counted.least} frames"] if counted.short else []
    why += [f"{counted.faceless} show no face at their start"] if counted.faceless else []
    what = f"{counted.total - counted.kept} of {counted.total} clips of '{split}' are left out"
    if counted.kept:
        run.add(WARNING, name, f"{what}: {', '.join(why)}")
        return
    off = ", or set trainer.validate_batches=0" if split == "val" else ""
    run.add(
        ERROR,
        name,
        f"No clip of the split '{split}' has {counted.least} frames with a face (the longest"
        f" has {counted.longest} frames; {', '.join(why)}): lower draw.frames or draw.least,"
        f" or prepare longer clips{off}.",
    )
