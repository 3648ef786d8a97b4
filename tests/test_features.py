"""What scoring sees of a video."""

import pytest
import torch

from metrics.extractors.base import Extractor
from tests.data.test_datamodule import stripes
from thbench.data.video import VideoWriter
from thbench.features import FeatureStore


class Light(Extractor):
    """Brightness of the first pixel's row, frame by frame."""

    name = "light"

    def forward(self, frames):
        return frames.float()[:, 0, 0]


def test_scoring_sees_fine_patterns_as_grey(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 64, 64) as writer:
        writer.write(stripes(6, 64))
    store = FeatureStore({}, 16)
    frames = store.features(store.open(tmp_path / "a.mp4"), ["frames"], 6)["frames"]
    assert frames.shape == (6, 3, 16, 16)
    frames = torch.cat(list(frames))
    assert frames.dtype == torch.uint8
    assert (frames[..., 1:-1].float() - 127.5).abs().max() < 30


@pytest.mark.parametrize(
    "change", [{"size": 32}, {"limit": 4}, {"length": 3}, {"version": 2}], ids=str
)
def test_features_are_kept_by_size_length_and_extractor(tmp_path, monkeypatch, change):
    made = []
    monkeypatch.setattr(
        Light, "forward", lambda self, x: made.append(x.shape) or x.float()[:, 0, 0]
    )
    with VideoWriter(tmp_path / "a.mp4", 64, 64) as writer:
        writer.write(stripes(6, 64))

    def light(size=16, limit=None, length=6, version=1):
        monkeypatch.setattr(Light, "version", version)
        store = FeatureStore({"light": Light()}, size, limit, tmp_path / "cache")
        video = store.open(tmp_path / "a.mp4")
        return store.features(video, ["light"], min(length, store.length(video)))["light"].shape

    assert light() == light() == (6, 16)
    assert len(made) == 1  # kept
    wanted = (change.get("length", change.get("limit", 6)), change.get("size", 16))
    assert light(**change) == wanted
    assert len(made) == 2
    assert light() == (6, 16)
