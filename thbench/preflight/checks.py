"""What can be known of a training before its first step.

Each check adds findings and leaves the rest to the others, so that one look shows all there is to
put right. An error is what training cannot end well with; a warning is what it ends with otherwise
than one may think, or what stands against evaluation alone.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from metrics.weights import WeightsMissing, WeightsUnreadable
from thbench import config as configs
from thbench.config import Config, StageConfig
from thbench.core.errors import UserError
from thbench.core.hub import missing_weights
from thbench.core.types import Clip
from thbench.data import manifest
from thbench.data.datamodule import RankShard, check_root
from thbench.data.dataset import least_frames, usable_frames
from thbench.data.embedding.encoders import ENCODERS
from thbench.data.media import video
from thbench.data.store import Store
from thbench.evaluation import pipeline
from thbench.evaluation import protocol as protocols
from thbench.evaluation.features import build_extractors
from thbench.generation import assemble
from thbench.preflight.estimate import EFFICIENCY, Need, Networks, known_rate
from thbench.training import devices as devices_
from thbench.training.runs import order, stage_run
from thbench.training.stage import Stage, StageContext

LEVELS = OK, WARNING, ERROR = "ok", "warning", "error"
Rate = Callable[[str], float]
LOOKED = 400
"""Clips whose own tracks are opened to see where faces are, where nothing is packed yet."""
SHARE = 0.5
"""A metric that fewer of the test clips count in gets a warning."""
GB = 1e9


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        level: ``ok``, a ``warning`` or an ``error``.
        where: a stage, or what it is about.
        text: in one line, with the remedy.
        local: it is so on this machine: what lies here, what room there is.
    """

    level: str
    where: str
    text: str
    local: bool = False


@dataclass(frozen=True)
class Counted:
    """What a draw takes of a split.

    Attributes:
        total: clips.
        kept: those that are drawn from.
        short: left out for having fewer than ``least`` frames.
        faceless: left out for having no face, or too late a one.
        longest: frames of the longest clip.
        looked: clips whose faces were looked at; of the others only the length is known.
    """

    total: int
    kept: int
    short: int
    faceless: int
    least: int
    longest: int
    looked: int

    def __str__(self) -> str:
        return f"{self.kept} of {self.total}"


@dataclass
class StageReport:
    """What is known of one stage.

    ``seconds`` are an estimate of all steps, None where there is none.
    """

    name: str
    steps: int
    trained: bool = False
    train: Counted | None = None
    val: Counted | None = None
    need: Need | None = None
    seconds: float | None = None


@dataclass
class Report:
    """Findings and stages, in order."""

    strategy: str
    title: str
    stages: list[StageReport] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def of(self, level: str) -> list[Finding]:
        """The findings of one level."""
        return [finding for finding in self.findings if finding.level == level]

    @property
    def verdict(self) -> str:
        """The last line."""
        errors, warnings = (len(joined(self.of(level))) for level in (ERROR, WARNING))
        more = f", {warnings} warning(s)" if warnings else ""
        if errors:
            return f"{self.strategy}: training cannot end well: {errors} error(s){more}"
        return f"{self.strategy}: nothing stands against training{more}"


def check(
    config: Config,
    only: str | None = None,
    *,
    files: bool = True,
    estimates: bool = True,
    evaluation: bool = True,
    rate: Rate | None = None,
) -> Report:
    """Check a strategy's training.

    Args:
        config: a strategy.
        only: this stage alone, with those that it builds on.
        files: look at the clips' own files too, not at the manifest alone.
        estimates: trace a step of each stage for memory and time, which takes some seconds each.
        evaluation: find out which metrics ``eval`` will have, which reads their weights.
        rate: FLOP/s of a large matrix product by precision, in place of what is measured here.
    """
    report = Report(config.strategy, f"{config.strategy} scale={config.scale} {config.data.root}")
    try:
        assemble.check(config)
        names = order(config, only)
        check_root(config.data.root)
        clips = manifest.read(config.data.root)
    except UserError as error:
        report.findings.append(Finding(ERROR, "settings", str(error)))
        return report
    looking = _Looking(config, clips, report, files, rate)
    looking.files_are_here(names)
    looking.sound()
    looking.pixels()
    for name in names:
        looking.stage(name, estimates)
    looking.put_together(only)
    looking.device()
    if not only:
        looking.test_split()
        looking.measured(evaluation)
    looking.disk()
    return report


