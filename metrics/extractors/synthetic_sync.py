"""The synthetic domain's own SyncNet: lips and audio of rendered faces, embedded in one space.

Trained by ``benchmarks/experts.py``; ``metrics.extractors.synthetic`` says what such experts are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metrics import weights
from metrics.extractors.base import NetworkExtractor, full_precision, gathered
from metrics.extractors.syncnet import (
    SAMPLES_PER_FRAME,
    WINDOW,
    audio_windows,
    window_spans,
)
from metrics.extractors.synthetic import FOLDER
from metrics.frames import Frames, as_frames
from metrics.mfcc import pcm16

SIZE = 32
WIDTH = 32
REACH = 0.30  # half the side of the mouth's square over the height of the face
_CORNERS, _FACE = (61, 291), (10, 152)  # of Face Mesh: mouth corners; forehead and chin


class SyncExpert(nn.Module):
    """Two small towers into one space of 32 dimensions, embeddings of length 1."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, width in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU()]
        self.frame = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 32), nn.ReLU())
        self.lip = nn.Sequential(nn.Conv1d(32, 64, WINDOW), nn.ReLU(), nn.Conv1d(64, WIDTH, 1))
        self.ear = nn.Sequential(
            nn.BatchNorm1d(13), nn.Conv1d(13, 64, 5), nn.ReLU(), nn.Conv1d(64, 64, 4, 2), nn.ReLU(),
            nn.Flatten(), nn.Linear(64 * 7, 64), nn.ReLU(), nn.Linear(64, WIDTH),
        )  # fmt: skip

    def lips(self, mouths: Tensor) -> Tensor:
        """Mouths (n + 4, 3, 32, 32) in [0, 1] to a row per window of five frames: (n, 32)."""
        seen = self.frame(2 * mouths - 1).T
        return F.normalize(self.lip(seen[None])[0].T, dim=1)

    def sound(self, cepstra: Tensor) -> Tensor:
        """Cepstra (n, 13, 20) to (n, 32)."""
        return F.normalize(self.ear(cepstra), dim=1)


def mouths(frames: Tensor, landmarks: Tensor) -> Tensor:
    """Upright squares around the mouth.

    Args:
        frames: (T, 3, H, H) uint8.
        landmarks: (T, N, >=2), x and y as fractions of the frame.

    Returns:
        (T, 3, 32, 32) float in [0, 1], bilinear; the frame's border goes on outside of it.
    """
    points = 2 * landmarks[..., :2].float() - 1
    centre = points[:, list(_CORNERS)].mean(1)
    face = (points[:, _FACE[0]] - points[:, _FACE[1]]).norm(dim=1)
    side = REACH * face.clamp(min=1e-3)
    turn = side[:, None, None] * torch.eye(2)
    where = torch.cat([turn, centre[:, :, None]], dim=2)
    grid = F.affine_grid(where, [len(frames), 3, SIZE, SIZE], align_corners=False)
    return F.grid_sample(frames.float() / 255, grid, padding_mode="border", align_corners=False)


class SyntheticSync(NetworkExtractor):
    """Embeddings of lips and audio in the layout of ``syncnet``: (T - 5, 64), T frames with audio.

    No rows for clips of five frames or fewer, without a face, or of digital silence.
    """

    name = "synthetic-sync"
    domain = "synthetic"
    version = 2
    needs = ("landmarks", "valid", "waveform")

    def find(self) -> Path:
        return FOLDER / "sync.safetensors"

    def load(self, path: Path) -> None:
        self.net = SyncExpert()
        weights.fill(self.net, path)
        self.net = self.net.eval().requires_grad_(False).to(self.device)

    def extract(self, frames: Frames | Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        given = given or {}
        waveform = given["waveform"].cpu().numpy()
        count = min(len(frames), len(waveform) // SAMPLES_PER_FRAME) - WINDOW
        if count < 1 or not given["valid"].any() or not pcm16(waveform).any():
            return torch.zeros(0, 2 * WIDTH)
        landmarks, spans = given["landmarks"].cpu(), window_spans(count, self.batch_size)
        sounds = audio_windows(waveform, count).split(self.batch_size)
        with torch.inference_mode(), full_precision():
            parts = zip(spans, as_frames(frames).spans(spans), strict=True)
            seen = (mouths(part, landmarks[start:end]) for (start, end), part in parts)
            lips = gathered((self.forward(part.to(self.device)) for part in seen), count)
            sound = gathered((self.net.sound(part.to(self.device)) for part in sounds), count)
        return torch.cat([lips, sound], 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Embeddings (n, 32) of lips on mouths (n + 4, 3, 32, 32) in [0, 1]."""
        return self.net.lips(frames)
