"""What the commands do. Imported when one runs, after ``thbench.cli.parser``.

Modules that take seconds to import are imported after the command line's words are checked.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from thbench import api
from thbench import config as configs
from thbench.core.errors import UserError
from thbench.core.files import check_video, check_writable


def fit(arguments: argparse.Namespace) -> None:
    """Train what is missing."""
    only, words = take_word(arguments.overrides, "stage")
    config = configs.load(arguments.strategy, words)
    for name, folder in api.fit_config(config, only).items():
        print(f"{name}: {folder}")


def check(arguments: argparse.Namespace) -> None:
    """Report all that stands against a training, without training."""
    only, words = take_word(arguments.overrides, "stage")
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

    if config.eval.protocol is None and console.is_rank_zero():
        _print_protocol(pipeline.protocol_name(config), "eval.protocol=NAME")
    written = api.evaluate_config(config, arguments.smoke, arguments.yardstick)
    if written is not None:
        result, path = written
        report.show(result)
        print(f"\nresult: {path}")


def generate(arguments: argparse.Namespace) -> None:
    """Generate one video from one portrait and one audio file."""
    out = Path(arguments.out)
    generation = api.write_generation(
        arguments.strategy,
        tuple(arguments.overrides),
        image=Path(arguments.image),
        audio=Path(arguments.audio),
        out=out,
        motion=Path(arguments.motion) if arguments.motion else None,
        seed=arguments.seed,
        watermark=arguments.watermark,
        overwrite=arguments.force,
        progress=True,
    )
    cost = generation.cost
    times = f"made in {cost.seconds:.1f} s, the first after {cost.first_frame:.2f} s"
    print(f"{out}: {generation.request.n_frames} frames, {times}")


def make_montage(arguments: argparse.Namespace) -> None:
    """Put videos beside each other."""
    videos: dict[str, Path] = {}
    for word in arguments.videos:
        title, path = _titled(word)
        if title in videos:
            raise UserError(f"Two videos are called '{title}': give titles, as TITLE=FILE.")
        videos[title] = path
    out = Path(arguments.out)
    check_video(out, arguments.force)
    if out.resolve() in [path.resolve() for path in videos.values()]:
        raise UserError(f"{out} is one of the videos: name another file.")
    from thbench.generation.montage import montage

    layout = {"height": arguments.height, "columns": arguments.columns, "note": arguments.note}
    frames = montage(videos, out, **layout)
    print(f"{out}: {frames} frames of {len(videos)} videos")


def _titled(word: str) -> tuple[str, Path]:
    """Title and file of ``TITLE=FILE``, or of ``FILE``, whose name may have an equals sign."""
    title, sign, file = word.partition("=")
    if sign and not Path(word).is_file():
        return title, Path(file)
    return Path(word).stem, Path(word)


def score(arguments: argparse.Namespace) -> None:
    """Score a folder of videos, whatever generated them."""
    from thbench.evaluation import report, results
    from thbench.evaluation.score import score_ground_truth

    videos, reference, split = Path(arguments.videos), Path(arguments.reference), arguments.split
    name, named = arguments.name or videos.resolve().name, arguments.protocol is not None
    chosen = api.choose_protocol(reference, arguments.protocol)
    where = results.path_of(f"{name}-{chosen.name}", Path(arguments.results))
    check_writable(where)
    page = None
    if not arguments.no_page:
        from thbench.leaderboard.page import check_folder, write_page

        page = where.parent / "page" / where.stem
        check_folder(page)
    if not named:
        _print_protocol(chosen.name, "--protocol NAME")
    by = arguments.by
    scored = [
        api.score(
            videos, reference, arguments.protocol, name=name, split=split, by=by, progress=True
        )
    ]
    if arguments.ground_truth:
        device = api.best_device()
        scored.append(
            score_ground_truth(reference, chosen, split=split, by=by, device=device, named=named)
        )
    for result in scored:
        path = results.write(result, where.parent)
        report.show(result)
        print(f"\nresult: {path}")
    if page is not None:
        print(f"page: {write_page(page, scored)}, to open in a browser")


def _print_protocol(name: str, word: str) -> None:
    kind = "synthetic faces" if name == "synthetic" else "recordings"
    print(f"protocol {name}, for {kind}; another: {word}, see `thbench ls protocols`")


def leaderboard(arguments: argparse.Namespace) -> None:
    """Build the leaderboards' pages and plots from results."""
    from thbench.leaderboard import build

    results, columns = Path(arguments.results), arguments.columns
    page = None
    if arguments.html is not None:
        from thbench.leaderboard.page import check_folder, write_folder

        page = Path(arguments.html or Path(arguments.out) / "page")
        check_folder(page)
    from thbench.leaderboard.build import tables
    from thbench.leaderboard.rank import APART
    from thbench.leaderboard.terminal import show

    found = tables(results, columns=columns)
    for table in found.measured:
        if arguments.show:
            show(table)
        elif APART in table.facts:
            print(f"{table.slug}: {APART.lower()}: {table.facts[APART]}")
    for path in build(results, Path(arguments.out), formats=arguments.formats, found=found):
        print(path)
    if page is not None:
        print(f"page: {write_folder(page, results, clips=arguments.clips)}, to open in a browser")


def show_config(arguments: argparse.Namespace) -> None:
    """Print the resolved configuration."""
    print(configs.to_yaml(configs.load(arguments.strategy, arguments.overrides)), end="")


def take_word(words: Iterable[str], key: str) -> tuple[str | None, list[str]]:
    """The value of the word ``key=...``, and the other words."""
    found, rest = None, []
    for word in words:
        if word.startswith(f"{key}="):
            found = word.partition("=")[2]
        else:
            rest.append(word)
    return found, rest
