"""Finds the videos of rows, and puts those that are shown into the page's folder."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from thbench.core.errors import UserError
from thbench.core.files import replacing
from thbench.data.media.container import open_media, video_track
from thbench.evaluation import encodings
from thbench.evaluation.pairing import find_videos, pair_up, reference_videos
from thbench.evaluation.results import GROUND_TRUTH, Encoding, Result

FOLDER = "videos"
PLAYED = {".mp4": {"h264", "av1", "vp9"}, ".webm": {"vp8", "vp9", "av1"}}
"""Codecs that every browser plays, by the container."""
SOUNDS = {".mp4": {"aac", "mp3", ""}, ".webm": {"opus", "vorbis", ""}}
PIXELS = {"yuv420p", "yuvj420p"}
NAMES = {"libdav1d": "av1", "libvpx": "vp8", "libvpx-vp9": "vp9", "mp3float": "mp3"}
"""Of codecs, by the decoder that FFmpeg takes for them."""

Video = list[Any]


@dataclass
class Shelf:
    """The page's folder of videos, in which they have numbers for names.

    Attributes:
        page: the page's folder.
        files: what was put there, by the source: path from the page, and frames.
        encoded: sources that were encoded anew, since browsers do not play them.
    """

    page: Path
    files: dict[Path, Video] = field(default_factory=dict)
    encoded: list[Path] = field(default_factory=list)

    def put(self, source: Path) -> Video:
        """Copy a video, or encode it anew where a browser could not play it.

        Returns:
            Its path from the page, and its length in frames at 25 per second.

        Raises:
            UserError: it is no video that can be read.
        """
        key = source.resolve()
        if key not in self.files:
            plays = _plays(source, encodings.read(source))
            suffix = source.suffix.lower() if plays else ".mp4"
            name = f"{FOLDER}/{len(self.files) + 1:04d}{suffix}"
            if plays:
                with replacing(self.page / name) as temporary:
                    shutil.copyfile(source, temporary)
            else:
                encode(source, self.page / name)
                self.encoded.append(source)
            self.files[key] = [name, length(self.page / name)]
        return self.files[key]

    def clear(self) -> None:
        """Delete the videos of an earlier page."""
        for path in (self.page / FOLDER).glob("[0-9]*"):
            if path.suffix in PLAYED and path.stem.isdigit():
                path.unlink()

    @property
    def bytes(self) -> int:
        """Of all videos."""
        return sum((self.page / name).stat().st_size for name, _ in self.files.values())


def _plays(path: Path, found: Encoding) -> bool:
    suffix = path.suffix.lower()
    codec, sound = (NAMES.get(name, name) for name in (found.codec, found.audio))
    known = codec in PLAYED.get(suffix, ()) and sound in SOUNDS.get(suffix, ())
    return known and found.pixels in PIXELS


def encode(source: Path, out: Path) -> None:
    """Encode a video as browsers play it: H.264 at 25 fps with AAC, as scoring reads it.

    Raises:
        UserError: it cannot be read, or is smaller than two pixels.
    """
    from thbench.data.media import audio, video

    try:
        waveform = audio.load(source)
    except audio.NoAudioError:
        waveform = None
    with ExitStack() as stack:
        writer: video.VideoWriter | None = None
        for chunk in video.chunks(source):
            height, width = (2 * (n // 2) for n in chunk.frames.shape[-2:])  # 4:2:0 has even sizes
            if writer is None:
                opened = video.VideoWriter(out, height, width, waveform=waveform)
                writer = stack.enter_context(opened)
            writer.write(chunk.frames[..., :height, :width])


def length(path: Path) -> int:
    """Frames of a video at 25 per second, as its container says; 0 where it does not."""
    from thbench.core.types import FPS  # which imports torch

    with open_media(path) as container:
        track = video_track(container)
        if track.duration and track.time_base:
            return round(float(track.duration * track.time_base) * FPS)
        # Matroska keeps a duration of the whole file alone, in microseconds.
        return round((container.duration or 0) / 1e6 * FPS)


@dataclass(frozen=True)
class Member:
    """A row of a table whose videos are asked for: its place, its title, and its result."""

    row: int
    title: str
    result: Result

    @cached_property
    def original(self) -> Mapping[str, Path]:
        """The reference's videos by clip id; none where they are not here."""
        place, split = self.result.reference, self.result.data.split
        return reference_videos(Path(place), split or "test")[0] if _here(place) else {}

    @cached_property
    def videos(self) -> Mapping[str, Mapping[int, Path]]:
        """The scored videos by clip id and seed; none where they are not here."""
        result, found = self.result, dict[str, dict[int, Path]]()
        if result.strategy == GROUND_TRUTH or not _here(result.videos):
            return found
        scored = {row.id for row in result.per_clip}
        # Where a reference has gone, the id alone says which video is which clip's.
        clips = {**dict.fromkeys(scored, Path()), **self.original}
        for pair in pair_up(find_videos(Path(result.videos)), clips, result.seeds or None)[0]:
            if pair.id in scored or not scored:
                found.setdefault(pair.id, {})[pair.seed] = pair.generated
        return found

    @property
    def missing(self) -> str:
        """Why there is no video, or ""."""
        if self.result.strategy == GROUND_TRUTH or self.videos:
            return ""
        place = self.result.videos
        if not place:
            return "its result does not say where they lay: `thbench eval` or `score` it again"
        return f"they lay in {Path(place).name}, " + (
            "where none is named like its clips" if _here(place) else "which is not here"
        )


def collect(members: Sequence[Member], shelf: Shelf, count: int) -> dict[str, Any]:
    """The clips of a table with their videos, which go to the shelf.

    Args:
        members: the table's rows.
        shelf: where videos go.
        count: clips at most: those that most rows have, of equal ones the first by id.

    Returns:
        ``clips``, each with its ``id``, the ``original`` and ``videos`` (row, seed, path,
        frames); and
        ``missing``, lines on what is not there.
    """
    rows = [m for m in members if m.result.strategy != GROUND_TRUTH]
    having = Counter(clip for member in rows for clip in member.videos)
    if not rows:
        having = Counter(clip for member in members for clip in member.original)
    chosen = sorted(sorted(having, key=lambda clip: (-having[clip], clip))[:count])
    missing = [f"{m.title}: no videos, {m.missing}." for m in rows if m.missing]
    clips = []
    for clip in chosen:
        original = next((m.original[clip] for m in members if clip in m.original), None)
        content: dict[str, Any] = {"id": clip, "original": None, "videos": []}
        if original is None:
            missing.append(f"The original of {clip} is not here.")
        else:
            content["original"] = _put(shelf, original, f"The original of {clip}", missing)
        for member in rows:
            seeds = member.videos.get(clip, {})
            if not seeds and member.videos:
                missing.append(f"{member.title}: no video of {clip}.")
            for seed, path in sorted(seeds.items()):
                what = f"{member.title}, seed {seed} of {clip}"
                if found := _put(shelf, path, what, missing):
                    content["videos"].append([member.row, seed, *found])
        clips.append(content)
    return {"clips": clips, "missing": missing, "of": len(having)}


def _put(shelf: Shelf, path: Path, what: str, missing: list[str]) -> Video | None:
    try:
        return shelf.put(path)
    except UserError as error:
        # The page goes to others, whom the place on this machine does not concern.
        missing.append(f"{what} cannot be shown: {str(error).replace(str(path), 'its file')}")
        return None


def _here(place: str) -> bool:
    return bool(place) and Path(place).is_dir()
