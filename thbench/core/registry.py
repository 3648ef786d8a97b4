"""Registries of classes by short names, imported lazily.

Strategies and stages are named in YAML by ``module:Class``; a registry maps the short names that
users type to those, so that ``thbench ls`` needs no torch. Other installed packages add names
to a registry by entry points (``thbench.core.plugins``).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar, cast

from thbench.core import plugins
from thbench.core.errors import UserError, did_you_mean
from thbench.core.plugins import Plugin

T = TypeVar("T")


def resolve(target: str, base: type[T]) -> type[T]:
    """The class that ``module:Class`` names, checked to derive from ``base``.

    Raises:
        UserError: the text is malformed, or there is no such module, class, or base.
    """
    module_name, _, class_name = target.partition(":")
    if not class_name:
        raise UserError(f"'{target}' does not name a class: write it as 'module:Class'.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise  # the module exists, something that it imports does not
        raise UserError(f"There is no module '{module_name}' (from '{target}').") from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        classes = [name for name, value in vars(module).items() if isinstance(value, type)]
        raise UserError(
            f"'{module_name}' has no class '{class_name}'.{did_you_mean(class_name, classes)}"
        )
    if not issubclass(found, base):
        raise UserError(f"'{target}' is no {base.__name__}.")
    return found


class Registry(Mapping[str, str], Generic[T]):
    """Short names for classes of one base.

    Args:
        kind: what is registered, for messages ("metric").
        base: the class that all of them derive from, as ``module:Class``.
        group: of the entry points by which other packages add names; "" for none.
    """

    def __init__(self, kind: str, base: str, group: str = "") -> None:
        self.kind = kind
        self._base = base
        self._group = group
        self._targets: dict[str, str] = {}

    def add(self, name: str, target: str) -> None:
        """Register ``target`` (``module:Class``) as ``name``.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._targets:
            raise ValueError(f"{self.kind} '{name}' is registered twice")
        self._targets[name] = target

    def load(self, name: str) -> type[T]:
        """Import and return the class.

        Raises:
            UserError: no such name, with the nearest one; two packages that use it; or another
                package's class that cannot be imported or derives from another base.
        """
        found = self._find(name)
        base = cast("type[T]", resolve(self._base, object))
        with plugins.blame(found.package, f"{self.kind} '{name}'"):
            return resolve(found.value, base)

    def package(self, name: str) -> str:
        """The package that a name comes from: ``thbench``, or another that is installed.

        Raises:
            UserError: no such name, or more than one package that uses it.
        """
        return self._find(name).package

    def _find(self, name: str) -> Plugin:
        own = [Plugin(name, self._targets[name], plugins.OWN)] if name in self._targets else []
        found = [*own, *self._plugins().get(name, ())]
        if not found:
            raise UserError(f"No {self.kind} '{name}'.{did_you_mean(name, self)}")
        plugins.check_unique(self.kind, name, [plugin.package for plugin in found])
        return found[0]

    def _plugins(self) -> Mapping[str, tuple[Plugin, ...]]:
        return plugins.plugins(self._group) if self._group else {}

    def __getitem__(self, name: str) -> str:
        if name not in self:  # as a mapping must
            raise KeyError(name)
        return self._find(name).value

    def __contains__(self, name: object) -> bool:
        return name in self._targets or name in self._plugins()

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._targets, *self._plugins())))

    def __len__(self) -> int:
        return len({*self._targets, *self._plugins()})
