"""Reading audio: any track of any file as a 16 kHz mono waveform, aligned to the video.

``thbench.data.media.timeline`` places samples by their time stamps, ``thbench.data.media.channels``
mixes channels to mono.
"""

from __future__ import annotations

import math
import wave
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np

from thbench.core.errors import UserError
from thbench.core.files import replacing
from thbench.core.types import SAMPLE_RATE, SAMPLES_PER_FRAME
from thbench.data.media.channels import Mixer
from thbench.data.media.container import audio_tracks, indexed_packets, open_media
from thbench.data.media.decoding import first_timestamp
from thbench.data.media.timeline import Block, Gap, gap_notes, merge_blocks, place_spans

SILENCE = -100.0
"""Decibels; the level of what is quieter still."""
_CLIPPED, _CLICK = 1e-3, 1e-4
"""Shares of the samples: clipping of fewer is not noted, and fewer may be clipped in any mix."""
_CHECKED = {"flac", "tta", "ac3", "eac3"}
"""Codecs whose packets hold checksums, which FFmpeg only minds when it is told to."""


class NoAudioError(UserError):
    """The file holds no audio."""


@dataclass(frozen=True)
class DecodedAudio:
    """The audio of a file, and what was done to it.

    Attributes:
        waveform: float32 (S,) in [-1, 1] at 16 kHz. Sample 0 falls on the first frame shown, or
            is the first one of a file without a video track.
        notes: one line each on what was chosen, mixed, cut, or stretched.
        gaps: (from, to) in seconds, where silence replaces missing audio.
    """

    waveform: np.ndarray
    notes: tuple[str, ...]
    gaps: tuple[Gap, ...]

    def gap_notes(self, start: float = 0.0, stop: float = math.inf) -> list[str]:
        """Lines on the gaps between two times, in seconds."""
        inside = [(a, b) for a, b in self.gaps if start < b and a < stop]
        return gap_notes(inside, "without audio are filled with silence")


def read(path: str | Path, track: int | None = None) -> DecodedAudio:
    """Read an audio track of any sample rate and any channels as 16 kHz mono.

    Every sample lies where its time stamp says; audio before the first frame is cut, gaps and a
    late start are filled with silence. Damaged packets are gaps.

    Args:
        path: of the file.
        track: 1 for the first audio track, 2 for the second. None takes what players play: the
            first that is marked default, else the first.

    Raises:
        UserError: the file is missing or damaged, has no such track, or its time stamps run
            backwards.
        NoAudioError: it has no audio.
    """
    reading = _TrackReader(path, track)
    waveform, notes, gaps = _read_track(reading, path)
    chosen, why = reading.mixer.choose_channels()
    if chosen:
        reading = _TrackReader(path, track, Mixer(chosen))
        waveform, notes, gaps = _read_track(reading, path)
    waveform, loud = _within_scale(waveform, reading.mixer.can_clip)
    notes = [*reading.notes, *why, *reading.mixer.notes(), *notes, *loud]
    return DecodedAudio(waveform, tuple(notes), tuple(gaps))


def load(path: str | Path, track: int | None = None) -> np.ndarray:
    """The waveform of ``read`` alone.

    Args:
        path: of the file.
        track: 1 for the first audio track; None takes the file's default.

    Returns:
        float32 (S,) in [-1, 1].

    Raises:
        UserError: the file is missing or damaged, has no such track, or its time stamps run
            backwards.
        NoAudioError: it has no audio.
    """
    return read(path, track).waveform


def level(waveform: np.ndarray) -> float:
    """Level (RMS) of a waveform (S,) in dBFS, at least ``SILENCE``."""
    if not len(waveform):
        return SILENCE
    power = float(np.square(waveform, dtype=np.float64).mean())
    return max(SILENCE, 10 * float(np.log10(max(power, 1e-12))))


def write_wav(path: str | Path, waveform: np.ndarray) -> None:
    """Write a waveform (S,) in [-1, 1] as 16-bit WAV at 16 kHz, whole or not at all.

    Raises:
        UserError: the disk does not take it.
    """
    samples = (np.asarray(waveform, np.float64).clip(-1, 1) * 32767).round().astype("<i2")
    with replacing(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.tobytes())


