"""What the released code hears: the voice alone, separated by whatever is installed.

A package offers a separator by an entry point (pyproject.toml):

    [project.entry-points."thbench.separators"]
    kim = "my_package:separate"  # (S,) float32 at 16 kHz -> (S,) float32, the voice alone
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from thbench.core import plugins
from thbench.core.errors import UserError, did_you_mean
from thbench.core.types import Request
from thbench.data.embedding.encoders import encoder
from thbench.data.media import audio

SEPARATORS = "thbench.separators"
KEYS = ("source", "encoder")
"""Of ``options.vocals``."""


class Vocals:
    """Embeddings of a request's audio after the voice was separated from all else.

    Args:
        source: a folder with the separated audio of each request, as ``<id>.wav``; the name of a
            separator, see this module.
        encoder: of audio, ``data.audio`` of the data that the network was trained on.

    Raises:
        UserError: neither such a folder nor such a separator is here.
    """

    def __init__(self, source: str, encoder: str) -> None:
        self.folder = Path(source) if Path(source).is_dir() else None
        self.encoder = encoder
        self.separate = None if self.folder else _separator(source)

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Vocals:
        """From ``options.vocals``.

        Raises:
            UserError: as above, or ``options`` are not ``{source: .., encoder: ..}``.
        """
        if set(options) != set(KEYS):
            raise UserError(f"options.vocals must be {{source: .., encoder: ..}}, not {options}.")
        return cls(**options)

    def embed(self, request: Request) -> Tensor:
        """Embeddings (T, D) of the voice, in place of ``request.audio`` and on its device.

        Raises:
            UserError: no separated audio for this request, or embeddings of another width.
        """
        found = encoder(self.encoder)(self._voice(request), request.n_frames)
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
        assert self.separate is not None
        waveform = request.waveform.float().cpu().numpy()
        voice = np.asarray(self.separate(waveform), np.float32)
        if voice.shape != waveform.shape:
            raise UserError(
                f"options.vocals: the separator made {voice.shape} samples of {waveform.shape}."
            )
        return voice


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