@dataclass
class _Looking:
    """One run of the checks."""

    config: Config
    clips: Sequence[Clip]
    report: Report
    files: bool
    rate: Rate | None

    def say(self, level: str, where: str, text: str, local: bool = False) -> None:
        self.report.findings.append(Finding(level, where, text, local))

    def error(self, where: str, error: UserError) -> None:
        self.say(ERROR, where, str(error))

    @cached_property
    def stores(self) -> dict[str, Store]:
        """As the stages that show frames have them; in the order in which ids are sorted."""
        data = self.config.data
        return {
            split: Store(Path(data.root), split, self.config.size, data.audio, data.cache_gb)
            for split in ("train", "val")
        }

    @cached_property
    def networks(self) -> Networks:
        return Networks(self.config, self.audio_dim)

    @cached_property
    def audio_dim(self) -> int:
        """Of the embeddings that are here, or of the encoder's own weights."""
        store, name = self.stores["train"], self.config.data.audio.partition("=")[0]
        if self.files and store.clips and store.audio_path(0).is_file():
            return store.audio_dim
        return ENCODERS.load(name).default_dim

    @cached_property
    def world(self) -> int:
        """Devices that train together, as far as the settings and this machine tell."""
        settings = self.config.trainer
        chosen = devices_.limit_devices(settings, 2**20)
        return settings.nodes * (len(chosen) if isinstance(chosen, list) else chosen)

    @cached_property
    def torch_device(self) -> torch.device:
        cuda = self.config.trainer.accelerator != "cpu" and torch.cuda.is_available()
        return torch.device("cuda" if cuda else "cpu")

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Those that training reads."""
        settings = self.config.trainer
        validates = settings.validate_batches and settings.validate_every
        return ("train", "val") if validates and self.stores["val"].clips else ("train",)

    # The data set

    def files_are_here(self, names: Iterable[str]) -> None:
        """Clips and tracks that the manifest promises, and the sound's embeddings."""
        if not self.files:
            self.say(
                OK, "data", "judged from the manifest alone, the clips' files are not looked at"
            )
            return
        root = Path(self.config.data.root)
        shows = any(self.config.stages[name].draw.video for name in names)
        used = [clip for split in self.splits for clip in self.stores[split].clips]
        wanted = {
            "track": [root / clip.track for clip in used],
            "video": [root / clip.video for clip in used] if shows else [],
        }
        for kind, paths in wanted.items():
            missing = [path for path in paths if not path.is_file()]
            if missing:
                self.say(
                    ERROR,
                    "data",
                    f"{len(missing)} of {len(used)} clips have no {kind}, such as {missing[0]}:"
                    " prepare the data set again.",
                )
        if not self.report.of(ERROR):
            self.say(OK, "data", f"{len(used)} clips with video and track")
        self.embeddings(used)

    def sound(self) -> None:
        """Whether the audio encoder is the one of the strategy's paper."""
        config, given = self.config, self.config.data.audio.partition("=")[0]
        if config.scale != "paper" or config.strategy not in configs.names("strategy"):
            return
        own = configs.load(config.strategy, ["scale=paper"]).data.audio
        if given == own:
            self.say(OK, "sound", f"{given}, as in the paper")
            return
        self.say(
            WARNING,
            "sound",
            f"data.audio={given}, but the paper's strategy hears {own}: figures will not compare"
            f" with its own; set data.audio={own}.",
        )

    def embeddings(self, used: Sequence[Clip]) -> None:
        """Whether the sound is embedded, or can be."""
        store, audio = self.stores["train"], self.config.data.audio
        missing = [clip for clip in used if not store.embeddings.path(clip.id).is_file()]
        if not missing:
            return
        what = f"{len(missing)} of {len(used)} clips have no '{audio}' embedding"
        kind, _, source = audio.partition("=")
        try:
            source = source or getattr(ENCODERS.load(kind), "default", "")
        except UserError as error:
            self.say(ERROR, "sound", f"{what}: {error}")
            return
        for lack in missing_weights(source, "", f"the weights of '{kind}'") if source else ():
            if lack.is_fatal:
                self.say(ERROR, "sound", f"{what}, and {lack.what}", local=True)
                return
        self.say(OK, "sound", f"{what}: they are made once, before the first step", local=True)

    def pixels(self) -> None:
        """Whether frames are shown as large as the strategy and the clips are."""
        config = self.config
        if config.strategy in configs.names("strategy"):
            own = configs.load(config.strategy, [f"scale={config.scale}"]).size
            if own != config.size:
                self.say(WARNING, "size", f"size={config.size}, the strategy's own is {own}.")
        first = next(iter(self.stores["train"].clips), None)
        path = Path(config.data.root) / first.video if first else None
        if not self.files or path is None or not path.is_file():
            return
        try:
            info = video.probe(path)
        except UserError as error:
            self.error("data", error)
            return
        if min(info.height, info.width) < config.size:
            self.say(
                WARNING,
                "size",
                f"size={config.size}, but the clips have {info.width} x {info.height} pixels and"
                f" are enlarged: prepare them with --size {config.size}, or lower size.",
            )

    # Stages

    def stage(self, name: str, estimates: bool) -> None:
        """All that concerns one stage."""
        settings = self.config.stages[name]
        found = StageReport(name, settings.max_steps, _is_done(self.config, name))
        self.report.stages.append(found)
        if found.trained:
            return
        found.train, found.val = (self.draw(name, split) for split in ("train", "val"))
        part = self.share(name)
        try:
            stage = self.networks.stage(name)
            if settings.max_steps:
                stage.check_draw(settings.draw)
                if part * self.world * self.config.trainer.accumulate == settings.batch_size:
                    stage.check_part(part)
        except UserError as error:
            self.error(name, error)
            return
        except Exception as error:  # a class of somebody's that must see numbers
            reason = " ".join(str(error).split()) or type(error).__name__
            self.say(WARNING, name, f"could not be looked at without building it: {reason}")
            return
        self.started_from(name)
        for missing in stage.missing(settings.max_steps):
            self.say(ERROR if missing.is_fatal else WARNING, name, missing.what, local=True)
        if not stage.automatic_optimization and self.config.trainer.accumulate > 1:
            self.say(
                ERROR,
                name,
                "takes its optimiser steps itself, so it cannot accumulate: set"
                " trainer.accumulate=1.",
            )
        found.need = self.networks.need(name, part, trace=estimates)
        if estimates:
            self.cost(found)

    def draw(self, name: str, split: str) -> Counted | None:
        """Clips that the stage's draw takes; an error where there are none."""
        draw, clips = self.config.stages[name].draw, self.stores[split].clips
        if split not in self.splits:
            if split == "train":
                self.say(ERROR, name, f"{self.config.data.root} has no clips in its split 'train'.")
            return None
        if not clips:
            self.say(ERROR, name, f"{self.config.data.root} has no clips in its split '{split}'.")
            return None
        try:
            least = least_frames(draw)
        except UserError as error:
            self.error(name, error)
            return None
        lengths = np.array([clip.n_frames for clip in clips])
        usable, looked = lengths.copy(), 0
        for i, valid in self.faces[split].items():
            looked += 1
            usable[i] = usable_frames(valid, draw)
        kept, short = int((usable >= least).sum()), int((lengths < least).sum())
        counted = Counted(
            len(clips), kept, short, len(clips) - kept - short, least, int(lengths.max()), looked
        )
        self._say_drawn(name, split, counted)
        return counted

    def _say_drawn(self, name: str, split: str, counted: Counted) -> None:
        if counted.kept == counted.total:
            return
        why = [f"{counted.short} have fewer than {counted.least} frames"] if counted.short else []
        why += [f"{counted.faceless} show no face to begin with"] if counted.faceless else []
        what = f"{counted.total - counted.kept} of {counted.total} clips of '{split}' are left out"
        if counted.kept:
            self.say(WARNING, name, f"{what}: {', '.join(why)}")
            return
        off = ", or set trainer.validate_batches=0" if split == "val" else ""
        self.say(
            ERROR,
            name,
            f"No clip of the split '{split}' has {counted.least} frames with a face (the longest"
            f" has {counted.longest} frames; {', '.join(why)}): lower draw.frames or draw.least,"
            f" or prepare longer clips{off}.",
        )

    @cached_property
    def faces(self) -> dict[str, dict[int, np.ndarray]]:
        """Where faces are known without work: frames with one, by the clip's place in its split."""
        found: dict[str, dict[int, np.ndarray]] = {"train": {}, "val": {}}
        for split in self.splits if self.files else ():
            store = self.stores[split]
            n = len(store.clips)
            some = (
                range(n) if store.is_packed else np.linspace(0, n - 1, min(n, LOOKED)).astype(int)
            )
            for i in map(int, some):
                try:
                    valid = store.seen(i)
                except (OSError, ValueError, KeyError, BadZipFile) as error:
                    path = store.root / store.clips[i].track
                    self.say(ERROR, "data", f"{path} cannot be read ({error}): prepare it again.")
                    break
                if valid is not None:
                    found[split][i] = valid
        return found

    def share(self, name: str) -> int:
        """Clips that a device sees at once, 1 where the batch cannot be dealt out."""
        size, parts = self.config.stages[name].batch_size, self.config.trainer.accumulate
        try:
            return len(RankShard(size, 0, self.world, parts).slots(0))
        except UserError as error:
            self.error(name, error)
            return 1

    def started_from(self, name: str) -> None:
        """Whether a stage has the shape of the one whose weights it begins with."""
        origin = self.config.stages[name].init_from
        if not origin:
            return
        try:
            theirs, ours = (_shapes(self.networks.stage(n)) for n in (origin, name))
        except Exception:  # the stage itself says why
            return
        differ = sorted(k for k in {*theirs, *ours} if theirs.get(k) != ours.get(k))
        if differ:
            self.say(
                ERROR,
                name,
                f"starts from stage '{origin}', whose network is another one ({len(differ)} weights"
                f" differ, such as {differ[0]}): give both the same model.net.",
            )

    def cost(self, found: StageReport) -> None:
        """Memory and time of a stage."""
        need, settings = found.need, self.config.stages[found.name]
        if need is None or not settings.max_steps:
            return
        if need.flops is None:
            self.say(OK, found.name, f"memory and time are not known: {need.why_not}")
        else:
            precision = settings.precision or self.config.trainer.precision
            speed = EFFICIENCY * self.product(precision)
            step = need.flops * self.config.trainer.accumulate / speed
            found.seconds = step * settings.max_steps
        there = memory_of(self.torch_device)
        where = "this GPU" if self.torch_device.type == "cuda" else "this machine"
        least = replace(need, peak=None).memory
        if least > there:
            self.say(
                ERROR,
                found.name,
                f"weights, gradients and moments alone take {_size(least)}, {where} has"
                f" {_size(there)}: take another device, or smaller networks.",
                local=True,
            )
        elif need.memory > there:
            self.say(
                WARNING,
                found.name,
                f"takes about {_size(need.memory)}, {where} has {_size(there)}: set"
                " trainer.accumulate, which leaves the result as it is.",
                local=True,
            )

    def product(self, precision: str) -> float:
        """FLOP/s of a large matrix product."""
        return (self.rate or partial(known_rate, self.torch_device.type))(precision)

    def device(self) -> None:
        """What was assumed of the device."""
        rates = sorted({self.product(precision) for precision in self._precisions()})
        if not rates:
            return
        kind = torch.cuda.get_device_name() if self.torch_device.type == "cuda" else "CPU"
        threads = self.config.trainer.threads or torch.get_num_threads()
        kind = f"{kind}, {threads} thread(s)" if kind == "CPU" else kind
        text = " and ".join(f"{rate / 1e12:.2g}" for rate in rates)
        self.say(
            OK,
            "device",
            f"times assume {EFFICIENCY:.0%} of a matrix product's {text} TFLOP/s, "
            + ("as given" if self.rate else f"measured now on {kind}")
            + f"; {self.world} device(s); memory and times are estimates",
            local=True,
        )

    def _precisions(self) -> set[str]:
        left = [found.name for found in self.report.stages if found.seconds is not None]
        default = self.config.trainer.precision
        return {self.config.stages[name].precision or default for name in left}

    def put_together(self, only: str | None) -> None:
        """Whether the trained networks can be put together as the configuration says."""
        config = self.config
        if only or any(f.where in config.stages for f in self.report.of(ERROR)):
            return
        kind = assemble.check(config)
        options: dict[str, Any] = {"plan": config.plan, "sampler": config.sampler, **config.options}
        try:
            nets = {role: self.networks.stage(stage).net for role, stage in config.nets.items()}
            with self.networks.tracing():
                kind(nets, StageContext(config.size, self.audio_dim, seed=config.seed), **options)
        except UserError as error:
            self.error("strategy", error)
        except KeyError as error:
            self.say(
                ERROR, "strategy", f"nets lacks the role {error}: name the stage that plays it."
            )
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            self.say(WARNING, "strategy", f"could not be put together without weights: {reason}")

    # Evaluation

    @cached_property
    def eval_data(self) -> list[Clip]:
        """The test clips, as ``eval`` takes them."""
        root, split = Path(self.config.eval_data.root), self.config.eval.split
        rows = self.clips if self.config.eval_data is self.config.data else manifest.read(root)
        chosen = sorted((c for c in rows if c.split == split), key=lambda c: c.id)
        return chosen[: self.config.eval.limit]

    def test_split(self) -> None:
        """Whether there is something to evaluate on."""
        try:
            check_root(self.config.eval_data.root)
            if not self.eval_data:
                split = self.config.eval.split
                self.say(
                    WARNING, "eval", f"there are no clips in the split '{split}' to evaluate on"
                )
        except UserError as error:
            self.say(WARNING, "eval", str(error))

    def measured(self, evaluation: bool) -> None:
        """What ``eval`` will measure, and what not."""
        try:
            rule = pipeline.protocol_of(self.config)
        except UserError as error:
            named = self.config.eval.protocol is not None
            self.say(ERROR if named else WARNING, "eval", str(error))
            return
        if any(f.where == "eval" for f in self.report.of(WARNING)):
            return
        if self.config.scale == "paper" and rule.size != self.config.size:
            self.say(
                WARNING,
                "eval",
                f"protocol {rule.name} scores {rule.size} pixels, made are {self.config.size}.",
            )
        limits = [n for n in (rule.frames, self.config.eval.frames) if n is not None]
        lengths = [min([clip.n_frames, *limits]) for clip in self.eval_data]
        metrics = rule.build()
        if evaluation:
            self._say_lengths(rule, limits, lengths, metrics)
        missing = _unavailable([*metrics, *rule.over_time.build()]) if evaluation else {}
        without = {name for names in missing.values() for name in names}
        here = [metric.name for metric in metrics if metric.name not in without]
        clips = f"{len(lengths)} clips of '{self.config.eval.split}' by protocol {rule.name}"
        self.say(OK, "eval", f"{clips}: {', '.join(here)}")
        for remedy, names in missing.items():
            text = f"unavailable: {', '.join(names)}: {remedy}"
            self.say(WARNING, "eval", text, local=True)

    def _say_lengths(
        self,
        rule: protocols.Protocol,
        limits: Sequence[int],
        lengths: Sequence[int],
        metrics: Sequence[Any],
    ) -> None:
        wanted = min(limits, default=None)
        shorter = sum(n < wanted for n in lengths) if wanted else 0
        if shorter:
            self.say(
                OK,
                "eval",
                f"{shorter} of {len(lengths)} clips are shorter than the {wanted} frames of"
                f" protocol {rule.name}: they are made as long as they are",
            )
        for metric in metrics:
            enough = sum(n >= metric.least_frames for n in lengths)
            if enough < len(lengths):
                count = f"{enough} of {len(lengths)} clips have" if enough else "no clip has"
                text = f"{metric.name} needs {metric.least_frames} frames, which {count}"
                level = WARNING if enough < SHARE * len(lengths) else OK
                self.say(level, "eval", text if enough else f"{text}: it will have no value")

    # The disk

    def disk(self) -> None:
        """Whether caches, checkpoints and videos find room."""
        wanted: dict[Path, dict[str, int]] = defaultdict(dict)
        if self.files:
            shows = [s.draw.video for s in self._left() if s.max_steps]
            for store in self.stores.values() if shows else ():
                for path, size in store.unbuilt(video=any(shows)):
                    folder = _existing(path)
                    wanted[folder]["caches"] = wanted[folder].get("caches", 0) + size
        runs = wanted[_existing(Path(self.config.runs) / "run")]
        runs["checkpoints"] = sum(self._saved(found) for found in self.report.stages)
        runs["videos"] = self._videos()
        by_disk: dict[int, tuple[Path, dict[str, int]]] = {}
        for folder, sizes in wanted.items():
            _, known = by_disk.setdefault(folder.stat().st_dev, (folder, {}))
            for kind, size in sizes.items():
                known[kind] = known.get(kind, 0) + size
        for folder, sizes in by_disk.values():
            self._say_room(folder, {kind: size for kind, size in sizes.items() if size})

    def _say_room(self, folder: Path, sizes: dict[str, int]) -> None:
        free, needed = shutil.disk_usage(folder).free, sum(sizes.values())
        parts = ", ".join(f"{kind} {_size(size)}" for kind, size in sizes.items())
        what = (
            f"about {_size(needed)} to be written ({parts})" if needed else "nothing to be written"
        )
        text = f"{what}, {_size(free)} free at {folder}"
        if needed > free:
            remedy = "free some, or point runs= and data.cache_gb elsewhere"
            self.say(ERROR, "disk", f"{text}: {remedy}.", local=True)
        else:
            self.say(OK if needed < 0.8 * free else WARNING, "disk", text, local=True)

    def _saved(self, found: StageReport) -> int:
        """Of the last and the best checkpoint, and the one that is being written."""
        if found.need is None:
            return 0
        return found.need.saved * (1 + len(self.splits) if found.steps else 1)

    def _videos(self) -> int:
        """As large as the test clips' own files, for each seed."""
        try:
            seeds = len(pipeline.protocol_of(self.config).seeds)
            paths = [Path(self.config.eval_data.root) / clip.video for clip in self.eval_data]
        except UserError:
            return 0
        some = [path for path in paths[:: max(1, len(paths) // 50)] if path.is_file()]
        mean = sum(path.stat().st_size for path in some) / len(some) if some else 0
        return int(mean * len(paths) * seeds)

    def _left(self) -> list[StageConfig]:
        return [self.config.stages[f.name] for f in self.report.stages if not f.trained]


def memory_of(device: torch.device) -> int:
    """Bytes of a device's memory; on a CPU, of the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def show(report: Report) -> None:
    """Print a report, but for its verdict."""
    from rich.table import Table
    from rich.text import Text

    from thbench.evaluation.report import printer

    console = printer()
    console.print(Text(report.title, style="bold"))
    if report.stages:
        table = Table(
            "stage", "train", "val", "weights", "memory", "steps", "time", box=None,
            pad_edge=False, header_style="bold",
        )  # fmt: skip
        for found in report.stages:
            table.add_row(found.name, *cells(found))
        console.print(table)
    lines = Table("", "", "", box=None, pad_edge=False, show_header=False)
    for finding in sorted(joined(report.findings), key=lambda f: LEVELS.index(f.level)):
        style = {OK: "", WARNING: "yellow", ERROR: "bold red"}[finding.level]
        lines.add_row(Text(finding.level, style), finding.where, Text(finding.text))
    console.print(lines)


def joined(findings: Iterable[Finding]) -> list[Finding]:
    """Findings with those joined that say the same of several stages."""
    places: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        places.setdefault((finding.level, finding.text), []).append(finding)
    return [
        replace(found[0], where=", ".join(dict.fromkeys(f.where for f in found)))
        for found in places.values()
    ]


def cells(found: StageReport) -> tuple[str, ...]:
    """A stage's columns: clips of train and val, weights, memory, steps, time."""
    if found.trained:
        return ("trained", "", "", "", str(found.steps), "")
    need = found.need
    traced = need is not None and need.peak is not None
    return (
        str(found.train or "-"),
        str(found.val or "-"),
        f"{need.parameters / 1e6:.1f} M" if need else "-",
        f"{'' if traced else '> '}{_size(need.memory)}" if need else "-",
        str(found.steps),
        duration(found.seconds),
    )


def duration(seconds: float | None) -> str:
    """For people, to two digits."""
    if seconds is None:
        return "-"
    for size, unit in ((365 * 86400, "years"), (86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:{'.2g' if seconds < 99.5 * size else '.0f'}} {unit}"
    return f"{seconds:.2g} s"


def _unavailable(metrics: Iterable[Any]) -> dict[str, list[str]]:
    """Metrics that cannot be had here, by remedy."""
    metrics = list(metrics)
    _, missing = build_extractors(metrics)
    found: dict[str, list[str]] = {}
    for metric in metrics:
        reason = next((missing[need] for need in metric.needs if need in missing), None)
        try:
            metric.prepare()
        except (WeightsMissing, WeightsUnreadable) as error:
            reason = reason or str(error)
        if reason and metric.name not in found.setdefault(reason, []):
            found[reason].append(metric.name)
    return found


def _is_done(config: Config, name: str) -> bool:
    """Whether a stage's own note says that it is trained; its checkpoint is not opened for that."""
    run, note = stage_run(config, name), {}
    path = run.folder / "stage.json"
    if path.is_file() and run.last.is_file():
        note = json.loads(path.read_text())
    return note.get("status") == "done" and note.get("steps", 0) >= config.stages[name].max_steps


def _shapes(stage: Stage) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in stage.net.state_dict().items()}


def _existing(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())


def _size(n: float) -> str:
    return f"{n / GB:.1f} GB" if n >= GB / 10 else f"{n / 1e6:.0f} MB"
