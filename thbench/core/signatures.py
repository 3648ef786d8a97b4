"""Whether a block of YAML fits the class that it configures, by signatures: nothing is built.

A constructor's parameters are the keys of its block. A block inside the block that goes on to
another class, such as a stage's ``net:``, is declared by the outer class:

    class MyStage(Stage):
        config_blocks = {"net": MyNet}    # model.net holds the keyword arguments of MyNet

What a block is declared as may be

- a class (a dataclass too): its keys are the constructor's keyword-only parameters, or all of its
  parameters where none is keyword-only;
- a collection of names: its keys;
- a function, called with the block and its place in the configuration; it raises a UserError.

A ``**options`` parameter goes on to the constructor of the next class on the way up, or to what
``config_blocks`` declares for ``"**"``; None there stands for any key at all.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

from thbench.core.errors import UserError, did_you_mean

Block = type | Collection[str] | Callable[[Any, str], None]
Blocks = Mapping[str, Block | None]
"""Of ``config_blocks``: what each key's own keys go to."""
REST = "**"
"""In ``config_blocks``: where a constructor's ``**`` parameter goes."""


@dataclass(frozen=True)
class Key:
    """A key that a class takes.

    Attributes:
        parameter: of the constructor.
        hint: the parameter's type, ``Any`` where it cannot be told.
        owner: the class whose constructor it is.
        block: what the key's own keys go to, or None.
    """

    parameter: inspect.Parameter
    hint: Any
    owner: type
    block: Block | None

    @property
    def is_required(self) -> bool:
        """Whether there is no default."""
        return self.parameter.default is inspect.Parameter.empty

    @property
    def takes_null(self) -> bool:
        """Whether None is among what it says that it takes; a key that says nothing may."""
        unsaid = self.parameter.annotation is inspect.Parameter.empty
        named = re.search(r"\bNone\b|\bOptional\b|^Any$", str(self.parameter.annotation))
        return unsaid or self.parameter.default is None or named is not None


@dataclass(frozen=True)
class Accepted:
    """All keys that a class takes by name, and whether it takes any other as well."""

    keys: Mapping[str, Key]
    is_open: bool = False


@cache
def accepts(kind: type, leading: int | None = None, given: tuple[str, ...] = ()) -> Accepted:
    """The keys that a class takes.

    Args:
        kind: the class.
        leading: so many positional parameters after ``self`` come from elsewhere than the
            configuration; all others are keys. By default the keyword-only ones are, or all where
            there are none.
        given: names of further parameters that come from elsewhere.
    """
    keys: dict[str, Key] = {}
    for owner in kind.__mro__:
        if "__init__" not in vars(owner) or owner is object:
            continue
        parameters = list(inspect.signature(vars(owner)["__init__"]).parameters.values())[1:]
        hints, blocks = _hints(owner), _declared(kind)
        for parameter in _configured(parameters, leading):
            if (name := parameter.name) in given:
                continue
            key = Key(parameter, hints.get(name, Any), owner, blocks.get(name))
            keys.setdefault(name, key)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
        if REST in _declared(owner):
            rest = _declared(owner)[REST]
            if rest is None:
                return Accepted(keys, is_open=True)
            inner = accepts(rest)
            return Accepted({**inner.keys, **keys}, inner.is_open)
    return Accepted(keys)


def check_block(block: Block, value: Any, where: str) -> None:
    """Check what stands in a configuration against what takes it.

    Args:
        block: see the module.
        value: what stands there; anything but a mapping is left to the class.
        where: its place, for messages ("stages.frame.model.net").

    Raises:
        UserError: a key is unknown (with the nearest), or a value is of a wrong type.
    """
    if isinstance(block, type):
        if isinstance(value, Mapping):
            check_keys(block, value, where)
    elif callable(block):
        block(value, where)
    elif isinstance(value, Mapping):
        for key in value:
            if key not in block:
                raise UserError(f"There is no key '{where}.{key}'.{did_you_mean(key, block)}")


