"""``thbench eval``: generate the clips of a split, and score them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from thbench.config import Config, content_hash
from thbench.core.console import rank_zero_print
from thbench.data import manifest
from thbench.evaluation import protocol as protocols
from thbench.evaluation import results
from thbench.evaluation.protocol import Protocol
from thbench.evaluation.results import SHUFFLED, PlanRef, Result, WeightsRef
from thbench.evaluation.score import score, with_own_motion
from thbench.evaluation.subgroups import labels_of, with_subgroups
from thbench.evaluation.timing import time_generation
from thbench.generation import execution, plans
from thbench.generation.assemble import Assembled, assemble
from thbench.generation.requests import SplitRequests
from thbench.generation.writer import ClipWriter


def evaluate(
    config: Config, *, device: str, origin: str, others_audio: bool = False
) -> Result | None:
    """Generate a split's clips, resuming, and score them.

    Args:
        config: a strategy; ``config.eval`` says what and, unless ``protocol_of`` finds it, by
            which protocol.
        device: where scoring runs; generation follows ``config.trainer``.
        origin: ``measured`` or ``smoke``.
        others_audio: generate each clip from another test clip's audio (``SplitRequests``), and
            score it with its own: a yardstick. Time and memory are not measured.

    Returns:
        The result, not yet written; None on ranks other than the first.
    """
    protocol, by = protocol_of(config), config.eval.by
    # A misspelt column is told before hours of generating.
    labels = labels_of(Path(config.eval_data.root), by) if by else {}
    requests = requests_of(config, protocol, others_audio)
    assembled = assemble(config)
    rank_zero_print(f"weights: {', '.join(assembled.weights)}")
    follows = assembled.strategy.follows if protocol.pose == "reference" else frozenset()
    own_motion = protocol.of_own_motion(follows)
    protocols_used = [protocol] if own_motion is None else [protocol, own_motion]
    # All processes share the generation; only the first one scores.
    is_first = [_generate(config, assembled, used, others_audio) for used in protocols_used]
    if not all(is_first):
        return None
    out = videos_folder(config, assembled, protocol, others_audio)
    root, name = Path(config.eval_data.root), SHUFFLED if others_audio else config.strategy
    fields = {
        **row_fields(config, protocol, name, out, device, origin),
        **_strategy_fields(config, assembled, requests),
    }
    if protocol.timing and config.eval.timing and not others_audio:
        fields["timed"] = time_generation(
            assembled.strategy,
            requests,
            protocol.timing,
            config.trainer,
            device=device,
            run=assembled.run,
            folder=out,
        )
    whole = replace(protocol, frames=requests.frames)
    result = score(out, root, whole, follows=follows, **fields)
    if own_motion is not None:
        again = videos_folder(config, assembled, own_motion, others_audio)
        part = replace(own_motion, frames=requests.frames)
        result = with_own_motion(result, score(again, root, part, **fields))
    if result.cost and not config.eval.timing:
        result = replace(result, cost=replace(result.cost, seconds=None, first_frame=None))
    return with_subgroups(result, whole, by, labels) if by else result


def row_fields(
    config: Config, protocol: Protocol, name: str, videos: Path, device: str, origin: str
) -> dict[str, Any]:
    """What ``score`` is told of any row under a configuration, by the name of its argument.

    Args:
        config: says what is asked for.
        protocol: of ``protocol_of``.
        name: of the strategy or yardstick.
        videos: their folder, of ``folder_of``.
        device: where scoring runs.
        origin: ``measured`` or ``smoke``.
    """
    digest = videos.name.rsplit("-", 1)[-1]
    seeds = _seeds_suffix(config, protocol)
    return {
        "run": f"{name}-{config.eval_data.name}-{protocol.name}-{digest}{seeds}",
        "strategy": name,
        "origin": origin,
        "split": config.eval.split,
        "limit": config.eval.limit,
        "seeds": protocol.seeds,
        "device": device,
        "progress": config.trainer.progress,
        "config_hash": content_hash(config),
        "data": config.eval_data.name,
        "named": config.eval.protocol is not None,
    }


def _strategy_fields(
    config: Config, assembled: Assembled, requests: SplitRequests
) -> dict[str, Any]:
    """What ``score`` is told of a strategy beside."""
    title, notes = config.title, assembled.zero_shot(requests.longest)
    if requests.others_audio:
        title += ", another's audio"
        notes.append("generated from the next test clip's audio, scored with the clip's own")
    return {
        "title": title,
        "weights": _weights(assembled),
        "samples_seen": assembled.samples_seen,
        "space": assembled.strategy.space,
        "plan": _plan(config),
        "notes": (*notes, *_trained_on(config, assembled)),
    }


def _plan(config: Config) -> PlanRef:
    whole = plans.filled(config.plan)
    return PlanRef(whole.pop("name"), {name: int(value) for name, value in whole.items()})


def _seeds_suffix(config: Config, protocol: Protocol) -> str:
    """What tells results of other seeds than the protocol's own: their videos share a folder."""
    if protocol.seeds == protocols.load(protocol_name(config)).seeds:
        return ""
    return "-seeds-" + "-".join(map(str, protocol.seeds))


