"""Reads what Weights & Biases wrote of an offline run, from the run's own file."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as protocol
from wandb.sdk.internal.datastore import DataStore


@dataclass
class Written:
    """An offline run.

    ``history`` has a mapping per call of ``log``; ``steps`` names by metric the metric that is its
    step; ``artifacts`` are by name, ``files`` relative to ``folder / "files"``.
    """

    folder: Path
    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    steps: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, Any] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    exit_code: int | None = None

    @property
    def tags(self) -> set[str]:
        return set(self.run.tags)


def read_run(folder: Path) -> Written:
    """The run of ``offline-run-<time>-<id>``, which has ended.

    W&B's own process writes the file, the last of it a moment after ``finish`` has come back.
    """
    for _ in range(100):
        found = _read(folder)
        if found.exit_code is not None:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{folder} has no end")


def _read(folder: Path) -> Written:
    (path,) = folder.glob("run-*.wandb")
    found, store = Written(folder), DataStore()
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = protocol.Record()
        record.ParseFromString(data)
        _take(found, record)
    return found


def _take(found: Written, record: Any) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        found.run = record.run
        found.config |= _values(record.run.config.update)
    elif kind == "config":
        found.config |= _values(record.config.update)
    elif kind == "summary":
        found.summary |= _values(record.summary.update)
    elif kind == "history":
        found.history.append(_values(record.history.item))
    elif kind == "metric":
        found.steps[record.metric.name or record.metric.glob_name] = record.metric.step_metric
    elif kind == "artifact":
        found.artifacts[record.artifact.name] = record.artifact
    elif kind == "files":
        found.files |= {file.path for file in record.files.files}
    elif kind == "exit":
        found.exit_code = record.exit.exit_code


def _values(items: Any) -> dict[str, Any]:
    return {
        "/".join(item.nested_key) if item.nested_key else item.key: json.loads(item.value_json)
        for item in items
    }
