"""What the commands do. ``thbench.cli.parser`` parses; this module is imported when one runs.

What takes seconds to import is imported after all that can be wrong with the words is checked.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from thbench import config as configs
from thbench.core.errors import UserError


def fit(arguments: argparse.Namespace) -> None:
    """Train what is missing."""
    only, words = _take(arguments.overrides, "stage")
    config = configs.load(arguments.strategy, words)
    from thbench.training import fit as training

    _look_ahead(config, only)  # before hours of training, not after
    for name, folder in training.fit(config, only).items():
        print(f"{name}: {folder}")


def check(arguments: argparse.Namespace) -> None:
    """Say what a training will meet, without training."""
    only, words = _take(arguments.overrides, "stage")
    config = configs.load(arguments.strategy, words)
    from thbench.core import console
    from thbench.preflight import checks
    from thbench.training import devices

    devices.use_threads(config.trainer)
    with console.quiet():
        report = checks.check(config, only, files=not arguments.manifest_only)
    checks.show(report)
    if report.of(checks.ERROR):
        raise UserError(f"{report.verdict}.")
    print(report.verdict)


def evaluate(arguments: argparse.Namespace) -> None:
    """Generate, score, write a result."""
    config = configs.load(arguments.strategy, arguments.overrides)
    from thbench.core import console
    from thbench.evaluation import pipeline, report

    origin = "smoke" if arguments.smoke or config.scale != "paper" else "measured"
    if config.eval.protocol is None and console.is_rank_zero():
        _say_protocol(pipeline.protocol_name(config), "eval.protocol=NAME")
    result = pipeline.evaluate(config, device=_device(config), origin=origin)
    if result is not None:
        path = pipeline.write_result(config, result)
        report.show(result)
        print(f"\nresult: {path}")


def generate(arguments: argparse.Namespace) -> None:
    """One portrait, one sound, one video."""
    out = Path(arguments.out)
    if out.suffix.lower() != ".mp4":
        raise UserError(f"{out} must end in .mp4.")
    if out.is_dir() or (out.exists() and not arguments.force):
        raise UserError(f"{out} exists: name another file, or add --force.")
    _check_place(out)
    config = configs.load(arguments.strategy, arguments.overrides)
    for path in (arguments.image, arguments.audio, arguments.motion):
        if path and not Path(path).is_file():
            raise UserError(f"There is no file {path}.")
    from thbench.generation import assemble, execution, requests, runner, writer

    made = assemble.assemble(config)
    request = requests.from_files(
        Path(arguments.image),
        Path(arguments.audio),
        config.data.audio,
        config.size,
        motion=Path(arguments.motion) if arguments.motion else None,
        seed=arguments.seed,
    )
    tags = writer.tags_of(config.strategy, made.run, arguments.seed)
    with execution.on_one_device(made.strategy, _device(config), config.trainer):
        generation = runner.generate(made.strategy, request)
        writer.write_video(out, generation, tags, arguments.watermark, progress=True)
    cost = generation.cost
    times = f"made in {cost.seconds:.1f} s, the first after {cost.first_frame:.2f} s"
    print(f"{out}: {request.n_frames} frames, {times}")


def score(arguments: argparse.Namespace) -> None:
    """Score videos made by anything."""
    import torch

    from thbench.evaluation import protocol, report, results
    from thbench.evaluation.score import score as run
    from thbench.evaluation.score import score_ground_truth

    videos = Path(arguments.videos)
    name = arguments.name or videos.resolve().name
    reference, split = Path(arguments.reference), arguments.split
    named = arguments.protocol is not None
    rule = protocol.load(arguments.protocol or protocol.default(reference, SCORED_BY))
    where = results.path_of(f"{name}-{rule.name}", Path(arguments.results))
    _check_place(where)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not named:
        _say_protocol(rule.name, "--protocol NAME")
    how: dict[str, Any] = {"split": split, "device": device, "named": named}
    made = [run(videos, reference, rule, run=where.stem, strategy=name, **how)]
    if arguments.ground_truth:
        made.append(score_ground_truth(reference, rule, **how))
    for result in made:
        path = results.write(result, where.parent)
        report.show(result)
        print(f"\nresult: {path}")


SCORED_BY = "dawn"
"""The protocol by which recordings are scored where the user names none."""


def _say_protocol(name: str, word: str) -> None:
    kind = "synthetic faces" if name == "synthetic" else "recordings"
    print(f"protocol {name}, for {kind}; another: {word}, see `thbench ls protocols`")


def leaderboard(arguments: argparse.Namespace) -> None:
    """Build the tables."""
    from thbench.leaderboard import build

    for path in build(Path(arguments.results), Path(arguments.out)):
        print(path)


def data_synth(arguments: argparse.Namespace) -> None:
    """Render the synthetic data set."""
    from thbench.data.synthetic.make import synthesize

    report = synthesize(
        Path(arguments.out),
        identities=arguments.identities,
        clips=arguments.clips,
        seconds=arguments.seconds,
        size=arguments.size,
        seed=arguments.seed,
        workers=arguments.workers,
    )
    print(report)


def data_prepare(arguments: argparse.Namespace) -> None:
    """Bring videos into the prepared layout."""
    from thbench.data import manifest
    from thbench.data.prepare import adapters
    from thbench.data.prepare.prepare import prepare

    source, out = Path(arguments.source), Path(arguments.out)
    read = adapters.adapter(arguments.kind)
    sources = read(source, seed=arguments.seed, identity=arguments.identity)
    adapters.check_out(sources, source, out)
    print(*sources.lines, sep="\n", flush=True)
    before = manifest.people(out)
    report = prepare(
        spread(sources.videos, arguments.limit),
        out,
        size=arguments.size,
        encoders=tuple(arguments.audio.split(",")),
        workers=arguments.workers,
        crop=arguments.crop,
        min_seconds=arguments.min_seconds,
        max_seconds=arguments.max_seconds,
        face=arguments.face,
        shots=arguments.shots,
        track=arguments.track,
        sheet=arguments.sheet,
        left_out=sources.left_out,
    )
    print(*adapters.moved(before, report.clips), report, sep="\n")


def spread(items: list[Any], limit: int | None) -> list[Any]:
    """At most ``limit`` items, evenly from first to last, so that all people are among them."""
    if limit is None or limit >= len(items):
        return items
    return [items[k * len(items) // limit] for k in range(limit)]


def data_check(arguments: argparse.Namespace) -> None:
    """Verify a prepared data set."""
    from thbench.data.prepare.check import WARNING, check

    lines = check(Path(arguments.root), faces=arguments.faces)
    for line in lines:
        print(line)
    problems = [line for line in lines if not line.startswith(WARNING)]
    if problems:
        raise UserError(f"{arguments.root}: {len(problems)} problem(s); see above.")
    fine = "no file is damaged, but see the warnings" if lines else "nothing is wrong"
    print(f"{arguments.root}: {fine}.")


def data_morphable(arguments: argparse.Namespace) -> None:
    """Find a morphable model, or take one, and measure it on held-out faces."""
    root, out = Path(arguments.root), Path(arguments.out) if arguments.out else None
    if out and out.suffix != ".safetensors":
        raise UserError(f"{out} must end in .safetensors.")
    if out:
        _check_place(out)
    from thbench.data.face import morphable, morphable_fit

    if arguments.model:
        model = morphable.read(Path(arguments.model))
    else:
        model = morphable_fit.find(root, "train", arguments.identity, arguments.expression)
    errors = morphable_fit.measure(model, root, arguments.split)
    mean = 100 * sum(errors) / max(1, len(errors))
    sizes = f"{model.n_identity} identity, {model.n_expression} expression coefficients"
    print(f"{len(model.mean)} vertices, {sizes}")
    print(f"vertex error on {len(errors)} clips of '{arguments.split}': {mean:.2f}% of the face")
    if out:
        morphable.write(model, out)
        print(out)


def ls(arguments: argparse.Namespace) -> None:
    """List what there is."""
    if arguments.draw is not None:
        if arguments.kind != "plans":
            raise UserError(f"--draw draws plans: thbench ls plans --draw, not {arguments.kind}.")
        _draw_plans(arguments.draw)
        return
    if arguments.params and arguments.kind != "strategies":
        raise UserError(
            f"--params counts networks: thbench ls strategies --params, not {arguments.kind}."
        )
    from rich.table import Table

    from thbench.evaluation.report import printer

    rows = {
        "strategies": _parameters if arguments.params else _strategies,
        "metrics": _metrics,
        "protocols": _protocols,
        "tables": lambda: _files("table"),
        "data": _data,
        "plans": _plans,
    }[arguments.kind]()
    head, *body = rows
    table = Table(*head, box=None, pad_edge=False, header_style="bold")
    for column, name in zip(table.columns, head, strict=True):
        column.justify = "right" if name in configs.SCALES else "left"
    for row in body:
        table.add_row(*row)
    printer().print(table)


def show_config(arguments: argparse.Namespace) -> None:
    """Print the resolved configuration."""
    print(configs.to_yaml(configs.load(arguments.strategy, arguments.overrides)), end="")


def _look_ahead(config: configs.Config, only: str | None) -> None:
    """Check a training that is about to start; say only what stands against it.

    Raises:
        UserError: it cannot end well.
    """
    from thbench.core import console
    from thbench.preflight import checks

    if not console.is_rank_zero():
        return  # the first process has looked
    with console.quiet():
        # Tiny networks fit anywhere; what a paper's take is worth some seconds.
        costly = config.scale == "paper"
        report = checks.check(config, only, estimates=costly, evaluation=False)
    for finding in checks.joined(report.of(checks.WARNING)):
        print(f"warning: {finding.where}: {finding.text}")
    errors = checks.joined(report.of(checks.ERROR))
    for finding in errors[1:]:
        print(f"error: {finding.where}: {finding.text}")
    if errors:
        where = "" if errors[0].where == "settings" else f"{errors[0].where}: "
        more = f" ({len(errors) - 1} more above)" if errors[1:] else ""
        raise UserError(f"{where}{errors[0].text}{more}")
    print(report.verdict, flush=True)


def _take(words: Iterable[str], key: str) -> tuple[str | None, list[str]]:
    """The value of the word ``key=...``, and the other words."""
    found, rest = None, []
    for word in words:
        if word.startswith(f"{key}="):
            found = word.partition("=")[2]
        else:
            rest.append(word)
    return found, rest


def _check_place(path: Path) -> None:
    """See that a file can be written, before the work that it is to hold. Nothing is made yet."""
    there = next(p for p in path.absolute().parents if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"{path} cannot be written: {there} is no folder that you may write to.")


def _device(config: configs.Config) -> str:
    import torch

    wanted = config.trainer.accelerator
    if wanted == "cpu" or not torch.cuda.is_available():
        if wanted not in ("auto", "cpu"):
            raise UserError(f"trainer.accelerator={wanted}: there is no such device here.")
        return "cpu"
    return "cuda"


def _strategies() -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("name", "title", "plan", "stages", "from")]
    for name in configs.names("strategy"):
        origin = configs.origin("strategy", name)
        try:
            content = configs.read_yaml(configs.find("strategy", name))
        except UserError as error:
            rows.append((name, f"unusable: {error}", "", "", origin))
            continue
        plan = content.get("plan", {}).get("name", "nar")
        stages = ", ".join(content.get("stages", {}))
        rows.append((name, content.get("title", ""), plan, stages, origin))
    return rows


def _parameters() -> list[tuple[str, ...]]:
    from thbench.training import params

    return params.table()


def _metrics() -> list[tuple[str, ...]]:
    from thbench.evaluation.protocol import metric_registry

    rows: list[tuple[str, ...]] = [("name", "unit", "better", "needs", "what it is", "from")]
    for name in sorted(metric_registry):
        try:
            package = metric_registry.package(name)
            kind = metric_registry.load(name)
        except UserError as error:
            rows.append((name, "", "", "", f"unusable: {error}", ""))
            continue
        text = (kind.__doc__ or "").strip().partition("\n")[0]
        rows.append((name, kind.unit, kind.direction, ", ".join(kind.needs), text, package))
    return rows


def _protocols() -> list[tuple[str, ...]]:
    from thbench.evaluation import protocol

    rows: list[tuple[str, ...]] = [("name", "title", "hash", "metrics", "from")]
    for name in configs.names("protocol"):
        origin = configs.origin("protocol", name)
        try:
            rule = protocol.load(name)
        except UserError as error:
            rows.append((name, f"unusable: {error}", "", "", origin))
            continue
        listed = ", ".join(metric.name for metric in rule.build())
        rows.append((name, rule.title, rule.hash, listed, origin))
    return rows


def _files(kind: str) -> list[tuple[str, ...]]:
    return [("name",), *((name,) for name in configs.names(kind))]


def _data() -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("name", "root", "audio", "here", "from")]
    for name in configs.names("data"):
        block, origin = configs.read_data(name), configs.origin("data", name)
        root = Path(block["root"])
        here = (root / "manifest.jsonl").is_file()
        heard = ",".join(sorted(path.name for path in (root / "audio").glob("*") if path.is_dir()))
        rows.append((name, block["root"], heard, "yes" if here else "no", origin))
    return rows


DRAWN: dict[str, dict[str, int]] = {
    "sar": {"segment": 8, "overlap": 3},
    "ttr": {"stride": 6},
    "rolling": {"window": 4, "context": 2},
}
"""Options of plans in pictures, which have few frames; the others have their defaults."""


def _draw_plans(folder: str) -> None:
    """Print a picture of each plan, or write it to ``<folder>/<name>.png``."""
    from thbench.generation import plan_drawing, plans
    from thbench.leaderboard.plots import draw_plan

    for name in plans.BUILDERS:
        options = DRAWN.get(name, {})
        frames = 8 if name == "ar" else 24
        plan = plans.build(name, frames, **options)
        title = f"{plans.describe({'name': name, **options})}, {frames} frames"
        if folder:
            print(draw_plan(plan, Path(folder) / f"{name}.png", title))
            continue
        print(f"\n{title}", *(f"  |{line}|" for line in plan_drawing.text(plan)), sep="\n")
    if not folder:
        print(f"\n{plan_drawing.LEGEND}")


def _plans() -> list[tuple[str, ...]]:
    from thbench.generation import plans

    rows: list[tuple[str, ...]] = [
        ("name", "options", "calls for 200 frames, 20 steps", "what it is")
    ]
    for name, builder in plans.BUILDERS.items():
        steps = 20 if name != "rolling" else 32
        cost = plans.cost(builder(200), steps)
        options = ", ".join(plans.options_of(name))
        text = (builder.__doc__ or "").strip().splitlines()[0]
        rows.append((name, options, f"{cost.depth} in sequence, {cost.evaluations} frames", text))
    return rows
