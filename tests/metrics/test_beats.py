import math

import numpy as np
import pytest
import torch

from metrics.beats import BAS, audio_beats, beat_alignment, motion_beats


def clicks(n, period=12, first=6):
    """Noise bursts every ``period`` frames, and the frames they begin at."""
    rng = np.random.default_rng(0)
    wave = np.zeros(640 * n, np.float32)
    frames = list(range(first, n, period))
    for frame in frames:
        burst = rng.uniform(-1, 1, 800) * np.exp(-np.arange(800) / 150)
        piece = wave[640 * frame : 640 * frame + 800]
        piece += burst[: len(piece)]
    return wave, frames


def nodding(n, period=12, first=6):
    """Pose (n, 6) whose speed is least at ``first``, ``first + period``, ..."""
    steps = np.arange(n - 1)
    speed = 0.05 * (1.2 - np.cos(2 * np.pi * (steps - first) / period))
    pose = np.zeros((n, 6), np.float32)
    pose[1:, 1] = np.cumsum(speed)
    return torch.from_numpy(pose)


def clip(n=200, shift=0, wave=None):
    return {
        "pose": nodding(n, first=6 + shift),
        "valid": torch.ones(n, dtype=torch.bool),
        "waveform": torch.from_numpy(clicks(n)[0] if wave is None else wave),
    }


def slow_motion_beats(joints, sigma):
    n = len(joints) - 1
    speed = [
        sum(math.dist(joints[t + 1][j], joints[t][j]) for j in range(len(joints[0])))
        / len(joints[0])
        for t in range(n)
    ]
    reach = int(4 * sigma + 0.5)
    kernel = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-reach, reach + 1)]

    def reflected(i):
        i %= 2 * n
        return speed[i] if i < n else speed[2 * n - 1 - i]

    smooth = [
        sum(w * reflected(t + k) for w, k in zip(kernel, range(-reach, reach + 1), strict=True))
        / sum(kernel)
        for t in range(n)
    ]
    return [t for t in range(1, n - 1) if smooth[t] < smooth[t - 1] and smooth[t] < smooth[t + 1]]


def slow_alignment(beats, others, width=3):
    total = 0
    for a in beats:
        total += math.exp(-min((a - b) ** 2 for b in others) / (2 * width**2))
    return total / len(beats)


@pytest.mark.parametrize("joints", [1, 5])
def test_a_plain_transcription_agrees(joints):
    rng = np.random.default_rng(joints)
    track = rng.standard_normal((150, joints, 3)).cumsum(0)
    expected = slow_motion_beats(track.tolist(), 5.0)
    assert len(expected) > 3
    assert motion_beats(track).tolist() == expected
    heard = np.array([3, 17, 40, 41, 99])
    found = np.array(expected)
    assert beat_alignment(heard, found) == pytest.approx(slow_alignment(heard, expected))
    assert beat_alignment(found, heard, 2) == pytest.approx(slow_alignment(expected, heard, 2))


def test_beats_of_a_click_track_are_heard():
    wave, frames = clicks(200)
    heard = audio_beats(wave)
    assert len(heard) > 10
    assert all(min(abs(b - f) for f in frames) <= 1 for b in heard)
    assert len(audio_beats(np.zeros(64000))) == 0
    assert len(audio_beats(np.zeros(0))) == 0
    with pytest.raises(ValueError, match="equal hops"):
        audio_beats(wave, fps=30)


def test_moving_on_the_beat_scores_high_and_off_the_beat_low():
    on, off = (BAS(smooth=1).measure(clip(shift=k), None) for k in (0, 6))
    assert on > 0.9
    assert off < 0.3
    features = clip(shift=2)
    joints = features["pose"][:, None, :3].double().numpy()
    heard = audio_beats(features["waveform"].numpy())
    for mode, smooth in (("audio-beats", 5), ("motion-beats", 2)):
        moves = slow_motion_beats(joints.tolist(), smooth)
        audible = [b for b in heard if b < 199]
        pair = (audible, moves) if mode == "audio-beats" else (moves, audible)
        value = BAS(mode=mode, smooth=smooth).measure(features, None)
        assert value == pytest.approx(slow_alignment(*pair))


def test_landmarks_can_be_the_signal():
    features = clip()
    moving = features["pose"][:, 1] / 10
    features["landmarks"] = torch.zeros(200, 478, 3)
    features["landmarks"][..., 0] = moving[:, None]
    # Depth, in another unit, does not count.
    features["landmarks"][..., 2] = torch.rand(200, 478)
    metric = BAS(signal="landmarks", smooth=1)
    assert metric.needs == ("landmarks", "valid", "waveform")
    assert metric.measure(features, None) == pytest.approx(BAS(smooth=1).measure(features, None))


def test_clips_without_beats_have_no_value():
    still = dict(clip(), pose=torch.zeros(200, 6))
    silent = clip(wave=np.zeros(128000, np.float32))
    unseen = dict(clip(), valid=torch.zeros(200, dtype=torch.bool))
    metric = BAS()
    for features in (still, silent, unseen, clip(1), clip(3)):
        assert math.isnan(metric.measure(features, None))
        metric.update(features, clip())
    assert math.isnan(float(metric.compute()))
    metric.update(clip(shift=3), clip())
    assert float(metric.compute()) == BAS().measure(clip(shift=3), None)
    assert float(metric.compute_reference()) == pytest.approx(BAS().measure(clip(), None))


def test_names_and_options():
    assert BAS().name == "BAS (pose)"
    assert BAS("landmarks", "motion-beats").name == "BAS (landmarks, per motion beat)"
    with pytest.raises(ValueError, match="signal is pose"):
        BAS(signal="head")
