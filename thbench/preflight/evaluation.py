"""What ``thbench eval`` will find and measure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from metrics.weights import WeightsMissing, WeightsUnreadable
from thbench.core.errors import UserError
from thbench.data.datamodule import check_root
from thbench.evaluation import pipeline
from thbench.evaluation.features import build_extractors
from thbench.evaluation.protocol import Protocol
from thbench.preflight.context import Preflight
from thbench.preflight.report import ERROR, OK, WARNING

FEW = 0.5
"""A metric that fewer than this share of the test clips count in gets a warning."""


def check_test_split(run: Preflight) -> None:
    """Check that there are clips to evaluate on."""
    try:
        check_root(run.config.eval_data.root)
        if not run.eval_data:
            split = run.config.eval.split
            run.add(WARNING, "eval", f"there are no clips in the split '{split}' to evaluate on")
    except UserError as error:
        run.add(WARNING, "eval", str(error))


def check_metrics(run: Preflight, prepare: bool) -> None:
    """Say which metrics ``eval`` will compute, and why not the others.

    Args:
        run: the run of the checks.
        prepare: load the metrics' weights and count the clips that are long enough for each.
    """
    try:
        protocol = pipeline.protocol_of(run.config)
    except UserError as error:
        named = run.config.eval.protocol is not None
        run.add(ERROR if named else WARNING, "eval", str(error))
        return
    if any(f.where == "eval" for f in run.report.of(WARNING)):
        return
    if run.config.scale == "paper" and protocol.size != run.config.size:
        run.add(
            WARNING,
            "eval",
            f"protocol {protocol.name} scores {protocol.size} pixels, generated are"
            f" {run.config.size}.",
        )
    limits = [n for n in (protocol.frames, run.config.eval.frames) if n is not None]
    lengths = [min([clip.n_frames, *limits]) for clip in run.eval_data]
    metrics = protocol.build()
    if prepare:
        _report_lengths(run, protocol, limits, lengths, metrics)
    missing = _unavailable([*metrics, *protocol.over_time.build()]) if prepare else {}
    without = {name for names in missing.values() for name in names}
    here = [metric.name for metric in metrics if metric.name not in without]
    clips = f"{len(lengths)} clips of '{run.config.eval.split}' by protocol {protocol.name}"
    run.add(OK, "eval", f"{clips}: {', '.join(here)}")
    for remedy, names in missing.items():
        text = f"unavailable: {', '.join(names)}: {remedy}"
        run.add(WARNING, "eval", text, local=True)


def _report_lengths(
    run: Preflight,
    protocol: Protocol,
    limits: Sequence[int],
    lengths: Sequence[int],
    metrics: Sequence[Any],
) -> None:
    wanted = min(limits, default=None)
    shorter = sum(n < wanted for n in lengths) if wanted else 0
    if shorter:
        run.add(
            OK,
            "eval",
            f"{shorter} of {len(lengths)} clips are shorter than the {wanted} frames of"
            f" protocol {protocol.name}: they are generated at their own length",
        )
    for metric in metrics:
        enough = sum(n >= metric.least_frames for n in lengths)
        if enough < len(lengths):
            count = f"{enough} of {len(lengths)} clips have" if enough else "no clip has"
            text = f"{metric.name} needs {metric.least_frames} frames, which {count}"
            level = WARNING if enough < FEW * len(lengths) else OK
            run.add(level, "eval", text if enough else f"{text}: it will have no value")


def _unavailable(metrics: Iterable[Any]) -> dict[str, list[str]]:
    """Names of metrics that cannot be computed here, by what is missing and its remedy."""
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