def fit_length(waveform: np.ndarray, n_frames: int) -> np.ndarray:
    """A waveform (S,) cut, or padded with silence, to (n_frames * 640,)."""
    wanted = n_frames * SAMPLES_PER_FRAME
    return np.pad(waveform[:wanted], (0, max(0, wanted - len(waveform))))


def _read_track(reading: _TrackReader, path: str | Path) -> tuple[np.ndarray, list[str], list[Gap]]:
    try:
        waveform, notes, gaps = place_spans(merge_blocks(reading.blocks()), first_timestamp(path))
    except NoAudioError:
        raise
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    reading.check()
    return waveform, notes, gaps


def _within_scale(waveform: np.ndarray, mixed: bool) -> tuple[np.ndarray, list[str]]:
    """Samples scaled into [-1, 1] where a mix is louder, else clipped; with notes on it."""
    size = np.abs(waveform)
    peak = float(size.max(initial=0))
    if peak > 1:
        peak = float(np.quantile(size, 1 - _CLICK))  # a click does not make speech quiet
    if (mixed and peak > 1) or peak > 2:
        note = f"turned down by {20 * np.log10(peak):.1f} dB, to full scale"
        return (waveform / np.float32(peak)).clip(-1, 1), [note]
    beyond = float((size > 1).mean()) if len(size) else 0.0
    notes = [f"{beyond:.1%} of the samples clipped at full scale"] if beyond > _CLIPPED else []
    return waveform.clip(-1, 1), notes


@dataclass
class _TrackReader:
    """Decodes one track once."""

    path: str | Path
    track: int | None
    mixer: Mixer = field(default_factory=Mixer)
    packets: int = 0
    damaged: int = 0
    expected: int = 0
    count: int = 0
    about: str = ""
    broke_off: bool = False

    def blocks(self) -> Iterator[Block]:
        """Decoded blocks of samples, mixed to mono.

        Raises:
            NoAudioError: there is no track, or no such track.
        """
        with open_media(self.path) as container:
            stream = self._choose(container)
            if stream.codec_context.name in _CHECKED:
                stream.codec_context.options = {"err_detect": "crccheck+explode"}
            lost = False
            for packet in self._demuxed(container, stream):
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    self.damaged, lost = self.damaged + 1, True
                    continue
                for frame in frames:
                    time = None if frame.pts is None else float(frame.pts * frame.time_base)
                    samples = self.mixer(frame)
                    if len(samples):
                        self.count += len(samples)
                        yield Block(time, frame.sample_rate, samples, lost)
                        lost = False
            self.expected = indexed_packets(container, stream)

    def check(self) -> None:
        """Check that there was audio.

        Raises:
            UserError: all of it is damaged.
            NoAudioError: there was none.
        """
        if not self.count and self.damaged:
            raise UserError(f"The audio of {self.path} cannot be decoded: the file is damaged.")
        if not self.count:
            raise NoAudioError(f"{self.path} has an audio track without audio in it.")
        if self.mixer.non_finite >= self.count:
            raise NoAudioError(
                f"The audio of {self.path} holds no finite samples: record it again."
            )

    @property
    def notes(self) -> list[str]:
        """Lines on what was read."""
        notes = [self.about] if self.about else []
        if self.mixer.non_finite:
            notes.append(f"{self.mixer.non_finite} samples are not finite: silenced")
        if self.damaged:
            notes.append(f"{self.damaged} damaged packets of audio left out")
        if self.broke_off or self.packets + 1 < self.expected:
            notes.append("the audio breaks off: the file is cut short")
        return notes

    def _choose(self, container: Any) -> Any:
        tracks, usual = audio_tracks(container)
        if not tracks:
            raise NoAudioError(f"{self.path} has no audio: give a file with an audio track.")
        index = usual if self.track is None else self.track - 1
        if not 0 <= index < len(tracks):
            raise NoAudioError(
                f"{self.path} has no audio track {self.track}: it has {len(tracks)}, the first"
                " is 1."
            )
        if len(tracks) > 1:
            language = tracks[index].language
            named = f" ({language})" if language and language != "und" else ""
            self.about = f"audio track {index + 1} of {len(tracks)}{named} taken"
        return tracks[index]

    def _demuxed(self, container: Any, stream: Any) -> Iterator[Any]:
        try:
            for packet in container.demux(stream):
                self.packets += packet.size > 0
                yield packet
        except av.FFmpegError:
            self.broke_off = True
