"""What the checks found, and how it is printed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from thbench.preflight.estimate import Need

LEVELS = OK, WARNING, ERROR = "ok", "warning", "error"
GB = 1e9


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        level: ``ok``, a ``warning`` or an ``error``.
        where: a stage, or what it is about.
        text: in one line, with the remedy.
        local: it depends on this machine: which files are here, how much memory and disk there is.
    """

    level: str
    where: str
    text: str
    local: bool = False


@dataclass(frozen=True)
class ClipCount:
    """How many clips of a split a draw takes.

    Attributes:
        total: clips.
        kept: clips that are drawn from.
        short: clips left out for having fewer than ``least`` frames.
        faceless: clips left out for having no face, or too late a one.
        least: frames that the draw needs.
        longest: frames of the longest clip.
    """

    total: int
    kept: int
    short: int
    faceless: int
    least: int
    longest: int

    def __str__(self) -> str:
        return f"{self.kept} of {self.total}"


@dataclass
class StageReport:
    """What is known of one stage.

    Attributes:
        name: of the stage.
        steps: optimiser steps of its training.
        trained: it is trained already; then the rest is not filled in.
        shipped: it is taken as it is shipped.
        train: clips of the split ``train`` that it draws from.
        val: clips of the split ``val``; None where it is not validated.
        need: memory and operations of a step; None where it could not be built.
        seconds: estimated time of all steps; None where there is no estimate.
    """

    name: str
    steps: int
    trained: bool = False
    shipped: bool = False
    train: ClipCount | None = None
    val: ClipCount | None = None
    need: Need | None = None
    seconds: float | None = None


@dataclass
class Report:
    """Findings and stages, in order.

    Attributes:
        strategy: its name.
        title: the first line.
        stages: in order of training.
        findings: in order of the checks.
    """

    strategy: str
    title: str
    stages: list[StageReport] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def of(self, level: str) -> list[Finding]:
        """The findings of one level."""
        return [finding for finding in self.findings if finding.level == level]

    @property
    def verdict(self) -> str:
        """The last line: whether training can start, with the number of errors and warnings."""
        errors, warnings = (len(merge_repeated(self.of(level))) for level in (ERROR, WARNING))
        more = f", {warnings} warning(s)" if warnings else ""
        if errors:
            return f"{self.strategy}: training cannot end well: {errors} error(s){more}"
        return f"{self.strategy}: nothing stands against training{more}"


def show(report: Report) -> None:
    """Print a report to the terminal, without its verdict."""
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
    for finding in sorted(merge_repeated(report.findings), key=lambda f: LEVELS.index(f.level)):
        style = {OK: "", WARNING: "yellow", ERROR: "bold red"}[finding.level]
        lines.add_row(Text(finding.level, style), finding.where, Text(finding.text))
    console.print(lines)


def merge_repeated(findings: Iterable[Finding]) -> list[Finding]:
    """Findings, with those merged that say the same of several stages."""
    places: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        places.setdefault((finding.level, finding.text), []).append(finding)
    return [
        replace(found[0], where=", ".join(dict.fromkeys(f.where for f in found)))
        for found in places.values()
    ]


def cells(found: StageReport) -> tuple[str, ...]:
    """A stage's cells after its name: clips of train and val, weights, memory, steps, time."""
    if found.trained:
        return ("shipped" if found.shipped else "trained", "", "", "", str(found.steps), "")
    need = found.need
    traced = need is not None and need.peak is not None
    return (
        str(found.train or "-"),
        str(found.val or "-"),
        f"{need.parameters / 1e6:.1f} M" if need else "-",
        f"{'' if traced else '> '}{size_text(need.memory)}" if need else "-",
        str(found.steps),
        duration(found.seconds),
    )


def duration(seconds: float | None) -> str:
    """Seconds in a readable unit, to two digits, such as ``3.5 h``; ``-`` for None."""
    if seconds is None:
        return "-"
    for size, unit in ((365 * 86400, "years"), (86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:{'.2g' if seconds < 99.5 * size else '.0f'}} {unit}"
    return f"{seconds:{'.2g' if seconds < 99.5 else '.0f'}} s"


def size_text(n: float) -> str:
    """Bytes in a readable unit, such as ``1.2 GB``."""
    return f"{n / GB:.1f} GB" if n >= GB / 10 else f"{n / 1e6:.0f} MB"
