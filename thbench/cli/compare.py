"""``thbench compare``: results lined up, from files here or from W&B's runs."""

from __future__ import annotations

import argparse
import json
import string
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thbench.core.errors import UserError, did_you_mean
from thbench.core.files import check_writable

if TYPE_CHECKING:
    from thbench.evaluation.results import Result
    from thbench.leaderboard.compare import Bins, Comparison, Figure, Pair

WIDTH = 80
BINS = 5
"""Of a curve, shown in a line."""
SETTINGS = 30
"""That are printed; --json has all."""
Configs = dict[str, dict[str, Any] | None]


def compare(arguments: argparse.Namespace) -> None:
    """Line results up and print where they differ."""
    if len(arguments.runs) < 2:
        raise UserError("Name two results or more: `thbench compare A B`.")
    if arguments.out:
        from thbench.leaderboard.plots import check_plot

        check_plot(Path(arguments.out))
        check_writable(Path(arguments.out))
    from thbench.leaderboard.compare import line_up

    found, configs = load(arguments.runs, Path(arguments.results), arguments.wandb)
    lined_up = line_up(found, configs)
    if arguments.json:
        print(json.dumps(as_json(lined_up), indent=2, ensure_ascii=False))
    else:
        show(lined_up)
    if arguments.out:
        from thbench.leaderboard.plots import draw_curves

        curves = lined_up.table.curves
        if not curves:
            raise UserError("None of these results has values over time: leave out --out.")
        path = draw_curves(curves, Path(arguments.out))
        if not arguments.json:
            print(f"\ncurves: {path}")


def load(words: Sequence[str], folder: Path, wandb: bool) -> tuple[list[Result], Configs]:
    """Results and, by run, the settings kept beside them.

    Args:
        words: names of results in ``folder``, paths of JSON files, or W&B's runs.
        folder: of results.
        wandb: the words are W&B's runs.

    Raises:
        UserError: there is no such result, or one is named twice.
    """
    from thbench.evaluation import results

    if len(set(words)) < len(words):
        raise UserError("A result is named twice: name different ones.")
    found: list[Result] = []
    configs: Configs = {}
    with tempfile.TemporaryDirectory() as scratch:
        for i, word in enumerate(words):
            if wandb:
                from thbench.evaluation.tracking import fetch

                path = fetch(word, Path(scratch) / str(i))
            else:
                path = place_of(word, folder)
            result = results.read(path)
            if result.run in configs:  # of another folder
                result = replace(result, run=word)
            configs[result.run] = results.read_config(path.stem, path.parent)
            found.append(result)
    return found, configs


def place_of(word: str, folder: Path) -> Path:
    """The file of a result: the word itself, or of that name in a folder.

    Raises:
        UserError: there is none.
    """
    if word.endswith(".json") and Path(word).is_file():
        return Path(word)
    path = folder / f"{word.removesuffix('.json')}.json"
    if not path.is_file():
        hint = did_you_mean(word, (p.stem for p in folder.glob("*.json")))
        raise UserError(f"There is no result '{word}' in {folder} (--results DIR).{hint}")
    return path


def as_json(found: Comparison) -> dict[str, Any]:
    """Everything, for programs. Differences are another result less the first."""
    return {
        "results": [
            {"run": r.run, "title": r.title, "origin": r.origin, "config_hash": r.config_hash}
            for r in found.results
        ],
        "protocol": asdict(found.results[0].protocol),
        "data": asdict(found.results[0].data),
        "against_first": [asdict(pair) for pair in found.pairs],
        "settings": found.settings,
        "settings_unknown": found.unknown,
        "notes": found.notes,
    }


def show(found: Comparison) -> None:
    """Print a comparison in lines of 80 characters."""
    letters = dict(zip((r.run for r in found.results), _letters(), strict=False))
    first = found.results[0]
    print(
        f"{first.data.name}, protocol {first.protocol.name}; differences are paired by clip, 95 %"
    )
    for result in found.results:
        print(f"{letters[result.run]}  {result.title} [{result.origin}]: {result.run}")
    for line in found.notes:
        print(line)
    for pair in found.pairs:
        print()
        _show_figures(pair, letters[pair.first], letters[pair.second])
    print()
    _show_settings(found, letters)
    for pair in found.pairs:
        if pair.curves:
            print()
            _show_curves(pair.curves, letters[pair.first], letters[pair.second])


def _letters() -> Iterable[str]:
    yield from string.ascii_uppercase
    yield from (f"R{i}" for i in range(27, 1000))


def _show_figures(pair: Pair, first: str, second: str) -> None:
    rows = [_figure(figure) for figure in pair.figures]
    _print(["figure", first, second, f"{second} - {first}", "interval", f"{second} is"], rows)
    reasons: dict[str, list[str]] = {}
    for name, reason in pair.left_out.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        print(f"not compared, {reason}: {', '.join(names)}")


def _figure(figure: Figure) -> list[str]:
    from thbench.leaderboard.cells import ARROWS, NONE

    return [
        f"{ARROWS.get(figure.direction or '', '')} {figure.name}".strip(),
        f"{figure.first:.4g}",
        f"{figure.second:.4g}",
        f"{figure.difference:+.3g}",
        "{:+.3g}, {:+.3g}".format(*figure.interval) if figure.interval else NONE,
        figure.verdict or NONE,
    ]


def _show_settings(found: Comparison, letters: Mapping[str, str]) -> None:
    from thbench.leaderboard.cells import NONE

    if found.unknown:
        runs = ", ".join(letters[run] for run in found.unknown)
        print(f"The settings of {runs} are not known: no .config.yaml lies beside the result.")
    shown = list(found.settings.items())[:SETTINGS]
    if not shown:
        print("No setting that is known differs.")
        return
    rows = [
        [key, *(_value(values[run]) if run in values else NONE for run in letters)]
        for key, values in shown
    ]
    _print(["setting", *letters.values()], rows, right=False)
    if more := len(found.settings) - len(shown):
        print(f"and {more} more settings that differ: --json has all")


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(map(str, value))}}}" if value else "{}"
    return "null" if value is None else str(value)


def _show_curves(curves: Sequence[Bins], first: str, second: str) -> None:
    n = max(len(curve.difference) for curve in curves)
    at = sorted({round(i * (n - 1) / max(1, min(n, BINS) - 1)) for i in range(min(n, BINS))})
    frames = curves[0].frames
    head = ["over time, from frame", *(str(k * frames) for k in at)]
    _print(head, [[curve.name, *(_bin(curve, k) for k in at)] for curve in curves])
    marked = any(i is not None for curve in curves for i in curve.intervals)
    star = "; * the paired interval leaves out 0" if marked else ""
    print(f"{second} - {first}, {len(at)} of {n} bins of {frames} frames{star}")


def _bin(curve: Bins, k: int) -> str:
    from thbench.leaderboard.cells import NONE

    value = curve.difference[k] if k < len(curve.difference) else None
    if value is None:
        return NONE
    interval = curve.intervals[k]
    apart = interval is not None and not interval[0] <= 0 <= interval[1]
    return f"{value:+.3g}{'*' if apart else ''}"


def _print(head: Sequence[str], rows: Iterable[Sequence[str]], right: bool = True) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, title in enumerate(head):
        table.add_column(title, no_wrap=right and i > 0, overflow="fold")
    if right:
        for column in table.columns[1:]:
            column.justify = "right"
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=WIDTH).print(table)
