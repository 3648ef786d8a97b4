"""The one encoder of video. Use it through ``thbench.data.media.video``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from thbench.core.errors import UserError
from thbench.core.files import replacing
from thbench.core.types import FPS, SAMPLE_RATE

# With its macroblock tree, x264 writes other bytes each time for small frames on processors with
# AVX-512 (7 files of 10 at 96 x 64). These bytes name data sets and, through them, training runs.
_X264 = "mbtree=0"


class VideoWriter:
    """Writes an mp4: H.264 (yuv420p, BT.601) with AAC audio, 16 kHz mono, where given.

    A context manager. The file appears under its name only when all went well; otherwise nothing
    is left. Equal input gives equal bytes; the video track's do not depend on the x86-64
    processor, as far back as SSE4.

    Args:
        path: of the mp4; its folder is made.
        height, width: even numbers, as 4:2:0 video demands.
        fps: frames per second.
        waveform: (S,) in [-1, 1] at 16 kHz; cut or padded with silence to the frames' duration.
        metadata: any keys; ``read_metadata`` reads them.
        crf: x264's quality, lower is better (18 is visually lossless).
        preset: x264's speed.
        gop: longest distance between key frames, which is which bounds the cost of random access.

    Raises:
        UserError: odd size, no frame was written, or the file cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        height: int,
        width: int,
        *,
        fps: int = FPS,
        waveform: np.ndarray | Tensor | None = None,
        metadata: Mapping[str, Any] | None = None,
        crf: float = 18,
        preset: str = "fast",
        gop: int = 25,
    ) -> None:
        if height % 2 or width % 2:
            raise UserError(f"Video of {width}x{height} cannot be written: use even numbers.")
        self.path = Path(path)
        self._shape = (3, height, width)
        self._fps = fps
        self._wave = None if waveform is None else np.asarray(waveform, np.float32).reshape(-1)
        self._metadata = {key: str(value) for key, value in (metadata or {}).items()}
        self._options = {"crf": str(crf), "preset": preset, "g": str(gop), "keyint_min": "1"}
        self._options["x264-params"] = _X264
        self._n = 0

    def __enter__(self) -> VideoWriter:
        with ExitStack() as stack:
            self._temporary = stack.enter_context(replacing(self.path))
            stack.enter_context(self._encoding())
            self._stack = stack.pop_all()
        return self

    def write(self, frames: Tensor) -> None:
        """Append frames, uint8 (n, 3, H, W)."""
        if frames.dtype != torch.uint8 or tuple(frames.shape[1:]) != self._shape:
            raise ValueError(
                f"expected uint8 (n, *{self._shape}), got {frames.dtype} {frames.shape}"
            )
        for image in frames.permute(0, 2, 3, 1).contiguous().cpu().numpy():
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU601"
            )
            frame.pts, self._n = self._n, self._n + 1
            self._container.mux(self._video.encode(frame))
        self._write_audio()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @contextmanager
    def _encoding(self) -> Iterator[None]:
        self._open()
        try:
            yield
            if not self._n:
                raise UserError(f"{self.path} was not written: it would have no frames.")
            self._container.mux(self._video.encode())
            if self._wave is not None:
                self._container.mux(self._audio.encode())
        except BaseException:
            with suppress(OSError, ValueError):  # what is thrown away need not close cleanly
                self._container.close()
            raise
        self._container.close()

    def _open(self) -> None:
        self._container = av.open(
            str(self._temporary),
            "w",
            format="mp4",
            # the plain mp4 muxer drops keys that it does not know
            options={"movflags": "use_metadata_tags+faststart", "fflags": "+bitexact"},
        )
        self._container.metadata.update(self._metadata)
        video: Any = self._container.add_stream("libx264", rate=self._fps, options=self._options)
        video.height, video.width = self._shape[1:]
        video.pix_fmt = "yuv420p"
        # x264's bytes depend on its number of threads, so the machine must not choose it.
        video.thread_count = 1
        video.codec_context.flags |= av.codec.context.Flags.bitexact
        video.codec_context.colorspace = 6  # SMPTE 170M: said, or players guess by size
        video.codec_context.color_range = 1
        video.codec_context.time_base = Fraction(1, self._fps)
        self._video = video
        if self._wave is not None:
            stream: Any = self._container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
            stream.bit_rate = 64_000
            stream.codec_context.flags |= av.codec.context.Flags.bitexact
            self._audio, self._sample = stream, 0

    def _write_audio(self) -> None:
        """Encode the audio up to the last frame, so that the muxer need not hold frames back."""
        if self._wave is None:
            return
        end = round(self._n * SAMPLE_RATE / self._fps)
        samples = self._wave[self._sample : end]
        samples = np.pad(samples, (0, end - self._sample - len(samples)))
        frame = av.AudioFrame.from_ndarray(samples.clip(-1, 1)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, self._sample
        frame.time_base = Fraction(1, SAMPLE_RATE)
        self._container.mux(self._audio.encode(frame))
        self._sample = end
