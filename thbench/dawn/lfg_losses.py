"""What the latent flow generator's training asks for beside the paper's losses, and its PSNR."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from thbench.contracts import Batch
from thbench.nn.regions import LEFT_EYE, LIPS, MOUTH, RIGHT_EYE, region_mask

GAINS = (8.0, 8.0, 16.0, 8.0)  # bring differences of eyes, mouth height and width to about +-1
INNER_LIPS, MOUTH_CORNERS, FACE_ENDS = (13, 14), (61, 291), (10, 152)  # of Face Mesh
MARGIN = 0.03  # of the frame's width: takes in the skin that lips and lids uncover


def expression_error(batch: Batch, code: Tensor) -> Tensor:
    """Squared error of a code's first four numbers, over frames where the face was seen.

    Args:
        batch: B clips of T frames.
        code: (B * T, D >= 4), each frame's code minus the portrait's, asked to follow both eyes'
            aspect ratios and the mouth's height and width.
    """
    here = torch.cat([batch.eyes, mouth_shape(batch.landmarks)], dim=-1)
    there = torch.cat([batch.source_eyes, mouth_shape(batch.source_landmarks)], dim=-1)
    wanted = (here - there[:, None]).flatten(0, 1) * here.new_tensor(GAINS)
    error = (code[:, : len(GAINS)] - wanted).square().mean(1)
    seen = batch.valid.flatten().to(error.dtype)
    return (error * seen).sum() / seen.sum().clamp(min=1)


@torch.no_grad()
def pixel_weight(
    batch: Batch, source: Tensor, driving: Tensor, *, motion: float, regions: float
) -> Tensor | None:
    """Importance of pixels, (B * T, 1, H, W) of mean 1 over the batch; None for 1 everywhere.

    Args:
        batch: B clips of T frames.
        source: (B * T, 3, H, W) in [0, 1], the portraits.
        driving: likewise, the frames.
        motion: weight of the blurred difference between portrait and frame.
        regions: added in the mouth's and the eyes' regions, where the face was seen.
    """
    if not (motion or regions):
        return None
    size = driving.shape[-1]
    moved = (source - driving).abs().mean(1, keepdim=True)
    reach = size // 32 * 2 + 1
    moved = F.avg_pool2d(moved, reach, stride=1, padding=reach // 2, count_include_pad=False)
    weight = 1 + motion * moved
    if regions:
        seen = batch.valid.flatten().reshape(-1, 1, 1, 1)
        points = batch.landmarks.flatten(0, 1)
        for region in ("lips", "eyes"):
            mask = region_mask(points, region, size, margin=MARGIN)
            weight = weight + regions * mask * seen
    return weight / weight.mean()


def landmark_error(batch: Batch, flow: Tensor) -> Tensor:
    """Mean distance, in [-1, 1] units, between a flow and the way Face Mesh's points went.

    The flow at a point of the driving picture should lead to the same point of the source. Lips
    and eyes count as much as the whole face.

    Args:
        batch: its landmarks and the portraits'.
        flow: (B*T, 2, h, w) in the order of the batch's frames.
    """
    points = 2 * batch.landmarks.flatten(0, 1)[..., :2] - 1
    origin = 2 * batch.source_landmarks[..., :2] - 1
    origin = origin.repeat_interleave(batch.frames.shape[1], dim=0)
    led = F.grid_sample(flow, points[:, None], padding_mode="border", align_corners=False)
    error = (led[:, :, 0].mT - (origin - points)).norm(dim=-1)
    fine = error[:, [*LIPS, *MOUTH, *RIGHT_EYE, *LEFT_EYE]]
    seen = batch.valid.flatten().to(error.dtype)
    return ((error.mean(1) + fine.mean(1)) * seen).sum() / (2 * seen.sum()).clamp(min=1)


def mouth_shape(landmarks: Tensor) -> Tensor:
    """Height between the inner lips and width between the corners, (..., 2), per face height.

    Args:
        landmarks: (..., 478, 3).
    """
    points = landmarks[..., :2]

    def distance(a: int, b: int) -> Tensor:
        return (points[..., a, :] - points[..., b, :]).norm(dim=-1)

    face = distance(*FACE_ENDS).clamp(min=1e-3)
    return torch.stack([distance(*INNER_LIPS) / face, distance(*MOUTH_CORNERS) / face], dim=-1)


def psnr(made: Tensor, wanted: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, mean over pictures (B, 3, H, W) in [0, 1]."""
    error = (made.detach() - wanted).square().mean((1, 2, 3))
    return -10 * torch.log10(error.clamp(min=1e-10)).mean()
