"""What the released code hears: the voice alone, embedded at 25 Hz from the start.

The voice is separated by whatever is installed.

A package offers a separator by an entry point (pyproject.toml):

    [project.entry-points."thbench.separators"]
    kim = "my_package:separate"  # (S,) float32 at 16 kHz -> (S,) float32, the voice alone
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from thbench.core import plugins
from thbench.core.errors import UserError, did_you_mean
from thbench.core.types import Request
from thbench.data.embedding.encoders import AudioEncoder, Wav2Vec2Layers, encoder
from thbench.data.embedding.wav2vec import convolve_in_chunks
from thbench.data.media import audio

SEPARATORS = "thbench.separators"
KEYS = ("source", "encoder")
"""Of ``options.vocals``."""


class Wav2Vec2At25Hz(Wav2Vec2Layers):
    """``Wav2Vec2Layers`` with a transformer that sees 25 states a second in place of 50.

    The convolutions' output is interpolated linearly to one state a frame, its ends on the first
    and the last frame.
    """

    name = "wav2vec2-25hz"
    version = "wav2vec2-25hz-1"

    def encode(self, waveform: np.ndarray, n_frames: int) -> np.ndarray:
        if self._normalise:
            waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
        with torch.inference_mode():
            states = convolve_in_chunks(self._model.feature_extractor, torch.from_numpy(waveform))
            states = F.interpolate(states, size=n_frames, mode="linear", align_corners=True)
            step, margin = (25 * seconds for seconds in (self.chunk, self.overlap))
            kept = []
            for start in range(0, n_frames, step):
                first = max(0, start - margin)
                found = self._hidden(states[..., first : start + step + margin])
                kept.append(found[start - first :][:step].numpy())
        return np.concatenate(kept)


class Vocals:
    """Embeddings of a request's audio after the voice was separated from all else.

    Args:
        source: a folder with the separated audio of each request, as ``<id>.wav``; the name of a
            separator, see this module; or None, for the audio as it is.
        encoder: of audio, as in ``data.audio``; or ``wav2vec2-25hz``, the released code's.

    Raises:
        UserError: neither such a folder nor such a separator is here.
    """

    def __init__(self, source: str | None = None, encoder: str = "wav2vec2-layers") -> None:
        self.folder = Path(source) if source and Path(source).is_dir() else None
        self.encoder = encoder
        self.separate = _separator(source) if source and not self.folder else None

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Vocals:
        """From ``options.vocals``.

        Raises:
            UserError: as above, or ``options`` are not ``{source: .., encoder: ..}``.
        """
        if not set(options) <= set(KEYS):
            raise UserError(f"options.vocals must be {{source: .., encoder: ..}}, not {options}.")
        return cls(**options)

    def embed(self, request: Request) -> Tensor:
        """Embeddings (T, D) of the voice, in place of ``request.audio`` and on its device.

        Raises:
            UserError: no separated audio for this request, or embeddings of another width.
        """
        found = _encoder(self.encoder)(self._voice(request), request.n_frames)
        if found.shape != tuple(request.audio.shape):
            raise UserError(
                f"options.vocals: encoder '{self.encoder}' gives {found.shape[1]} channels, the"
                f" network hears {request.audio.shape[1]}: name the one that it was trained with."
            )
        return torch.from_numpy(found).to(request.audio)

    def _voice(self, request: Request) -> np.ndarray:
        """(S,) float32 at 16 kHz."""
        if self.folder:
            return audio.load(self.folder / f"{request.id}.wav")
        waveform = request.waveform.float().cpu().numpy()
        if self.separate is None:
            return waveform
        voice = np.asarray(self.separate(waveform), np.float32)
        if voice.shape != waveform.shape:
            raise UserError(
                f"options.vocals: the separator made {voice.shape} samples of {waveform.shape}."
            )
        return voice


@functools.cache
def _encoder(name: str) -> AudioEncoder:
    kind, _, source = name.partition("=")
    return Wav2Vec2At25Hz(source or None) if kind == Wav2Vec2At25Hz.name else encoder(name)


def _separator(name: str) -> Callable[[np.ndarray], np.ndarray]:
    known = plugins.plugins(SEPARATORS)
    if name not in known:
        raise UserError(
            f"options.vocals: there is neither a folder '{name}' nor a separator of that name:"
            f" install a package that offers one under '{SEPARATORS}', or separate the audio"
            f" yourself and name the folder.{did_you_mean(name, known)}"
        )
    plugins.check_unique("separator", name, [plugin.package for plugin in known[name]])
    (plugin,) = known[name]
    with plugins.blame(plugin.package, f"separator '{name}'"):
        module, _, member = plugin.value.partition(":")
        made: Callable[[np.ndarray], np.ndarray] = getattr(import_module(module), member)
        return made
