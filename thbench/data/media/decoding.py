"""Decoding video to frames, each with its time stamp and whether it is damaged.

Decoders hide damage: H.264's paints the blocks that it cannot read with what lies near, and all
that is predicted from them is wrong too, until the next key frame. FFmpeg marks a frame that it
patched up, and returns an error for a packet that it gives up. Here that mark is passed on to all
frames that build on it, in order of decoding. Frames on which nothing builds (B-frames of MPEG,
H.264's with ``nal_ref_idc`` 0) keep it to themselves; whether another is really built upon is not
known, so that all up to the next key frame count as damaged.

Seen so: H.264, MPEG-1, -2 and -4, H.263, and whatever else checks what it reads. Not seen: damage
inside the frames of VP8, VP9, AV1 and most of H.265, whose decoders take any bits for a frame;
there only headers and lost packets tell. Of H.264, a damaged packet may also decode to another
frame without a contradiction: none of 108 at 224 pixels did, 4 of 36 at 96.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread
from typing import Any

import av
from av.video.frame import PictureType

from thbench.core.errors import UserError
from thbench.core.types import FPS
from thbench.data.media.container import indexed_packets, open_media, video_track

REORDERED = 16
"""No codec puts a frame further behind one that was decoded after it."""
AHEAD = 4
"""Frames that are decoded before they are asked for."""
UNSTAMPED = {"avi"}
"""Containers that hold no time of display; FFmpeg makes one up from the order of decoding."""


@dataclass(frozen=True)
class DecodedFrame:
    """One frame of a file, in order of display.

    Attributes:
        frame: as decoded (``av.VideoFrame``), or None where it was lost.
        time: its time stamp in seconds, on the file's clock.
        damaged: it, or a frame that it is predicted from, could not be decoded fully.
        ratio: of a pixel's width to its height.
    """

    frame: Any
    time: float
    damaged: bool
    ratio: Any = 1


def decode_frames(path: str | Path) -> Generator[DecodedFrame]:
    """All frames of a video.

    Damage raises nothing. A lost frame comes in its place with ``frame=None``; the first one
    is always decoded.

    Raises:
        UserError: the file is missing, holds no frame that can be decoded, or is cut short; the
            last only after the frames that are there.
    """
    yield from _read_ahead(decode_on_demand(path))


def first_timestamp(path: str | Path) -> float | None:
    """Time stamp in seconds of the first frame displayed; None without a video track."""
    try:
        return next(decode_on_demand(path)).time
    except UserError:  # there is none, or none that can be decoded: treat it as an audio file
        return None


def timestamps(path: str | Path) -> list[float]:
    """Time stamps of a video's frames in seconds, in order; decoded only where packets do not tell.

    Raises:
        UserError: the file is missing or has no video track.
    """
    with open_media(path) as container:
        stream = video_track(container)
        if stream is None:
            raise UserError(f"{path} has no video track: a video is needed here.")
        by_place = container.format.name in UNSTAMPED
        packets = _until_damage(container.demux(stream))
        base = stream.time_base
        found = [p.dts if by_place else p.pts for p in packets if p.size and not p.is_discard]
    if found and None not in found:
        return [float(ticks * base) for ticks in sorted(found)]
    return [decoded.time for decoded in decode_frames(path)]


def _read_ahead(source: Generator[DecodedFrame]) -> Generator[DecodedFrame]:
    """The same frames, decoded in a thread of their own ahead of the consumer."""
    found: Queue[DecodedFrame | BaseException | None] = Queue(AHEAD)
    stopped = Event()

    def put(item: DecodedFrame | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(Full):
                return found.put(item, timeout=0.05)

    def work() -> None:
        try:
            for decoded in source:
                put(decoded)
                if stopped.is_set():
                    break
            put(None)
        except BaseException as error:
            put(error)
        finally:
            source.close()

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := found.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def _until_damage(packets: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from packets
    except av.FFmpegError:
        return  # decoding reports it


def rate_of(stream: Any) -> float:
    """Frames per second as the header guesses, for those without time stamps."""
    return float(stream.guessed_rate or stream.average_rate or FPS)


def decode_on_demand(path: str | Path) -> Generator[DecodedFrame]:
    """As ``decode_frames``, decoding only when a frame is asked for."""
    with open_media(path) as container:
        stream = video_track(container)
        if stream is None:
            raise UserError(f"{path} has no video track: a video is needed here.")
        # With several threads, FFmpeg loses the frames beside a packet that cannot be decoded,
        # and may show one before another thread has marked it as patched up.
        stream.codec_context.thread_count = 1
        stream.codec_context.copy_opaque = True
        if stream.codec_context.name == "hevc":  # it returns no error of its own accord
            stream.codec_context.options = {"err_detect": "explode"}
        order = _DisplayOrder(stream, container.format.name)
        begun = False
        for decoded in _decoded(container, stream, order, path):
            begun = begun or decoded.frame is not None
            if begun:
                yield decoded
        if not begun:
            raise UserError(f"{path} holds no frame that can be decoded: is the file complete?")
        if order.packets < (expected := indexed_packets(container, stream)):
            raise UserError(
                f"{path} is cut short: {order.packets} of {expected} frames are there. Copy it"
                " again."
            )


def _decoded(
    container: Any, stream: Any, order: _DisplayOrder, path: str | Path
) -> Iterator[DecodedFrame]:
    try:
        for packet in container.demux(stream):
            order.add_packet(packet)
            try:
                frames = packet.decode()
            except av.FFmpegError:
                order.mark_lost()
                continue
            for frame in frames:
                yield from order.add_frame(frame)
    except av.FFmpegError as error:
        yield from order.flush()
        raise UserError(
            f"{path} cannot be read after frame {order.packets}: the file is damaged. Copy it"
            " again."
        ) from error
    yield from order.flush()


@dataclass(frozen=True)
class _Packet:
    """A packet given to the decoder; ``index`` is its place in order of decoding."""

    index: int
    place: float
    time: float | None
    disposable: bool
    dropped: bool


class _DisplayOrder:
    """Matches packets, in order of decoding, to frames, in order of display.

    A frame is held back until all packets before its own have been shown or lost, for only then
    is it known whether it builds on a damaged one.
    """

    def __init__(self, stream: Any, container: str) -> None:
        self.packets = 0
        self._codec = stream.codec_context.name
        self._extra = bytes(stream.codec_context.extradata or b"")
        self._ratio = stream.sample_aspect_ratio or 1
        self._by_place = container in UNSTAMPED
        self._stamped = False
        self._step = 1 / rate_of(stream)
        self._open: dict[int, _Packet] = {}
        self._newest = -1
        self._held: deque[tuple[int, DecodedFrame, bool]] = deque()
        self._lost: list[tuple[float, int]] = []
        self._places: list[float] = []
        self._broken: list[int] = []
        self._last: float | None = None

    def add_packet(self, packet: Any) -> None:
        """Register a packet that is about to be decoded."""
        if not packet.size:
            return
        base = packet.time_base
        index, self.packets = self.packets, self.packets + 1
        place = index * self._step if packet.dts is None else float(packet.dts * base)
        time = None if packet.pts is None or self._by_place else float(packet.pts * base)
        self._stamped = self._stamped or time is not None
        disposable = self._codec == "h264" and is_unreferenced(bytes(packet), self._extra)
        self._sent = _Packet(index, place, time, disposable, packet.is_discard)
        packet.opaque = index
        self._open[index] = self._sent
        if not packet.is_discard:
            heapq.heappush(self._places, place)

    def mark_lost(self) -> None:
        """Register that the decoder failed on the last packet."""
        sent = self._sent
        if self._open.pop(sent.index, None) is None:
            return  # the error came at the end, after all packets
        if not sent.disposable:
            self._broken.append(sent.index)
        if not sent.dropped:
            if sent.place in self._places:
                self._places.remove(sent.place)
                heapq.heapify(self._places)
            heapq.heappush(self._lost, (sent.place if sent.time is None else sent.time, sent.index))

    def add_frame(self, frame: Any) -> Iterator[DecodedFrame]:
        """Add a decoded frame; yields the frames whose state is now certain."""
        index = self._newest + 1 if frame.opaque is None else frame.opaque
        sent = self._open.pop(index, None)
        self._newest = max(self._newest, index)
        disposable = _is_b_frame(frame, self._codec) or (sent is not None and sent.disposable)
        decoded = DecodedFrame(frame, self._time(frame), frame.is_corrupt, self._ratio)
        if decoded.damaged and not disposable:
            self._broken.append(index)
        self._held.append((index, decoded, frame.key_frame))
        while self._held and self._is_known(self._held[0][0]):
            yield from self._release()

    def flush(self) -> Iterator[DecodedFrame]:
        """Yield the frames that are still held back at the end."""
        while self._held:
            yield from self._release()
        while self._lost:
            yield DecodedFrame(None, heapq.heappop(self._lost)[0], True)

    def _time(self, frame: Any) -> float:
        place = heapq.heappop(self._places) if self._places else None
        if frame.pts is not None and not self._by_place:
            time = float(frame.pts * frame.time_base)
        elif place is not None and not self._stamped:
            time = place
        else:
            time = 0.0 if self._last is None else self._last + self._step
        self._last = time
        return time

    def _is_known(self, index: int) -> bool:
        if len(self._held) > REORDERED:
            return True
        for sent in [s for s in self._open if s < self._newest - REORDERED]:
            del self._open[sent]  # never shown: a field, or a frame that others build on
        return all(sent > index for sent in self._open)

    def _release(self) -> Iterator[DecodedFrame]:
        index, decoded, is_key = self._held.popleft()
        while self._lost and self._lost[0][0] < decoded.time:
            yield DecodedFrame(None, heapq.heappop(self._lost)[0], True)
        if is_key:
            self._broken = [broken for broken in self._broken if broken >= index]
        damaged = decoded.damaged or any(broken < index for broken in self._broken)
        yield replace(decoded, damaged=damaged)


def is_unreferenced(packet: bytes, extradata: bytes) -> bool:
    """Whether nothing is predicted from a frame of H.264: its ``nal_ref_idc`` is 0.

    Args:
        packet: of one frame, as NAL units after their lengths (mp4) or start codes.
        extradata: of the codec; its first byte, and size of lengths, say which (ISO 14496-15).
    """
    if extradata[:1] == b"\x01" and len(extradata) > 4:
        size, at = (extradata[4] & 3) + 1, 0
        while at + size < len(packet):
            header = packet[at + size]
            if header & 31 in (1, 2, 5):  # a slice
                return not header >> 5 & 3
            at += size + int.from_bytes(packet[at : at + size], "big")
        return False
    at = packet.find(b"\0\0\1")
    while 0 <= at < len(packet) - 3:
        header = packet[at + 3]
        if header & 31 in (1, 2, 5):
            return not header >> 5 & 3
        at = packet.find(b"\0\0\1", at + 3)
    return False


def _is_b_frame(frame: Any, codec: str) -> bool:
    return codec.startswith("mpeg") and frame.pict_type == PictureType.B
