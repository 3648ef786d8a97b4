"""Audio embeddings of a prepared data set: computing, storing and checking them.

``<root>/audio/<encoder>/<id>.npy``, and ``encoder.json`` beside them, which names encoder and
weights. Where the data set cannot be written, new ones are in the cache folder
(``thbench.data.cache_folders``).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from thbench.core.errors import UserError
from thbench.core.files import replacing, write_atomic
from thbench.core.types import Clip
from thbench.data import manifest
from thbench.data.cache_folders import elsewhere, locked, writable
from thbench.data.embedding import encoders
from thbench.data.embedding.encoders import ENCODERS, AudioEncoder
from thbench.data.media import audio

RECORD = "encoder.json"


def kind_of(encoder: str) -> str:
    """The encoder's name without its weights: ``hubert`` of ``hubert=FOLDER``."""
    return encoder.partition("=")[0]


@dataclass(frozen=True)
class Embeddings:
    """One encoder's embeddings of a data set.

    Args:
        root: the prepared data set.
        encoder: a name in ``ENCODERS``, or ``name=SOURCE`` with weights of one's own.
        cache: ``data.cache``.
    """

    root: Path
    encoder: str
    cache: str | None = None

    @property
    def beside(self) -> Path:
        """Their folder in the data set."""
        return self.root / "audio" / kind_of(self.encoder)

    @functools.cached_property
    def apart(self) -> Path:
        """Their folder if the data set cannot be written."""
        return elsewhere(self.root, self.cache) / "audio" / kind_of(self.encoder)

    def path(self, clip_id: str) -> Path:
        """A clip's file, (n_frames, D) or (n_frames, layers, D); silent clips have none."""
        beside = self.beside / f"{clip_id}.npy"
        return beside if beside.is_file() else self.apart / f"{clip_id}.npy"

    def prepare(self) -> None:
        """Compute those that are missing, and check that all are of this encoder.

        Processes of one machine wait for the first of them. A run that is stopped goes on with the
        clip after the last one that it finished.

        Raises:
            UserError: the encoder or its weights are not here, or a folder holds embeddings of
                another version of it or of other weights.
        """
        if missing := self._missing():
            self._make(missing[0])
        for folder in (self.beside, self.apart):
            if folder.is_dir():
                check(folder, self.encoder)

    def _missing(self) -> list[Clip]:
        return [
            clip
            for clip in manifest.read(self.root)
            if not (manifest.is_silent(clip) or self.path(clip.id).is_file())
        ]

    def _make(self, first: Clip) -> None:
        try:
            made_by = encoders.encoder(self.encoder)
        except UserError as error:
            raise UserError(
                f"{self.root} has no '{self.encoder}' embedding of clip '{first.id}', and it cannot"
                f" be computed here: {error} Or prepare the data set with --audio {self.encoder}"
                " where the weights are."
            ) from error
        folder = self.beside if writable(self.beside) else self.apart
        print_once(
            f"{self.root}: its audio is embedded by '{self.encoder}' now, once, into {folder}."
        )
        try:
            with locked(folder / "encoder.lock"):
                claim(folder, self.encoder)
                self._embed(self._missing(), made_by, folder)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"Cannot write {folder} ({reason}): set data.cache to where you may write."
            ) from error

    def _embed(self, clips: Sequence[Clip], made_by: AudioEncoder, folder: Path) -> None:
        for clip in tqdm(clips, f"embedding ({kind_of(self.encoder)})", unit="clip", disable=None):
            features = made_by(audio.load(self.root / clip.video), clip.n_frames)
            write(folder / f"{clip.id}.npy", features)


def write(path: Path, features: np.ndarray) -> None:
    """Write one clip's embedding (n_frames, D), whole or not at all."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, features)


def claim(folder: Path, encoder: str) -> None:
    """Record in a folder which encoder its embeddings are of, or check those it has.

    Raises:
        UserError: the encoder's weights are missing, or something else made those.
    """
    if any(folder.rglob("*.npy")):
        check(folder, encoder)
    else:
        made_by = encoders.encoder(encoder)
        row = {"version": made_by.version, "source": made_by.source, "weights": made_by.weights}
        write_atomic(folder / RECORD, json.dumps(row, indent=1) + "\n")


def check(folder: Path, encoder: str) -> None:
    """Check that a folder's embeddings are of this encoder, as far as its record tells.

    A folder without a record, as older versions left them, is accepted. Weights are
    compared where ``encoder`` names some; otherwise those that the folder names are accepted.

    Raises:
        UserError: another version made them, or other weights.
    """
    kind, _, source = encoder.partition("=")
    if kind not in ENCODERS or not any(folder.rglob("*.npy")):
        return
    try:
        row = json.loads((folder / RECORD).read_text("utf-8"))
    except FileNotFoundError:
        print_once(f"{folder} does not say what made it: taken as {ENCODERS.load(kind).version}'s.")
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / RECORD} cannot be read: {_ANEW.format(folder)}.") from error
    wanted = ENCODERS.load(kind).version
    if row.get("version") != wanted:
        was = row.get("version")
        raise UserError(f"{folder} was made by {was}, not {wanted}: {_ANEW.format(folder)}.")
    if source and row.get("weights") != encoders.encoder(encoder).weights:
        raise UserError(
            f"{folder} was made with other weights ({row.get('source')}) than {source}:"
            f" {_ANEW.format(folder)}."
        )
    usual = getattr(ENCODERS.load(kind), "default", None)
    if not source and row.get("source") != usual:
        print_once(f"{folder} was made with the weights of {row.get('source')}, not of {usual}.")


_ANEW = "delete {} to have it made anew"


@functools.cache
def print_once(text: str) -> None:
    """Print a line for the user, once per process."""
    from thbench.core.console import rank_zero_print

    rank_zero_print(text)
