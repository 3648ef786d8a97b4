"""SyncNet (Chung and Zisserman 2016) with the published weights, on any square face video.

The authors' pipeline finds faces with S3FD, drops tracks under 100 frames and faces under 100
pixels, and stores each crop as a video. Here the face box spans all landmarks of Face Mesh
(hairline to chin, ear to ear, about what S3FD was trained to box), nothing is dropped, and the
crop is sampled from the frames at once, to fractions of a pixel, which matters for small faces.
Its extent, smoothing and filling are the authors'.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import median_filter
from torch import Tensor, nn
from torch.nn import functional as F

from metrics import weights
from metrics.extractors.base import NetworkExtractor, full_precision, gathered
from metrics.frames import Frames, as_frames, parts
from metrics.mfcc import mfcc, pcm16

SIZE = 224
WINDOW = 5
CEPSTRA_PER_FRAME = 4
SAMPLES_PER_FRAME = 640
WIDTH = 1024
CROP_SCALE = 0.40
SMOOTH = 13
FILL = 110.0


class Network(nn.Module):
    """Two towers, lips and audio, into one space of 1024 dimensions.

    Modules are named and numbered as in the published weight file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_layer(nn.Conv2d(1, 64, 3, padding=1)),
            nn.Identity(),
            *_layer(nn.Conv2d(64, 192, 3, padding=1)),
            nn.MaxPool2d(3, stride=(1, 2)),
            *_layer(nn.Conv2d(192, 384, 3, padding=1)),
            *_layer(nn.Conv2d(384, 256, 3, padding=1)),
            *_layer(nn.Conv2d(256, 256, 3, padding=1)),
            nn.MaxPool2d(3, stride=2),
            *_layer(nn.Conv2d(256, 512, (5, 4))),
        )
        self.netcnnlip = nn.Sequential(
            *_layer(nn.Conv3d(3, 96, (WINDOW, 7, 7), stride=(1, 2, 2))),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),
            *_layer(nn.Conv3d(96, 256, (1, 5, 5), stride=(1, 2, 2), padding=(0, 1, 1))),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            *_layer(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            *_layer(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            *_layer(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),
            *_layer(nn.Conv3d(256, 512, (1, 6, 6))),
        )
        self.netfcaud = _head()
        self.netfclip = _head()

    def lips(self, crops: Tensor) -> Tensor:
        """Embeddings of all windows of five frames.

        Only the first layer looks across frames, so one pass over the clip does what a pass per
        window would.

        Args:
            crops: (n + 4, 3, 224, 224) BGR, 0 to 255.

        Returns:
            (n, 1024).
        """
        maps: Tensor = self.netcnnlip(crops.transpose(0, 1).unsqueeze(0))
        out: Tensor = self.netfclip(maps[0, :, :, 0, 0].T)
        return out

    def sound(self, cepstra: Tensor) -> Tensor:
        """Embeddings (n, 1024) of windows of cepstra (n, 13, 20)."""
        out: Tensor = self.netfcaud(self.netcnnaud(cepstra.unsqueeze(1)).flatten(1))
        return out


def _layer(conv: nn.Conv2d | nn.Conv3d) -> tuple[nn.Module, ...]:
    norm = nn.BatchNorm2d if isinstance(conv, nn.Conv2d) else nn.BatchNorm3d
    return conv, norm(conv.out_channels), nn.ReLU()


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, WIDTH))


def build(state: Mapping[str, Tensor]) -> Network:
    """The network with the given weights.

    Args:
        state: of the published file; batch counters, which older files lack, are not needed.

    Raises:
        metrics.weights.WeightsUnreadable: other names or shapes.
    """
    net = Network()
    try:
        absent, unknown = net.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise weights.WeightsUnreadable(f"these are not SyncNet's weights: {error}") from error
    absent = [name for name in absent if not name.endswith("num_batches_tracked")]
    if absent or unknown:
        wrong = f"missing {absent[:3]}, unknown {unknown[:3]}"
        raise weights.WeightsUnreadable(f"these are not SyncNet's weights: {wrong}")
    return net.eval().requires_grad_(False)


def face_track(landmarks: Tensor, height: int, width: int) -> Tensor:
    """Where the face is: centre and half the longer side of the landmarks' box.

    Each is a running median over 13 frames, as the authors', but the clip's ends are repeated
    where theirs count as zero, which would shrink the box of a short clip.

    Args:
        landmarks: (T, N, >=2), x and y as fractions of width and height.
        height: of the frames in pixels.
        width: of the frames in pixels.

    Returns:
        (T, 3) float32: x, y, half side, in pixels.
    """
    points = landmarks[..., :2].float() * torch.tensor([float(width), float(height)])
    low, high = points.amin(1), points.amax(1)
    half = (high - low).amax(1, keepdim=True) / 2
    track = torch.cat([(low + high) / 2, half], 1).numpy()
    return torch.from_numpy(median_filter(track, size=(SMOOTH, 1), mode="nearest"))


