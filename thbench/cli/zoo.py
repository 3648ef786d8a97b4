"""The commands ``thbench zoo``: the strategies' weights that are shipped with thbench."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from thbench import config as configs
from thbench.cli.commands import take_word
from thbench.core.errors import UserError

BYTES = 1e6
"""In an MB."""
WIDTH = 100
"""Columns of lines below the table."""


def show(arguments: argparse.Namespace) -> None:
    """List the shipped weights: which strategies use them, their sizes and their training."""
    from thbench.training import zoo

    found = list(zoo.entries())
    users = used_by(found)
    if arguments.json:
        rows = [
            {"file": str(each.path), "bytes": each.bytes, "used_by": users[each.path.stem]}
            | dict(each.meta)
            for each in found
        ]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not found:
        print(f"No weights are shipped: there are none in {zoo.FOLDER}.")
        return
    _print_table(found, users)
    total = sum(each.bytes for each in found) / BYTES
    print(f"\n{total:.1f} MB in {zoo.FOLDER}")
    print("\n".join([*said("trained by", found, "command"), *said("licence", found, "licence")]))
    print("`thbench zoo train` trains them anew here, and compares.")
    print("generate and eval use them where a stage is not trained here (weights=auto|runs|zoo).")


def _print_table(found: Sequence[Any], users: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    from rich.table import Table

    from thbench.evaluation.report import printer

    table = Table(
        "used by", "stage", "hash", "MB", "parameters", "dtype", "steps", "samples", "data",
        box=None, pad_edge=False, header_style="bold",
    )  # fmt: skip
    for column in table.columns[3:5] + table.columns[6:8]:
        column.justify = "right"
    for each in found:
        meta = each.meta
        named = [f"{', '.join(names)} ({scale})" for scale, names in users[each.path.stem].items()]
        table.add_row(
            "; ".join(named) or f"none as configured today ({meta['strategy']})",
            each.stage,
            each.hash,
            f"{each.bytes / BYTES:.2f}",
            f"{meta['parameters']:,}",
            meta["dtype"],
            f"{meta['steps']:,}",
            _samples(meta),
            meta["data"]["name"],
        )
    printer().print(table)


def said(what: str, found: Iterable[Any], key: str) -> list[str]:
    """Lines of at most ``WIDTH`` on what files say under a key: one where all say the same.

    Args:
        what: in a word or two.
        found: ``zoo.Shipped`` each.
        key: of their ``meta``.
    """
    by_value: dict[str, list[str]] = {}
    for each in found:
        by_value.setdefault(str(each.meta[key]), []).append(f"{each.stage} {each.hash}")
    if len(by_value) == 1:
        return [f"{what}: {value}" for value in by_value]
    lines = []
    for value, names in by_value.items():
        text = f"{what}: {value} ({', '.join(names)})"
        lines += textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return lines


def _samples(meta: Mapping[str, Any]) -> str:
    """A stage's own training samples, and those of the stage that it started from."""
    before = meta["samples"].get(meta["fingerprint"].get("init_from"), 0)
    return f"{meta['samples_seen']:,}" + (f" + {before:,}" if before else "")


def used_by(found: Iterable[Any]) -> dict[str, dict[str, list[str]]]:
    """Strategies that generate with shipped weights, by scale, by the file's name.

    Compared are settings, not data sets. A strategy that cannot be loaded uses none.

    Args:
        found: ``zoo.Shipped`` each.
    """
    from thbench.training.runs import order, settings_hash

    by_settings = {(each.stage, each.meta["settings"]): each.path.stem for each in found}
    users: dict[str, dict[str, list[str]]] = {name: {} for name in by_settings.values()}
    stages = {stage for stage, _ in by_settings}
    for strategy in configs.names("strategy") if by_settings else ():
        try:
            for scale in configs.scales(strategy):
                config = configs.load(strategy, [f"scale={scale}"])
                for stage in stages.intersection(order(config)):
                    name = by_settings.get((stage, settings_hash(config, stage)))
                    if name:
                        users[name].setdefault(scale, []).append(strategy)
        except UserError:
            continue
    return users


def add(arguments: argparse.Namespace) -> None:
    """Put a strategy's trained stages into the zoo."""
    only, words = take_word(arguments.overrides, "stage")
    config = configs.load(arguments.strategy, words)
    from thbench.training import zoo, zoo_add

    for name in zoo_add.add(config, words, arguments.dtype, only):
        path = zoo.FOLDER / f"{name}{zoo.SUFFIX}"
        print(f"{path}: {path.stat().st_size / BYTES:.2f} MB, {arguments.dtype}")
