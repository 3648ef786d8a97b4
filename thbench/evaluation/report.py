"""Prints a result: metric values, what is unavailable and why, and what became of every clip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from thbench.evaluation.results import (
    Control,
    Coverage,
    Encoding,
    MetricValue,
    Result,
    Subgroups,
    TimingSummary,
)

if TYPE_CHECKING:
    from rich.console import Console

GIGA = 1e9
ALPHA = 0.05
"""A control whose p value is not below does not tell own audio from another clip's."""
MAX_NAMED = 5
"""So many clips are listed by name; the others are counted."""


def printer() -> Console:
    """The console for tables. A pipe has no width, and lines must not be cut there."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=200)


def show(result: Result) -> None:
    """Print a result."""
    from rich.table import Table

    table = Table(
        "metric", "value", "interval", "reference", "clips", box=None, header_style="bold"
    )
    for name, value in result.metrics.items():
        table.add_row(name, *_cells(value))
    printer().print(table)
    print("\n".join(lines(result)))
    if result.by:
        _show_subgroups(result.by)


def lines(result: Result) -> list[str]:
    """The lines below the table."""
    covered = result.coverage
    wanted = covered.expected * max(1, len(result.seeds))
    text = [f"{result.title} [{result.origin}]: {covered.scored} of {wanted} clips scored"]
    if result.cost:
        cost = result.cost
        times = f"{cost.frames:.0f} frames, no times taken"
        if cost.seconds is not None and cost.first_frame is not None:
            times = (
                f"{cost.seconds:.2f} s for {cost.frames:.0f} frames, the first after"
                f" {cost.first_frame:.2f} s"
            )
        text.append(
            f"{times}; depth {cost.depth:.0f}, {cost.calls:.0f} calls,"
            f" {cost.evaluations:.0f} frames evaluated"
        )
    if result.timed:
        text.append(f"by the protocol: {describe(result.timed)}")
    text += _named("unpaired, no reference is called so", covered.unpaired)
    text += _named("absent, no video is called so", covered.absent)
    text += [f"left out: {name}: {reason}" for name, reason in covered.unreadable.items()]
    text += _named("cut to the shorter of both", list(_shorter(result)))
    text += filter(None, [damage(covered)])
    text += encoding_notes(covered)
    reasons = {name: v.unavailable for name, v in result.metrics.items() if v.unavailable}
    text += _unavailable("unavailable", reasons)
    text += _unavailable("unavailable over time", result.over_time_unavailable)
    text += [f"{', '.join(names)}: {note}" for note, names in notes_of(result).items()]
    text += [
        f"{name}: {describe_control(value.control, value.direction)}"
        for name, value in result.metrics.items()
        if value.control
    ]
    for name, value in result.metrics.items():
        if value.missing:
            undefined = [row.id for row in result.per_clip if row.metrics.get(name) is None]
            text += _named(f"{name} is not defined", undefined)
    return text


def describe_control(control: Control, direction: str) -> str:
    """A metric with own audio and with another clip's, and whether it tells them apart."""
    if control.own is None or control.other is None or control.median is None:
        return "; ".join(["no clip has a value with another clip's audio", *_exceptions(control)])
    words = [
        f"{control.own:.3f} with own audio, {control.other:.3f} with another clip's",
        f"median difference {control.median:.3f} of {control.n} clips",
        verdict(control, direction),
        *_exceptions(control),
    ]
    return "; ".join(words)


def verdict(control: Control, direction: str) -> str:
    """What the test of a control says, in words."""
    if control.p is None or control.median is None:
        return f"no p value, since only {control.differ} clips differ"
    p = f"p = {control.p:.2g}"
    if control.p >= ALPHA:
        return f"{p}: not told apart, so read no sync from it on these videos"
    worse = {"higher": control.median < 0, "lower": control.median > 0, "zero": control.median > 0}
    return f"{p}: the other audio fits better" if worse.get(direction) else f"{p}: told apart"


def _exceptions(control: Control) -> list[str]:
    """The clips of a control that are left out or are not as the others."""
    counts = {
        "without both values": control.missing,
        "left out, whose audio is the same": control.same_audio,
        "cut to the shorter audio": control.shorter,
        "with another audio of the same person": control.same_person,
    }
    words = [f"{count} {what}" for what, count in counts.items() if count]
    return words + (["who speaks is not known"] if control.same_person is None else [])


def damage(covered: Coverage) -> str:
    """How many clips and frames are damaged; ``""`` for none."""
    found = covered.damaged
    if found is None:
        return ""
    shares = f"{found.clips} of {covered.scored}", f"{found.frames} of {found.of}"
    return "{} clips have damaged frames ({})".format(*shares)


