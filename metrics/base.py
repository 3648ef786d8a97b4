"""Base classes of metrics.

A metric is given *features* clip by clip: a mapping from feature name to tensor for the generated
video, and one for the reference. The caller computes the features that the metrics' ``needs`` name,
and gives all metrics the same mapping. Feature names in use (T frames, N = 478 landmarks):

    frames      (T, 3, H, W) uint8 RGB; only a ``FrameMetric`` may need them, and gets them in parts
    frames@N    (T, 3, N, N) uint8 RGB, resized from the video's own size as OpenCV does by default;
                for a ``FrameMetric`` only, in parts
    size        (2,) int; height and width of ``frames``
    landmarks   (T, N, 3) float; x, y as fractions of width and height
    pose        (T, 6) float; yaw, pitch, roll in radians first
    eyes        (T, 2) float; height over width of each eye
    mouth       (T,) float; inner-lip height over face size
    valid       (T,) bool; False where no face was found: the four above are no measurements there
    waveform    (S,) float, 16 kHz, no longer than the frames and no longer than the audio; empty
                for a video without audio
    <extractor> (n, d) float, the output of ``metrics.extractors`` under its name
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
import torchmetrics
from torch import Tensor

from metrics.frames import Frames, as_frames, part_size, parts
from metrics.plotting import AxesOf, plot_clips, plot_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Direction = Literal["higher", "lower", "zero", "reference"]
"""Which way is better: up, down, towards zero, towards the reference's own value."""

Features = Mapping[str, Tensor]

SAMPLES_PER_FRAME = 640


class BenchMetric(torchmetrics.Metric, ABC):
    """A torchmetrics metric that declares its unit, direction and needs.

    Attributes:
        unit: of the value, "" for none.
        direction: which way is better.
        bounds: the least and the largest possible value.
        needs: names of the features it reads.
        recipes: for features that an extractor computes with options: the extractor's registered
            name and the options. A feature computed in two ways has two names.
        own_motion: ``pose`` or ``eyes`` where the metric is of head motion or blinks only. For
            clips that follow the reference's motion its value is the reference's, not the
            strategy's.
        least_frames: a clip with fewer adds nothing.
        version: raised whenever the same input gives another value than before.
    """

    unit: str = ""
    direction: ClassVar[Direction]
    bounds: tuple[float, float] = (-math.inf, math.inf)
    needs: tuple[str, ...] = ()
    recipes: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType({})
    own_motion: str = ""
    version: ClassVar[int] = 1
    least_frames: int = 1

    is_differentiable = False
    full_state_update = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "direction"):
            cls.higher_is_better = {"higher": True, "lower": False}.get(cls.direction)

    @property
    @abstractmethod
    def name(self) -> str:
        """The column's title. It contains every option that changes what the value means."""

    @property
    def same_as(self) -> str:
        """The name of another metric whose value always equals this one's; "" for none."""
        return ""

    def notes(self) -> list[str]:
        """Cautions about the present value, in words."""
        return []

    def prepare(self, device: torch.device | str = "cpu") -> None:
        """Load the networks that the metric runs itself, if any.

        Raises:
            metrics.weights.WeightsMissing: a weight file is missing.
        """

    @abstractmethod
    def update(self, generated: Features, reference: Features | None = None) -> None:
        """Add one clip.

        Args:
            generated: features of the generated clip.
            reference: those of the reference clip, or None.
        """

    @abstractmethod
    def compute(self) -> Any:
        """The value over all clips so far, a float64 scalar, NaN where there is none."""

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Axes | None = None) -> AxesOf:
        """Plot a value, or values of several rounds, as torchmetrics' own metrics do.

        Args:
            val: what ``compute`` returned, once or several times; the present value by default.
            ax: where to draw; a new figure by default.

        Returns:
            The figure, None where ``ax`` was given, and the axes.
        """
        limit = {"higher": self.bounds[1], "lower": self.bounds[0], "zero": 0.0}
        best = limit.get(self.direction, math.nan)
        found = self.compute() if val is None else val
        return plot_values(found, self._label, best if math.isfinite(best) else None, ax)

    @property
    def _label(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name


class ClipMetric(BenchMetric):
    """A metric with a value per clip, and their mean over all clips.

    A clip on which the metric is not defined has the value NaN; it is counted, and left out of the
    mean. A metric of direction ``reference`` also keeps the reference clips' own values. The mean
    is summed exactly (``math.fsum``), so neither order nor number of processes changes it.
    """

    values: Any  # list[Tensor], or one Tensor after merging over processes
    references: Any

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("values", default=[], dist_reduce_fx="cat")
        self.add_state("references", default=[], dist_reduce_fx="cat")
        self.set_dtype(torch.float64)

    @abstractmethod
    def measure(self, generated: Features, reference: Features | None) -> float:
        """The value of one clip, NaN where it is not defined."""

    def measure_clip(self, generated: Features, reference: Features | None) -> tuple[float, float]:
        """The clip's value and, for direction ``reference``, the reference's own (else NaN)."""
        value = self.measure(generated, reference)
        if self.direction != "reference" or reference is None:
            return value, math.nan
        return value, self.measure(reference, None)

    @property
    def reads_audio(self) -> bool:
        """Whether ``exchange_audio`` can put another clip's audio in place of its own.

        Such a metric must be able to measure a clip without a reference.
        """
        return "waveform" in self.needs and not any(map(is_pixels, self.needs))

    def exchange_audio(self, clip: Features, other: Features) -> tuple[Features, Features]:
        """A clip with its own audio, and with another clip's, over as much as both have.

        A clip whose own audio is the shorter one keeps all its frames.

        Args:
            clip: the features that ``needs`` names, each of plain frames or ``waveform``.
            other: those of the other clip.

        Raises:
            ValueError: one of them has no row per frame: the metric must override this.
        """
        own, theirs = clip["waveform"], other["waveform"]
        samples = min(len(own), len(theirs))
        rows = {name: clip[name] for name in self.needs if name != "waveform"}
        if samples < len(own):
            length = next(len(value) for name, value in rows.items() if name != "size")
            part = slice(0, math.ceil(samples / SAMPLES_PER_FRAME))
            rows = {name: part_of(name, value, part, length) for name, value in rows.items()}
        return {**rows, "waveform": own[:samples]}, {**rows, "waveform": theirs[:samples]}

    def record(self, value: float, reference: float = math.nan) -> None:
        """Add a clip whose value is known already, such as from a cache."""
        # What torchmetrics does around ``update``.
        self._computed = None
        self._update_count += 1
        self._append(value, reference)

    def update(self, generated: Features, reference: Features | None = None) -> None:
        self._append(*self.measure_clip(generated, reference))

    def _append(self, value: float, reference: float) -> None:
        for states, number in ((self.values, value), (self.references, reference)):
            states.append(torch.tensor([number], dtype=torch.float64, device=self.device))

    def compute(self) -> Tensor:
        return _mean(self.values)

    def compute_reference(self) -> Tensor:
        """The mean of the reference clips' own values; NaN unless direction is ``reference``."""
        return _mean(self.references)

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Axes | None = None) -> AxesOf:
        """Plot the value of each clip so far and the mean; or, given ``val``, as ``BenchMetric``.

        A metric of direction ``reference`` also shows the reference clips' own values.
        """
        values, references = _numbers(self.values), _numbers(self.references)
        if val is not None or not values:
            return super().plot(val, ax)
        return plot_clips(values, references, self._label, ax)


