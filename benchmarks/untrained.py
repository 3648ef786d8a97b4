"""Stages and strategies with random weights, and what they are shown: shapes are real, values not.

Time and memory do not care for values, so this needs neither data nor weights from outside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from unittest import mock

import torch
from torch import Tensor, nn

from baselines.hallo import face
from thbench.config import Config
from thbench.core.types import EYES_DIM, N_LANDMARKS, POSE_DIM, SAMPLES_PER_FRAME, Batch, Request
from thbench.data.embedding.encoders import ENCODERS
from thbench.generation.assemble import check
from thbench.generation.strategy import Strategy
from thbench.nn.perceptual import VGG19
from thbench.training.reconstruction import ReconstructionStage
from thbench.training.runs import build_stage, order
from thbench.training.stage import Frozen, Stage, StageContext

_DRAWN = ("kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_", "uniform_",
          "normal_", "trunc_normal_", "orthogonal_")  # fmt: skip


def audio_dim(loaded: Config) -> int:
    """D of the strategy's audio encoder, whose weights need not be here."""
    return ENCODERS.load(loaded.data.audio.partition("=")[0]).default_dim


def untrained(
    loaded: Config, name: str, nets: Mapping[str, nn.Module], device: torch.device | str
) -> Stage:
    """A stage whose network has random weights, on ``device``.

    Args:
        loaded: a strategy.
        name: one of its stages.
        nets: of the stages that it needs, by name. They are frozen from here on.
        device: weights are drawn there; the CPU takes half a minute for Hallo's.
    """
    needs = {need: nets[need] for need in loaded.stages[name].needs}
    with _undrawn():
        stage = build_stage(loaded, name, needs, audio_dim(loaded))
        if isinstance(stage, ReconstructionStage) and stage.perceptual == "vgg":
            stage.frozen["vgg"] = Frozen(VGG19(weights=None))
    for part in (stage, *(frozen.module for frozen in stage.frozen.values())):
        draw(part.to(device))
    return stage


def strategy(loaded: Config, device: torch.device | str) -> Strategy:
    """The strategy with random weights, ready to generate."""
    nets: dict[str, nn.Module] = {}
    for name in order(loaded):
        nets[name] = untrained(loaded, name, nets, device).net.eval()
    kind = check(loaded)
    context = StageContext(loaded.size, audio_dim(loaded), seed=loaded.seed)
    roles = {role: nets[stage] for role, stage in loaded.nets.items()}
    made = kind(roles, context, plan=loaded.plan, sampler=loaded.sampler, **loaded.options)
    made.frames_per_call = loaded.trainer.frames_per_call
    return made.to(device)


def draw(net: nn.Module) -> None:
    """Give a network's weights random values of about the size that is usual."""
    for weight in net.parameters():
        if weight.ndim > 1 and not weight.any():
            with torch.no_grad():
                weight.normal_(0, weight[0].numel() ** -0.5)


def batch(loaded: Config, name: str, size: int) -> Batch:
    """``size`` samples as the stage draws them, of the longest that it draws."""
    drawn = loaded.stages[name].draw
    longest = drawn.frames if isinstance(drawn.frames, int) else max(drawn.frames)
    n = longest + 2 * drawn.context
    side = loaded.size if drawn.video else 0
    given = {
        "pose": _pose(size, n),
        "eyes": 0.3 + 0.05 * torch.rand(size, n, EYES_DIM),
        "landmarks": _face(size, n),
    }
    points = given["landmarks"][..., :2]
    return Batch(
        video=torch.randint(0, 256, (size, n, 3, side, side), dtype=torch.uint8),
        source=torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8),
        audio=torch.randn(size, n, audio_dim(loaded)),
        valid=torch.ones(size, n, dtype=torch.bool),
        **given,
        **{f"source_{key}": value[:, 0].clone() for key, value in given.items()},
        frames=torch.arange(n).expand(size, n).clone(),
        source_frame=torch.zeros(size, dtype=torch.int64),
        ids=tuple(f"random-{i}" for i in range(size)),
        extent=torch.stack([points.amin(1), points.amax(1)], dim=1),
    )


def request(loaded: Config, n: int) -> Request:
    """A request of ``n`` frames; the strategy makes its own motion."""
    return Request(
        id="random",
        source=torch.randint(0, 256, (3, loaded.size, loaded.size), dtype=torch.uint8),
        audio=torch.randn(n, audio_dim(loaded)),
        waveform=torch.zeros(n * SAMPLES_PER_FRAME),
        source_pose=_pose(1, 1)[0, 0],
        source_eyes=torch.full((EYES_DIM,), 0.3),
        source_landmarks=_face(1, 1)[0, 0],
    )


@contextlib.contextmanager
def random_faces() -> Iterator[None]:
    """Within, Hallo's face embedding is drawn at random: ArcFace's weights are not here."""

    class Drawn:
        def extract(self, frames: Tensor, given: object = None) -> Tensor:
            return torch.randn(len(frames), face.WIDTHS["arcface"])

    with mock.patch.object(face, "extractor", return_value=Drawn()):
        yield


def _pose(*shape: int) -> Tensor:
    """Angles, a face of 0.6 frames in the middle."""
    pose = 0.05 * torch.randn(*shape, POSE_DIM)
    pose[..., 3] += 0.6
    return pose


def _face(*shape: int) -> Tensor:
    """Points of the mesh, spread over the middle of the frame."""
    return 0.3 + 0.4 * torch.rand(*shape, N_LANDMARKS, 3)


@contextlib.contextmanager
def _undrawn() -> Iterator[None]:
    """Within, weights start at zero: drawing them twice takes long."""
    with contextlib.ExitStack() as stack:
        for name in _DRAWN:
            stack.enter_context(
                mock.patch.object(nn.init, name, lambda w, *_, **__: w.data.zero_())
            )
        yield
