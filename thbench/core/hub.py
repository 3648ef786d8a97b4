"""Published models of the Hugging Face hub: whether they are on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from metrics.download import reachable

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True)
class MissingResource:
    """A resource that a stage needs and that is not on this machine.

    Attributes:
        what: the resource and how to get it, in one line.
        is_fatal: training needs it and cannot fetch it when the stage starts.
    """

    what: str
    is_fatal: bool = True


def missing_weights(
    source: str, part: str = "", what: str = "weights"
) -> Iterator[MissingResource]:
    """The resource that is missing of a model in the layout of ``save_pretrained``, if any.

    Args:
        source: a folder, or a name on the hub.
        part: the model's folder inside a whole pipeline's, used where there is one.
        what: what the weights are of, for the message.
    """
    folder = Path(source)
    if folder.is_dir():
        if not _complete(folder, part):
            yield MissingResource(f"{what}: {source} holds no config.json with weights beside it")
        return
    if len(folder.parts) > 2 or folder.is_absolute() or source.startswith("."):
        yield MissingResource(f"{what}: there is no folder {source}")
        return
    here = _cached(source)
    if here is not None and _complete(here, part):
        return
    remedy = f"fetch it with `hf download {source}`, or name a folder that holds it"
    if _offline() or not reachable(f"{_endpoint()}/{source}/resolve/main/README.md"):
        yield MissingResource(
            f"{what}: {source} is not here and the hub cannot be reached: {remedy}"
        )
    else:
        yield MissingResource(
            f"{what}: {source} is fetched when the stage starts; or {remedy}", is_fatal=False
        )


def _complete(folder: Path, part: str) -> bool:
    """Whether a configuration has weights beside it."""
    inside = folder / part
    place = inside if (inside / "config.json").is_file() else folder
    return (place / "config.json").is_file() and any(
        path for pattern in WEIGHTS for path in place.glob(pattern)
    )


def _cached(source: str) -> Path | None:
    """The folder of a model that was fetched before."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (OSError, ValueError):
        return None


def _offline() -> bool:
    return any(
        os.environ.get(name, "0").lower() not in ("", "0", "false", "no") for name in OFFLINE
    )


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
