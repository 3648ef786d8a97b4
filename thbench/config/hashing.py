"""Configurations as text, and their hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import yaml


def content_hash(value: Any, length: int = 12) -> str:
    """Hex digits that change when anything in ``value`` does. Dataclasses count as mappings.

    Numbers count by value: 20 and 20.0 are the same setting.
    """
    text = json.dumps(_by_value(_plain(value)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def to_yaml(config: Any) -> str:
    """A configuration as YAML."""
    return yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)


def flatten(value: Any, key: str = "") -> dict[str, Any]:
    """Nested mappings, or a dataclass, as one mapping with dotted keys. Empty ones are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if not isinstance(value, Mapping):
        return {key: value}
    return {
        k: v
        for name, part in value.items()
        for k, v in flatten(part, f"{key}.{name}" if key else str(name)).items()
    }


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _by_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _by_value(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_by_value(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
