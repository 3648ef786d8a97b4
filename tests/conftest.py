"""Tests share two cores: one thread each, and no progress of libraries on the terminal."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from tests.tiny import bench, files  # noqa: F401

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Nothing in a test may reach a hub: what needs weights makes small ones."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