def crop(frames: Tensor, track: Tensor) -> Tensor:
    """The authors' crop: from one half side above the face's centre to 1.8 below, 1.4 to each side.

    Args:
        frames: (n, 3, H, W), any type.
        track: (n, 3) as of ``face_track``.

    Returns:
        (n, 3, 224, 224) float, bilinear without antialiasing; 110 outside the frame.
    """
    height, width = frames.shape[-2:]
    x, y, half = track.to(frames.device).float().unbind(1)
    y, reach = y + CROP_SCALE * half, (1 + CROP_SCALE) * half
    zero = torch.zeros_like(x)
    across = torch.stack([2 * reach / width, zero, 2 * x / width - 1], 1)
    down = torch.stack([zero, 2 * reach / height, 2 * y / height - 1], 1)
    where = F.affine_grid(
        torch.stack([across, down], 1), [len(frames), 3, SIZE, SIZE], align_corners=False
    )
    # Outside the frame ``grid_sample`` finds zeros, which stand for the fill colour here.
    return F.grid_sample(frames.float() - FILL, where, align_corners=False) + FILL


def window_spans(count: int, size: int) -> list[tuple[int, int]]:
    """First and last frame but one of ``size`` windows of five frames at a time, of ``count``."""
    return [(start, stop + WINDOW - 1) for start, stop in parts(count, size)]


def audio_windows(waveform: np.ndarray, count: int) -> Tensor:
    """Cepstra of the audio of each window of five frames, (count, 13, 20).

    Args:
        waveform: (S,) in [-1, 1] at 16 kHz, S at least 640 (count + 5).
        count: of windows.
    """
    cepstra = torch.from_numpy(mfcc(waveform)).float().T
    columns = WINDOW * CEPSTRA_PER_FRAME
    return cepstra.unfold(1, columns, CEPSTRA_PER_FRAME).transpose(0, 1)[:count]


class SyncNet(NetworkExtractor):
    """Embeddings of lips and audio.

    Rows are windows of five frames, the first beginning with frame i; columns the lips' 1024, then
    the audio's. Their number is min(T, S / 640) - 5, as in the authors' code: one less than there
    are windows of frames, since the last cepstra are not whole. No rows for clips of five frames or
    fewer, clips without any face, and digital silence.

    Args:
        device: where it runs.
        batch_size: windows at a time.
        path: a weight file to use unchecked; by default the official one, checked.

    Raises:
        metrics.weights.WeightsMissing: the official file is not here.
        metrics.weights.WeightsUnreadable: a file of something else.
    """

    name = "syncnet"
    version = 2
    needs = ("landmarks", "valid", "waveform")

    def find(self) -> Path:
        return weights.find("syncnet")

    def load(self, path: Path) -> None:
        self.net = build(weights.load_state(path)).to(self.device)

    def extract(self, frames: Frames | Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        """Embeddings (T', 2048) of a clip; see the class."""
        given = given or {}
        waveform = given["waveform"].cpu().numpy()
        count = min(len(frames), len(waveform) // SAMPLES_PER_FRAME) - WINDOW
        if count < 1 or not given["valid"].any() or not pcm16(waveform).any():
            return torch.zeros(0, 2 * WIDTH)
        height, width = frames.shape[-2:]
        track = face_track(given["landmarks"].cpu(), height, width)
        sounds = audio_windows(waveform, count).split(self.batch_size)
        with torch.inference_mode(), full_precision():
            lips = gathered(self._lips(as_frames(frames), track, count), count)
            sound = gathered((self.net.sound(part.to(self.device)) for part in sounds), count)
        return torch.cat([lips, sound], 1)

    def _lips(self, frames: Frames, track: Tensor, count: int) -> Iterator[Tensor]:
        spans = window_spans(count, self.batch_size)
        for (start, end), part in zip(spans, frames.spans(spans), strict=True):
            yield self.forward(crop(part.to(self.device), track[start:end]))

    def forward(self, frames: Tensor) -> Tensor:
        """Embeddings (n, 1024) of lips on crops (n + 4, 3, 224, 224) in RGB, 0 to 255."""
        return self.net.lips(frames.flip(1))