def check_keys(
    kind: type,
    options: Mapping[str, Any],
    where: str,
    leading: int | None = None,
    given: tuple[str, ...] = (),
) -> None:
    """Check options, and the blocks inside them, against the class that is built with them.

    Args:
        kind: the class.
        options: keyword arguments from a configuration.
        where: their place, for messages ("stages.frame.model").
        leading: positional parameters that come from elsewhere, as for ``accepts``.
        given: other parameters that come from elsewhere, as for ``accepts``.

    Raises:
        UserError: an option that the class does not know (with the nearest), misses, or has no
            null for; or a value of a wrong type.
    """
    accepted = accepts(kind, leading, given)
    for name in options:
        if name not in accepted.keys and not accepted.is_open:
            hint = did_you_mean(str(name), accepted.keys)
            raise UserError(f"There is no key '{where}.{name}'.{hint}")
    for name, key in accepted.keys.items():
        if name in options:
            _check_value(key, options[name], f"{where}.{name}")
        elif key.is_required:
            raise UserError(
                f"{where}.{name} is missing: {key.owner.__name__} cannot do without it."
            )


def _check_value(key: Key, value: Any, where: str) -> None:
    owner = key.owner.__name__
    if value is None:
        if not key.takes_null:
            default = (
                "" if key.is_required else f": without it, {owner} has {key.parameter.default}"
            )
            raise UserError(f"{where} takes no null{default}.")
        return
    if not fits(value, key.hint):
        known = [choice for choice in _choices(key.hint) if isinstance(choice, str)]
        if known and isinstance(value, str):
            raise UserError(
                f"{where}={value}: {owner} does not know it.{did_you_mean(value, known)}"
            )
        annotation = key.parameter.annotation
        name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
        raise UserError(f"{where} is {value!r}, but {owner} takes {name or annotation}.")
    if key.block is not None:
        check_block(key.block, value, where)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value from YAML fits a type; of types that YAML has no values of, anything does.

    A whole number is a ``float``, and 1e3, which YAML reads as a float, is an ``int``.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in inner)
    if hint in (None, type(None)):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint in (int, float):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and (hint is float or float(value).is_integer())
    if hint is str:
        return isinstance(value, str)
    kind = origin or hint
    if kind is tuple and inner and Ellipsis not in inner:
        listed = isinstance(value, list | tuple) and len(value) == len(inner)
        return listed and all(map(fits, value, inner))
    if isinstance(kind, type) and kind in (list, tuple, Sequence):
        listed = isinstance(value, list | tuple)
        return listed and (not inner or all(fits(one, inner[0]) for one in value))
    if isinstance(kind, type) and kind in (dict, Mapping):
        return isinstance(value, Mapping)
    return True


def _choices(hint: Any) -> list[Any]:
    """The values of all ``Literal``s in a type."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [choice for one in get_args(hint) for choice in _choices(one)]


def _configured(
    parameters: Sequence[inspect.Parameter], leading: int | None
) -> list[inspect.Parameter]:
    """The parameters that a configuration gives."""
    named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if leading is not None:
        positional = [p for p in named if p.kind is not p.KEYWORD_ONLY]
        return [p for p in named if p not in positional[:leading]]
    apart = [p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
    return [p for p in named if p.kind is p.KEYWORD_ONLY] if apart else named


def _declared(kind: type) -> dict[str, Any]:
    """``config_blocks`` of a class and of those that it derives from, the nearest first."""
    declared: dict[str, Any] = {}
    for owner in reversed(kind.__mro__):
        declared |= vars(owner).get("config_blocks", {})
    return declared


def _hints(owner: type) -> dict[str, Any]:
    """Types of a constructor's parameters; none where they cannot be evaluated."""
    try:
        # A dataclass's constructor has the fields of other modules' dataclasses as well.
        return typing.get_type_hints(owner if is_dataclass(owner) else vars(owner)["__init__"])
    except Exception:
        return {}
