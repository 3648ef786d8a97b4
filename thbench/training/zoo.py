"""The zoo: weights of trained stages that are shipped with thbench.

A file ``<stage>-<hash>.safetensors`` holds the weights of one stage's network, where ``hash`` is
that of the run that trained it (``thbench.training.runs``), and strategies that share a stage share
its file. What is known of it stands in the file's own header, as JSON under ``KEY``; there is no
index beside. No torch is imported until tensors are read, and nothing is unpickled.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thbench.core.errors import UserError
from thbench.core.files import replacing
from thbench.core.tensors import tensors_digest

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = Path(__file__).resolve().parents[1] / "zoo"
SUFFIX = ".safetensors"
KEY = "thbench"
"""The only key of a file's metadata: safetensors writes several in no fixed order."""
DTYPES = ("float16", "float32")
"""What parameters can be stored in."""
LONGEST_HEADER = 10_000_000
"""Bytes; the length in a damaged file may say anything."""


@dataclass(frozen=True)
class Shipped:
    """One file of the zoo.

    Attributes:
        path: of the file.
        bytes: its size.
        meta: what it says of itself: what a checkpoint's metadata holds (``stage``, ``class``,
            ``hash``, ``strategy``, ``size``, ``audio``, ``audio_dim``, ``needs``, ``trained_for``,
            ``steps``, ``best``) and

            - ``fingerprint``: the run's;
            - ``settings``: a hash of the fingerprint without any data set, nor those of the stages
              that it builds on;
            - ``dtype``: of the parameters; ``parameters``: how many there are;
            - ``samples_seen``: steps times batch size; ``frames_seen``: the same times the mean
              number of frames of a draw;
            - ``samples``: ``samples_seen`` by hash, of this stage and of all that it builds on or
              started from;
            - ``data``: name of the data set, whose digest is in the fingerprint;
            - ``command``: that trains it; ``git`` and ``packages`` that trained it; ``licence``;
            - ``sha256``: of the tensors.
    """

    path: Path
    bytes: int
    meta: Mapping[str, Any]

    @property
    def stage(self) -> str:
        """The stage's name."""
        return str(self.meta["stage"])

    @property
    def hash(self) -> str:
        """The hash of the run."""
        return str(self.meta["hash"])


def entries(stage: str | None = None) -> Iterator[Shipped]:
    """The shipped files, by name; those of one stage with ``stage``.

    Raises:
        UserError: one of them is damaged.
    """
    for path in sorted(FOLDER.glob(f"{stage or ''}*{SUFFIX}")):
        if stage is None or path.stem.rpartition("-")[0] == stage:
            yield entry(path)


def find(stage: str, digest: str) -> Shipped | None:
    """The shipped weights of a run, by its hash.

    Raises:
        UserError: the file is damaged.
    """
    path = path_of(stage, digest)
    return entry(path) if path.is_file() else None


def path_of(stage: str, digest: str) -> Path:
    """Where the weights of a run lie, if they are shipped."""
    return FOLDER / f"{stage}-{digest}{SUFFIX}"


def entry(path: Path) -> Shipped:
    """What a file says of itself; its tensors are not read.

    Raises:
        UserError: it is missing, cut off, damaged, or of another program.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise _damaged(path, error.strerror or "cannot be read") from error
    shipped = _entry(path, stat.st_size, stat.st_mtime_ns)
    if f"{shipped.stage}-{shipped.hash}" != path.stem:
        raise _damaged(path, f"it holds {shipped.stage}-{shipped.hash}")
    return shipped


@functools.lru_cache
def _entry(path: Path, size: int, _: int) -> Shipped:
    header = _header(path, size)
    try:
        meta = json.loads(header.pop("__metadata__")[KEY])
        ends = [described["data_offsets"][1] for described in header.values()]
        whole = bool(ends) and size == _start(path) + max(ends)
        fits = {"stage", "hash", "steps", "needs", "fingerprint", "settings"} <= meta.keys()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, "it says nothing of itself") from error
    if not whole:
        raise _damaged(path, "it is cut off")
    if not fits:
        raise _damaged(path, "it says too little of itself")
    return Shipped(path, size, meta)


def _header(path: Path, size: int) -> dict[str, Any]:
    start = _start(path)
    if not 8 < start <= min(size, LONGEST_HEADER):
        raise _damaged(path, "it is cut off")
    with path.open("rb") as file:
        text = file.read(start)[8:]
    try:
        header = json.loads(text)
    except ValueError as error:
        raise _damaged(path, "its header is no JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no JSON object")
    return header


def _start(path: Path) -> int:
    """The first byte of the tensors: after the header's length (8 bytes) and the header."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def read(shipped: Shipped) -> dict[str, Any]:
    """A shipped stage in the form of a checkpoint.

    Returns:
        ``state_dict`` with the tensors of ``Stage.net``, in the dtypes in which they are stored,
        and the metadata under ``KEY``.

    Raises:
        UserError: the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(shipped.path, "cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(shipped.path, " ".join(str(error).split())) from error
    if tensors_digest(tensors) != shipped.meta.get("sha256"):
        raise _damaged(shipped.path, "its tensors are not those that were written")
    return {"state_dict": {f"net.{k}": v for k, v in tensors.items()}, KEY: dict(shipped.meta)}


def encode(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    """The bytes of a file: the same for the same tensors and metadata.

    Args:
        tensors: of ``Stage.net``, by name.
        meta: all that ``Shipped`` names, but for ``sha256``.
    """
    from safetensors.torch import save

    whole = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    text = json.dumps({**meta, "sha256": tensors_digest(whole)}, sort_keys=True, ensure_ascii=False)
    return bytes(save(whole, {KEY: text}))


def write(content: bytes, stage: str, digest: str) -> Path:
    """Write a file of the zoo, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    path = path_of(stage, digest)
    with replacing(path) as part:
        part.write_bytes(content)
    return path


def frames_seen(samples: int, draw: Mapping[str, Any]) -> int:
    """Frames of so many samples, where ``draw.frames`` is a number or ``[least, most]``."""
    frames = draw["frames"]
    mean = sum(frames) / 2 if isinstance(frames, list | tuple) else frames
    return math.floor(samples * mean)


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"The shipped weights {path} cannot be used ({reason}): install thbench again, or restore"
        " the file (`git checkout` in a clone), or delete it."
    )
