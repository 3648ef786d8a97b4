import numpy as np
import pytest

from thbench.data.synthetic.identity import generator
from thbench.data.synthetic.motion import blink, move


def test_same_generator_same_motion():
    beats = np.array([0.5, 1.2, 2.0], dtype=np.float32)
    one, two = (move(100, beats, generator(0, "m")) for _ in range(2))
    assert all(np.array_equal(getattr(one, name), getattr(two, name)) for name in vars(one))
    assert one.yaw.shape == (100,)
    assert one.yaw.dtype == np.float32


@pytest.mark.parametrize("rate", [0.25, 0.5, 1.0])
def test_blinks_come_at_the_planted_rate(rate):
    events, closure = blink(25 * 16_000, rate, generator(0, "b"))
    assert len(events) / 16_000 == pytest.approx(rate, rel=0.05)
    lengths = events[:, 1] - events[:, 0]
    assert set(lengths) == {4, 5, 6, 7}
    assert (events[1:, 0] - events[:-1, 1] >= 3).all()
    for first, end in events[:50]:
        assert closure[first:end].max() == 1
        assert (closure[first:end] > 0).all()
    assert (closure > 0).sum() == lengths.sum()


def test_short_clips_blink_as_often():
    counts = [len(blink(100, 0.5, generator(0, "s", k))[0]) for k in range(1500)]
    assert np.mean(counts) / 4 == pytest.approx(0.5, rel=0.12)


def test_no_blinks_at_rate_zero():
    events, closure = blink(500, 0.0, generator(0, "z"))
    assert events.shape == (0, 2)
    assert not closure.any()


def test_impossible_rate_is_refused():
    with pytest.raises(ValueError, match="blink rate"):
        blink(100, 3.0, generator(0, "r"))


def test_heads_nod_on_the_beat():
    """Averaged over many heads, the drift cancels and the dip after each beat remains."""
    beats = np.array([1.0, 2.0, 3.0], dtype=np.float32)
    pitch = np.mean([move(100, beats, generator(0, "n", k)).pitch for k in range(300)], axis=0)
    at, between = (beats * 25 + 1).astype(int), ((beats - 0.5) * 25).astype(int)
    assert (pitch[at] < pitch[between] - 0.08).all()


def test_turns_are_generous_and_bounded():
    heads = [move(100, np.array([1.0]), generator(0, "g", k)) for k in range(200)]
    for name, low, bound in (("yaw", 0.2, 0.63), ("pitch", 0.1, 0.46), ("roll", 0.1, 0.39)):
        values = np.stack([getattr(head, name) for head in heads])
        assert values.std() > low
        assert np.abs(values).max() < bound