class FrameMetric(ClipMetric):
    """A metric of pixels: it has a value per frame, and a clip's value is their mean.

    Or it has a row of numbers per frame, and says in ``clip_value`` what they make.

    Frames come in parts of some megabytes, whatever the length of the clip, together with the same
    frames of the reference. A frame on which the metric is not defined has the value NaN and is
    left out of the mean. Values over time are means of the same values.

    Attributes:
        before: how many frames before it a frame's value needs; so many frames at a clip's start
            have none.
        context: how many frames before it a frame's value takes in where there are so many; frames
            at a clip's start have values too, of fewer.
    """

    before: ClassVar[int] = 0
    context: int = 0

    @abstractmethod
    def measure_frames(self, generated: Features, reference: Features | None) -> Tensor:
        """Values of a part of a clip.

        Args:
            generated: the features that ``needs`` names, of n frames only: their rows, their audio;
                ``size`` is that of the clip.
            reference: the same frames of the reference, or None.

        Returns:
            (n - ``before``,), at least (0,): a value for each frame but the first ``before``. Or
            (n - ``before``, k).
        """

    def clip_value(self, values: Tensor) -> float:
        """The clip's value, or that of some frames in sequence, from theirs; NaN for none."""
        return frame_mean(values)

    def measure(self, generated: Features, reference: Features | None) -> float:
        """``clip_value`` of all frames; ``frames`` may be a ``Frames`` or a tensor."""
        ((values, _),) = by_frame([self], generated, reference)
        return self.clip_value(values)


class FrameValues(NamedTuple):
    """Values of a clip's frames.

    Attributes:
        values: (T - before,) float64, or (T - before, k).
        references: the reference's own, in the same shape, or (0,) where there are none.
    """

    values: Tensor
    references: Tensor


AnyFeatures = Mapping[str, Tensor | Frames]


def by_frame(
    metrics: Sequence[FrameMetric], generated: AnyFeatures, reference: AnyFeatures | None = None
) -> list[FrameValues]:
    """Values of each frame, all metrics in one pass over the frames (one pass for each size).

    Args:
        metrics: whose values are wanted.
        generated: features of a clip, its frames as ``Frames`` or tensors.
        reference: the same, of as many frames.

    Returns:
        For each metric the values, float64.

    Raises:
        ValueError: a metric reads a feature that has no row per frame, or the clips differ in
            length.
    """
    found: dict[int, FrameValues] = {}
    groups: dict[tuple[str, ...], list[FrameMetric]] = {}
    for metric in metrics:
        groups.setdefault(tuple(filter(is_pixels, metric.needs)), []).append(metric)
    for group in groups.values():
        for metric, values in zip(group, _pass(group, generated, reference), strict=True):
            found[id(metric)] = values
    return [found[id(metric)] for metric in metrics]