def encoding_notes(covered: Coverage) -> list[str]:
    """Where scored videos are not all encoded alike: compression alone moves metrics."""
    sides = covered.encodings
    kinds = {"generated": "generated videos", "reference": "reference videos"}
    text = [
        f"{kinds[side]} are encoded in {len(found)} ways: {'; '.join(map(encoding_text, found))}"
        for side, found in sides.items()
        if len(found) > 1
    ]
    if len(sides) == 2 and not any(
        _same(a, b) for a in sides["generated"] for b in sides["reference"]
    ):
        both = (" and ".join(map(encoding_text, sides[side])) for side in kinds)
        text.append(
            "generated and reference videos are encoded differently: {}, against {}".format(*both)
        )
    return text


def _same(one: Encoding, other: Encoding) -> bool:
    """Whether they differ at most in number, bit rate and size, which is the strategy's own."""
    own = replace(other, width=one.width, height=one.height)
    return replace(one, clips=0, bit_rate=None) == replace(own, clips=0, bit_rate=None)


def encoding_text(found: Encoding) -> str:
    """An encoding in a line, with the number of videos in brackets."""
    rate = "" if found.bit_rate is None else f", {found.bit_rate / 1000:.0f} kbit/s"
    words = [found.codec, found.profile, found.pixels, f"{found.width}x{found.height}"]
    sound = f"{found.audio} {found.sample_rate} Hz" if found.audio else "no audio"
    return f"{' '.join(filter(None, words))} at {found.fps:g} fps{rate}, {sound} ({found.clips})"


def _show_subgroups(by: Subgroups) -> None:
    """A line for each metric and value of the column, and what is left out."""
    from rich.table import Table

    head = ("metric", by.column, "value", "interval", "reference", "clips")
    table = Table(*head, box=None, header_style="bold")
    for name in dict.fromkeys(name for values in by.groups.values() for name in values):
        for group, values in by.groups.items():
            found = values[name]
            value = "-" if found.value is None else f"{found.value:.3f}"
            interval = "{:.3f} to {:.3f}".format(*found.interval) if found.interval else ""
            reference = "" if found.reference is None else f"{found.reference:.3f}"
            table.add_row(name, group, value, interval, reference, str(found.n))
    print()
    printer().print(table)
    if by.without:
        print(f"clips without '{by.column}', which are in none of these: {by.without}")
    if by.left_out:
        print(
            f"not within '{by.column}', for which its clips are too few: {', '.join(by.left_out)}"
        )


def describe(timed: TimingSummary) -> str:
    """Time and memory, how they were measured, and on what."""
    clips = "" if timed.clips == 1 else f" of each of {timed.clips} clips"
    text = (
        f"{timed.seconds:.2f} s for {timed.frames:.0f} frames, the first after"
        f" {timed.first_frame:.2f} s ({timing_method(timed)}{clips}; {timed.hardware})"
    )
    if timed.memory is not None:
        text += f"; {timed.memory / GIGA:.2f} GB ({timed.memory_is})"
    return text


def timing_method(timed: TimingSummary) -> str:
    """How a time was measured."""
    runs = "one run" if timed.repeats == 1 else f"median of {timed.repeats} runs"
    return f"{runs} after {timed.warmup or 'no'} warm-up, audio encoded before"


def notes_of(result: Result) -> dict[str, list[str]]:
    """Cautions, each with the names of the metrics that it is about."""
    about: dict[str, list[str]] = {}
    for name, value in result.metrics.items():
        for note in value.notes:
            about.setdefault(note, []).append(name)
    return about


def _cells(found: MetricValue) -> tuple[str, str, str, str]:
    if found.value is None:
        return ("unavailable" if found.unavailable else "-", "", "", str(found.n or ""))
    unit = f" {found.unit}" if found.unit else ""
    interval = "{:.3f} to {:.3f}".format(*found.interval) if found.interval else ""
    reference = "" if found.reference is None else f"{found.reference:.3f}"
    return f"{found.value:.3f}{unit}", interval, reference, str(found.n)


def _unavailable(what: str, reasons: Mapping[str, str]) -> list[str]:
    """A line per remedy: one file often serves several metrics."""
    remedies: dict[str, list[str]] = {}
    for name, remedy in reasons.items():
        remedies.setdefault(remedy, []).append(name)
    return [f"{what}: {', '.join(names)}: {remedy}" for remedy, names in remedies.items()]


def _shorter(result: Result) -> Iterable[str]:
    for row in result.per_clip:
        if len(set(row.lengths)) > 1:
            generated, reference = row.lengths
            yield f"{row.id} ({generated} frames, reference {reference})"


def _named(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return [f"{what}: {len(names)}: {', '.join(names[:MAX_NAMED])}{more}"]
