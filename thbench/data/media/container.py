"""Opening media files, and which of their tracks count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
from av.container import InputContainer

from thbench.core.errors import UserError
from thbench.core.files import check_file

# None drops FFmpeg's log lines inside C. Any level routes them through Python, and FFmpeg's threads
# then wait for the interpreter lock while a closing decoder, holding it, waits for them.
av.logging.set_level(None)


def open_media(path: str | Path) -> InputContainer:
    """Open a video or audio file for reading.

    Raises:
        UserError: the file is missing, empty, or of no known format.
    """
    check_file(path)
    av.logging.set_level(None)  # again: torchvision, up to 0.25, turns it on when it is imported
    try:
        return av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise UserError(f"{path} is no video or audio file, or it is cut short.") from error


def video_track(container: InputContainer) -> Any:
    """The video track that players show: the first that is marked default, else the first.

    Cover images do not count. None where there is no video.
    """
    videos = [s for s in container.streams.video if not _is_cover(s)]
    return next((s for s in videos if _is_default(s)), videos[0] if videos else None)


def audio_tracks(container: InputContainer) -> tuple[list[Any], int]:
    """All audio tracks, and the index among them of the one that players play.

    That is the first that is marked default, else the first.
    """
    tracks = list(container.streams.audio)
    return tracks, next((i for i, s in enumerate(tracks) if _is_default(s)), 0)


def indexed_packets(container: InputContainer, stream: Any) -> int:
    """Number of a track's packets by the file's index; 0 where it does not list all packets.

    It is one in mp4 and mov, but for audio whose packets are samples.
    """
    if "mp4" not in container.format.name or stream.codec_context.name.startswith("pcm"):
        return 0
    return len(stream.index_entries)


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & stream.disposition.attached_pic)


def _is_default(stream: Any) -> bool:
    return bool(stream.disposition & stream.disposition.default)
