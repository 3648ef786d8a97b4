"""Protocols: everything that changes a metric value, written down and hashed."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from metrics import METRICS
from metrics.base import ClipMetric, FrameMetric, is_pixels
from metrics.extractors import EXTRACTORS
from thbench.config import content_hash, find, names, read_yaml
from thbench.core import plugins
from thbench.core.errors import UserError, did_you_mean
from thbench.core.registry import Registry
from thbench.data import manifest

SOURCE_FRAMES = ("first", "random")
POSES = ("reference", "generated")
OWN_MOTION = ("unavailable", "noted", "generated")


def _registry(kind: str, base: str, group: str, names: Mapping[str, str]) -> Registry[Any]:
    registry: Registry[Any] = Registry(kind, base, group)
    for name, target in names.items():
        registry.add(name, target)
    return registry


metric_registry = _registry("metric", "metrics.base:BenchMetric", plugins.METRICS, METRICS)
extractor_registry = _registry(
    "extractor", "metrics.extractors.base:Extractor", plugins.EXTRACTORS, EXTRACTORS
)


@dataclass(frozen=True)
class Intervals:
    """How confidence intervals are computed.

    Attributes:
        confidence: that the interval covers the value.
        draws: bootstrap samples, for metrics with a value per clip.
        groups: of clips, each left out once by the jackknife, for metrics of sets.
    """

    confidence: float = 0.95
    draws: int = 1000
    groups: int = 10


@dataclass(frozen=True)
class OverTime:
    """What is also measured within bins of frames.

    Attributes:
        frames: of a bin.
        metrics: ``{"metric": name, **options}`` each.
    """

    frames: int = 25
    metrics: tuple[Mapping[str, Any], ...] = ()

    def build(self) -> list[Any]:
        """The metrics, empty, in order."""
        return [build_metric(spec) for spec in self.metrics]


@dataclass(frozen=True)
class Timing:
    """How time and memory of generation are measured; see ``thbench.evaluation.timing``.

    Attributes:
        frames: of the clip that is generated. Longer audio is cut, shorter audio is repeated from
            its start. None for the clips' own lengths.
        clips: how many, from the first of the split on.
        warmup: runs of each clip that do not count.
        repeats: runs of each clip of which the median is taken.
    """

    frames: int | None = None
    clips: int = 1
    warmup: int = 1
    repeats: int = 3


@dataclass(frozen=True)
class Protocol:
    """How videos are scored.

    Attributes:
        name: of the YAML file.
        title: for people.
        size: frames are scored at ``size`` x ``size`` pixels.
        frames: at most so many frames of each clip, from its start, or None for all.
        metrics: ``{"metric": name, **options}`` each.
        source_frame: which frame of the reference clip is the portrait: ``first`` or ``random``.
        pose: whether clips follow the ``reference``'s pose and blinks, or ``generated`` ones.
        own_motion: what becomes of metrics of head motion and blinks where clips follow the
            reference's: ``unavailable``; ``noted``, measured all the same, with a note; or
            ``generated``, measured on clips generated once more with the strategy's own motion.
        seeds: clips are generated once for each.
        timing: how time and memory are measured, or None where they are not.
        intervals: how confidence intervals are computed.
        over_time: what is followed from the first frames to the last.
        control: names of metrics that are also measured with another clip's audio. It changes no
            value, so it is no part of the hash.
    """

    name: str
    title: str
    size: int
    metrics: tuple[Mapping[str, Any], ...]
    frames: int | None = None
    source_frame: str = "first"
    pose: str = "reference"
    own_motion: str = "unavailable"
    seeds: tuple[int, ...] = (0,)
    timing: Timing | None = None
    intervals: Intervals = field(default_factory=Intervals)
    over_time: OverTime = field(default_factory=OverTime)
    control: tuple[str, ...] = ()

    @cached_property
    def hash(self) -> str:
        """Changes with all that may change a metric value: keys but the titles, and versions."""
        content = asdict(self)
        del content["name"], content["title"], content["control"]
        content["versions"] = self._versions()
        return content_hash(content)

    def build(self) -> list[Any]:
        """The metrics, empty, in the protocol's order."""
        return [build_metric(spec) for spec in self.metrics]

    def of_own_motion(self, follows: Collection[str]) -> Protocol | None:
        """The part that is scored on clips generated once more, with the strategy's own motion.

        Args:
            follows: which of ``pose`` and ``eyes`` the strategy's videos follow.

        Returns:
            None where nothing is to be generated again.
        """
        if self.pose != "reference" or self.own_motion != "generated":
            return None
        metrics = zip(self.build(), self.metrics, strict=True)
        specs = tuple(spec for metric, spec in metrics if metric.own_motion in follows)
        if not specs:
            return None
        names = [spec["metric"] for spec in specs]
        control = tuple(name for name in self.control if name in names)
        return replace(self, pose="generated", metrics=specs, over_time=OverTime(), control=control)

    def _versions(self) -> dict[str, Any]:
        versions: dict[str, Any] = {}
        metrics = [*self.build(), *self.over_time.build()]
        for metric, spec in zip(metrics, (*self.metrics, *self.over_time.metrics), strict=True):
            name = spec["metric"]
            versions[name] = _version(metric_registry, name, metric.version)
            for need in metric.needs:
                name, _ = metric.recipes.get(need, (need, {}))
                if name in extractor_registry:
                    version = extractor_registry.load(name).version
                    versions[need] = _version(extractor_registry, name, version)
        return versions


