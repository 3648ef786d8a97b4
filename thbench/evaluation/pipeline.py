"""``thbench eval``: generate the clips of a split, and score them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from thbench.config import Config, content_hash
from thbench.data import manifest
from thbench.evaluation import protocol, results
from thbench.evaluation.protocol import Protocol
from thbench.evaluation.results import Result
from thbench.evaluation.score import score, with_own_motion
from thbench.evaluation.timing import timed
from thbench.generation import execution
from thbench.generation.assemble import Assembled, assemble
from thbench.generation.requests import SplitRequests
from thbench.generation.writer import ClipWriter


def evaluate(config: Config, *, device: str, origin: str) -> Result | None:
    """Generate a split's clips, resuming, and score them.

    Args:
        config: a strategy; ``config.eval`` says what and, unless ``protocol_of`` finds it, by
            which protocol.
        device: where scoring runs; generation follows ``config.trainer``.
        origin: ``measured`` or ``smoke``.

    Returns:
        The result, not yet written; None on ranks other than the first.
    """
    rule = protocol_of(config)
    asked = requests_of(config, rule)
    made = assemble(config)
    follows = made.strategy.follows if rule.pose == "reference" else frozenset()
    own = rule.of_own_motion(follows)
    out = videos_folder(config, made, rule)
    # All processes make all videos; the first one then goes on alone.
    first = _generate(config, made, rule)
    first = (own is None or _generate(config, made, own)) and first
    if not first:
        return None
    digest = out.name.rsplit("-", 1)[-1]
    scored: dict[str, Any] = {
        "run": f"{config.strategy}-{config.eval_data.name}-{rule.name}-{digest}",
        "strategy": config.strategy,
        "title": config.title,
        "origin": origin,
        "split": config.eval.split,
        "limit": config.eval.limit,
        "device": device,
        "progress": config.trainer.progress,
        "config_hash": content_hash(config),
        "samples_seen": made.samples_seen,
        "space": made.strategy.space,
        "notes": (*made.zero_shot(asked.longest), *_trained_on(config)),
        "data": config.eval_data.name,
        "named": config.eval.protocol is not None,
    }
    root = Path(config.eval_data.root)
    if rule.timing and config.eval.timing:
        scored["timed"] = timed(
            made.strategy,
            asked,
            rule.timing,
            config.trainer,
            device=device,
            run=made.run,
            folder=out,
        )
    result = score(out, root, replace(rule, frames=asked.frames), follows=follows, **scored)
    if own is None:
        return result
    again = videos_folder(config, made, own)
    return with_own_motion(result, score(again, root, replace(own, frames=asked.frames), **scored))


def _generate(config: Config, made: Assembled, rule: Protocol) -> bool:
    """Make a split's videos; whether this is the process that goes on."""
    out = videos_folder(config, made, rule)
    writer = ClipWriter(out, config.strategy, made.run, config.eval.watermark)
    return execution.generate_split(
        made.strategy, requests_of(config, rule), writer, config.trainer
    )


def protocol_of(config: Config) -> Protocol:
    """The protocol that ``eval.protocol`` names, else the one that fits data and strategy.

    Raises:
        UserError: there is none of that name, or the strategy has none of its own.
    """
    return protocol.load(protocol_name(config))


def protocol_name(config: Config) -> str:
    """The name of that protocol."""
    own = config.protocol
    return config.eval.protocol or protocol.default(Path(config.eval_data.root), own)


def requests_of(config: Config, rule: Protocol) -> SplitRequests:
    """The requests that a protocol asks for."""
    limits = [n for n in (rule.frames, config.eval.frames) if n is not None]
    return SplitRequests(
        config.eval_data,
        config.eval.split,
        config.size,
        seeds=rule.seeds,
        limit=config.eval.limit,
        frames=min(limits) if limits else None,
        source_frame=rule.source_frame,
        follow=rule.pose == "reference",
    )


def _trained_on(config: Config) -> list[str]:
    return [f"trained on {config.data.name}"] if config.eval.data.root else []


def videos_folder(config: Config, made: Assembled, rule: Protocol) -> Path:
    """Where the videos of this strategy under this protocol go: named by what determines them."""
    asked = [
        made.run,
        manifest.digest(config.eval_data.root),
        config.eval.split,
        config.eval.limit,
        config.eval.frames,
        config.eval.watermark,
    ]
    asked += [rule.source_frame, rule.pose, rule.frames]
    return Path(config.runs) / f"eval-{config.strategy}-{content_hash(asked, 8)}"


def write_result(config: Config, result: Result) -> Path:
    """Write a result to where ``config.results`` says."""
    return results.write(result, Path(config.results))
