"""Data loading: the same global batch k on any number of devices, in any number of runs.

The training loader never ends and counts what was consumed; its state is the number of global
batches consumed, so a run that stops anywhere resumes with the batch after it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from thbench.config import DataConfig, DrawConfig, made_by
from thbench.core.errors import UserError
from thbench.core.types import Batch
from thbench.data import manifest
from thbench.data.dataset import PreparedDataset
from thbench.data.store import Store

ENDLESS = 2**40
"""Length of the training loader: never reached, and the same in every run. Lightning reads one
batch ahead of a loader without a length, which would then count as consumed."""


@dataclass(frozen=True)
class RankShard:
    """Which slots of a global batch one rank takes.

    A global batch is consumed in ``accumulate`` parts by each of ``world`` ranks.

    Raises:
        UserError: the batch cannot be divided evenly.
    """

    batch_size: int
    rank: int = 0
    world: int = 1
    accumulate: int = 1

    def __post_init__(self) -> None:
        parts = self.world * self.accumulate
        if self.batch_size < 1 or self.batch_size % parts:
            raise UserError(
                f"batch_size={self.batch_size} cannot be divided among {self.world} device(s) x"
                f" accumulate={self.accumulate}: make it a multiple of {parts}, or change"
                " trainer.devices or trainer.accumulate."
            )

    def slots(self, part: int) -> range:
        """The slots of this rank in part ``part`` (from 0) of a global batch."""
        size = self.batch_size // (self.world * self.accumulate)
        first = (part * self.world + self.rank) * size
        return range(first, first + size)


class RankDataset(Dataset[Batch]):
    """One rank's parts of the global batches, numbered consecutively."""

    def __init__(self, dataset: PreparedDataset, shard: RankShard) -> None:
        self.dataset = dataset
        self.shard = shard

    def __getitem__(self, number: int) -> Batch:
        batch, part = divmod(number, self.shard.accumulate)
        return self.dataset.batch(batch, self.shard.slots(part))


class BatchLoader:
    """Iterates over parts ``first`` to ``length`` in order, read ahead by worker processes.

    Args:
        parts: the rank's parts.
        length: number of parts.
        workers: processes; 0 reads in this one.
    """

    def __init__(self, parts: RankDataset, length: int, workers: int) -> None:
        self.parts = parts
        self.length = length
        self.workers = workers
        self.consumed = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        return self._read(0)

    def _read(self, first: int) -> Iterator[Batch]:
        loader: Any = DataLoader(
            self.parts,
            batch_size=None,
            sampler=range(first, self.length),
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
        )
        self.consumed = first
        try:
            for batch in loader:
                self.consumed += 1
                yield batch
        except UserError as error:  # a worker's error arrives with its traceback in the text
            line = str(error).strip().splitlines()[-1]
            raise UserError(line.removeprefix("thbench.core.errors.UserError: ")) from error


class TrainLoader(BatchLoader):
    """The endless loader of one rank, whose state is a number of global batches."""

    def __init__(self, parts: RankDataset, workers: int) -> None:
        super().__init__(parts, ENDLESS, workers)

    def __iter__(self) -> Iterator[Batch]:
        return self._read(self.consumed)

    def state_dict(self) -> dict[str, int]:
        """Whole global batches consumed; checkpoints are made between them."""
        return {"batches": self.consumed // self.parts.shard.accumulate}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.consumed = state["batches"] * self.parts.shard.accumulate


class ClipData(L.LightningDataModule):
    """The data of one stage.

    Args:
        data: the prepared data set.
        draw: how samples are drawn.
        batch_size: the global one.
        size: of the frames, in pixels.
        seed: of the run.
        accumulate: parts in which a rank consumes a global batch.
        workers: processes that read ahead.
        validate_batches: global batches of the ``val`` split in one validation; the same ones
            every time.
        needs_sound: silent clips are not drawn.
    """

    def __init__(
        self,
        data: DataConfig,
        draw: DrawConfig,
        batch_size: int,
        *,
        size: int,
        seed: int = 0,
        accumulate: int = 1,
        workers: int = 0,
        validate_batches: int = 0,
        needs_sound: bool = True,
    ) -> None:
        super().__init__()
        check_root(data.root)
        self.draw = draw
        self.batch_size = batch_size
        self.seed = seed
        self.accumulate = accumulate
        self.workers = workers
        self.validate_batches = validate_batches
        self.needs_sound = needs_sound
        self._prepared = False
        self.stores = {
            split: Store.of(data, split, size, video=draw.video) for split in ("train", "val")
        }

    @property
    def validates(self) -> bool:
        """Whether there is a validation split, and it is wanted."""
        return self.validate_batches > 0 and bool(self.stores["val"].clips)

    @property
    def audio_dim(self) -> int:
        """D, channels of the audio embedding."""
        return self.stores["train"].audio_dim

    def prepare_data(self) -> None:
        """Build the caches. Lightning calls this on one process per machine; the others wait."""
        if not self._prepared:
            for store in self.stores.values():
                store.prepare()
        self._prepared = True

    def dataset(self, split: str) -> PreparedDataset:
        """The samples of a split, as this stage draws them."""
        store = self.stores[split]
        return PreparedDataset(store, self.draw, self.batch_size, self.seed, self.needs_sound)

    def train_dataloader(self) -> TrainLoader:
        return TrainLoader(RankDataset(self.dataset("train"), self._shard()), self.workers)

    def val_dataloader(self) -> BatchLoader | list[Any]:
        if not self.validates:
            return []
        length = self.validate_batches * self.accumulate
        return BatchLoader(RankDataset(self.dataset("val"), self._shard()), length, self.workers)

    def _shard(self) -> RankShard:
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        return RankShard(self.batch_size, rank, world, self.accumulate)


def check_root(root: str) -> None:
    """Check that ``root`` is a prepared data set.

    Raises:
        UserError: it is none.
    """
    if not root or not (Path(root) / "manifest.jsonl").is_file():
        command = made_by(root)
        run = f"`{command}`" if command else "`thbench data prepare` or `thbench data synth`"
        raise UserError(
            f"There is no prepared data set at '{root}': run {run}, or point data.root at one."
        )


def read_digest(root: str) -> str:
    """The hash of all that training depends on in a prepared data set.

    Raises:
        UserError: ``root`` is no prepared data set.
    """
    check_root(root)
    changed = (Path(root) / "manifest.jsonl").stat()
    return _digest(root, changed.st_mtime_ns, changed.st_size)


@functools.lru_cache
def _digest(root: str, *_: int) -> str:
    return manifest.digest(Path(root))
