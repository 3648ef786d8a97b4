"""Registries of classes by short names, imported lazily.

Strategies and stages are named in YAML by ``module:Class``; a registry maps the short names that
users type to those, so that ``thbench ls`` needs no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar, cast

from thbench.core.errors import UserError, did_you_mean

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
    """

    def __init__(self, kind: str, base: str) -> None:
        self.kind = kind
        self._base = base
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
            UserError: no such name, with the nearest one.
        """
        if name not in self._targets:
            raise UserError(f"No {self.kind} '{name}'.{did_you_mean(name, self._targets)}")
        base = cast("type[T]", resolve(self._base, object))
        return resolve(self._targets[name], base)

    def __getitem__(self, name: str) -> str:
        return self._targets[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)
