"""Where YAML files are found: the user's folders, other packages', and thbench's own configs/.

A name is looked for in this order:

1. in folders laid out as configs/ (``strategy/``, ``data/``, ``protocol/``, ``tables/``): those of
   ``--config-dir``, then those of ``$THBENCH_CONFIG_DIR``, each in the order given;
2. in thbench's own configs/ and, for strategies, among the entry points ``thbench.strategies`` of
   installed packages. A name that two of these use is refused.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from thbench.core import plugins
from thbench.core.errors import UserError, did_you_mean

VARIABLE = "THBENCH_CONFIG_DIR"
"""Names folders of the user's, with ``:`` between them (``;`` on Windows)."""
KINDS = ("strategy", "data", "protocol", "tables")

_given: list[Path] = []


@contextlib.contextmanager
def searching(folders: Iterable[str | Path]) -> Iterator[None]:
    """Look into these folders first, as ``--config-dir`` does.

    Raises:
        UserError: one is missing, or has none of the folders of configs/.
    """
    before = list(_given)
    _given[:0] = [check_folder(Path(folder), "--config-dir") for folder in folders]
    try:
        yield
    finally:
        _given[:] = before


def check_folder(folder: Path, where: str) -> Path:
    """The folder, if it is laid out as configs/.

    Args:
        folder: of the user's.
        where: it was named, for messages.

    Raises:
        UserError: it is missing, or has none of the folders of configs/.
    """
    if not folder.is_dir():
        raise UserError(f"{where}: there is no folder {folder}.")
    if not any((folder / kind).is_dir() for kind in KINDS):
        raise UserError(
            f"{where}: {folder} has none of the folders of configs/:"
            f" {', '.join(f'{kind}/' for kind in KINDS)}."
        )
    return folder


def configs_root() -> Path:
    """The folder of thbench's own YAML files: beside the packages, or inside one in a wheel."""
    here = Path(__file__).resolve().parents[1]
    beside = here.parent / "configs"
    return beside if (beside / "strategy").is_dir() else here / "_configs"


def user_roots() -> list[Path]:
    """The user's folders, in the order in which they are searched.

    Raises:
        UserError: ``$THBENCH_CONFIG_DIR`` names a folder that is missing or laid out otherwise.
    """
    named = filter(None, os.environ.get(VARIABLE, "").split(os.pathsep))
    return [*_given, *(check_folder(Path(name), f"${VARIABLE}") for name in named)]


def names(kind: str) -> list[str]:
    """Names of all YAML files of one of the ``KINDS``."""
    folders = [root / kind for root in (*user_roots(), configs_root())]
    stems = {path.stem for folder in folders for path in folder.glob("*.yaml")}
    return sorted({stem for stem in stems if stem[0] != "_"} | {*_plugins(kind)})


def find(kind: str, name: str) -> Path:
    """The YAML file of that kind and name; a path to a YAML file is taken as it is.

    Raises:
        UserError: there is none, two packages use the name, or another package's file is missing.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"There is no file {name}.")
        return path
    found = _find(kind, name, ())
    if found is None:
        raise UserError(f"No {kind.removesuffix('s')} '{name}'.{did_you_mean(name, names(kind))}")
    return found


def find_base(base: str, above: Collection[Path]) -> Path:
    """The file that a ``base:`` entry such as ``strategy/dawn.yaml`` refers to.

    Args:
        base: relative to configs/ or a folder laid out alike.
        above: the files that lead to it, which are passed over: a user's ``strategy/dawn.yaml`` may
            build on thbench's own.

    Raises:
        UserError: there is none.
    """
    kind, _, file = base.rpartition("/")
    found = _find(kind, file.removesuffix(".yaml"), above) if file.endswith(".yaml") else None
    if found is None:
        known = [f"{kind}/{name}.yaml" for kind in KINDS for name in names(kind)]
        raise UserError(f"base: there is no {base}.{did_you_mean(base, known)}")
    return found


def origin(kind: str, name: str) -> str:
    """Where a name comes from: ``thbench``, another package's name, or a folder of the user's."""
    for root in user_roots():
        if (root / kind / f"{name}.yaml").is_file():
            return str(root)
    packages = [plugin.package for plugin in _plugins(kind).get(name, ())]
    return " and ".join([plugins.OWN, *packages] if _is_own(kind, name) else packages)


def package_of(strategy: str) -> str:
    """The installed package that a strategy of this name comes from; ``thbench`` for any file."""
    packages = [plugin.package for plugin in _plugins("strategy").get(strategy, ())]
    return packages[0] if origin("strategy", strategy) in packages else plugins.OWN


def _find(kind: str, name: str, above: Collection[Path]) -> Path | None:
    for root in user_roots():
        path = root / kind / f"{name}.yaml"
        if path.is_file() and path.resolve() not in above:
            return path
    own = configs_root() / kind / f"{name}.yaml"
    others = _plugins(kind).get(name, ())
    owners = [plugins.OWN] if _is_own(kind, name) else []
    plugins.check_unique(kind, name, [*owners, *(plugin.package for plugin in others)])
    if others:
        with plugins.blame(others[0].package, f"{kind} '{name}'"):
            own = plugins.package_folder(others[0].value) / f"{name}.yaml"
            if not own.is_file():
                raise UserError(f"its package '{others[0].value}' has no file {own.name}")
    return own if own.is_file() and own.resolve() not in above else None


def _is_own(kind: str, name: str) -> bool:
    return (configs_root() / kind / f"{name}.yaml").is_file()


def _plugins(kind: str) -> dict[str, tuple[plugins.Plugin, ...]]:
    return plugins.plugins(plugins.STRATEGIES) if kind == "strategy" else {}
