"""The Inception-I3D network of FVD, with either of the two weight files in use.

Carreira and Zisserman (2017), "Quo vadis, action recognition?", figure 3: Inception-v1 blown up
into time, trained on Kinetics-400, here up to its logits. TensorFlow's "same" padding throughout.
TATS and VideoGPT, which published the state dict, add 1e-5 to the variances of batch norm, and so
do we; DeepMind's own program adds 1e-3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metrics import weights
from metrics.extractors.base import Extractor, full_precision, gathered
from metrics.frames import Frames, as_frames

SIZE = 224
CLASSES = 400
MIN_FRAMES = 9
"""Fewer frames leave the last pooling, two steps of eight frames, nothing to pool."""

Source = Literal["torchscript", "kinetics"]
SOURCES = {"torchscript": "i3d-torchscript", "kinetics": "i3d-kinetics400"}

# Channels of a block's branches: 1x1; 1x1 then 3x3; 1x1 then 3x3; pooling then 1x1.
BLOCKS = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}

Triple = tuple[int, int, int]


def pad_same(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Zeros around (..., T, H, W) so that an axis of n gives ceil(n / stride); the odd one last."""
    pads: list[int] = []
    for size, k, s in zip(x.shape[-3:], kernel, stride, strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        # F.pad wants the last axis first.
        pads = [total // 2, total - total // 2, *pads]
    return F.pad(x, pads)


class Unit(nn.Module):
    """Convolution, batch norm and ReLU; or, as ``plain``, only a convolution with bias."""

    def __init__(
        self, inside: int, out: int, kernel: int = 1, stride: int = 1, plain: bool = False
    ) -> None:
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(inside, out, kernel, stride, bias=plain)
        self.bn = None if plain else nn.BatchNorm3d(out, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(pad_same(x, self.kernel, self.stride))
        return x if self.bn is None else F.relu(self.bn(x))


class Block(nn.Module):
    """Four branches side by side, named as in the weight file."""

    def __init__(self, inside: int, out: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = Unit(inside, out[0])
        self.b1a, self.b1b = Unit(inside, out[1]), Unit(out[1], out[2], 3)
        self.b2a, self.b2b = Unit(inside, out[3]), Unit(out[3], out[4], 3)
        self.b3b = Unit(inside, out[5])

    def forward(self, x: Tensor) -> Tensor:
        pooled = _pool(x, (3, 3, 3), (1, 1, 1))
        branches = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)]
        return torch.cat(branches, 1)


class InceptionI3D(nn.Module):
    """(n, 3, T, 224, 224) in [-1, 1] to logits (n, 400), their mean over time; T at least 9."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        for name, (inside, out) in BLOCKS.items():
            self.add_module(name, Block(inside, out))
        self.logits = Unit(1024, CLASSES, plain=True)

    def forward(self, x: Tensor) -> Tensor:
        x = _pool(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        x = self._blocks(_pool(x, (1, 3, 3), (1, 2, 2)), "Mixed_3")
        x = self._blocks(_pool(x, (3, 3, 3), (2, 2, 2)), "Mixed_4")
        x = self._blocks(_pool(x, (2, 2, 2), (2, 2, 2)), "Mixed_5")
        return self.logits(F.avg_pool3d(x, (2, 7, 7), stride=1)).mean((2, 3, 4))

    def _blocks(self, x: Tensor, stage: str) -> Tensor:
        for name in BLOCKS:
            if name.startswith(stage):
                x = self.get_submodule(name)(x)
        return x


def build(state: Mapping[str, Tensor]) -> InceptionI3D:
    """The network with the weights of the Kinetics-400 state dict.

    Raises:
        RuntimeError: a name or shape is not the network's.
    """
    net = InceptionI3D()
    # Batch norm's own step counters change nothing, and not every copy of the file has them.
    counters = {k: v for k, v in net.state_dict().items() if k.endswith("num_batches_tracked")}
    net.load_state_dict({**counters, **state})
    return net.eval().requires_grad_(False)


def starts(frames: int, window: int, stride: int, most: int | None = None) -> list[int]:
    """First frames of the windows in a clip: every ``stride``, at most ``most`` evenly spread."""
    found = list(range(0, frames - window + 1, stride))
    if most is None or len(found) <= most:
        return found
    if most == 1:
        return found[:1]
    return [found[round(i * (len(found) - 1) / (most - 1))] for i in range(most)]


def preprocess(windows: Tensor) -> Tensor:
    """Windows (n, T, 3, H, W) uint8 to (n, 3, T, 224, 224) in [-1, 1], bilinear, no antialias."""
    n = len(windows)
    frames = windows.flatten(0, 1).float() / 255
    resized = F.interpolate(frames, (SIZE, SIZE), mode="bilinear", align_corners=False)
    return (2 * resized - 1).unflatten(0, (n, -1)).transpose(1, 2)


class I3D(Extractor):
    """Logits of windows of a clip. A clip shorter than a window gives no rows.

    Args:
        device: where it runs.
        batch_size: frames at a time, at least one window.
        window: frames.
        stride: from one window's start to the next; by default they lie end to end.
        windows: at most so many of a clip, evenly spread; all by default.
        source: ``torchscript`` is StyleGAN-V's network, which rescales and resizes inside;
            ``kinetics`` the state dict that TATS and VideoGPT use, in ``InceptionI3D``.

    Raises:
        metrics.weights.WeightsMissing: the official file is not here, or is another.
        ValueError: a window, stride or count out of range, or no such source.
    """

    name = "i3d"
    version = 2

    def __init__(
        self,
        device: torch.device | str = "cpu",
        batch_size: int = 32,
        window: int = 16,
        stride: int | None = None,
        windows: int | None = None,
        source: Source = "torchscript",
    ) -> None:
        super().__init__(device, batch_size)
        self.window, self.stride, self.windows = check(window, stride, windows)
        if source not in SOURCES:
            raise ValueError(f"source is one of {', '.join(SOURCES)}, not '{source}'")
        self.source = source
        # A TorchScript archive is a program: only the published one is run, never another path.
        path = weights.find(SOURCES[source])
        self.digest = weights.digest(path)
        load = _torchscript if source == "torchscript" else _kinetics
        self.net = load(path, self.device)

    @property
    def fingerprint(self) -> str:
        """Tells window, stride, count, network, size and weights."""
        cut = f"w{self.window}-s{self.stride}-n{self.windows or 'all'}"
        return f"{super().fingerprint}-{cut}-{self.source}-{SIZE}"

    def extract(self, frames: Frames | Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        """Logits (n, 400) float32 of the clip's windows, n = 0 where it is too short."""
        first = starts(len(frames), self.window, self.stride, self.windows)
        if not first:
            return torch.zeros(0, CLASSES)
        with torch.inference_mode(), full_precision():
            windows = as_frames(frames).spans((i, i + self.window) for i in first)
            groups = iter(lambda: list(islice(windows, self._at_a_time())), [])
            parts = (self.forward(torch.stack(group).to(self.device)) for group in groups)
            return gathered(parts, len(first))

    def forward(self, frames: Tensor) -> Tensor:
        """Logits (n, 400) of windows (n, T, 3, H, W) uint8."""
        return self.net(frames)

    def _at_a_time(self) -> int:
        return max(1, self.batch_size // self.window)


def check(window: int, stride: int | None, windows: int | None) -> tuple[int, int, int | None]:
    """The three with the stride filled in.

    Raises:
        ValueError: the window is under ``MIN_FRAMES``, or another under 1.
    """
    stride = window if stride is None else stride
    if window < MIN_FRAMES:
        raise ValueError(f"I3D needs windows of {MIN_FRAMES} frames or more, not {window}")
    if stride < 1 or (windows is not None and windows < 1):
        raise ValueError("stride and windows are at least 1")
    return window, stride, windows


def _kinetics(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    net = build(weights.load_state(path)).to(device)
    return lambda windows: cast(Tensor, net(preprocess(windows)))


def _torchscript(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    net = torch.jit.load(path, map_location=device).eval()
    # Its own code scales 0..255 to [-1, 1] and resizes; the features are the logits.
    return lambda windows: cast(
        Tensor,
        net(windows.transpose(1, 2).float(), rescale=True, resize=True, return_features=True),
    )


def _pool(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    # Zeros are harmless: every input of a pooling has been through a ReLU.
    return F.max_pool3d(pad_same(x, kernel, stride), kernel, stride)
