import math

import cv2
import numpy as np
import pytest
import torch

from metrics.flow import (
    OFM,
    PUBLISHED_SIZE,
    FrameMSE,
    frame_mse,
    magnitude,
    optical_flow_magnitude,
)


def video(n=5, size=48, step=2, seed=0):
    """A textured picture that moves ``step`` pixels to the right per frame, (n, H, W, 3)."""
    noise = np.random.default_rng(seed).integers(0, 256, (size, size + n * 4, 3), dtype=np.uint8)
    wide = cv2.GaussianBlur(noise, (0, 0), 2)
    return np.stack([wide[:, 4 * n - i * step :][:, :size] for i in range(n)])


def features(frames, size=PUBLISHED_SIZE):
    small = [cv2.resize(f, (size, size)) for f in frames] or np.zeros((0, size, size, 3), np.uint8)
    names = {"frames": frames, f"frames@{size}": np.stack(small) if len(frames) else small}
    return {k: torch.from_numpy(v).permute(0, 3, 1, 2) for k, v in names.items()}


def slow_ofm(frames, published):
    """The two definitions, pixel by pixel after OpenCV's flow."""
    # OpenCV's jet, as a table of its 256 colours.
    jet = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_JET)[:, 0]
    totals = []
    for k in range(1, len(frames)):
        grey = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in (frames[k - 1], frames[k])]
        flow = cv2.calcOpticalFlowFarneback(*grey, None, 0.5, 7, 5, 15, 5, 1.2, 0)
        lengths = [math.sqrt(float(u) ** 2 + float(v) ** 2) for u, v in flow.reshape(-1, 2)]
        if published:
            low, high = min(lengths), max(lengths)
            scale = 255 / (high - low) if high > low else 0
            lengths = [jet[int((x - low) * scale)].mean() for x in lengths]
        totals.append(sum(lengths) / len(lengths))
    return sum(totals) / len(totals)


def slow_mse(frames, published):
    totals = []
    for k in range(1, len(frames)):
        total = 0
        for a, b in zip(frames[k - 1].ravel().tolist(), frames[k].ravel().tolist(), strict=True):
            total += ((b - a) % 256) ** 2 % 256 if published else (b - a) ** 2
        totals.append(total / frames[k].size)
    return sum(totals) / len(totals)


@pytest.mark.parametrize("seed", range(2))
def test_formula_equals_the_slow_transcription(seed):
    frames = video(seed=seed)
    assert optical_flow_magnitude(frames) == pytest.approx(slow_ofm(frames, False), rel=1e-5)
    assert frame_mse(frames) == pytest.approx(slow_mse(frames, False), rel=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_as_published_equals_the_slow_transcription(seed):
    frames = video(seed=seed)
    expected = slow_ofm(frames, True)
    # A value on the border between two colours may fall to either side.
    assert optical_flow_magnitude(frames, "as-published") == pytest.approx(expected, rel=1e-3)
    assert frame_mse(frames, "as-published") == pytest.approx(slow_mse(frames, True), rel=1e-12)


def test_the_golden_value_of_a_still_video():
    still = np.full((4, 64, 64, 3), 90, np.uint8)
    assert OFM("as-published").measure(features(still), None) == pytest.approx(42.67, abs=0.005)
    for metric in (OFM(), FrameMSE(), FrameMSE("as-published")):
        assert metric.measure(features(still), None) == 0


def test_a_still_picture_scores_a_little_over_no_motion():
    """OpenCV finds some flow between equal frames; measured away from the border, none."""
    still = features(np.repeat(video(1, size=128), 2, axis=0))
    none = 128 / 3  # the mean of the colour of no motion
    assert none < OFM("as-published").measure(still, None) < none + 4
    assert 0 < OFM().measure(still, None) < 0.01


def test_flow_measures_pixels_per_frame():
    # Away from the border, where nothing comes in.
    inner = magnitude(*video(2, size=96, step=3))[24:-24, 24:-24]
    assert np.median(inner) == pytest.approx(3, abs=0.2)
    figures = [OFM().measure(features(video(step=s, size=96)), None) for s in (0, 1, 2, 3)]
    assert figures == sorted(figures)


def test_squares_wrap_around_as_published():
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    frames[1] = 16
    assert frame_mse(frames) == 256
    assert frame_mse(frames, "as-published") == 0
    # 255 - 0 is -1 in 8 bits.
    assert frame_mse(frames[::-1], "as-published") == 0
    frames[1] = 255
    assert frame_mse(frames) == 255**2
    assert frame_mse(frames, "as-published") == 1


@pytest.mark.parametrize("cls", [OFM, FrameMSE])
def test_options_stand_in_the_name_and_one_frame_is_no_figure(cls):
    for metric in (cls(), cls("as-published")):
        for n in (0, 1):
            assert math.isnan(metric.measure(features(video(2)[:n]), None))
    assert cls().name == f"{cls.title} (formula)"
    assert cls("as-published").name == f"{cls.title} (as-published, 128 px)"
    assert cls("formula", size=64).name == f"{cls.title} (formula, 64 px)"
    with pytest.raises(ValueError, match="mode is one of"):
        cls("other")
    with pytest.raises(ValueError, match="pixels"):
        cls(size=-1)


@pytest.mark.parametrize("cls", [OFM, FrameMSE])
def test_a_size_of_its_own_is_read_from_frames_of_that_size(cls):
    assert cls().needs == ("frames",)
    assert cls("as-published").needs == ("frames@128",)
    assert cls("formula", size=64).needs == ("frames@64",)
    frames = video(3, size=96)
    small = np.stack([cv2.resize(f, (64, 64)) for f in frames])
    own = cls("formula", size=64).measure(features(frames, 64), None)
    assert own == cls().measure(features(small), None)
    assert own != cls().measure(features(frames), None)


def test_the_reference_has_a_figure_of_its_own():
    metric = OFM()
    metric.update(features(video(step=1)), features(video(step=3)))
    own = optical_flow_magnitude(video(step=3))
    assert float(metric.compute_reference()) == pytest.approx(own, rel=1e-9)
    assert float(metric.compute()) < own
