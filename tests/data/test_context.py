"""Frames shown beside a window, for networks that make one frame and see others."""

import numpy as np
import pytest
import torch

from tests.toy_training import AUDIO_DIM, SIZE, make_root
from thbench.config import DataConfig, DrawConfig
from thbench.core.errors import UserError
from thbench.data.datamodule import ClipData


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_root(tmp_path_factory.mktemp("context"))


def dataset(root, cache_gb=1.0, **draw):
    data = ClipData(DataConfig("toy", str(root), "toy", cache_gb), DrawConfig(**draw), 4, size=SIZE)
    data.prepare_data()
    return data.dataset("train")


@pytest.mark.parametrize(("cache_gb", "batches"), [(0.0, 5), (1.0, 20)])
def test_context_stands_still_beyond_the_ends_of_the_clip(root, cache_gb, batches):
    made = dataset(root, cache_gb, frames=1, context=3)
    clips = {c.id: (i, c.n_frames) for i, c in enumerate(made.store.clips)}
    seen = set()
    for k in range(batches):
        batch = made.batch(k, range(4))
        assert batch.video.shape == (4, 7, 3, SIZE, SIZE)
        assert batch.audio.shape == (4, 7, AUDIO_DIM)
        for i, id in enumerate(batch.ids):
            clip, n = clips[id]
            middle = int(batch.frames[i, 3])
            expected = np.arange(middle - 3, middle + 4).clip(0, n - 1)
            assert batch.frames[i].tolist() == expected.tolist()
            assert torch.equal(batch.audio[i, :, 0], torch.from_numpy(expected).float())
            assert torch.equal(batch.video[i], made.store.frames(clip, expected))
            seen |= {"start"} if middle == 0 else {"end"} if middle == n - 1 else set()
    assert seen == {"start", "end"} or not cache_gb  # fewer draws there, each decoded


def test_context_changes_no_other_draw(root):
    plain, more = dataset(root, frames=2), dataset(root, frames=2, context=1)
    for k in range(5):
        one, other = plain.batch(k, range(4)), more.batch(k, range(4))
        assert one.ids == other.ids
        assert torch.equal(one.frames, other.frames[:, 1:-1])
        assert torch.equal(one.source, other.source)


def test_less_than_no_context_is_refused(root):
    with pytest.raises(UserError, match=r"draw\.context"):
        dataset(root, frames=1, context=-1)
