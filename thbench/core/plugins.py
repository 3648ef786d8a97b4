"""What other installed packages add, found by their entry points without importing anything.

A package declares entry points in its metadata (pyproject.toml):

    [project.entry-points."thbench.strategies"]
    mine = "my_package"                # the package that holds mine.yaml
    [project.entry-points."thbench.metrics"]
    sharp = "my_package.sharp:Sharp"   # a metrics.base.BenchMetric
    [project.entry-points."thbench.extractors"]
    nose = "my_package.nose:Nose"      # a metrics.extractors.base.Extractor
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from thbench.core.errors import UserError

STRATEGIES = "thbench.strategies"
METRICS = "thbench.metrics"
EXTRACTORS = "thbench.extractors"
OWN = "thbench"
"""The package that thbench's own names come from."""


@dataclass(frozen=True)
class Plugin:
    """One entry point.

    Attributes:
        name: as users type it.
        value: ``module:Class``, or a package.
        package: the distribution that declares it, as ``pip`` names it.
    """

    name: str
    value: str
    package: str


def plugins(group: str) -> dict[str, tuple[Plugin, ...]]:
    """The entry points of a group by name; more than one where packages disagree."""
    return _plugins(group, tuple(sys.path))


@cache
def _plugins(group: str, path: Sequence[str]) -> dict[str, tuple[Plugin, ...]]:
    """``path`` is what the answer depends on: packages are looked for there."""
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for point in entry_points(group=group):
        found[point.name].add((point.dist.name if point.dist else "?", point.value))
    return {
        name: tuple(Plugin(name, value, package) for package, value in sorted(found[name]))
        for name in sorted(found)
    }


def check_unique(kind: str, name: str, packages: Sequence[str]) -> None:
    """Refuse a name that more than one package uses.

    Raises:
        UserError: it names the packages.
    """
    if len(packages) > 1:
        raise UserError(
            f"The {kind} '{name}' comes from more than one package, {' and '.join(packages)}:"
            " uninstall all but one, or rename it."
        )


@contextlib.contextmanager
def blame(package: str, what: str) -> Iterator[None]:
    """Turn whatever goes wrong in another package's code into a UserError that names the package.

    Args:
        package: the distribution; of thbench itself nothing is changed.
        what: was to be used, for the message ("metric 'sharp'").
    """
    try:
        yield
    except Exception as error:
        if package == OWN:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        end = "" if reason[-1] in ".?" else "."
        raise UserError(
            f"The {what} of package '{package}' cannot be used: {kind}{reason}{end}"
        ) from error


def package_folder(name: str) -> Path:
    """The folder of an importable package, found without importing it or those that it lies in.

    Raises:
        UserError: there is none.
    """
    top, *inner = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    for location in spec.submodule_search_locations or () if spec else ():
        folder = Path(location).joinpath(*inner)
        if folder.is_dir():
            return folder
    raise UserError(f"There is no package '{name}'.")
