"""Published weights in diffusers' format, from the hub or from a folder."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from thbench.core.errors import UserError


def fill_from(net: nn.Module, kind: Any, source: str, part: str = "") -> None:
    """Load published weights into a network of class ``kind``; see ``published`` and ``fill``."""
    fill(net, published(kind, source, part), source)


def published(kind: Any, source: str, part: str = "") -> dict[str, Tensor]:
    """Published weights, by name.

    Args:
        kind: diffusers' class of such networks; it also translates older names.
        source: a folder made by ``save_pretrained``, or a name on the Hugging Face hub.
        part: the model's folder inside a whole pipeline's (``unet``, ``vae``), looked into where
            ``source`` is such a pipeline.

    Raises:
        UserError: the weights cannot be had.
    """
    try:
        return dict(_read(kind, source, part).state_dict())
    except (OSError, ValueError) as error:
        raise UserError(
            f"The weights of {kind.__name__} cannot be had from {source}: go online, or give a"
            " folder that `save_pretrained` made."
        ) from error


def fill(net: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put weights into a network.

    Raises:
        UserError: they are those of another layout.
    """
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split(":", 1)[-1].split())
        if len(reason) > 300:
            reason = f"{reason[:300]} ..."
        raise UserError(
            f"{source} holds weights of another layout ({reason}): set the net's sizes to theirs."
        ) from error


def _read(kind: Any, source: str, part: str) -> Any:
    """The model in a folder, in its part of a pipeline's folder, or on the hub."""
    # Said, because otherwise diffusers recommends a package that nothing here needs.
    load = functools.partial(kind.from_pretrained, low_cpu_mem_usage=False)
    folder = Path(source)
    if folder.is_dir():
        inside = folder / part
        return load(inside if (inside / "config.json").is_file() else folder)
    if not part:
        return load(source)
    try:
        return load(source, subfolder=part)
    except OSError:  # the model may be published alone
        return load(source)
