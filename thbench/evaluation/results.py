"""Results: metric values, their data, protocol and cost, as files. torch is not imported here."""

from __future__ import annotations

import hashlib
import json
import math
import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from thbench.config import Config, read_yaml, to_yaml
from thbench.core.errors import UserError, did_you_mean
from thbench.core.files import write_atomic

SCHEMA_VERSION = 1
GROUND_TRUTH = "ground-truth"
"""The strategy of the reference's own row."""
SHUFFLED = "shuffled"
"""The strategy of rows that were generated from another clip's audio."""
MEASURED, SYNTHETIC = "measured", "measured (synthetic)"
ORIGINS = (MEASURED, SYNTHETIC, "reported", "smoke")
SHIPPED_RESULTS = Path(__file__).resolve().parents[1] / "_results"
"""The shipped weights' results, ``leaderboards/results`` of a clone."""
CONFIG = ".config.yaml"
"""Follows the run's name in the name of the file of settings beside a result."""
DIRECTIONS = ("higher", "lower", "zero", "reference")
CHECKSUM = "sha256"
"""Key of a result's file: of what it and the clips' file beside it say."""
_PLACES = ("videos", "reference")
"""Fields of ``Result`` that are paths."""


@dataclass(frozen=True)
class Control:
    """A metric with each clip's own audio, beside the same with another clip's audio.

    Seeds of a clip are averaged before clips are compared. Both values of a clip are over the
    frames that both audios have.

    Attributes:
        n: clips with both values.
        own: mean over them with their own audio, None for no clips.
        other: mean with another clip's audio.
        median: of the clips' differences, own less other.
        p: of Wilcoxon's signed-rank test of the differences, two-sided; None where fewer than
            ``metrics.signed_rank.MIN_PAIRS`` clips differ.
        differ: clips whose two values differ.
        missing: scored clips without one of both values.
        same_audio: clips left out since the other clip has the same audio.
        shorter: clips over fewer frames than in the metric's value.
        same_person: clips with another audio of the same person, since there are too few others;
            None where it is not known who speaks.
    """

    n: int = 0
    own: float | None = None
    other: float | None = None
    median: float | None = None
    p: float | None = None
    differ: int = 0
    missing: int = 0
    same_audio: int = 0
    shorter: int = 0
    same_person: int | None = None


@dataclass(frozen=True)
class MetricValue:
    """One metric's result.

    Attributes:
        value: over all clips, or None where there is none.
        interval: confidence interval of the value, or None.
        left_out: of metrics of sets, the values without each group of clips in turn, where the
            interval comes from them: the same groups for the same clips, so that the differences
            between two results have an interval too.
        n: clips that count in it.
        missing: scored clips on which the metric is not defined.
        direction: which way is better.
        unit: of the value.
        version: of the metric.
        reference: the reference clips' own value, for direction ``reference``.
        extractors: fingerprints of the networks whose features it read.
        unavailable: why there is no value and how to get one, or None.
        notes: cautions.
        control: the same with another clip's audio; None where the protocol names no control of
            it, where there is no value, and in results written before there were any.
    """

    value: float | None
    direction: str
    interval: tuple[float, float] | None = None
    left_out: tuple[float, ...] = ()
    n: int = 0
    missing: int = 0
    unit: str = ""
    version: int = 1
    reference: float | None = None
    extractors: tuple[str, ...] = ()
    unavailable: str | None = None
    notes: tuple[str, ...] = ()
    control: Control | None = None


@dataclass(frozen=True)
class Curve:
    """A metric value over time.

    Attributes:
        frames: of a bin. Bin k holds frames k * frames to (k + 1) * frames - 1.
        values: of each bin, None where there is none.
        clips: how many count in each bin.
        direction: which way is better.
        unit: of the values.
    """

    frames: int
    values: tuple[float | None, ...]
    clips: tuple[int, ...]
    direction: str
    unit: str = ""


@dataclass(frozen=True)
class ProtocolRef:
    """A protocol's name and hash."""

    name: str
    hash: str


@dataclass(frozen=True)
class DataRef:
    """The data that generated videos were scored against.

    Attributes:
        name: of the data set.
        digest: of its content.
        split: or None for a plain folder.
        clips: hash of the ids of the clips that were to be scored.
    """

    name: str
    digest: str
    split: str | None = None
    clips: str = ""


@dataclass(frozen=True)
class WeightsRef:
    """The trained weights of a stage.

    Attributes:
        hash: of the run that trained them.
        steps: that they were trained.
        shipped: they came with thbench, not from a run of the user's.
        dtype: that shipped ones are stored in, or None.
    """

    hash: str
    steps: int
    shipped: bool = False
    dtype: str | None = None


