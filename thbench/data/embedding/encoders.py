"""Audio encoders: embeddings of 16 kHz mono waveforms, aligned to frames at 25 fps.

An embedding is float32 (n_frames, D); row t describes the 40 ms of frame t, samples
[640 t, 640 (t + 1)). Encoders are named in ``ENCODERS``; log-mel needs no weights.
"""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import librosa
import numpy as np
import torch
import torch.nn.functional as F
from scipy.signal import get_window
from torch import Tensor

from metrics.compiling import compile_lock
from thbench.core.errors import UserError
from thbench.core.registry import Registry
from thbench.core.types import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from thbench.data.embedding.wav2vec import FIELD, HOP, convolve_in_chunks
from thbench.data.media.audio import fit_length


class AudioEncoder(ABC):
    """Encodes a waveform as one vector per video frame.

    Attributes:
        name: as in ``ENCODERS``.
        dim: D, channels of an embedding.
        default_dim: D with the default weights, known without loading them.
        version: changes when the same audio and weights would give another embedding.
        source: where the weights come from, None without any.
        weights: a digest of them, empty without any.
        file: that the weights folder must hold (``metrics.weights.folder``) where no source is
            named, empty for none.
    """

    name: ClassVar[str]
    file: ClassVar[str] = ""
    default_dim: ClassVar[int]
    version: ClassVar[str]
    dim: int
    source: str | None = None
    weights: str = ""

    def __init__(self, source: str | None = None) -> None:
        if source:
            raise UserError(f"The audio encoder '{self.name}' has no weights, so drop '={source}'.")

    def __call__(self, waveform: np.ndarray, n_frames: int) -> np.ndarray:
        """Encode (S,) float32 in [-1, 1] at 16 kHz, fitted to ``n_frames``, as (n_frames, D)."""
        if n_frames < 1:
            raise ValueError("a clip has at least one frame")
        features = self.encode(fit_length(np.asarray(waveform, np.float32), n_frames), n_frames)
        return np.ascontiguousarray(features, np.float32)

    @abstractmethod
    def encode(self, waveform: np.ndarray, n_frames: int) -> np.ndarray:
        """Encode (n_frames * 640,) float32 in [-1, 1] at 16 kHz as (n_frames, D) float32."""


class LogMel(AudioEncoder):
    """Stacked log-mel columns; no weights.

    Column j is a 25 ms Hann window about (j + 1/2) * 10 ms, 40 Slaney bands from 50 Hz to 8 kHz.
    Frame t stacks the four columns of its own 40 ms and two on either side, columns 4t - 2 to
    4t + 5, band after band within a column; silence lies beyond the ends. Decibels are floored at
    -100 and brought to about zero mean and unit deviation on speech by constants, so that
    loudness is kept.
    """

    name = "logmel"
    bands = 40
    columns = 8
    dim = default_dim = bands * columns
    version = "logmel-1"
    # over the speech of VoxCeleb2, measured
    mean, deviation, floor = -50.0, 18.0, 1e-10

    def encode(self, waveform: np.ndarray, n_frames: int) -> np.ndarray:
        hop, length, n_fft = 160, 400, 512
        context = 2
        n_columns = 4 * n_frames + 2 * context
        before = context * hop + length // 2 - hop // 2
        padded = np.pad(waveform, (before, before + hop))
        windows = np.lib.stride_tricks.sliding_window_view(padded, length)[::hop][:n_columns]
        weights = _mel_weights(n_fft, self.bands)
        taper = get_window("hann", length).astype(np.float32)
        mel = np.empty((n_columns, self.bands), np.float32)
        for a in range(0, n_columns, 4096):  # an hour of audio must not become an hour of spectra
            spectra = np.abs(np.fft.rfft(windows[a : a + 4096] * taper, n_fft)) ** 2
            mel[a : a + 4096] = spectra @ weights.T
        decibels = 10 * np.log10(np.maximum(mel, self.floor))
        scaled = (decibels - self.mean) / self.deviation
        stacked = np.lib.stride_tricks.sliding_window_view(scaled, self.columns, axis=0)[::4]
        return stacked.transpose(0, 2, 1).reshape(n_frames, self.dim)


@functools.cache
def _mel_weights(n_fft: int, bands: int) -> np.ndarray:
    with compile_lock():  # librosa compiles functions on first use
        weights = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=n_fft, n_mels=bands, fmin=50.0)
    # Each band's weights sum to one in power of a full-scale window, so that levels are in dBFS.
    return (weights / weights.sum(1, keepdims=True) / n_fft).astype(np.float32)