def frame_mean(values: Tensor) -> float:
    """The mean of values (T,) without NaN; NaN where there are no others."""
    defined = [v for v in values.double().tolist() if not math.isnan(v)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def is_pixels(name: str) -> bool:
    """Whether a feature is ``frames`` or ``frames@N``."""
    return name.partition("@")[0] == "frames"


def part_of(name: str, value: Tensor, part: slice, length: int) -> Tensor:
    """The part of a feature that belongs to some frames of a clip.

    Args:
        name: of the feature.
        value: of the whole clip.
        part: the frames.
        length: frames of the clip.

    Raises:
        ValueError: it has no row per frame.
    """
    if name == "size":
        return value
    if name == "waveform":
        return value[part.start * SAMPLES_PER_FRAME : part.stop * SAMPLES_PER_FRAME]
    if len(value) != length:
        raise ValueError(f"'{name}' has {len(value)} rows for {length} frames")
    return value[part]


def _pass(
    metrics: Sequence[FrameMetric], generated: AnyFeatures, reference: AnyFeatures | None
) -> list[FrameValues]:
    """``by_frame`` for metrics that read frames of the same sizes."""
    # Numbers, not tensors: small ones kept between large ones would scatter the free memory.
    values: list[list[Any]] = [[] for _ in metrics]
    references: list[list[Any]] = [[] for _ in metrics]
    before = max(metric.before + metric.context for metric in metrics)
    sides = _in_step(metrics, before, generated, reference)
    for extra, mine, theirs in sides:
        for k, metric in enumerate(metrics):
            # Without the earlier frames that only another metric needs.
            spare = max(0, extra - metric.before - metric.context)
            own = [side if side is None else _later(side, metric, spare) for side in (mine, theirs)]
            assert own[0] is not None
            # Context that the part before has given values for.
            known = max(0, extra - spare - metric.before)
            values[k] += metric.measure_frames(own[0], own[1])[known:].double().tolist()
            if metric.direction == "reference" and own[1] is not None:
                references[k] += metric.measure_frames(own[1], None)[known:].double().tolist()
    return [
        FrameValues(*(torch.tensor(side, dtype=torch.float64) for side in both))
        for both in zip(values, references, strict=True)
    ]


def _in_step(
    metrics: Sequence[FrameMetric],
    before: int,
    generated: AnyFeatures,
    reference: AnyFeatures | None,
) -> Iterator[tuple[int, Features, Features | None]]:
    """Parts of both clips, and how many frames each part shares with the one before."""
    needs = sorted({need for metric in metrics for need in metric.needs})
    pixels = [as_frames(generated[need]) for need in needs if is_pixels(need)]
    length = len(pixels[0])
    others = [] if reference is None else [as_frames(reference[n]) for n in needs if is_pixels(n)]
    if any(len(frames) != length for frames in (*pixels, *others)):
        raise ValueError("both clips must have the same number of frames")
    size = min(part_size(*frames.shape[-2:]) for frames in pixels)
    spans = list(parts(length, size, before))
    mine = _parts(needs, generated, spans, length)
    theirs = None if reference is None else _parts(needs, reference, spans, length)
    done = 0
    for (start, stop), part in zip(spans, mine, strict=True):
        yield done - start, part, None if theirs is None else next(theirs)
        done = stop


def _parts(
    needs: Sequence[str], features: AnyFeatures, spans: Sequence[tuple[int, int]], length: int
) -> Iterator[Features]:
    frames = {n: as_frames(features[n]).spans(spans) for n in needs if is_pixels(n)}
    for start, stop in spans:
        rows = {
            name: part_of(name, value, slice(start, stop), length)
            for name, value in features.items()
            if name in needs and isinstance(value, Tensor) and name not in frames
        }
        yield {**rows, **{name: next(found) for name, found in frames.items()}}


def _later(features: Features, metric: FrameMetric, extra: int) -> Features:
    """The features that a metric needs of a part, without its first ``extra`` frames."""
    length = next(len(features[need]) for need in metric.needs if is_pixels(need))
    part = slice(extra, length)
    return {name: part_of(name, features[name], part, length) for name in metric.needs}


class SetMetric(BenchMetric):
    """A metric of all clips together, with no value per clip."""


def _mean(states: list[Tensor] | Tensor) -> Tensor:
    defined = [value for value in _numbers(states) if not math.isnan(value)]
    mean = math.fsum(defined) / len(defined) if defined else math.nan
    return torch.tensor(mean, dtype=torch.float64)


def _numbers(states: list[Tensor] | Tensor) -> list[float]:
    values = states if isinstance(states, Tensor) else torch.cat([torch.zeros(0), *states])
    return values.double().flatten().tolist()
