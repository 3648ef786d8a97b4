"""Scores videos against a reference: pair, extract features, measure, sum up.

``score`` takes any folder of videos, generated here or elsewhere. What becomes of a clip:

    no partner, or no file        listed, not scored
    unreadable, not square        the pair is left out and listed with the reason
    a feature is NaN              the same
    damaged frames                scored as the decoder makes them, and counted; the pair is left
                                  out where they are over half of a video
    another length                both are cut to the shorter one, and counted
    one frame, no face, no audio  metrics that are not defined on it have no value there: counted
    nothing left                  an error
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from thbench.core.errors import UserError
from thbench.core.provenance import provenance
from thbench.evaluation.costs import summarize_costs
from thbench.evaluation.features import default_cache
from thbench.evaluation.pairing import Pair, Reference, find_reference, find_videos, pair_up
from thbench.evaluation.protocol import Protocol
from thbench.evaluation.report import encoding_notes
from thbench.evaluation.results import GROUND_TRUTH, MEASURED, SYNTHETIC, Result
from thbench.evaluation.scorer import Scorer
from thbench.evaluation.subgroups import labels_of, with_subgroups


def score(
    generated: Path,
    reference: Path,
    protocol: Protocol,
    *,
    run: str,
    strategy: str,
    title: str | None = None,
    origin: str = MEASURED,
    split: str = "test",
    limit: int | None = None,
    seeds: Collection[int] | None = None,
    data: str | None = None,
    follows: Collection[str] = (),
    by: str | None = None,
    named: bool = True,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
    **row: Any,
) -> Result:
    """Score a folder of videos.

    Args:
        generated: videos named by the reference's ids, in subfolders ``seed-<n>`` or not.
        reference: a prepared data set, or any folder of videos.
        protocol: the metrics, and how they are measured.
        run: names the result and its files.
        strategy: what generated the videos.
        title: of the row; the strategy's name by default.
        origin: ``measured``, of which the result says where it was on rendered faces, or ``smoke``
            for tiny models.
        split: of a prepared data set.
        limit: only the first so many clips of the reference.
        seeds: only videos of these; of all seeds that are there by default.
        data: what the reference is called; by default as its folder.
        follows: which of the reference's ``pose`` and ``eyes`` the videos are known to follow.
        by: a column of the reference's manifest, within whose values metrics are also summed up.
        named: the user named the protocol. Metrics whose network was trained on synthetic faces
            only then measure recordings as well, with a note; otherwise they are unavailable.
        cache: folder of features; ``thbench.evaluation.features.default_cache`` by default.
        device: where extractors run.
        progress: show a progress bar.
        row: further fields of ``Result``.

    Raises:
        UserError: a folder is missing, no pair can be scored, or there is no such column.
    """
    labels = labels_of(reference, by) if by else {}
    truth = find_reference(reference, split, limit, data)
    pairs, unpaired, absent = pair_up(find_videos(generated), truth.videos, seeds)
    if not pairs:
        raise UserError(
            f"No video in {generated} is named like a clip of {reference}:"
            f" name them '<clip id>.mp4', such as '{next(iter(truth.videos))}.mp4'."
        )
    scorer = _scorer(truth, protocol, cache, device, named, follows=follows)
    scorer.add_all(pairs, progress)
    outcome = scorer.outcome(len(truth.videos), unpaired, absent)
    notes = (*row.pop("notes", ()), *encoding_notes(outcome.coverage))
    result = Result(
        run=run,
        strategy=strategy,
        title=title or strategy,
        origin=_origin(origin, truth),
        data=truth.data,
        cost=summarize_costs([pair.generated for pair in pairs]),
        seeds=tuple(sorted({pair.seed for pair in pairs})),
        notes=notes,
        videos=str(generated),
        reference=str(reference),
        **vars(outcome),
        **{**provenance(), **row},
    )
    return with_subgroups(result, protocol, by, labels) if by else result


def with_own_motion(result: Result, own: Result) -> Result:
    """A result with its metrics of head motion and blinks taken from clips with own motion.

    Args:
        result: of clips that follow the reference's motion.
        own: of the same clips, generated once more with the strategy's own motion; it has those
            metrics only.

    Returns:
        ``result`` with the metric values, values per clip and unreadable pairs of ``own``.
    """
    note = "of clips made once more, with the strategy's own head motion and blinks"
    values = {n: replace(v, notes=(note, *v.notes)) for n, v in own.metrics.items()}
    rows = {(row.id, row.seed): row for row in result.per_clip}
    for row in own.per_clip:
        whole = rows.get((row.id, row.seed), row)
        rows[row.id, row.seed] = replace(
            whole,
            metrics={**whole.metrics, **row.metrics},
            reference={**whole.reference, **row.reference},
            control={**whole.control, **row.control},
        )
    unreadable = {f"own motion, {name}": why for name, why in own.coverage.unreadable.items()}
    covered = replace(result.coverage, unreadable={**result.coverage.unreadable, **unreadable})
    return replace(
        result,
        metrics={name: values.get(name, value) for name, value in result.metrics.items()},
        per_clip=tuple(rows.values()),
        coverage=covered,
    )


def score_ground_truth(
    reference: Path,
    protocol: Protocol,
    *,
    split: str = "test",
    limit: int | None = None,
    data: str | None = None,
    by: str | None = None,
    named: bool = True,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Result:
    """Score the reference itself, which papers show above the other rows.

    Metrics that need no reference, such as LSE-C or blinks, have a value; those that compare with
    the reference are null, since they would compare it with itself.

    Args:
        reference: a prepared data set, or any folder of videos.
        protocol: the metrics, and how they are measured.
        split: of a prepared data set.
        limit: only the first so many clips.
        data: what the reference is called; by default as its folder.
        by: as for ``score``.
        named: the user named the protocol, as for ``score``.
        cache: folder of features; ``thbench.evaluation.features.default_cache`` by default.
        device: where extractors run.
        progress: show a progress bar.

    Raises:
        UserError: the folder is missing, none of its videos can be scored, or there is no such
            column.
    """
    labels = labels_of(reference, by) if by else {}
    truth = find_reference(reference, split, limit, data)
    scorer = _scorer(truth, protocol, cache, device, named, reference_free=True)
    scorer.add_all([Pair(name, 0, path, path) for name, path in truth.videos.items()], progress)
    outcome = scorer.outcome(len(truth.videos))
    result = Result(
        run=f"{GROUND_TRUTH}-{truth.data.name}-{protocol.name}",
        strategy=GROUND_TRUTH,
        title="Ground truth",
        origin=_origin(MEASURED, truth),
        data=truth.data,
        notes=tuple(encoding_notes(outcome.coverage)),
        videos=str(reference),
        reference=str(reference),
        **vars(outcome),
        **provenance(),
    )
    return with_subgroups(result, protocol, by, labels) if by else result


def _scorer(
    truth: Reference,
    protocol: Protocol,
    cache: Path | None,
    device: torch.device | str,
    named: bool,
    **kind: Any,
) -> Scorer:
    return Scorer(
        protocol,
        cache or default_cache(),
        device,
        out_of_domain=_out_of_domain(truth, named),
        identities=truth.identities,
        **kind,
    )


def _origin(asked: str, truth: Reference) -> str:
    return SYNTHETIC if asked == MEASURED and truth.synthetic else asked


def _out_of_domain(truth: Reference, named: bool) -> str:
    """What becomes of metrics whose network knows synthetic faces only; see ``Availability``."""
    if truth.synthetic:
        return ""
    return "noted" if named else "refused"
