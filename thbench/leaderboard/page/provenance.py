"""What is known of a row, as text under headings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from thbench.evaluation.report import damage, describe, encoding_text, notes_of
from thbench.evaluation.results import Coverage, Result
from thbench.generation import plans
from thbench.leaderboard.rank import Row

Lines = list[list[str]]
"""Pairs of a name and a text."""


def of_result(result: Result) -> list[list[object]]:
    """Sections, each a heading with its lines; sections without lines are left out."""
    sections = {
        "Row": _row(result),
        "Protocol and data": _data(result),
        "Coverage": _coverage(result.coverage, len(result.seeds)),
        "Weights": _weights(result),
        "Time and cost": _cost(result),
        "Notes": [*([text, ""] for text in result.notes), *_metric_notes(result)],
        "Software": _software(result),
    }
    return [[heading, lines] for heading, lines in sections.items() if lines]


def of_paper(row: Row, facts: Mapping[str, str]) -> list[list[object]]:
    """The same of a row that a paper prints."""
    lines = [["Title", row.title], ["Origin", row.origin], *([k, v] for k, v in facts.items())]
    said = ["Nothing of it was measured here: the numbers are the paper's, digit by digit.", ""]
    return [["Row", lines], ["Notes", [said]]]


def _row(result: Result) -> Lines:
    plan = result.plan
    return _known(
        {
            "Title": result.title,
            "Run": result.run,
            "Origin": result.origin,
            "Strategy": result.strategy,
            "Plan": plans.describe({"name": plan.name, **plan.options})
            if plan and plan.name in plans.BUILDERS
            else "",
            "Generates in": result.space,
            "Seeds": ", ".join(map(str, result.seeds)),
            "Created": result.created,
            "Configuration": result.config_hash,
        }
    )


def _data(result: Result) -> Lines:
    data = result.data
    return _known(
        {
            "Protocol": result.protocol.name,
            "Protocol's hash": result.protocol.hash,
            "Data": data.name,
            "Split": data.split or "none: a plain folder",
            "Data's digest": data.digest,
            "Clips' hash": data.clips,
        }
    )


def _coverage(covered: Coverage, seeds: int) -> Lines:
    wanted = covered.expected * max(1, seeds)
    lines = _known(
        {
            "Scored": f"{covered.scored} of {wanted} clips",
            "Cut to the shorter of both": covered.shorter or "",
            "Without a reference": ", ".join(covered.unpaired),
            "Without a video": ", ".join(covered.absent),
            "Damaged": damage(covered),
        }
    )
    lines += [[f"Left out: {name}", why] for name, why in covered.unreadable.items()]
    for side, found in covered.encodings.items():
        lines += [[f"Encoding, {side}", encoding_text(each)] for each in found]
    return lines


def _weights(result: Result) -> Lines:
    lines = []
    for stage, own in result.weights.items():
        kind = "shipped with thbench" if own.shipped else "trained by the user"
        stored = f", stored as {own.dtype}" if own.dtype else ""
        lines.append([stage, f"{own.hash}, {own.steps} steps, {kind}{stored}"])
    seen = result.samples_seen
    return lines + _known({"Samples seen": "" if seen is None else f"{seen}"})


def _cost(result: Result) -> Lines:
    cost, lines = result.cost, []
    if result.timed:
        lines.append(["By the protocol", describe(result.timed)])
    if cost:
        times = ""
        if cost.seconds is not None and cost.first_frame is not None:
            times = f"{cost.seconds:.2f} s, first frame after {cost.first_frame:.2f} s"
        lines += _known(
            {
                "While generating": times or "no times were taken",
                "Frames of a clip": f"{cost.frames:g}",
                "Calls in sequence": f"{cost.depth:g}",
                "Calls": f"{cost.calls:g}",
                "Frames evaluated": f"{cost.evaluations:g}",
                "Clips timed": f"{cost.clips}" if times else "",
                "Hardware": cost.hardware,
            }
        )
    return lines


def _metric_notes(result: Result) -> Iterable[list[str]]:
    for text, names in notes_of(result).items():
        yield [", ".join(names), text]
    for name, why in result.over_time_unavailable.items():
        yield [f"{name} over time", f"unavailable: {why}"]


def _software(result: Result) -> Lines:
    versions = ", ".join(f"{name} {v}" for name, v in result.packages.items())
    return _known({"Commit": result.git, "Packages": versions})


def _known(lines: Mapping[str, object]) -> Lines:
    return [[name, str(text)] for name, text in lines.items() if text]
