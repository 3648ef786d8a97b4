"""Which package may import which: a lower layer knows nothing of a higher one."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    {"metrics"},
    {"thbench.core"},
    {"thbench.config"},
    {"thbench.diffusion", "thbench.nn"},
    {"thbench.data"},
    {"thbench.training"},
    {"thbench.generation"},
    {"thbench.dawn", "thbench.evaluation"},
    {"baselines", "thbench.preflight", "thbench.leaderboard"},
    {"thbench.api"},
    {"thbench.cli"},
    {"thbench.__init__", "thbench.__main__"},
)
"""From the bottom up. Packages of one layer do not know each other."""
LAYER = {package: i for i, layer in enumerate(LAYERS) for package in layer}
METHODS = {"baselines", "thbench.dawn"}
"""Only named in YAML: whatever is above them runs any other method as well."""


def package_of(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "thbench" else parts[0]


def imports(text: str):
    """(line, module) of everything of ours that is imported, also inside functions."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "thbench":
            found = [f"thbench.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = ["." * node.level + (node.module or "")]
        else:
            continue
        for module in found:
            if module.split(".")[0] in ("thbench", "baselines", "metrics", ""):
                yield node.lineno, module


def wrong(name: str, text: str) -> list[str]:
    """Lines of a file that import what they must not."""
    own = package_of(name.removesuffix(".py").replace("/", "."))
    found = []
    for line, module in imports(text):
        other = package_of(module)
        if other == own:
            continue
        above = LAYER.get(other, 99) >= LAYER[own]
        method = other in METHODS and own not in METHODS
        if above or method:
            found.append(f"{name}:{line}: {own} imports {module}")
    return found


def test_no_package_imports_what_stands_above_it():
    files = [f for root in ("thbench", "baselines", "metrics") for f in (ROOT / root).rglob("*.py")]
    found = [x for f in files for x in wrong(str(f.relative_to(ROOT)), f.read_text())]
    assert not found, "\n".join(found)
    packages = {package_of(str(f.relative_to(ROOT)).removesuffix(".py").replace("/", "."))
                for f in files}  # fmt: skip
    assert packages <= LAYER.keys(), "a package without a layer"


@pytest.mark.parametrize(
    ("name", "line", "fine"),
    [
        ("thbench/data/store.py", "from thbench.training.stage import Stage", False),
        ("thbench/data/store.py", "def f():\n    from thbench import training", False),
        ("thbench/evaluation/score.py", "import thbench.preflight.checks", False),
        ("thbench/preflight/checks.py", "from thbench.leaderboard import rank", False),
        ("thbench/cli/commands.py", "from baselines import hallo", False),
        ("thbench/cli/commands.py", "from thbench.dawn.a2v import A2VStage", False),
        ("metrics/base.py", "from thbench.core import errors", False),
        ("thbench/data/store.py", "from ..training import stage", False),
        ("baselines/windows.py", "from thbench.dawn.a2v import A2VStage", True),
        ("thbench/training/fit.py", "from thbench.data.datamodule import ClipData", True),
    ],
)
def test_an_import_upwards_is_found(name, line, fine):
    assert (not wrong(name, line)) is fine
