"""Figures of the code's structure, for a clone or several side by side.

    python -m benchmarks.structure [FOLDER ...]

Counted over thbench/, baselines/ and metrics/: modules that lie loose in thbench/; modules that
import each other in a circle, imports inside functions included; the longest file; lines of
functions, docstrings included; and the most arguments that a constructor takes.
"""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles

PACKAGES = ("thbench", "baselines", "metrics")


def measure(root: Path) -> dict[str, str]:
    """Each figure of a clone by name."""
    files = {
        ".".join(path.relative_to(root).with_suffix("").parts): path
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }
    trees = {name: ast.parse(path.read_text()) for name, path in files.items()}
    lengths = sorted(n for tree in trees.values() for _, n in _functions(tree))
    longest = max(files.values(), key=lambda path: len(path.read_text().splitlines()))
    arguments, constructor = max(
        (n, f"{name}.{cls}") for name, tree in trees.items() for cls, n in _constructors(tree)
    )
    loose = [path for path in (root / "thbench").glob("*.py") if not path.stem.startswith("__")]
    circles = list(_circles(_imports(trees)))
    return {
        "loose modules in thbench/": str(len(loose)),
        "circles of imports": "; ".join(" - ".join(sorted(c)) for c in circles) or "none",
        "longest file": f"{len(longest.read_text().splitlines())} ({longest.relative_to(root)})",
        "lines of a function, median": f"{median(lengths):g}",
        "lines of a function, 90th percentile": f"{quantiles(lengths, n=10)[-1]:.0f}",
        "arguments of the longest constructor": f"{arguments} ({constructor})",
    }


def _functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def _constructors(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Arguments of each ``__init__``, without ``self``."""
    for node in ast.walk(tree):
        for part in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                assert isinstance(node, ast.ClassDef)
                yield node.name, len(part.args.args) + len(part.args.kwonlyargs) - 1


def _imports(trees: Mapping[str, ast.AST]) -> dict[str, set[str]]:
    """Of each module, the modules of ours that it imports."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    found[name] |= {inner if inner in trees else node.module} & trees.keys()
    return found


def _circles(graph: Mapping[str, set[str]]) -> Iterator[set[str]]:
    """Groups of modules that reach each other."""
    reach = {name: _reached(graph, name) for name in graph}
    done: set[str] = set()
    for name in graph:
        circle = {other for other in reach[name] if name in reach.get(other, ())}
        if circle and not circle & done:
            yield circle
            done |= circle


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph.get(waiting.pop(), ()):
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table with a column for each folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("folders", nargs="*", type=Path, default=[Path()], metavar="FOLDER")
    folders = parser.parse_args(argv).folders
    columns = [measure(folder) for folder in folders]
    print("| | " + " | ".join(str(folder) for folder in folders) + " |")
    print("|---|" + "---|" * len(folders))
    for key in columns[0]:
        print(f"| {key} | " + " | ".join(column[key] for column in columns) + " |")


if __name__ == "__main__":
    main()
