"""A checkpoint is whole or the old one stays; the runs around it are tested in test_training."""

import errno
import resource
import tracemalloc

import pytest
import torch

from thbench.training.checkpoints import AtomicCheckpointIO


def test_a_checkpoint_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "last.ckpt"
    for value in (1, 2):
        AtomicCheckpointIO().save_checkpoint({"value": torch.full((3,), value)}, path)
    assert AtomicCheckpointIO().load_checkpoint(path, weights_only=True)["value"].tolist() == [
        2,
        2,
        2,
    ]
    assert list(path.parent.iterdir()) == [path]


def test_a_disk_that_fills_in_mid_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            AtomicCheckpointIO().save_checkpoint({"value": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_is_not_held_in_memory_a_second_time(tmp_path):
    """Hallo's first stage has one of 20 GB."""
    weights = torch.zeros(5_000_000)
    tracemalloc.start()
    try:
        AtomicCheckpointIO().save_checkpoint({"value": weights}, tmp_path / "last.ckpt")
        assert tracemalloc.get_traced_memory()[1] < 0.1 * weights.nbytes
    finally:
        tracemalloc.stop()