def _version(registry: Registry[Any], name: str, version: int) -> int | list[Any]:
    """What a hash takes of a class: two packages' version 1 of one name are not the same."""
    package = registry.package(name)
    return version if package == plugins.OWN else [package, version]


def build_metric(spec: Mapping[str, Any]) -> Any:
    """A metric from its block in a protocol.

    Raises:
        UserError: no such metric or option, a value that it does not take, or a metric that wants
            all frames of a clip at once.
    """
    options = dict(spec)
    name = str(options.pop("metric", ""))
    cls = metric_registry.load(name)
    # ``kwargs`` are torchmetrics' own switches, which change no metric value.
    known = [p for p in inspect.signature(cls).parameters if p != "kwargs"]
    for option in options:
        if option not in known:
            raise UserError(
                f"Metric '{name}' has no option '{option}'.{did_you_mean(option, known)}"
            )
    try:
        # One process scores all clips: the others of a run over several devices have gone by then.
        metric = cls(**options, sync_on_compute=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"Metric '{name}': {error}") from error
    if any(map(is_pixels, metric.needs)) and not isinstance(metric, FrameMetric):
        raise UserError(
            f"Metric '{name}' needs all frames of a clip at once, which memory may not hold: derive"
            " it from metrics.base.FrameMetric, which is given them part by part."
        )
    return metric


def load(name: str) -> Protocol:
    """The protocol of that name in configs/protocol, or of a path to a YAML file.

    Raises:
        UserError: there is none, or a key or value in it is not known.
    """
    path = find("protocol", name)
    return parse(path.stem, read_yaml(path))


def default(root: Path, own: str) -> str:
    """The name of the protocol where the user names none: it follows the data.

    Args:
        root: of the reference.
        own: the protocol for recordings, that of the strategy's paper.

    Raises:
        UserError: the data set was recorded, and there is no such protocol.
    """
    name = "synthetic" if manifest.is_synthetic(root) else own
    if not name:
        raise UserError(
            "This strategy names no protocol of its own for recorded data: say eval.protocol=NAME"
            f" ({', '.join(names('protocol'))})."
        )
    return name


def parse(name: str, content: Mapping[str, Any]) -> Protocol:
    """A protocol from the content of its YAML file, checked."""
    where = f"Protocol '{name}'"
    _check_keys(where, content, [f.name for f in fields(Protocol) if f.name != "name"])
    for key in ("size", "metrics"):
        if key not in content:
            raise UserError(f"{where} lacks '{key}'.")
    intervals = content.get("intervals", {})
    _check_keys(f"{where}, intervals", intervals, [f.name for f in fields(Intervals)])
    values = dict(content, name=name, intervals=Intervals(**intervals))
    values.setdefault("title", name)
    values["metrics"] = _metric_blocks(where, content["metrics"])
    values["over_time"] = _over_time(f"{where}, over_time", content.get("over_time", {}))
    values["timing"] = _timing(f"{where}, timing", content.get("timing"))
    values["seeds"] = tuple(content.get("seeds", (0,)))
    values["control"] = _control(where, content.get("control", ()))
    protocol = Protocol(**values)
    _check_values(where, protocol)
    _check_control(where, protocol)
    return protocol


