"""A checkpoint is whole or the old one stays; the runs around it are tested in test_training."""

import errno
from pathlib import Path

import pytest
import torch

from thbench.checkpoints import WholeFiles


def test_a_checkpoint_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "last.ckpt"
    for value in (1, 2):
        WholeFiles().save_checkpoint({"value": torch.full((3,), value)}, path)
    assert WholeFiles().load_checkpoint(path, weights_only=True)["value"].tolist() == [2, 2, 2]
    assert list(path.parent.iterdir()) == [path]


def test_a_disk_that_fills_in_mid_file_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"old")

    def half(self, data):
        with open(self, "wb") as file:
            file.write(bytes(data)[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        WholeFiles().save_checkpoint({"value": torch.zeros(1000)}, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
