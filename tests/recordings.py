"""Recordings as cameras, browsers and disks produce them, faults and all; nobody real is in them.

``record`` writes pictures and sound with any codec, and puts each packet at any time; ``talk`` is a
synthetic face that speaks. The other functions break a file that was written well.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from thbench.data.synthetic.perform import perform
from thbench.data.synthetic.render import render

TICKS = 1_000_000
Place = Callable[[float], float | None]
"""From the seconds at which a packet belongs to those that are written; None leaves it out."""


@dataclass(frozen=True)
class Talk:
    """A synthetic face that speaks: uint8 (T, 3, S, S) at 25 fps, and (T * 640,) at 16 kHz."""

    frames: Tensor
    sound: np.ndarray


@functools.lru_cache(maxsize=4)
def talk(n_frames: int = 100, size: int = 128, person: int = 0, seed: int = 5) -> Talk:
    """The same face and words each time."""
    played = perform(seed, person, 0, n_frames)
    return Talk(render(played.who, played.state, size), played.speech.waveform)


@functools.lru_cache(maxsize=4)
def voice(n_frames: int = 50, rate: int = 48000, seed: int = 5) -> np.ndarray:
    """What ``talk`` says, (S,) at any rate."""
    said = perform(seed, 0, 0, n_frames).speech.waveform
    return np.interp(
        np.arange(len(said) * rate // 16000) * 16000 / rate, np.arange(len(said)), said
    )


def counting(n_frames: int, size: int = 64, step: int = 4) -> Tensor:
    """Grey pictures; ``counted`` tells which is which, up to 240 / step of them."""
    levels = torch.arange(n_frames, dtype=torch.uint8) * step + 8
    return levels[:, None, None, None].expand(-1, 3, size, size).contiguous()


def counted(frames: Tensor, step: int = 4) -> list[int]:
    """The numbers of ``counting``'s pictures."""
    means = frames.float().mean((1, 2, 3))
    return [round((float(mean) - 8) / step) for mean in means]


def clicks(at: Iterable[float], seconds: float, rate: int = 48000) -> np.ndarray:
    """(S,) with a click of 2 ms, loudest at each of the given seconds."""
    wave = np.zeros(round(seconds * rate), np.float32)
    half = rate // 1000
    for second in at:
        middle = round(second * rate)
        wave[middle - half : middle + half + 1] += 0.8 * np.hanning(2 * half + 1)
    return wave


