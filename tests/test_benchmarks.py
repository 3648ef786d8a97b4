"""Every benchmark can be imported, and tells how it is run."""

import importlib
import pkgutil

import pytest

import benchmarks

SHARED = {"gpu_page", "gpu_parts", "held_out", "untrained"}
"""Modules that others import; all others are run."""
NAMES = sorted({module.name for module in pkgutil.iter_modules(benchmarks.__path__)} - SHARED)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_how_it_is_run(name, capsys):
    module = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert module.__doc__.split("\n")[0] in shown
    assert f"python -m benchmarks.{name}" in module.__doc__


@pytest.mark.parametrize("name", sorted(SHARED))
def test_what_they_share_can_be_imported(name):
    importlib.import_module(f"benchmarks.{name}")
