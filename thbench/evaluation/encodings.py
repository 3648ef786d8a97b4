"""How the scored videos are encoded, as their streams say; nothing is decoded.

Compression alone moves metrics of lips and of sharpness, so a result says whether its videos, and
the reference's, went through the same codec.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

from thbench.data.media.container import audio_tracks, open_media, video_track
from thbench.evaluation.results import Encoding


def read(path: Path) -> Encoding:
    """The encoding of one video, of the tracks that are scored.

    Raises:
        UserError: the file cannot be opened, or has no video track.
    """
    with open_media(path) as container:
        track = video_track(container)
        tracks, played = audio_tracks(container)
        codec = track.codec_context
        audio = tracks[played].codec_context if tracks else None
        return Encoding(
            codec=codec.name,
            profile=codec.profile or "",
            pixels=codec.pix_fmt or "",
            width=codec.width,
            height=codec.height,
            fps=round(float(track.average_rate or 0), 3),
            audio=audio.name if audio else "",
            sample_rate=audio.sample_rate if audio else 0,
            clips=1,
            bit_rate=float(track.bit_rate) if track.bit_rate else None,
        )


def summarize(found: Iterable[Encoding]) -> tuple[Encoding, ...]:
    """Videos of one encoding together, the most frequent first; of bit rates the median."""
    groups: dict[Encoding, list[Encoding]] = {}
    for each in found:
        groups.setdefault(replace(each, clips=0, bit_rate=None), []).append(each)
    whole = [_together(kind, members) for kind, members in groups.items()]
    return tuple(sorted(whole, key=lambda each: (-each.clips, str(each))))


def of_videos(sides: Mapping[str, Iterable[Path]]) -> dict[str, tuple[Encoding, ...]]:
    """Encodings by side; a video that comes several times counts once.

    Raises:
        UserError: a file cannot be opened, or has no video track.
    """
    return {side: summarize(map(read, dict.fromkeys(paths))) for side, paths in sides.items()}


def _together(kind: Encoding, members: list[Encoding]) -> Encoding:
    rates = [each.bit_rate for each in members if each.bit_rate is not None]
    return replace(kind, clips=len(members), bit_rate=median(rates) if rates else None)
