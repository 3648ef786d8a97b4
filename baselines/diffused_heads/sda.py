"""The sound encoder of SDA, which Diffused Heads' released code takes frozen.

Vougioukas et al. (2020), "Realistic Speech-Driven Facial Animation with GANs", section 3.2: each
frame's .2 s of sound go through convolutions over time, and a GRU carries their codes from frame to
frame. Its weights are published by its authors, and beside Diffused Heads' for CREMA-D.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from metrics.weights import folder
from thbench.core.errors import UserError
from thbench.core.types import SAMPLES_PER_FRAME
from thbench.data.embedding.encoders import AudioEncoder, digest
from thbench.training.released import check_fits, read_tensors

WINDOW = 3200
"""Samples about the middle of a frame's own 640 that its code is made of: .2 s."""
CONVOLUTIONS = ((80, 16, 32), (4, 2, 1), (4, 2, 1), (4, 2, 1), (10, 5, 3))
"""Kernel, stride and padding over samples: 3200 become 200, 100, 50, 25 and 5."""
CHANNELS = 16
"""Of the first convolution; each of the others doubles them."""
LEFT = 5
"""Places that they leave, which the last convolution takes together."""
AT_ONCE = 1024
"""Windows convolved at once: an hour of sound would take 1 GB behind the first layer."""
RECURRENT = "rnn.weight_ih_l0"


class SoundNet(nn.Module):
    """Windows of samples, one per frame, to a code per frame that knows of those before.

    Args:
        code: channels of a window's code.
        width: D, channels of the embedding.
        layers: of the GRU.
    """

    def __init__(self, code: int = 256, width: int = 256, layers: int = 2) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        before = 1
        for i, (kernel, stride, padding) in enumerate(CONVOLUTIONS):
            dim = CHANNELS * 2**i
            conv = nn.Conv1d(before, dim, kernel, stride, padding)
            self.convs.append(nn.Sequential(conv, nn.BatchNorm1d(dim), nn.ReLU()))
            before = dim
        self.code = nn.Conv1d(before, code, LEFT)
        self.rnn = nn.GRU(code, width, layers, batch_first=True)

    def forward(self, windows: Tensor) -> Tensor:
        """(n, 3200) in [-1, 1], of frames in a row, to (n, width)."""
        codes = [self._code(part) for part in windows.split(AT_ONCE)]
        return self.rnn(torch.cat(codes)[None])[0][0]

    def _code(self, windows: Tensor) -> Tensor:
        x = windows[:, None]
        for conv in self.convs:
            x = conv(x)
        return self.code(x).tanh()[:, :, 0]


class SpeechDriven(AudioEncoder):
    """The embedding of SDA's sound encoder, one per frame.

    Frame t is that of samples [640 t - 1280, 640 t + 1920); silence lies beyond the ends.

    Args:
        source: the file of its weights; ``audio_encoder.pt`` in the folder of weight files
            (``metrics.weights.folder``) by default, as Diffused Heads' authors call it.

    Raises:
        UserError: there is no such file, or it holds no such network.
    """

    name = "sda"
    version = "sda-1"
    file = "audio_encoder.pt"
    default_dim = 256
    source: str

    def __init__(self, source: str | None = None) -> None:
        self.source = source or self.file
        path = Path(source) if source else folder() / self.file
        if not path.is_file():
            raise UserError(
                f"There are no weights of the audio encoder 'sda' at {path}: put SDA's encoder"
                " there, or name its file with data.audio=sda=FILE."
            )
        self._net = load(read_tensors(path))
        self.dim = self._net.rnn.hidden_size

    @functools.cached_property
    def weights(self) -> str:  # type: ignore[override]
        return digest(self._net)

    def encode(self, waveform: np.ndarray, n_frames: int) -> np.ndarray:
        before = (WINDOW - SAMPLES_PER_FRAME) // 2
        padded = torch.from_numpy(np.pad(waveform, before))
        with torch.inference_mode():
            made: np.ndarray = self._net(padded.unfold(0, WINDOW, SAMPLES_PER_FRAME)).numpy()
        return made


def load(tensors: Mapping[str, Tensor]) -> SoundNet:
    """The network, for evaluation, with published weights.

    Args:
        tensors: of a file of SDA, which may hold its other networks too, or of the encoder alone.

    Raises:
        UserError: there is no such network among them, or it has other names or shapes.
    """
    found = [name for name in tensors if name.endswith(RECURRENT)]
    if len(found) != 1:
        raise UserError(f"This is no file of SDA's sound encoder: it has {len(found)} {RECURRENT}.")
    prefix = found[0].removesuffix(RECURRENT)
    own = {k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}
    state = {_renamed(name): x for name, x in own.items()}
    # Files from before PyTorch 0.4.1 do not count batches, which nothing depends on here.
    counts = {f"convs.{i}.1.num_batches_tracked" for i in range(len(CONVOLUTIONS))}
    state |= {name: torch.zeros((), dtype=torch.int64) for name in counts - state.keys()}
    layers = sum(name.startswith("rnn.weight_ih_l") for name in own)
    gates, code = own[RECURRENT].shape
    net = SoundNet(code, gates // 3, layers)
    check_fits(net.state_dict(), state, "SDA's sound encoder")
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)


def _renamed(name: str) -> str:
    """Our name for a tensor of theirs; what is unknown stays as it is."""
    part, _, rest = name.removeprefix("encoder.").partition(".")
    place, _, kind = rest.partition(".")
    if part == "cl":
        last = place == str(len(CONVOLUTIONS))
        return f"code.{kind}" if last else f"convs.{place}.0.{kind}"
    if part == "activations":
        return f"convs.{place}.1.{kind.removeprefix('0.')}"
    return name
