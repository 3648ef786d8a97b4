"""Estimating memory and operations of a training step without data, weights or a device.

Networks are built and trained for one step on fake tensors, which have shapes and types but no
values. Counted are products and convolutions, forwards and backwards, and the tensors that are
alive at the same time. Not counted is what depends on a device: workspaces, fragmentation, kernels.
So these are estimates, of memory from below.
"""

from __future__ import annotations

import contextlib
import functools
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from thbench.config import Config, DrawConfig, StageConfig
from thbench.core.types import EYES_DIM, N_LANDMARKS, POSE_DIM, Batch
from thbench.data.dataset import frame_range
from thbench.training.runs import build_stage
from thbench.training.stage import Stage

aten = torch.ops.aten
KEPT = 10_000
"""Elements up to which integers and flags have real values: counters, indices, levels."""
HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "bf16-true": torch.bfloat16}
EFFICIENCY = 0.4
"""Share of the rate of one large matrix product that training is assumed to reach."""
FLOAT = 4
"""Bytes of a weight, a gradient or a moment: master weights stay in full precision."""


@dataclass(frozen=True)
class Need:
    """Memory and operations of one optimiser step of a stage on each device.

    Attributes:
        parameters: number of the stage's parameters, without frozen networks.
        trained: number of them that get gradients.
        saved: bytes of a checkpoint.
        held: bytes of weights (frozen networks too), Adam's moments and averages.
        peak: peak bytes of a step beside ``held``, with gradients; None where not known.
        flops: floating-point operations of one accumulated part of the batch; None where not known.
        why_not: why the last two are not known.
    """

    parameters: int
    trained: int
    saved: int
    held: int
    peak: int | None = None
    flops: int | None = None
    why_not: str = ""

    @property
    def memory(self) -> int:
        """Bytes on the device, as far as known."""
        return self.held + (FLOAT * self.trained if self.peak is None else self.peak)


class Networks:
    """The stages of a strategy, built of fake tensors, each once.

    Args:
        config: a strategy.
        audio_dim: D, channels of the audio embedding.
    """

    def __init__(self, config: Config, audio_dim: int) -> None:
        self.config, self.audio_dim = config, audio_dim
        self.fake = _Fake(allow_non_fake_inputs=True)
        self._built: dict[str, Stage] = {}

    def stage(self, name: str) -> Stage:
        """The stage, with those that it needs.

        Raises:
            UserError: its settings are wrong.
        """
        if name not in self._built:
            needs = {need: self.stage(need).net for need in self.config.stages[name].needs}
            with torch.random.fork_rng(devices=[]), self.tracing():
                self._built[name] = build_stage(self.config, name, needs, self.audio_dim)
        return self._built[name]

    @contextlib.contextmanager
    def tracing(self) -> Iterator[Trace]:
        """Within the block tensors are fake, and their memory and operations are counted."""
        trace = Trace()
        with self.fake, trace:
            yield trace

    def need(self, name: str, part: int, trace: bool = True) -> Need:
        """Memory and operations of a step with ``part`` clips at once on a device.

        Without ``trace`` no step is traced, and ``peak`` and ``flops`` are not known.
        """
        stage, settings = self.stage(name), self.config.stages[name]
        fixed = _fixed(stage, settings)
        if not settings.max_steps:
            return Need(*fixed, why_not="it has no steps")
        if not trace:
            return Need(*fixed, why_not="it was not asked for")
        try:
            with torch.random.fork_rng(devices=[]):
                peak, flops = self._step(stage, settings, part)
        except Exception as error:  # a stage that needs real values
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return Need(*fixed, why_not=lines[0].rstrip("."))
        return Need(*fixed, peak, flops)

    def _step(self, stage: Stage, settings: StageConfig, part: int) -> tuple[int, int]:
        """Peak of a step beside what is held, and its operations."""
        dtype = HALF.get(settings.precision or self.config.trainer.precision)
        batch = self._batch(settings.draw, part)
        half = torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None)
        with self.tracing():
            stage.use_placeholders()
        stage.train()
        modules = [stage, *(frozen.module for frozen in stage.frozen.values())]
        with self.tracing() as trace, half:
            trace.ignore(t for m in modules for t in (*m.parameters(), *m.buffers()))
            loss = stage.loss(batch)["loss"]
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
        stage.zero_grad()
        return trace.peak, trace.flops

    def _batch(self, draw: DrawConfig, part: int) -> Batch:
        """A batch of the longest draw; only frame numbers and what is valid have values."""
        frames = frame_range(draw.frames)[1] + 2 * draw.context
        size = self.config.size if draw.video else 0
        numbers = torch.arange(frames).repeat(part, 1)
        with self.fake:
            fields = {
                "video": torch.empty(part, frames, 3, size, size, dtype=torch.uint8),
                "source": torch.empty(part, 3, size, size, dtype=torch.uint8),
                "audio": torch.empty(part, frames, self.audio_dim),
                "pose": torch.empty(part, frames, POSE_DIM),
                "eyes": torch.empty(part, frames, EYES_DIM),
                "landmarks": torch.empty(part, frames, N_LANDMARKS, 3),
                "source_pose": torch.empty(part, POSE_DIM),
                "source_eyes": torch.empty(part, EYES_DIM),
                "source_landmarks": torch.empty(part, N_LANDMARKS, 3),
            }
        return Batch(
            valid=torch.ones(part, frames, dtype=torch.bool),
            frames=numbers,
            source_frame=torch.zeros(part, dtype=torch.int64),
            ids=tuple(map(str, range(part))),
            **fields,
        )


