"""What each draw of a training sample depends on, one by one."""

import pytest
import torch

from tests import toy_training as toy
from tests.data.test_datamodule import make

BATCHES = range(12)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Clips of one length, so that windows of any two can be compared."""
    return toy.make_root(tmp_path_factory.mktemp("data"), (30,) * 7, "tttttvv")


def plans_of(root, seed=0, split="train"):
    dataset = make(root, frames=[2, 5], seed=seed, options={"split": split})
    return dataset, [[dataset.plan(k, j) for j in range(4)] for k in BATCHES]


def test_the_seed_changes_lengths_clips_windows_and_portraits(root):
    (one, first), (other, second) = plans_of(root), plans_of(root, seed=1)
    assert [one.length(k) for k in BATCHES] != [other.length(k) for k in BATCHES]
    for what in ("clip", "start", "source"):
        mine, theirs = ([[getattr(d, what) for d in row] for row in x] for x in (first, second))
        assert mine != theirs, what
    # Windows would follow from lengths alone if their own draw did not know the seed.
    alike = [k for k in BATCHES if one.length(k) == other.length(k)]
    assert any(first[k][j].start != second[k][j].start for k in alike for j in range(4))


def test_samples_of_a_batch_and_the_same_slot_of_two_batches_differ(root):
    _, plans = plans_of(root)
    for a, b in ((0, 1), (1, 3)):
        assert [row[a].start for row in plans] != [row[b].start for row in plans]
        assert [row[a].source for row in plans] != [row[b].source for row in plans]
    for j in range(4):
        assert len({row[j].start for row in plans}) > 4
        assert len({row[j].source for row in plans}) > 4


def test_each_sample_has_colours_of_its_own(root):
    plain, coloured = (make(root, jitter=[s, 0, 0, 0]).batch(2, range(4)) for s in (0.0, 0.5))
    ratio = coloured.video.float().mean((1, 2, 3, 4)) / plain.video.float().mean((1, 2, 3, 4))
    assert ratio.diff().abs().min() > 0.005
    other = make(root, jitter=[0.5, 0, 0, 0], seed=1).batch(2, range(4))
    again = make(root, jitter=[0.5, 0, 0, 0]).batch(2, range(4))
    assert (again.video == coloured.video).all()
    assert (other.video.float() - coloured.video.float()).abs().max() > 3


def test_each_split_has_its_own_frames_and_measurements(root):
    for split, people in (("train", range(5)), ("val", (5, 6))):
        shown = make(root, options={"split": split}).batch(0, range(4))
        for id, pose, picture in zip(shown.ids, shown.source_pose, shown.source, strict=True):
            person, frame = divmod(int(pose[0]), 100)
            assert id == f"person{person}/clip"
            assert person in people
            assert abs(picture.float().mean() - toy.grey(person, torch.tensor(frame))) <= 3


def test_the_opening_is_the_same_portrait_for_all_windows_of_a_clip(root):
    dataset = make(root, frames=4, source="opening")
    plans = [dataset.plan(k, j) for k in BATCHES for j in range(4)]
    assert {plan.source for plan in plans} == {0}
    assert len({plan.start for plan in plans}) > 4
