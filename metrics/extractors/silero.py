"""Speech and silence by the network Silero VAD, as its package 5.1.2 decides with its defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrics import weights
from metrics.extractors.base import NetworkExtractor
from metrics.frames import Frames

RATE = 16000
WINDOW = 512
"""Samples that have one probability."""
CONTEXT = 64
"""Samples before them that the network is shown too."""
STATE = (2, 1, 128)
BEGINS, ENDS = 0.5, 0.35
"""Speech begins at this probability, and ends below that."""
MIN_SPEECH, MIN_SILENCE, PAD = 4000, 1600, 480
"""Samples: 250 ms of speech, 100 ms of silence, 30 ms on either side of speech."""
FPS = 25


def speech_spans(probabilities: Sequence[float], samples: int) -> list[tuple[int, int]]:
    """Where there is speech, in samples.

    Args:
        probabilities: of speech, of windows of 512 samples.
        samples: of the audio.

    Returns:
        Beginnings and ends, in order, padded; a pause shorter than the padding is shared.
    """
    spans = [
        (start, stop)
        for start, stop in _raw_spans(probabilities, samples)
        if stop - start > MIN_SPEECH
    ]
    starts = [max(0, start - PAD) for start, _ in spans]
    stops = [min(samples, stop + PAD) for _, stop in spans]
    for k in range(len(spans) - 1):
        gap = spans[k + 1][0] - spans[k][1]
        if gap < 2 * PAD:
            stops[k], starts[k + 1] = spans[k][1] + gap // 2, spans[k + 1][0] - gap // 2
    return list(zip(starts, stops, strict=True))


def _raw_spans(probabilities: Sequence[float], samples: int) -> list[tuple[int, int]]:
    spans = []
    start = quiet = -1
    for place, probability in zip(
        range(0, WINDOW * len(probabilities), WINDOW), probabilities, strict=True
    ):
        if probability >= BEGINS:
            quiet = -1
            start = place if start < 0 else start
        elif probability < ENDS and start >= 0:
            quiet = place if quiet < 0 else quiet
            if place - quiet >= MIN_SILENCE:
                spans.append((start, quiet))
                start = quiet = -1
    return [*spans, (start, samples)] if start >= 0 else spans


def speech_frames(spans: Sequence[tuple[int, int]], frames: int) -> Tensor:
    """Video frames of speech, (T, 1) float: 1 from a span's first to its last, else 0.

    Ends are rounded to a tenth of a second, as Silero's package returns seconds.
    """
    rows = torch.zeros(frames, 1)
    for start, stop in spans:
        begins, ends = round(start / RATE, 1), round(stop / RATE, 1)
        rows[int(begins * FPS) : int(ends * FPS) + 1] = 1.0
    return rows


class SileroVAD(NetworkExtractor):
    """Which frames are speech, (T, 1): 1 or 0.

    On the CPU, through onnxruntime.

    Args:
        device: not used.
        batch_size: not used.
        path: the network (.onnx) to use unchecked; by default the official one, checked.

    Raises:
        metrics.weights.WeightsMissing: the official file or the package is not here.
    """

    name = "silero-vad"
    needs = ("waveform",)

    def find(self) -> Path:
        return weights.find("silero-vad")

    def load(self, path: Path) -> None:
        runtime = weights.onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session: Any = runtime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def extract(self, frames: Frames | Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        """Frames of speech (T, 1) of a clip; its images are not looked at."""
        waveform = (given or {})["waveform"].float().cpu().flatten()
        spans = speech_spans(self.probabilities(waveform), len(waveform))
        return speech_frames(spans, len(frames))

    def probabilities(self, waveform: Tensor) -> list[float]:
        """Of speech in each window of audio (S,), the last one filled with zeros."""
        windows = torch.nn.functional.pad(waveform, (CONTEXT, -len(waveform) % WINDOW))
        state, rate = np.zeros(STATE, np.float32), np.array(RATE, np.int64)
        found = []
        for place in range(0, len(waveform), WINDOW):
            window = windows[None, place : place + CONTEXT + WINDOW].numpy()
            output, state = self._session.run(None, {"input": window, "state": state, "sr": rate})
            found.append(float(output[0, 0]))
        return found

    def forward(self, frames: Tensor) -> Tensor:
        """Not defined on frames."""
        raise TypeError("speech is heard, not seen")