class Trace(TorchDispatchMode):
    """Gives values to fake tensors where they are read, and counts bytes and operations.

    Numbers that steer a step (frame indices, noise levels, counters) are computed for real; of
    fake tensors every flag is true, every number 1, and a mask selects all.

    Attributes:
        live: bytes of fake tensors that are alive.
        peak: the largest ``live`` so far.
        flops: operations of products and convolutions so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.flops = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, given)) if isinstance(leaf, Tensor)]
        if tensors and not any(isinstance(t, FakeTensor) for t in tensors):
            return _really(func, args, given)
        if func is aten._local_scalar_dense.default:
            return True if tensors[0].dtype is torch.bool else 1
        if func is aten.index.Tensor:
            args = (args[0], _places(args[1]))
        made = func(*args, **given)
        found = [leaf for leaf in tree_leaves(made) if isinstance(leaf, FakeTensor)]
        if not tensors and all(map(_steers, found)):
            return _really(func, args, given)
        for tensor in found:
            self._hold(tensor)
        if count := _COUNTED.get(func.overloadpacket):
            self.flops += count(*args, **given, out_val=made)
        return made

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Do not count the memory of these tensors, nor of views of them."""
        self._known |= {id(tensor.untyped_storage()) for tensor in tensors}

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def rate(device: torch.device, precision: str, seconds: float = 0.3) -> float:
    """Floating-point operations per second of a large matrix product, measured.

    Args:
        device: where.
        precision: of the trainer.
        seconds: how long to measure.
    """
    dtype = HALF.get(precision, torch.float32) if device.type == "cuda" else torch.float32
    size = 8192 if device.type == "cuda" else 768
    a = torch.randn(size, size, device=device, dtype=dtype)

    def multiply() -> None:
        torch.mm(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    multiply()
    times, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        multiply()
        times += 1
    return 2 * size**3 * times / (time.perf_counter() - began)


def _fixed(stage: Stage, settings: StageConfig) -> tuple[int, int, int, int]:
    """The fields of ``Need`` that no step has to be traced for."""
    parameters = sum(p.numel() for p in stage.parameters())
    trained = sum(p.numel() for p in stage.parameters() if p.requires_grad)
    trained = trained if settings.max_steps else 0
    frozen = sum(p.numel() for f in stage.frozen.values() for p in f.module.parameters())
    own = parameters * (2 if settings.ema else 1) + 2 * trained  # with Adam's two moments
    return parameters, trained, FLOAT * own, FLOAT * (own + frozen)


class _Fake(FakeTensorMode):
    """Skips the check for a GPU before each operation: all tensors are on the CPU."""

    avoid_device_init = False


def _steers(tensor: Tensor) -> bool:
    """Whether a value may decide what a step does."""
    whole = not (tensor.is_floating_point() or tensor.is_complex())
    return tensor.numel() <= (KEPT if whole else 1)


def _really(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    with unset_fake_temporarily():
        return func(*args, **kwargs)


def _places(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Indices with each mask replaced by indices as many as it has elements."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype is torch.bool:
            found += [torch.zeros(index.numel(), dtype=torch.int64) for _ in range(index.ndim)]
        else:
            found.append(index)
    return found


def _attention(query: Tensor, key: Tensor, *_: Any, **__: Any) -> int:
    """Operations of attention of (B, heads, T, d) over (B, heads, S, d): weights, then values."""
    return 4 * query.numel() * key.shape[-2]


def _attention_back(grad: Tensor, query: Tensor, key: Tensor, *_: Any, **__: Any) -> int:
    """Five products: weights once more, then gradients of weights, values, queries and keys."""
    return 10 * query.numel() * key.shape[-2]


_COUNTED: dict[Any, Callable[..., int]] = {
    **flop_registry,
    # Fake tensors are on the CPU, whose kernel torch's own table leaves out.
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_back,
}


@functools.cache
def known_rate(device: str, precision: str) -> float:
    """``rate``, measured once per process."""
    return rate(torch.device(device), precision)