def _generate(config: Config, assembled: Assembled, protocol: Protocol, others_audio: bool) -> bool:
    """Generate a split's videos; whether this is the process that goes on."""
    out = videos_folder(config, assembled, protocol, others_audio)
    run = _run(assembled, others_audio)
    writer = ClipWriter(out, config.strategy, run, config.eval.watermark)
    requests = requests_of(config, protocol, others_audio)
    return execution.generate_split(assembled.strategy, requests, writer, config.trainer)


def _run(assembled: Assembled, others_audio: bool) -> str:
    """Names what determines videos, given a clip."""
    return f"{assembled.run}-others-audio" if others_audio else assembled.run


def protocol_of(config: Config) -> Protocol:
    """The protocol that ``eval.protocol`` names, else the one that fits data and strategy.

    Its seeds are those of ``eval.seeds``, where these are set: another protocol by its hash.

    Raises:
        UserError: there is none of that name, or the strategy has none of its own.
    """
    protocol, seeds = protocols.load(protocol_name(config)), config.eval.seeds
    return protocol if seeds is None else replace(protocol, seeds=tuple(sorted(seeds)))


def protocol_name(config: Config) -> str:
    """The name of that protocol."""
    return config.eval.protocol or protocols.default(Path(config.eval_data.root), config.protocol)


def requests_of(config: Config, protocol: Protocol, others_audio: bool = False) -> SplitRequests:
    """The requests of a split's clips, as a protocol wants them."""
    limits = [n for n in (protocol.frames, config.eval.frames) if n is not None]
    return SplitRequests(
        config.eval_data,
        config.eval.split,
        config.size,
        seeds=protocol.seeds,
        limit=config.eval.limit,
        frames=min(limits) if limits else None,
        source_frame=protocol.source_frame,
        follow=protocol.pose == "reference",
        others_audio=others_audio,
    )


def _weights(assembled: Assembled) -> dict[str, WeightsRef]:
    owns = sorted(assembled.metadata.values(), key=lambda own: str(own["stage"]))
    return {
        own["stage"]: WeightsRef(
            own["hash"], own["steps"], bool(own.get("shipped")), own.get("dtype")
        )
        for own in owns
    }


def _trained_on(config: Config, assembled: Assembled) -> list[str]:
    """A note where the data set is not the one that was trained on.

    Shipped weights say themselves which one that was.
    """
    digest = manifest.digest(config.eval_data.root)
    shipped = [own for own in assembled.metadata.values() if own.get("shipped")]
    names = {own["data"]["name"] for own in shipped if own["fingerprint"]["data"] != digest}
    if config.eval.data.root and len(shipped) < len(assembled.metadata):
        names.add(config.data.name)
    return [f"trained on {', '.join(sorted(names))}"] if names else []


def videos_folder(
    config: Config, assembled: Assembled, protocol: Protocol, others_audio: bool = False
) -> Path:
    """Where the videos of this strategy under this protocol go: named by what determines them.

    Videos of all seeds lie there, each below its own; ``score`` is told which of them count.
    """
    return folder_of(config, config.strategy, _run(assembled, others_audio), protocol)


def folder_of(config: Config, name: str, run: str, protocol: Protocol) -> Path:
    """Where the videos of any row go.

    Args:
        config: says what is asked for.
        name: of the strategy or yardstick.
        run: names what determines the videos, given a clip.
        protocol: of ``protocol_of``.
    """
    determined_by = [
        run,
        manifest.digest(config.eval_data.root),
        config.eval.split,
        config.eval.limit,
        config.eval.frames,
        config.eval.watermark,
    ]
    determined_by += [protocol.source_frame, protocol.pose, protocol.frames]
    return Path(config.runs) / f"eval-{name}-{content_hash(determined_by, 8)}"


def write_result(config: Config, result: Result) -> Path:
    """Write a result to where ``config.results`` says, its settings first."""
    folder = Path(config.results)
    results.write_config(result.run, config, folder)
    return results.write(result, folder)