def heard(wave: np.ndarray, rate: int = 16000) -> list[float]:
    """Seconds at which clicks are loudest, in order."""
    found, loud = [], np.abs(wave)
    least = 0.4 * loud.max(initial=0)
    while len(loud) and loud.max() > least > 0:
        at = int(loud.argmax())
        found.append(at / rate)
        loud[max(0, at - rate // 100) : at + rate // 100] = 0
    return sorted(found)


@dataclass(frozen=True)
class Track:
    """One sound track: (channels, S) or (S,) samples in [-1, 1]; ``at`` as for ``record``."""

    samples: np.ndarray
    rate: int = 48000
    codec: str = "aac"
    layout: str = "mono"
    language: str = ""
    default: bool | None = None
    block: int = 1024
    at: Place = float


def record(
    path: Path,
    frames: Tensor | None = None,
    *sounds: Track,
    fps: float = 25,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    at: Place = float,
    container: str | None = None,
    container_options: Mapping[str, str] | None = None,
) -> Path:
    """Write a file.

    Args:
        path: its suffix is the container unless ``container`` names it.
        frames: uint8 (T, 3, H, W), or None for sound alone.
        sounds: any tracks.
        fps: picture k belongs at k / fps.
        codec: of the picture.
        options: of the picture's codec. Without any, every picture is decoded in order of display.
        at: where a picture is put instead.
        container: FFmpeg's name of a format.
        container_options: FFmpeg's options of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(
        str(path), "w", format=container, container_options=dict(container_options or {})
    ) as file:
        packets: list[av.Packet] = []
        writers = []
        if frames is not None:
            stream = file.add_stream(
                codec, rate=Fraction(fps).limit_denominator(10000), options=dict(options or _PLAIN)
            )
            stream.height, stream.width = frames.shape[-2:]
            stream.pix_fmt = "yuv420p"
            writers.append(lambda: _pictures(stream, frames, fps, at))
        for sound in sounds:
            track = file.add_stream(sound.codec, rate=sound.rate, layout=sound.layout)
            if sound.language:
                track.metadata["language"] = sound.language
            if sound.default is not None:
                track.disposition = int(sound.default)
            writers.append(functools.partial(_sounds, track, sound))
        for write in writers:
            packets += write()
        # in order of writing, as a recorder has them
        for packet in sorted(packets, key=lambda packet: (packet.opaque, packet.stream_index)):
            packet.opaque = None
            file.mux(packet)
    return path


_PLAIN = {"bf": "0", "crf": "18", "g": "25"}


def _pictures(stream: av.VideoStream, frames: Tensor, fps: float, at: Place) -> list[av.Packet]:
    made = []
    for k, picture in enumerate(frames.permute(0, 2, 3, 1).contiguous().numpy()):
        frame = av.VideoFrame.from_ndarray(picture, "rgb24")
        frame.pts, frame.time_base = k, 1 / Fraction(fps).limit_denominator(10000)
        made += stream.encode(frame)
    return _placed([*made, *stream.encode()], at)


def _sounds(stream: av.AudioStream, sound: Track) -> list[av.Packet]:
    samples = np.atleast_2d(sound.samples).astype(np.float32)
    names = [each.name for each in stream.codec_context.codec.audio_formats or []]
    planar = sound.codec not in ("libopus",) and not sound.codec.startswith("pcm")
    # PyAV crashes on more than seven planes
    kind = "fltp" if planar and "fltp" in names and len(samples) < 8 else "s16"
    made = []
    for a in range(0, samples.shape[1], sound.block):
        part = np.ascontiguousarray(samples[:, a : a + sound.block])
        if kind == "s16":
            part = (part.T * 32767).round().astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(part, kind, sound.layout)
        frame.sample_rate, frame.pts = sound.rate, a
        frame.time_base = Fraction(1, sound.rate)
        made += stream.encode(frame)
    return _placed([*made, *stream.encode()], sound.at)


def _placed(packets: Sequence[av.Packet], at: Place) -> list[av.Packet]:
    """Packets at their new times; ``opaque`` keeps the old, for the order of writing."""
    kept = []
    for packet in packets:
        was = float((packet.dts if packet.dts is not None else packet.pts) * packet.time_base)
        delay = 0 if packet.dts is None else float((packet.pts - packet.dts) * packet.time_base)
        time = at(was + delay)
        if time is None:
            continue
        packet.pts, packet.dts = round(time * TICKS), round((time - delay) * TICKS)
        packet.time_base = Fraction(1, TICKS)
        packet.opaque = was
        kept.append(packet)
    return kept


def damage(path: Path, count: int, seed: int = 0, kind: str = "video", spare: int = 0) -> list[int]:
    """Overwrite the inside of some packets, not of the first ``spare``; the size stays.

    Returns:
        the numbers of the packets, in order of decoding.
    """
    rng = np.random.default_rng(seed)
    with av.open(str(path)) as file:
        stream = file.streams.get({kind: 0})[0]
        places = [(p.pos, p.size) for p in file.demux(stream) if p.size]
    chosen = sorted(int(i) + spare for i in rng.choice(len(places) - spare, count, replace=False))
    content = bytearray(path.read_bytes())
    for place, size in (places[i] for i in chosen):
        a = place + max(12, size // 3)
        b = min(place + size, a + max(8, size // 4))
        content[a:b] = rng.integers(0, 256, max(0, b - a), dtype=np.uint8).tobytes()
    path.write_bytes(content)
    return chosen


def forget_rate(path: Path) -> None:
    """Take the frame duration out of a Matroska file's header, as browsers leave it out."""
    content = bytearray(path.read_bytes())
    at = content.index(b"\x23\xe3\x83\x84")
    content[at : at + 8] = b"\xec\x86" + bytes(6)  # an element that is to be passed over
    path.write_bytes(content)


def begin_later(path: Path, seconds: float, track: int = 0) -> None:
    """Let an mp4's track begin so late in what is stored, by its edit list (ISO 14496-12, elst)."""
    content = bytearray(path.read_bytes())
    header = _found(content, b"mdhd", track)
    rate = struct.unpack(">I", content[header + 16 : header + 20])[0]
    entry = _found(content, b"elst", track) + 12
    length, start = struct.unpack(">Ii", content[entry : entry + 8])
    movie = _found(content, b"mvhd", 0)
    whole = struct.unpack(">I", content[movie + 16 : movie + 20])[0]
    content[entry : entry + 8] = struct.pack(
        ">Ii", length - round(seconds * whole), start + round(seconds * rate)
    )
    path.write_bytes(content)


def _found(content: bytearray, name: bytes, which: int) -> int:
    """Where the content of the ``which``-th such box begins, after its name."""
    at = -1
    for _ in range(which + 1):
        at = content.index(name, at + 1)
    return at


def restamp(path: Path, track: int, at: Callable[[float], float]) -> Path:
    """Give the blocks of a Matroska file other times, backwards too, which FFmpeg does not write.

    Args:
        path: an mkv or webm.
        track: 1 for the first.
        at: from a block's seconds to those that it is given; up to 30 s away.
    """
    content = bytearray(path.read_bytes())
    cluster = 0
    for name, start, size in _elements(content, 0, len(content)):
        if name == 0xE7:  # the cluster's own time, in ms
            cluster = int.from_bytes(content[start : start + size], "big")
        elif name in (0xA1, 0xA3) and content[start] & 0x7F == track:
            (own,) = struct.unpack(">h", content[start + 1 : start + 3])
            time = round(1000 * at((cluster + own) / 1000)) - cluster
            content[start + 1 : start + 3] = struct.pack(">h", time)
    path.write_bytes(content)
    return path


_CONTAINERS = {0x18538067, 0x1F43B675, 0xA0}
"""Segment, Cluster and BlockGroup: elements that hold elements (RFC 9559)."""


def _elements(content: bytearray, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(name, where its content begins, size) of each element, those inside of others too."""
    while at < stop:
        length = 9 - content[at].bit_length()
        name = int.from_bytes(content[at : at + length], "big")
        at += length
        length = 9 - content[at].bit_length()
        size = int.from_bytes(content[at : at + length], "big") & ((1 << 7 * length) - 1)
        unknown = size == (1 << 7 * length) - 1
        at += length
        if name in _CONTAINERS:
            yield from _elements(content, at, stop if unknown else at + size)
        else:
            yield name, at, size
        at = stop if unknown else at + size
