"""What all checks share: the configuration, the data set, the networks and the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from thbench.config import Config
from thbench.core.errors import UserError
from thbench.core.types import Clip
from thbench.data import manifest
from thbench.data.embedding.encoders import ENCODERS
from thbench.data.store import Store
from thbench.preflight.estimate import Networks
from thbench.preflight.report import ERROR, Finding, Report
from thbench.training import devices

Rate = Callable[[str], float]
"""FLOP/s of a large matrix product by precision."""
TRACKS_READ = 400
"""Clips whose own tracks are opened to find faces, where nothing is packed yet."""


@dataclass
class Preflight:
    """One run of the checks.

    Attributes:
        config: a strategy's configuration.
        clips: of the training data's manifest.
        report: where findings go.
        files: check the clips' own files too.
        rate: in place of what is measured on this machine.
    """

    config: Config
    clips: Sequence[Clip]
    report: Report
    files: bool
    rate: Rate | None

    def add(self, level: str, where: str, text: str, local: bool = False) -> None:
        """Add a finding; its fields are ``Finding``'s."""
        self.report.findings.append(Finding(level, where, text, local))

    def add_error(self, where: str, error: UserError) -> None:
        """Add a ``UserError`` as an error."""
        self.add(ERROR, where, str(error))

    @cached_property
    def stores(self) -> dict[str, Store]:
        """Clips of ``train`` and ``val``, in the order of sorted ids."""
        data, size = self.config.data, self.config.size
        return {split: Store.of(data, split, size) for split in ("train", "val")}

    @cached_property
    def networks(self) -> Networks:
        """The stages' networks, built of fake tensors."""
        return Networks(self.config, self.audio_dim)

    @cached_property
    def audio_dim(self) -> int:
        """D of the embeddings that are here, else of the encoder's own weights."""
        store, name = self.stores["train"], self.config.data.audio.partition("=")[0]
        if self.files and not store.silent.all():
            first = int(store.silent.argmin())
            if store.audio_path(first).is_file():
                return store.audio_dim
        return ENCODERS.load(name).default_dim

    @cached_property
    def world(self) -> int:
        """Devices that train together, as far as the settings and this machine tell."""
        settings = self.config.trainer
        chosen = devices.limit_devices(settings, 2**20)
        return settings.nodes * (len(chosen) if isinstance(chosen, list) else chosen)

    @cached_property
    def torch_device(self) -> torch.device:
        """Where training would run: ``cuda`` where there is a GPU and it is wanted."""
        cuda = self.config.trainer.accelerator != "cpu" and torch.cuda.is_available()
        return torch.device("cuda" if cuda else "cpu")

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Splits that training reads."""
        settings = self.config.trainer
        validates = settings.validate_batches and settings.validate_every
        return ("train", "val") if validates and self.stores["val"].clips else ("train",)

    @cached_property
    def faces(self) -> dict[str, dict[int, np.ndarray]]:
        """Frames with a face, bool (T,), by split and by the clip's index in it.

        Only clips whose faces are known without tracking; where nothing is packed, at most
        ``TRACKS_READ`` of a split. A track that cannot be read is an error in the report.
        """
        found: dict[str, dict[int, np.ndarray]] = {"train": {}, "val": {}}
        for split in self.splits if self.files else ():
            store = self.stores[split]
            n = len(store.clips)
            chosen = (
                range(n)
                if store.is_packed
                else np.linspace(0, n - 1, min(n, TRACKS_READ)).astype(int)
            )
            for i in map(int, chosen):
                try:
                    valid = store.valid_if_known(i)
                except (OSError, ValueError, KeyError, BadZipFile) as error:
                    path = store.root / store.clips[i].track
                    self.add(ERROR, "data", f"{path} cannot be read ({error}): prepare it again.")
                    break
                if valid is not None:
                    found[split][i] = valid
        return found

    @cached_property
    def eval_data(self) -> list[Clip]:
        """The test clips, as ``eval`` takes them: those with sound.

        Raises:
            UserError: the data set's manifest cannot be read.
        """
        root, split = Path(self.config.eval_data.root), self.config.eval.split
        rows = self.clips if self.config.eval_data is self.config.data else manifest.read(root)
        heard = [c for c in rows if c.split == split and not manifest.is_silent(c)]
        chosen = sorted(heard, key=lambda c: c.id)
        return chosen[: self.config.eval.limit]
