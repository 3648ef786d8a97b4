"""Writes docs/file-map.md from the modules' docstrings: ``python -m tests.file_map``."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from pathlib import Path

from tests.test_imports import LAYERS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/file-map.md"
PACKAGES = ("thbench", "baselines", "metrics", "benchmarks")
HEAD = """\
# File map

Every package and module with the first sentence of its docstring, from the lowest layer up
([Architecture](architecture.md)): a package imports only what stands above it on this page.
Written by `python -m tests.file_map`, checked by `tests/test_file_map.py`.
"""
SENTENCE = re.compile(r"(.+?)(?<!\bal)(?<!\beq)(?<!\be\.g)(?<!\bi\.e)\.(?:\s|$)", re.S)


def modules() -> list[Path]:
    """All Python files of the packages, relative to the repository."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    return sorted(file.relative_to(ROOT) for file in files)


def summary(text: str) -> str:
    """The first sentence of a module's docstring, without its full stop; "" where there is none."""
    docstring = ast.get_docstring(ast.parse(text)) or ""
    paragraph = docstring.split("\n\n")[0]
    sentence = SENTENCE.match(paragraph)
    return " ".join((sentence[1] if sentence else paragraph).split()).replace("``", "`")


def render(without: Collection[str] = ()) -> str:
    """The page, ``without`` lines for these files."""
    parts = [HEAD]
    shown = [file for file in modules() if str(file) not in without]
    folders = sorted({file.parent for file in shown}, key=lambda f: (_layer(f), f.parts))
    for folder in folders:
        files = [file for file in shown if file.parent == folder]
        parts.append(f"\n## `{folder}/`\n")
        initial = folder / "__init__.py"
        if initial in files:
            parts.append(f"\n{_text(initial)}.\n")
        rows = [f"| `{file}` | {_text(file)} |" for file in files if file != initial]
        if rows:
            parts.append("\n| module | what it does |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "".join(parts)


def _text(file: Path) -> str:
    return summary((ROOT / file).read_text()).replace("|", "\\|")


def _layer(folder: Path) -> int:
    """Its place among the layers; after them what starts the commands, then benchmarks."""
    name = ".".join(folder.parts[: 2 if folder.parts[0] == "thbench" else 1])
    last = len(LAYERS) + (name != "thbench")
    return next((i for i, layer in enumerate(LAYERS) if name in layer), last)


if __name__ == "__main__":
    PAGE.write_text(render())