@dataclass(frozen=True)
class PlanRef:
    """The plan by which clips were generated.

    Attributes:
        name: of ``thbench.generation.plans.BUILDERS``.
        options: of the builder, all of them; 0 and 1 for what is off and on.
    """

    name: str
    options: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Damage:
    """Frames that the decoder could not restore, and that were scored as it returned them.

    Attributes:
        clips: scored, with damaged frames in either video.
        frames: that are damaged, of both videos.
        of: frames that were compared, of both videos of all scored clips.
    """

    clips: int
    frames: int
    of: int


@dataclass(frozen=True)
class Encoding:
    """Videos that are encoded alike, as their streams say.

    Attributes:
        codec: FFmpeg's name of the video codec.
        profile: of the codec, "" for none.
        pixels: FFmpeg's name of the pixel format.
        width: in pixels, as stored.
        height: in pixels, as stored.
        fps: mean frame rate that the file states.
        audio: FFmpeg's name of the audio codec, "" for a video without audio.
        sample_rate: of the audio in Hz, 0 without audio.
        clips: how many videos.
        bit_rate: of the video track in bits per second, their median; None where no file says.
    """

    codec: str
    profile: str
    pixels: str
    width: int
    height: int
    fps: float
    audio: str
    sample_rate: int
    clips: int
    bit_rate: float | None = None


