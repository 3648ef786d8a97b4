from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tiny import HDTF
from thbench.data.face import landmarks, pose
from thbench.data.media import video
from thbench.data.synthetic.perform import perform
from thbench.data.synthetic.render import render


@pytest.fixture(scope="module", params=["rendered", pytest.param("real", marks=pytest.mark.real)])
def frames(request: pytest.FixtureRequest) -> torch.Tensor:
    """24 frames (3, 256, 256) of a talking face."""
    if request.param == "rendered":
        played = perform(0, 1, 0, 24)
        return render(played.who, played.state, 256)
    clips = request.getfixturevalue("clips")
    return video.read(clips / HDTF, slice(0, 24))[:, :, ::2, ::2].contiguous()


def test_no_face_at_all() -> None:
    found = landmarks.track(torch.zeros(4, 3, 64, 64, dtype=torch.uint8))
    assert not found.valid.any()
    assert found.landmarks.shape == (4, 478, 3)
    assert len(found) == 4
    assert len(landmarks.track(torch.zeros(0, 3, 64, 64, dtype=torch.uint8))) == 0


def test_gaps_are_filled_linearly() -> None:
    a, b = np.zeros((478, 3), np.float32), np.full((478, 3), 3, np.float32)
    filled = landmarks.interpolate([None, a, None, None, b, None])
    np.testing.assert_allclose(filled[:, 0, 0], [0, 0, 1, 2, 3, 3])
    assert filled.dtype == np.float32


def test_a_face_is_followed_and_losses_are_flagged(frames: torch.Tensor) -> None:
    broken = frames.clone()
    broken[8:12] = 0
    found = landmarks.track([broken[:10], broken[10:]])
    assert found.valid.tolist() == [True] * 8 + [False] * 4 + [True] * 12
    assert np.isfinite(found.pose).all()
    low, high = found.landmarks[[7, 12]]
    assert np.abs(found.landmarks[9] - (low * 0.6 + high * 0.4)).max() < 1e-5


def test_result_does_not_depend_on_the_clip_before(frames: torch.Tensor) -> None:
    first = landmarks.track(frames)
    landmarks.track(frames.flip(-1))
    np.testing.assert_array_equal(first.landmarks, landmarks.track(frames).landmarks)


def test_mirroring_mirrors_the_pose_and_swaps_the_eyes(frames: torch.Tensor) -> None:
    ours, mirrored = landmarks.track(frames), landmarks.track(frames.flip(-1).contiguous())
    expected = ours.pose * (-1, 1, -1, 1, -1, 1)
    assert np.abs(mirrored.pose - expected)[:, :3].max() < np.deg2rad(8)
    assert np.abs(mirrored.pose - expected)[:, 3:].max() < 0.03
    # the six points lie as the formula wants them: lids between corners, upper above lower
    for eye in (pose.RIGHT_EYE, pose.LEFT_EYE):
        p = ours.landmarks[0, list(eye)]
        assert p[0, 0] < p[1, 0] < p[2, 0] < p[3, 0]
        assert (p[[1, 2], 1] < p[[5, 4], 1]).all()
    assert ((ours.eyes > 0.1) & (ours.eyes < 0.6)).mean() > 0.9


def test_nothing_is_printed(frames: torch.Tensor, capfd: pytest.CaptureFixture[str]) -> None:
    landmarks.track(frames)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