def _over_time(where: str, content: Mapping[str, Any]) -> OverTime:
    _check_keys(where, content, [f.name for f in fields(OverTime)])
    specs = _metric_blocks(where, content.get("metrics", ()))
    over_time = OverTime(content.get("frames", OverTime.frames), specs)
    _check_size(where, "frames", over_time.frames)
    _check_names(where, over_time.build())
    return over_time


def _timing(where: str, content: Any) -> Timing | None:
    if content is None:
        return None
    if not isinstance(content, Mapping):
        raise UserError(f"{where} is written {{frames: 200, clips: 1, warmup: 1, repeats: 3}}.")
    _check_keys(where, content, [f.name for f in fields(Timing)])
    timing = Timing(**content)
    for key in ("frames", "clips", "repeats"):
        if key != "frames" or timing.frames is not None:
            _check_size(where, key, getattr(timing, key))
    if not isinstance(timing.warmup, int) or timing.warmup < 0:
        raise UserError(f"{where}: warmup must be a whole number or 0, not '{timing.warmup}'.")
    return timing


def _control(where: str, names: Any) -> tuple[str, ...]:
    if not isinstance(names, (list, tuple)):
        raise UserError(f"{where}: control is written [lse-c, lse-d], not '{names}'.")
    return tuple(map(str, names))


def _metric_blocks(where: str, specs: Iterable[Any]) -> tuple[dict[str, Any], ...]:
    for spec in specs:
        if not isinstance(spec, Mapping) or "metric" not in spec:
            raise UserError(
                f"{where}: each of its metrics is written {{metric: NAME, option: value}}."
            )
    return tuple(dict(spec) for spec in specs)


def _check_keys(where: str, content: Mapping[str, Any], known: list[str]) -> None:
    for key in content:
        if key not in known:
            raise UserError(f"{where} has no key '{key}'.{did_you_mean(str(key), known)}")


def _check_values(where: str, protocol: Protocol) -> None:
    choices = (("source_frame", SOURCE_FRAMES), ("pose", POSES), ("own_motion", OWN_MOTION))
    for key, known in choices:
        value = getattr(protocol, key)
        if value not in known:
            raise UserError(f"{where}: {key} is '{value}'.{did_you_mean(str(value), known)}")
    _check_size(where, "size", protocol.size)
    if protocol.frames is not None:
        _check_size(where, "frames", protocol.frames)
    if not protocol.metrics:
        raise UserError(f"{where} names no metrics.")
    _check_names(where, protocol.build())


def _check_control(where: str, protocol: Protocol) -> None:
    """That each name of ``control`` is of metrics whose audio can be exchanged."""
    built = list(zip(protocol.build(), protocol.metrics, strict=True))
    known = [spec["metric"] for _, spec in built]
    for name in protocol.control:
        if name not in known:
            raise UserError(
                f"{where}: control names '{name}', which is none of its metrics."
                f"{did_you_mean(name, known)}"
            )
        for metric in (metric for metric, spec in built if spec["metric"] == name):
            if not isinstance(metric, ClipMetric) or not metric.reads_audio:
                raise UserError(
                    f"{where}: '{name}' reads no audio that could be exchanged: leave it out of"
                    " control."
                )
            if metric.direction == "zero" and metric.bounds[0] < 0:
                raise UserError(
                    f"{where}: '{name}' has a sign, so its values with other audio cancel: give it"
                    " `absolute: true`, or leave it out of control."
                )


def _check_size(where: str, key: str, value: Any) -> None:
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{where}: {key} must be a positive whole number, not '{value}'.")


def _check_names(where: str, metrics: Iterable[Any]) -> None:
    metrics = list(metrics)
    names = [metric.name for metric in metrics]
    for metric in metrics:
        if names.count(metric.name) > 1:
            raise UserError(f"{where} has two metrics that are called '{metric.name}'.")
        if metric.same_as in names:
            raise UserError(
                f"{where}: '{metric.name}' is always equal to '{metric.same_as}': name one of them."
            )