@dataclass(frozen=True)
class Coverage:
    """How many clips were to be scored and what became of them.

    Attributes:
        expected: clips of the reference.
        scored: generated videos that were paired and read, over all seeds.
        shorter: pairs of different length, compared over the common length.
        unpaired: generated videos without a reference.
        absent: reference clips without a generated video.
        unreadable: pairs left out because one of the files could not be used, with the reason.
        damaged: what is damaged among those scored, None where nothing is.
        encodings: of the scored videos, by ``generated`` and ``reference``, the most frequent
            first; empty in results written before this was read.
    """

    expected: int = 0
    scored: int = 0
    shorter: int = 0
    unpaired: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    unreadable: dict[str, str] = field(default_factory=dict)
    damaged: Damage | None = None
    encodings: dict[str, tuple[Encoding, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class GroupValue:
    """One metric within some of the clips.

    Attributes:
        value: mean over the clips, None where none has a value.
        interval: confidence interval of the value, or None.
        n: clips that count in it.
        reference: the reference clips' own value, for direction ``reference``.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    n: int = 0
    reference: float | None = None


@dataclass(frozen=True)
class Subgroups:
    """Metrics within the clips that share a value of a column of the manifest.

    Attributes:
        column: its name.
        groups: by the column's value, metric values by the metric's name.
        clips: scored clips with that value, over all seeds.
        without: scored clips without the column.
        left_out: metrics of sets, for which a part of the clips is too few.
    """

    column: str
    groups: dict[str, dict[str, GroupValue]]
    clips: dict[str, int]
    without: int = 0
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class CostSummary:
    """Means over clips, times without the first clip of each session where there are others.

    Attributes:
        seconds: to generate a clip, without encoding its audio; None where no times are taken.
        first_frame: seconds to its first frame, likewise.
        frames: in the clip.
        depth: network calls that the plan puts one after another.
        calls: of networks.
        evaluations: frames shown to networks, over all calls.
        hardware: what it ran on.
        clips: how many of them were timed.
    """

    seconds: float | None
    first_frame: float | None
    frames: float
    depth: float
    calls: float
    evaluations: float
    hardware: str
    clips: int


@dataclass(frozen=True)
class TimingSummary:
    """Time and memory of generation, measured as the protocol says (``thbench.evaluation.timing``).

    Attributes:
        seconds: to generate a clip, without encoding its audio; median of all runs.
        first_frame: seconds to its first frame, median.
        frames: in the clip, a mean where there are several.
        hardware: what it ran on.
        clips: how many were generated.
        warmup: runs of each clip that do not count.
        repeats: runs of each clip that do.
        memory: in bytes at most, over all runs, or None where that cannot be known.
        memory_is: what that counts.
    """

    seconds: float
    first_frame: float
    frames: float
    hardware: str
    clips: int
    warmup: int
    repeats: int
    memory: int | None = None
    memory_is: str = ""


@dataclass(frozen=True)
class ClipRow:
    """Metric values of one generated clip: a line of ``<run>.clips.jsonl``.

    Attributes:
        id: of the clip.
        seed: with which it was generated.
        frames: that were compared, from the clip's start.
        lengths: frames of the generated video and of the reference's; of a video that was measured
            without a reference, only its own.
        metrics: by the metric's name, None where it is not defined on the clip.
        reference: the reference clip's own values of metrics with direction ``reference``.
        over_time: by the metric's name, a value per bin, None where it is not defined there.
        damaged: damaged frames among those compared, by ``generated`` and ``reference``; sides
            without any are left out.
        control: by the metric's name, the values with own audio and with another clip's over the
            frames that both have, None where it is not defined; empty without a control.
    """

    id: str
    seed: int = 0
    frames: int = 0
    lengths: tuple[int, ...] = ()
    metrics: dict[str, float | None] = field(default_factory=dict)
    reference: dict[str, float | None] = field(default_factory=dict)
    over_time: dict[str, tuple[float | None, ...]] = field(default_factory=dict)
    damaged: dict[str, int] = field(default_factory=dict)
    control: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """A row of a table, and its provenance.

    Attributes:
        run: names the run and the file.
        origin: ``measured``; ``measured (synthetic)``, on rendered faces; ``reported`` by a paper;
            or ``smoke``, from tiny models.
        metrics: values by the metric's name, in the protocol's order.
        timed: time and memory, measured as the protocol says, or None.
        space: what the strategy generates in ("flow", "pixels", ...).
        plan: by which it generated; None where nothing was, and in results written before this was.
        weights: of the strategy's trained stages, by stage; empty where nothing was generated.
        samples_seen: by the trained networks, or None.
        over_time: values over bins of frames, by the metric's name.
        over_time_unavailable: metrics that could not be followed, and the remedy.
        by: values within subgroups of the clips, or None where none were asked for.
        videos: the folder of the scored videos, "" where it is not known. A path from here; in the
            file one from the file's folder.
        reference: the same of what they were scored against.
        per_clip: the values of each clip, kept in a file beside.
    """

    run: str
    strategy: str
    title: str
    origin: str
    protocol: ProtocolRef
    data: DataRef
    metrics: dict[str, MetricValue]
    over_time: dict[str, Curve] = field(default_factory=dict)
    over_time_unavailable: dict[str, str] = field(default_factory=dict)
    coverage: Coverage = field(default_factory=Coverage)
    by: Subgroups | None = None
    cost: CostSummary | None = None
    timed: TimingSummary | None = None
    seeds: tuple[int, ...] = ()
    config_hash: str | None = None
    weights: dict[str, WeightsRef] = field(default_factory=dict)
    samples_seen: int | None = None
    space: str | None = None
    plan: PlanRef | None = None
    notes: tuple[str, ...] = ()
    git: str | None = None
    packages: dict[str, str] = field(default_factory=dict)
    created: str = ""
    videos: str = ""
    reference: str = ""
    schema_version: int = SCHEMA_VERSION
    per_clip: tuple[ClipRow, ...] = ()


def write(result: Result, folder: Path) -> Path:
    """Write ``<run>.json`` and, beside it, ``<run>.clips.jsonl``; return the former.

    Each file appears whole or not at all; the result last, so that it is never without its clips.

    Raises:
        UserError: the run's name is no file name, a field has a wrong value, or no room is left.
    """
    path = path_of(result.run, folder)
    _check(result, path)
    content = asdict(result)
    for key in _PLACES:
        if content[key]:
            place = os.path.relpath(Path(content[key]).resolve(), folder.resolve())
            content[key] = Path(place).as_posix()
    rows = [_plain(row) for row in content.pop("per_clip")]
    content[CHECKSUM] = _checksum(content, rows)
    write_atomic(_beside(path), "".join(_dump(row) + "\n" for row in rows))
    write_atomic(path, _dump(content, indent=2) + "\n")
    return path


def write_config(run: str, config: Config, folder: Path) -> Path:
    """Write ``<run>.config.yaml``, the settings that a result was made with; return its path."""
    path = folder / f"{run}{CONFIG}"
    write_atomic(path, to_yaml(config))
    return path


def read_config(run: str, folder: Path) -> dict[str, Any] | None:
    """The settings beside a result, nested; None where there are none, as of ``thbench score``.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / f"{run}{CONFIG}"
    return read_yaml(path) if path.is_file() else None


def path_of(run: str, folder: Path) -> Path:
    """The file of a run's result.

    Raises:
        UserError: the run's name is no file name.
    """
    path = folder / f"{run}.json"
    if not run or path.parent != folder or run.startswith("."):
        raise UserError(f"'{run}' cannot name a result: use letters, digits, '-' and '_'.")
    return path


def read(path: Path) -> Result:
    """A result from its JSON file, and its clips where their file is there.

    Raises:
        UserError: the file is missing, no JSON, of another schema or of another run's name, has
            wrong keys or types, or was changed after it was written.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"There is no result {path}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): delete it and score again.") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has result schema {version}, this thbench reads {SCHEMA_VERSION}: score again."
        )
    checksum = content.pop(CHECKSUM, None)
    result = typing.cast(Result, _build(Result, dict(content, per_clip=()), str(path)))
    _check(result, path)
    if result.run != path.stem:
        raise UserError(
            f"{path} is a copy or has been renamed: it is the result of '{result.run}'. Delete it,"
            f" or call it {result.run}.json."
        )
    lines = _read_lines(path)
    rows = tuple(_build(ClipRow, x, f"{_beside(path)}, line {i}") for i, x in enumerate(lines, 1))
    # Results from before there was one have none.
    if checksum is not None and checksum != _checksum(content, lines):
        raise UserError(
            f"{path} or {_beside(path).name} was changed, cut short or left out since both were"
            " written: take both from where they came from, or score again."
        )
    kept = {key: getattr(result, key) for key in _PLACES}
    places: dict[str, Any] = {
        key: os.path.normpath(path.parent / p) for key, p in kept.items() if p
    }
    return replace(result, per_clip=rows, **places)


def read_folder(folder: Path) -> list[Result]:
    """All results of a folder, by file name."""
    return [read(path) for path in sorted(folder.glob("*.json"))]


def finite(value: float) -> float | None:
    """The value, or None for NaN and infinities, which JSON cannot express."""
    return value if math.isfinite(value) else None


def _dump(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A clip's row as it is written: ``damaged`` and ``control`` only where there are any."""
    return {k: v for k, v in row.items() if v or k not in ("damaged", "control")}


def _beside(path: Path) -> Path:
    return path.with_suffix(".clips.jsonl")


def _read_lines(path: Path) -> list[Any]:
    """A line per clip of a result, as JSON has it; none where their file is not there."""
    beside = _beside(path)
    if not beside.is_file():
        return []
    try:
        # Not ``splitlines``, which also parts at characters that a name may have, U+2028 for one.
        return [json.loads(line) for line in beside.read_text("utf-8").split("\n") if line]
    except ValueError as error:
        raise UserError(f"{beside} is damaged ({error}): score again.") from error


def _checksum(content: Any, rows: Sequence[Any]) -> str:
    """Of what files say, whatever their line ends and blanks."""
    text = json.dumps([content, rows], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _check(result: Result, path: Path) -> None:
    if result.origin not in ORIGINS:
        raise UserError(
            f"{path}: origin is '{result.origin}'.{did_you_mean(result.origin, ORIGINS)}"
        )
    for name, value in result.metrics.items():
        if value.direction not in DIRECTIONS:
            known = did_you_mean(value.direction, DIRECTIONS)
            raise UserError(f"{path}: {name} has direction '{value.direction}'.{known}")


def _build(kind: Any, value: Any, where: str) -> Any:
    """``value`` from JSON as ``kind``, a type that a dataclass above uses."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        rest = [a for a in args if a is not type(None)]
        return None if value is None else _build(rest[0], value, where)
    if is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    if origin is tuple:
        return _build_tuple(args, value, where)
    if origin is dict:
        _expect(isinstance(value, Mapping), where, "a mapping", value)
        return {k: _build(args[1], v, f"{where}: {k}") for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _expect(type(value) is kind, where, f"of type {kind.__name__}", value)
    return value


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, Mapping), where, "a mapping", value)
    hints = typing.get_type_hints(kind)
    for key in value:
        if key not in hints:
            raise UserError(f"{where} has no key '{key}'.{did_you_mean(key, hints)}")
    for f in fields(kind):
        needed = f.default is MISSING and f.default_factory is MISSING
        if needed and f.name not in value:
            raise UserError(f"{where} lacks '{f.name}'.")
    return kind(**{k: _build(hints[k], v, f"{where}: {k}") for k, v in value.items()})


def _build_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    _expect(is_list, where, "a list", value)
    kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
    _expect(len(kinds) == len(value), where, f"a list of {len(kinds)}", value)
    return tuple(
        _build(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True))
    )


def _expect(holds: bool, where: str, what: str, value: Any) -> None:
    if not holds:
        raise UserError(f"{where} must be {what}, not {value!r}.")
