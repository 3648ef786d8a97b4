"""The commands ``thbench data``: rendering, preparing and checking data sets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from thbench.core.errors import UserError
from thbench.core.files import check_writable


def synth(arguments: argparse.Namespace) -> None:
    """Render the synthetic data set."""
    from thbench.data.synthetic.make import SPLITS, synthesize

    report = synthesize(
        Path(arguments.out),
        identities=arguments.identities,
        clips=arguments.clips,
        seconds=arguments.seconds,
        size=arguments.size,
        seed=arguments.seed,
        workers=arguments.workers,
        liveliness=arguments.liveliness,
        splits={"test": 1} if arguments.test_only else SPLITS,
    )
    print(report)


def prepare(arguments: argparse.Namespace) -> None:
    """Bring videos into the prepared layout."""
    from thbench.data import manifest
    from thbench.data.prepare import adapters
    from thbench.data.prepare.prepare import prepare as run
    from thbench.data.prepare.sources import read_fractions

    source, out = Path(arguments.source), Path(arguments.out)
    read = adapters.adapter(arguments.kind)
    fractions = read_fractions(arguments.split) if arguments.split is not None else None
    sources = read(source, seed=arguments.seed, fractions=fractions, identity=arguments.identity)
    adapters.check_out(sources, source, out)
    print(*sources.lines, sep="\n", flush=True)
    before = manifest.people(out)
    report = run(
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
        allow_silent=arguments.allow_silent,
        sheet=arguments.sheet,
        left_out=sources.left_out,
    )
    print(*adapters.reassigned(before, report.clips), report, sep="\n")


def spread(items: list[Any], limit: int | None) -> list[Any]:
    """At most ``limit`` items, evenly from first to last, so that all people are among them."""
    if limit is None or limit >= len(items):
        return items
    return [items[k * len(items) // limit] for k in range(limit)]


def check(arguments: argparse.Namespace) -> None:
    """Verify a prepared data set."""
    from thbench.data.prepare import check as checks

    lines = checks.check(Path(arguments.root), faces=arguments.faces)
    for line in lines:
        print(line)
    problems = [line for line in lines if not line.startswith(checks.WARNING)]
    if problems:
        raise UserError(f"{arguments.root}: {len(problems)} problem(s); see above.")
    fine = "no file is damaged, but see the warnings" if lines else "nothing is wrong"
    print(f"{arguments.root}: {fine}.")


def fit_morphable(arguments: argparse.Namespace) -> None:
    """Find a morphable model, or take one, and measure it on held-out faces."""
    root, out = Path(arguments.root), Path(arguments.out) if arguments.out else None
    if out and out.suffix != ".safetensors":
        raise UserError(f"{out} must end in .safetensors.")
    if out:
        check_writable(out)
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