class Wav2Vec2(AudioEncoder):
    """Last hidden state of wav2vec 2.0 (Baevski et al. 2020), at 50 Hz, interpolated to 25 fps.

    State i is centred on sample 320 i + 200, frame t on 640 t + 320; frames are interpolated
    linearly between the two nearest states. Convolutions are computed in chunks, with the same
    result as at once. Attention spans the whole audio up to ``chunk`` seconds; of longer audio,
    chunks of that length with ``overlap`` seconds of context on both sides, so memory is bounded.

    Args:
        source: a folder made by ``save_pretrained``, or a name on the Hugging Face hub.

    Raises:
        UserError: the weights cannot be loaded.
    """

    name = model_type = "wav2vec2"
    version = "wav2vec2-2"
    default = "facebook/wav2vec2-base-960h"
    default_dim = 768
    source: str
    chunk, overlap = 300, 20

    def __init__(self, source: str | None = None) -> None:
        self.source = source or self.default
        self._model, self._normalise = _load_transformer(self.model_type, self.source)
        self.dim = int(self._model.config.hidden_size)

    @functools.cached_property
    def weights(self) -> str:  # type: ignore[override]
        return digest(self._model)

    def encode(self, waveform: np.ndarray, n_frames: int) -> np.ndarray:
        features = self._convolved(waveform)
        states = self._states(features, SAMPLE_RATE // HOP)
        places = (np.arange(n_frames) * SAMPLES_PER_FRAME + SAMPLES_PER_FRAME / 2 - 200) / 320
        places = places.clip(0, len(states) - 1)
        left = np.minimum(places.astype(int), max(0, len(states) - 2))
        right = np.minimum(left + 1, len(states) - 1)
        share = (places - left)[:, None].astype(np.float32)
        return states[left] * (1 - share) + states[right] * share

    def _convolved(self, waveform: np.ndarray) -> Tensor:
        """The convolutions' output (1, C, about S / 320) of a waveform (S,)."""
        if self._normalise:
            waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
        if len(waveform) < FIELD:
            waveform = np.pad(waveform, (0, FIELD - len(waveform)))
        with torch.inference_mode():
            return convolve_in_chunks(self._model.feature_extractor, torch.from_numpy(waveform))

    def _states(self, features: Tensor, rate: int) -> np.ndarray:
        """Hidden states (n, D) of convolutional features (1, C, n), ``rate`` per second."""
        step, margin = self.chunk * rate, self.overlap * rate
        kept = []
        with torch.inference_mode():
            for start in range(0, features.shape[-1], step):
                first = max(0, start - margin)
                states = self._hidden(features[..., first : start + step + margin])
                kept.append(states[start - first :][:step].numpy())
        return np.concatenate(kept)

    def _hidden(self, features: Tensor) -> Tensor:
        """States (n, D) from convolutional features (1, C, n)."""
        return self._transformed(features).last_hidden_state[0]

    def _transformed(self, features: Tensor, **options: Any) -> Any:
        """The model's output from convolutional features (1, C, n), without its convolutions."""
        extractor = self._model.feature_extractor
        hook = extractor.register_forward_hook(lambda *_: features)
        try:
            return self._model(torch.zeros(1, FIELD), **options)
        finally:
            hook.remove()


class Wav2Vec2Layers(Wav2Vec2):
    """The last twelve hidden states of wav2vec 2.0 side by side (Xu et al. 2024, section 3.2)."""

    name = "wav2vec2-layers"
    version = "wav2vec2-layers-2"
    layers = 12
    default_dim = layers * Wav2Vec2.default_dim

    def __init__(self, source: str | None = None) -> None:
        super().__init__(source)
        self.dim *= min(self.layers, int(self._model.config.num_hidden_layers))

    def _hidden(self, features: Tensor) -> Tensor:
        states = self._transformed(features, output_hidden_states=True).hidden_states[1:]
        return torch.cat(states[-self.layers :], dim=-1)[0]


class Wav2Vec2At25Hz(Wav2Vec2Layers):
    """``Wav2Vec2Layers`` with a transformer that sees 25 states a second in place of 50.

    The convolutions' output is interpolated linearly to one state a frame, its ends on the first
    and the last frame, as Hallo's released code has it.
    """

    name = "wav2vec2-25hz"
    version = "wav2vec2-25hz-1"

    def encode(self, waveform: np.ndarray, n_frames: int) -> np.ndarray:
        features = self._convolved(waveform)
        slow = F.interpolate(features, size=n_frames, mode="linear", align_corners=True)
        return self._states(slow, FPS)


class Hubert(Wav2Vec2):
    """Last hidden state of HuBERT (Hsu et al. 2021), otherwise computed like ``Wav2Vec2``."""

    name = model_type = "hubert"
    version = "hubert-2"
    default = "facebook/hubert-large-ls960-ft"
    default_dim = 1024


def digest(network: torch.nn.Module) -> str:
    """Of a network's weights, for ``AudioEncoder.weights``."""
    found = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        found.update(name.encode())
        found.update(value.contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:16]


ENCODERS: Registry[AudioEncoder] = Registry("audio encoder", f"{__name__}:AudioEncoder")
ENCODERS.add("logmel", f"{__name__}:LogMel")
ENCODERS.add("hubert", f"{__name__}:Hubert")
ENCODERS.add("wav2vec2", f"{__name__}:Wav2Vec2")
ENCODERS.add("wav2vec2-layers", f"{__name__}:Wav2Vec2Layers")
ENCODERS.add("wav2vec2-25hz", f"{__name__}:Wav2Vec2At25Hz")
ENCODERS.add("sda", "baselines.diffused_heads.sda:SpeechDriven")


@functools.cache
def encoder(name: str) -> AudioEncoder:
    """The encoder called ``name``, loaded once per process.

    ``name=source`` takes weights from a folder or another hub repository: "hubert=weights/hubert".

    Raises:
        UserError: no such encoder, or its weights cannot be loaded.
    """
    kind, _, source = name.partition("=")
    return ENCODERS.load(kind)(source or None)


def _load_transformer(kind: str, source: str) -> tuple[Any, bool]:
    """A model in evaluation mode, and whether it wants zero mean and unit variance."""
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

    try:
        config = AutoConfig.from_pretrained(source)
        if config.model_type != kind:
            raise UserError(f"{source} holds a {config.model_type} model, not {kind}.")
        model = AutoModel.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise UserError(
            f"The weights of '{kind}' cannot be had from {source}: go online, or give a folder that"
            f" holds them as '{kind}=FOLDER'. 'logmel' needs none."
        ) from error
    try:
        normalise = bool(AutoFeatureExtractor.from_pretrained(source).do_normalize)
    except (OSError, ValueError):
        normalise = True  # as both defaults want it
    return model.eval().requires_grad_(False), normalise
