import itertools
import math
import statistics

import numpy as np
import pytest
import torch

from metrics import theval
from metrics.speech import energy_speech, long_runs, volume
from metrics.theval import (
    EyebrowDynamics,
    HeadMotionDynamics,
    LipDynamics,
    LipSync,
    SilentLipStability,
    eyebrow_dynamics,
    head_motion_dynamics,
    lip_dynamics,
    lip_sync,
)
from metrics.theval_score import PARTS, THEvalScore, nearness

T, SIZE = 40, 64


def clip(n=T, seed=0, motion=0.01):
    """A still face, trembling; it speaks with loud voice in the first half, and then is silent."""
    generator = torch.Generator().manual_seed(seed)
    face = torch.rand(478, 3, generator=torch.Generator().manual_seed(7))
    sound = torch.rand(n * 640, generator=generator) - 0.5
    sound[n * 320 - 640 :] /= 1000  # volume looks half a window ahead
    return {
        "landmarks": face + motion * torch.randn(n, 478, 3, generator=generator),
        "pose": motion * torch.randn(n, 6, generator=generator),
        "size": torch.tensor([SIZE, SIZE]),
        "valid": torch.ones(n, dtype=torch.bool),
        "waveform": sound,
        "silero-vad": (torch.arange(n) < n // 2).float()[:, None],
    }


def points(features, scale):
    """Of each frame with a face a list of points."""
    seen = features["valid"].tolist()
    frames = (features["landmarks"][..., :2].double() * scale).tolist()
    return [frame for frame, face in zip(frames, seen, strict=True) if face]


def plain_lip_dynamics(features):
    shapes = [
        [math.dist(frame[i], frame[j]) for i, j in itertools.combinations(theval.LIPS, 2)]
        for frame in points(features, 256)
    ]
    return statistics.fmean(statistics.pstdev(pair) for pair in zip(*shapes, strict=True))


def plain_head_motion(features):
    seen = features["valid"].tolist()
    rows = [row for row, face in zip(features["pose"].tolist(), seen, strict=True) if face]
    angles = [[math.degrees(row[k]) for row in rows] for k in range(3)]
    jumps = [[b - a for a, b in itertools.pairwise(angle)] for angle in angles]
    places = [
        [(min(p[axis] for p in frame) + max(p[axis] for p in frame)) / 2 for frame in frames]
        for frames in [points(features, SIZE)]
        for axis in (0, 1)
    ]
    spread, shaking, travel = (
        statistics.fmean(map(measure, series))
        for measure, series in (
            (statistics.pstdev, angles),
            (statistics.pvariance, jumps),
            (statistics.pvariance, places),
        )
    )
    return math.sqrt(spread * shaking + travel)


def plain_eyebrows(features):
    heights = []
    for frame in points(features, SIZE):
        centres = [
            [statistics.fmean(frame[i][axis] for i in part) for axis in (0, 1)]
            for part in (*theval.BROWS, *theval.EYES)
        ]
        apart = math.dist(centres[2], centres[3])
        heights.append([math.dist(centres[k], centres[k + 2]) / apart for k in (0, 1)])
    return statistics.fmean(
        abs(b[side] - a[side]) for a, b in itertools.pairwise(heights) for side in (0, 1)
    )


def plain_stability(features):
    first = T // 2
    kept = {**features, "landmarks": features["landmarks"][first:]}
    kept["valid"] = features["valid"][first:]
    gaps = []
    for frame in points(kept, SIZE):
        eyes = math.dist(frame[33], frame[263])
        pairs = zip(theval.UPPER_LIP, theval.LOWER_LIP, strict=True)
        gaps.append(statistics.fmean(abs(frame[u][1] - frame[lo][1]) / eyes for u, lo in pairs))
    mean = statistics.fmean(gaps)
    return statistics.median(abs(gap - mean) for gap in gaps)


def plain_sync(features):
    sound = [0.0] * 400 + features["waveform"].tolist() + [0.0] * 400
    windows = [sound[k : k + 800] for k in range(0, len(sound) - 799, 800)]
    levels = [math.sqrt(statistics.fmean(x * x for x in window)) for window in windows]
    times = [k * 800 / 16000 for k in range(len(levels))]
    loud = np.interp(np.arange(T) / 25, times, levels)[: T // 2]
    loud = loud[features["valid"].numpy()[: T // 2]]
    kept = {**features, "landmarks": features["landmarks"][: T // 2]}
    kept["valid"] = features["valid"][: T // 2]
    mouth = []
    for frame in points(kept, SIZE):
        upper, lower = (
            statistics.fmean(frame[i][1] for i in lip)
            for lip in (theval.UPPER_LIP, theval.LOWER_LIP)
        )
        eyes = [(frame[a][0] + frame[b][0]) / 2 for a, b in ((33, 133), (362, 263))]
        mouth.append(abs(upper - lower) / abs(eyes[1] - eyes[0]))
    mouth, loud = ((x - x.min()) / (x.max() - x.min()) for x in (np.array(mouth), loud))
    return float(np.abs(mouth - loud).mean())


PLAIN = [
    (LipDynamics(), plain_lip_dynamics),
    (HeadMotionDynamics(), plain_head_motion),
    (EyebrowDynamics(), plain_eyebrows),
    (SilentLipStability(), plain_stability),
    (SilentLipStability("energy"), plain_stability),
    (LipSync(), plain_sync),
    (LipSync("energy"), plain_sync),
]


@pytest.mark.parametrize(("metric", "plain"), PLAIN, ids=lambda x: getattr(x, "name", ""))
def test_a_plain_transcription_agrees(metric, plain):
    features = clip()
    features["valid"][[3, 30]] = False
    assert metric.measure(features, None) == pytest.approx(plain(features), rel=1e-5)
    assert metric.measure_clip(clip(seed=1), features)[1] == metric.measure(features, None)


@pytest.mark.parametrize(("metric", "plain"), PLAIN, ids=lambda x: getattr(x, "name", ""))
def test_frames_without_a_face_do_not_count(metric, plain):
    features, broken = clip(), clip()
    for side in (features, broken):
        side["valid"][[3, 4, 30]] = False
    broken["landmarks"][[3, 4, 30]] = broken["pose"][[3, 4, 30], :1, None] = 9.0
    assert metric.measure(broken, None) == metric.measure(features, None)


def test_hand_computed_values():
    still = torch.rand(478, 2)
    # All distances grow by half: their deviation is a quarter of the first's.
    both = torch.stack([still, 1.5 * still])
    first = 256 * torch.pdist(still[list(theval.LIPS)]).mean()
    assert lip_dynamics(both) == pytest.approx(float(first) / 4, rel=1e-5)
    # One angle 0, 3, 0: deviation sqrt 2, differences 3 and -3. One coordinate 0, 0, 3: variance 2.
    angles, centres = torch.zeros(3, 3), torch.zeros(3, 2)
    angles[1, 1], centres[2, 0] = 3.0, 3.0
    expected = math.sqrt(math.sqrt(2) / 3 * 9 / 3 + 2 / 2)
    assert head_motion_dynamics(angles, centres) == pytest.approx(expected, rel=1e-6)
    # Eyes 2 apart; one brow goes from 1 above its eye to 2 above: half a span, on one side.
    face = torch.zeros(2, 478, 2)
    face[:, list(theval.EYES[1]), 0] = face[:, list(theval.BROWS[1]), 0] = 2.0
    face[:, list(theval.BROWS[0]), 1] = torch.tensor([-1.0, -2.0])[:, None]
    assert eyebrow_dynamics(face) == pytest.approx(0.25, rel=1e-6)
    # Stretched, the mouth is 0, .5, 1 and the sound 0, 1, 1.
    assert lip_sync(np.array([2.0, 3, 4]), np.array([0.0, 5, 5])) == pytest.approx(1 / 6, rel=1e-6)


def test_the_deviation_in_pauses_is_from_the_mean():
    assert theval.silent_lip_stability(np.array([0.0, 0, 0, 4])) == 1
    assert theval.silent_lip_stability(np.array([0.0, 4])) == 2
    assert math.isnan(theval.silent_lip_stability(np.array([1.0])))


def test_what_is_too_little_has_no_value():
    for metric, _ in PLAIN:
        assert math.isnan(metric.measure(clip(1), None))
        features = clip()
        features["valid"][:] = False
        assert math.isnan(metric.measure(features, None))
    talking, silent = clip(), clip()
    talking["silero-vad"][:] = 1.0
    silent["silero-vad"][:] = 0.0
    silent["silero-vad"][:3] = 1.0
    assert math.isnan(SilentLipStability().measure(talking, None))
    assert not math.isnan(SilentLipStability().measure(silent, None))
    assert math.isnan(LipSync().measure(silent, None))
    silent["silero-vad"][:4] = 1.0
    assert not math.isnan(LipSync().measure(silent, None))


def test_pauses_are_as_long_as_they_should_be():
    flags = np.array([1, 1, 0, 1, 1, 1, 0, 1], bool)
    assert long_runs(flags, 2).astype(int).tolist() == [1, 1, 0, 1, 1, 1, 0, 0]
    assert long_runs(flags, 2.5).astype(int).tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
    features = clip()
    features["silero-vad"][:] = 1.0
    for length, defined in ((7, False), (8, True)):
        features["silero-vad"][10 : 10 + length] = 0.0
        assert math.isnan(SilentLipStability().measure(features, None)) != defined


def test_frames_beyond_the_sound_are_no_pause():
    features = clip()
    features["silero-vad"][:] = 1.0
    features["silero-vad"][30:] = 0.0
    features["waveform"] = features["waveform"][: 30 * 640]
    assert math.isnan(SilentLipStability().measure(features, None))
    features["waveform"] = torch.zeros(0)
    for speech in ("silero-vad", "energy"):
        assert math.isnan(SilentLipStability(speech).measure(features, None))
        assert math.isnan(LipSync(speech).measure(features, None))


def test_energy_tells_loud_from_quiet():
    sound = np.ones(16000) * 0.5
    sound[8000:] = 0.5 * 10 ** (-31 / 20)
    found = energy_speech(sound, 25)
    assert found.astype(int).tolist() == [1] * 14 + [0] * 11
    sound[8000:] = 0.5 * 10 ** (-29 / 20)
    assert energy_speech(sound, 25).all()
    assert not energy_speech(np.zeros(16000), 25).any()
    assert volume(sound, 3) == pytest.approx([0.5 / math.sqrt(2), 0.5, 0.5], abs=0.12)


def test_the_score_is_how_near_the_means_are():
    made, filmed = [clip(seed=i, motion=0.02) for i in range(3)], [clip(seed=i) for i in (5, 6, 7)]
    made[0]["silero-vad"][:] = 1.0  # no pause: left out of one mean alone
    metric = THEvalScore()
    for pair in zip(made, filmed, strict=True):
        metric.update(*pair)
    expected = []
    for part in (
        LipDynamics(), HeadMotionDynamics(), EyebrowDynamics(), SilentLipStability(), LipSync()
    ):  # fmt: skip
        for pair in zip(made, filmed, strict=True):
            part.update(*pair)
        value, truth = float(part.compute()), float(part.compute_reference())
        expected.append(1 - abs(value - truth) / truth)
    assert metric.scores() == pytest.approx(expected, rel=1e-12)
    assert float(metric.compute()) == pytest.approx(sum(expected) / 5, rel=1e-12)
    assert len(set(metric.scores())) == 5
    assert "lip-dynamics" in metric.notes()[0]


def test_the_published_example_row_is_perfect_against_itself():
    truth = [1.716603, 18.46757, 0.006777, 0.0263, 0.2528]
    assert nearness(truth, truth) == [1.0] * 5
    assert nearness([0.0, 3.0, -2.0], [2.0, 2.0, -1.0]) == [0.0, 0.5, 0.0]
    assert all(map(math.isnan, nearness([1.0, math.nan], [0.0, 1.0])))


def test_there_is_no_score_where_a_metric_has_no_value():
    metric = THEvalScore()
    made = clip()
    made["silero-vad"][:] = 1.0
    metric.update(made, clip(seed=1))
    assert math.isnan(float(metric.compute()))
    fewer = THEvalScore([part for part in PARTS if part != "silent-lip-stability"])
    fewer.update(made, clip(seed=1))
    assert not math.isnan(float(fewer.compute()))


def test_the_score_says_how_many_of_the_eight_entered():
    assert THEvalScore().name == "THEval score (5 of 8)"
    few = THEvalScore(["lip-sync", "lip-dynamics"], speech="energy")
    assert few.name == (
        "THEval score (2 of 8, without head-motion-dynamics, without eyebrow-dynamics,"
        " without silent-lip-stability, energy)"
    )
    assert (few.own_motion, THEvalScore().own_motion) == ("", "pose")
    assert "silero-vad" not in few.needs
    assert "pose" not in few.needs
    for wrong in ([], ["lip-dynamics"] * 2, ["mouth-quality"]):
        with pytest.raises(ValueError, match="parts are some of"):
            THEvalScore(wrong)
    with pytest.raises(ValueError, match="speech is silero-vad or energy"):
        LipSync("webrtc")
