"""What scoring sees of a video."""

import torch

from tests.data.test_datamodule import stripes
from thbench.data.video import VideoWriter
from thbench.features import FeatureStore


def test_scoring_sees_fine_patterns_as_grey(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 64, 64) as writer:
        writer.write(stripes(6, 64))
    store = FeatureStore({}, 16)
    frames = store.features(store.open(tmp_path / "a.mp4"), ["frames"], 6)["frames"]
    assert frames.shape == (6, 3, 16, 16)
    assert frames.dtype == torch.uint8
    assert (frames[..., 1:-1].float() - 127.5).abs().max() < 30
