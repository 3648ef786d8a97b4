"""How the layers of a strategy's YAML are put together. No torch is imported here.

Layers merge key by key, with these rules of their own:

- A layer that names another plan takes none of the options of the plan below it.
- A stage may be ``like: other``: it has what the other stage has, but for what it says itself.
- A block of ``switches:`` is merged where the user says ``<its name>=true``. In its title,
  ``{title}`` is the title below.
- The block ``released:`` is merged, after the scale's, where the user says ``options=released``.
- Null takes out what lies below: a role of ``nets``, a stage, an option of ``plan`` or
  ``options``, any mapping. Elsewhere it is a value like any other; a list is replaced whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from thbench.core.errors import UserError, did_you_mean

Layer = Mapping[str, Any]
LAYERS = ("scales", "switches", "released")
"""Keys of a YAML file whose blocks are layers themselves."""


def stack(layers: Iterable[Layer]) -> dict[str, Any]:
    """Layers merged, the later over the earlier."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = merge(merged, layer)
    return merged


def merge(below: Layer, above: Layer) -> dict[str, Any]:
    """Two layers merged.

    Raises:
        UserError: a plan that is neither a name nor a mapping.
    """
    if isinstance(above.get("title"), str):
        title = above["title"].replace("{title}", str(below.get("title", "")))
        above = {**above, "title": title}
    if "plan" in above:
        plan = above["plan"]
        plan = {"name": plan} if isinstance(plan, str) else plan
        if not isinstance(plan, Mapping):
            raise UserError(
                f"plan must be a plan's name or {{name: NAME, option: ...}}, not {plan}."
            )
        above = {**above, "plan": plan}
        before = below.get("plan") or {}
        if "name" in plan and plan["name"] != before.get("name"):
            below = {key: value for key, value in below.items() if key != "plan"}
    return _merged(below, above)


def without_nulls(content: Layer) -> dict[str, Any]:
    """The merged layers without what null has taken out of mappings by name."""
    kept = dict(content)
    for block in ("nets", "stages"):
        if isinstance(kept.get(block), Mapping):
            kept[block] = {k: v for k, v in kept[block].items() if v is not None}
    for block in ("plan", "options"):
        kept |= {block: _dropped(kept[block])} if block in kept else {}
    return kept


def complete_stages(stages: Layer) -> dict[str, Any]:
    """The ``stages:`` block with every ``like:`` carried out.

    Raises:
        UserError: a stage is like none, or like itself by some way.
    """

    def whole(name: str, path: tuple[str, ...]) -> dict[str, Any]:
        own = dict(stages[name])
        other = own.pop("like", None)
        if other is None:
            return own
        if other not in stages:
            raise UserError(f"stages.{name}.like: no stage '{other}'.{did_you_mean(other, stages)}")
        if other in path:
            raise UserError(f"Stages are like each other in a circle: {' -> '.join(path)}.")
        return _merged(whole(other, (*path, other)), own)

    return {name: whole(name, (name,)) for name in stages}


def take_switches(switches: Layer, words: MutableMapping[str, Any]) -> list[Layer]:
    """The layers that ``words`` switch on; words that name a switch are taken out.

    Raises:
        UserError: a switch is set to something other than true or false.
    """
    on = []
    for name in [name for name in words if name in switches]:
        value = words.pop(name)
        if not isinstance(value, bool):
            raise UserError(f"{name} is a switch: say {name}=true or {name}=false, not {value}.")
        if value:
            on.append(switches[name])
    return on


def take_released(
    content: MutableMapping[str, Any], words: MutableMapping[str, Any]
) -> list[Layer]:
    """The layer that ``options=released`` asks for; block and word are taken out.

    Args:
        content: a strategy's YAML.
        words: the user's.

    Raises:
        UserError: the strategy has none, or ``options`` is another word.
    """
    block, asked = content.pop("released", None), words.get("options")
    if not isinstance(asked, str):
        return []
    if asked != "released":
        raise UserError(
            f"options={asked}: say options=released, or options.<key>=<value>."
            f"{did_you_mean(asked, ['released'])}"
        )
    del words["options"]
    if not isinstance(block, Mapping) or not block:
        raise UserError(
            f"Strategy '{content.get('strategy')}' has no released options: its YAML has no block"
            " 'released:'."
        )
    return [block]


def take_plan(words: MutableMapping[str, Any]) -> list[Layer]:
    """Layers of the words ``plan=`` and ``plan.name=``, which are taken out.

    They come before ``plan.<option>=`` words, in whatever order these were typed.
    """
    taken: list[Layer] = []
    if "plan" in words:
        taken.append({"plan": words.pop("plan")})
    if "plan.name" in words:
        taken.append({"plan": {"name": words.pop("plan.name")}})
    return taken


def _dropped(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {k: _dropped(v) for k, v in value.items() if v is not None}


def _merged(below: Layer, above: Layer, later: bool = False) -> dict[str, Any]:
    """Mappings merge, null takes a mapping out, anything else replaces what was there.

    ``later``: this is part of a layer that is yet to be merged, where its nulls are needed.
    """
    merged = dict(below)
    for key, value in above.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = _merged(before, value, later or key in LAYERS)
        merged[key] = value
        if value is None and isinstance(before, Mapping) and not later:
            del merged[key]
    return merged
