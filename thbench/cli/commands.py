"""What the commands do. ``thbench.cli.parser`` parses; this module is imported when one runs.

Modules that take seconds to import are imported after the command line's words are checked.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from thbench import config as configs
from thbench.core.errors import UserError
from thbench.core.files import check_writable


def fit(arguments: argparse.Namespace) -> None:
    """Train what is missing."""
    only, words = _take_word(arguments.overrides, "stage")
    config = configs.load(arguments.strategy, words)
    from thbench.training import fit as training

    _check_first(config, only)  # before hours of training, not after
    for name, folder in training.fit(config, only).items():
        print(f"{name}: {folder}")


def check(arguments: argparse.Namespace) -> None:
    """Report all that stands against a training, without training."""
    only, words = _take_word(arguments.overrides, "stage")
    config = configs.load(arguments.strategy, words)
    from thbench.core import console
    from thbench.preflight import checks, report
    from thbench.training import devices

    devices.use_threads(config.trainer)
    with console.quiet():
        found = checks.check(config, only, files=not arguments.manifest_only)
    report.show(found)
    if found.of(report.ERROR):
        raise UserError(f"{found.verdict}.")
    print(found.verdict)


def evaluate(arguments: argparse.Namespace) -> None:
    """Generate, score, write a result."""
    config = configs.load(arguments.strategy, arguments.overrides)
    from thbench.core import console
    from thbench.evaluation import pipeline, report

    origin = "smoke" if arguments.smoke or config.scale != "paper" else "measured"
    if config.eval.protocol is None and console.is_rank_zero():
        _print_protocol(pipeline.protocol_name(config), "eval.protocol=NAME")
    result = pipeline.evaluate(config, device=_device(config), origin=origin)
    if result is not None:
        path = pipeline.write_result(config, result)
        report.show(result)
        print(f"\nresult: {path}")


def generate(arguments: argparse.Namespace) -> None:
    """Generate one video from one portrait and one audio file."""
    out = Path(arguments.out)
    if out.suffix.lower() != ".mp4":
        raise UserError(f"{out} must end in .mp4.")
    if out.is_dir() or (out.exists() and not arguments.force):
        raise UserError(f"{out} exists: name another file, or add --force.")
    check_writable(out)
    config = configs.load(arguments.strategy, arguments.overrides)
    for path in (arguments.image, arguments.audio, arguments.motion):
        if path and not Path(path).is_file():
            raise UserError(f"There is no file {path}.")
    from thbench.generation import assemble, execution, requests, runner, writer

    assembled = assemble.assemble(config)
    request = requests.from_files(
        Path(arguments.image),
        Path(arguments.audio),
        config.data.audio,
        config.size,
        motion=Path(arguments.motion) if arguments.motion else None,
        seed=arguments.seed,
    )
    tags = writer.tags_of(config.strategy, assembled.run, arguments.seed)
    with execution.on_one_device(assembled.strategy, _device(config), config.trainer):
        generation = runner.generate(assembled.strategy, request)
        writer.write_video(out, generation, tags, arguments.watermark, progress=True)
    cost = generation.cost
    times = f"made in {cost.seconds:.1f} s, the first after {cost.first_frame:.2f} s"
    print(f"{out}: {request.n_frames} frames, {times}")


def score(arguments: argparse.Namespace) -> None:
    """Score a folder of videos, whatever generated them."""
    import torch

    from thbench.evaluation import protocol, report, results
    from thbench.evaluation.score import score as run
    from thbench.evaluation.score import score_ground_truth

    videos = Path(arguments.videos)
    name = arguments.name or videos.resolve().name
    reference, split = Path(arguments.reference), arguments.split
    named = arguments.protocol is not None
    chosen = protocol.load(arguments.protocol or protocol.default(reference, SCORED_BY))
    where = results.path_of(f"{name}-{chosen.name}", Path(arguments.results))
    check_writable(where)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not named:
        _print_protocol(chosen.name, "--protocol NAME")
    options: dict[str, Any] = {"split": split, "device": device, "named": named}
    scored = [run(videos, reference, chosen, run=where.stem, strategy=name, **options)]
    if arguments.ground_truth:
        scored.append(score_ground_truth(reference, chosen, **options))
    for result in scored:
        path = results.write(result, where.parent)
        report.show(result)
        print(f"\nresult: {path}")


SCORED_BY = "dawn"
"""The protocol by which recordings are scored where the user names none."""


def _print_protocol(name: str, word: str) -> None:
    kind = "synthetic faces" if name == "synthetic" else "recordings"
    print(f"protocol {name}, for {kind}; another: {word}, see `thbench ls protocols`")


def leaderboard(arguments: argparse.Namespace) -> None:
    """Build the leaderboards' pages and plots from results."""
    from thbench.leaderboard import build

    for path in build(Path(arguments.results), Path(arguments.out)):
        print(path)


def show_config(arguments: argparse.Namespace) -> None:
    """Print the resolved configuration."""
    print(configs.to_yaml(configs.load(arguments.strategy, arguments.overrides)), end="")


def _check_first(config: configs.Config, only: str | None) -> None:
    """Check a training that is about to start; print errors, warnings and the verdict.

    Raises:
        UserError: it cannot end well.
    """
    from thbench.core import console
    from thbench.preflight import checks, report

    if not console.is_rank_zero():
        return  # the first process has checked
    with console.quiet():
        # Tiny networks fit anywhere; estimates for a paper's are worth some seconds.
        costly = config.scale == "paper"
        found = checks.check(config, only, estimates=costly, metrics=False)
    for finding in report.merge_repeated(found.of(report.WARNING)):
        print(f"warning: {finding.where}: {finding.text}")
    errors = report.merge_repeated(found.of(report.ERROR))
    for finding in errors[1:]:
        print(f"error: {finding.where}: {finding.text}")
    if errors:
        where = "" if errors[0].where == "settings" else f"{errors[0].where}: "
        more = f" ({len(errors) - 1} more above)" if errors[1:] else ""
        raise UserError(f"{where}{errors[0].text}{more}")
    print(found.verdict, flush=True)


def _take_word(words: Iterable[str], key: str) -> tuple[str | None, list[str]]:
    """The value of the word ``key=...``, and the other words."""
    found, rest = None, []
    for word in words:
        if word.startswith(f"{key}="):
            found = word.partition("=")[2]
        else:
            rest.append(word)
    return found, rest


def _device(config: configs.Config) -> str:
    import torch

    wanted = config.trainer.accelerator
    if wanted == "cpu" or not torch.cuda.is_available():
        if wanted not in ("auto", "cpu"):
            raise UserError(f"trainer.accelerator={wanted}: there is no such device here.")
        return "cpu"
    return "cuda"
