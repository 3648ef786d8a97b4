import numpy as np

from thbench.data.synthetic.perform import perform


def test_truth_names_everything_planted(tmp_path):
    played = perform(0, 3, 1, 50)
    np.savez(tmp_path / "t.npz", **played.truth())
    with np.load(tmp_path / "t.npz") as truth:
        assert truth["pose"].shape == (50, 3)
        for name in ("mouth", "width", "closure", "vowel", "loudness", "scale", "brow"):
            assert truth[name].shape == (50,)
        assert truth["blinks"].shape[1] == 2
        assert truth["beats"].ndim == 1
        assert str(truth["who/style"]) == played.who.style
        assert np.array_equal(truth["pose"][:, 0], played.state.yaw.numpy())


def test_clips_of_a_person_share_the_face_not_the_words():
    one, two, other = perform(0, 3, 0, 50), perform(0, 3, 1, 50), perform(0, 4, 0, 50)
    assert one.who == two.who != other.who
    assert not np.array_equal(one.speech.mouth, two.speech.mouth)
    assert not np.array_equal(one.motion.yaw, two.motion.yaw)


def test_blink_rate_is_passed_on():
    assert len(perform(0, 0, 0, 500, blink_rate=0.0).motion.blinks) == 0
    assert len(perform(0, 0, 0, 500, blink_rate=1.0).motion.blinks) > 10
