import math

import cv2
import numpy as np
import pytest
import torch

from metrics.sharpness import CPBD, cpbd, edge_widths, sobel_edges


def picture(height=140, width=200, seed=0):
    """Smooth shapes with a few hard steps, so that edges of many widths are there."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (height // 10, width // 10), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(int)
    image[:, width // 3 :] += 40
    image[40:90, 100:150] = draw.integers(0, 256, (50, 50)) // 2
    return image.clip(0, 255).astype(np.uint8)


def slow_edges(image):
    height, width = image.shape
    kernel = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
    strength = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            total = 0.0
            for i in range(3):
                for j in range(3):
                    yy = min(max(y + i - 1, 0), height - 1)
                    xx = min(max(x + j - 1, 0), width - 1)
                    total += kernel[i][j] * image[yy, xx]
            strength[y, x] = total**2
    limit = 4 * strength.mean()
    edges = np.zeros((height, width), bool)
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            left, here, right = strength[y, x - 1 : x + 2]
            edges[y, x] = here > limit and left <= here and here > right
    return edges


def slow_side(row, x, way, sign):
    """Pixels from an edge to the extremum on one side, where the row falls off ``sign``."""
    steps = 0
    while steps < 100:
        inner, outer = x + way * (1 + steps), x + way * (2 + steps)
        if not 0 <= outer < len(row) or sign * way * (row[outer] - row[inner]) <= 0:
            break
        steps += 1
    return steps + 1


def slow_width(image, y, x):
    row = image[y]
    across = (row[x + 1] - row[x - 1]) / 2
    down = (image[y + 1, x] - image[y - 1, x]) / 2
    angle = round(math.degrees(math.atan2(down, across)) / 45) * 45
    if angle not in (0, 180, -180):
        return 0
    sign = 1 if angle == 0 else -1
    return slow_side(row, x, -1, sign) + slow_side(row, x, 1, sign)


def slow_cpbd(luma):
    image = luma.astype(float)
    edges = slow_edges(image)
    sharp = total = 0
    for top in range(0, image.shape[0] - 63, 64):
        for left in range(0, image.shape[1] - 63, 64):
            block = np.s_[top : top + 64, left : left + 64]
            if edges[block].sum() <= 0.002 * 64 * 64:
                continue
            contrast = image[block].max() - image[block].min()
            noticeable = 5 if contrast <= 50 else 3
            for y, x in zip(*np.nonzero(edges[block]), strict=True):
                width = slow_width(image, top + y, left + x)
                if width:
                    blurred = 1 - math.exp(-((width / noticeable) ** 3.6))
                    sharp += round(100 * blurred) <= 63
                    total += 1
    return sharp / total if total else 0.0


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_slow_transcription(seed):
    luma = picture(seed=seed)
    for image in (luma, cv2.GaussianBlur(luma, (0, 0), 1.2), (luma // 6 + 100).astype(np.uint8)):
        expected = slow_cpbd(image)
        assert cpbd(image) == pytest.approx(expected, abs=1e-12)
    assert 0.02 < slow_cpbd(luma) < 0.98


def test_edges_and_widths_equal_the_slow_ones():
    image = picture(seed=5).astype(float)
    edges = slow_edges(image)
    assert edges.sum() > 200
    np.testing.assert_array_equal(sobel_edges(image), edges)
    expected = np.zeros_like(image)
    for y, x in zip(*np.nonzero(edges), strict=True):
        expected[y, x] = slow_width(image, y, x)
    np.testing.assert_array_equal(edge_widths(image, edges), expected)
    assert len(np.unique(expected)) > 8


def test_a_ramp_is_as_wide_as_it_is_long_but_no_side_over_101():
    image = np.tile(np.clip(np.arange(300.0) - 20, 0, 255), (5, 1))
    edges = np.zeros(image.shape, bool)
    edges[2, 150] = True
    assert edge_widths(image, edges)[2, 150] == 202
    narrow = np.tile(np.clip((np.arange(80.0) - 40) * 20, 0, 100), (5, 1))
    edges = np.zeros(narrow.shape, bool)
    edges[2, 42] = True
    # The ramp runs from pixel 40 to pixel 45.
    assert edge_widths(narrow, edges)[2, 42] == 5


def test_falls_with_blur():
    luma = picture(256, 256, seed=2)
    noise = np.random.default_rng(0).normal(0, 30, luma.shape)
    luma = (luma + noise).clip(0, 255).astype(np.uint8)
    series = [cpbd(luma)]
    series += [cpbd(cv2.GaussianBlur(luma, (0, 0), s)) for s in (1.0, 2.0, 4.0)]
    assert series == sorted(series, reverse=True)
    assert series[0] > series[-1] + 0.3


def test_flat_small_and_missing_pictures():
    assert cpbd(np.full((64, 64), 9, np.uint8)) == 0
    assert math.isnan(cpbd(picture()[:63]))
    for frames in (torch.zeros(0, 3, 64, 64), torch.zeros(2, 3, 60, 64)):
        assert math.isnan(CPBD().measure({"frames": frames.to(torch.uint8)}, None))


def test_a_clip_has_the_mean_of_its_frames():
    images = [picture(seed=s) for s in range(2)]
    frames = torch.stack([torch.from_numpy(i).expand(3, -1, -1) for i in images])
    value = CPBD().measure({"frames": frames}, None)
    assert value == pytest.approx(sum(map(cpbd, images)) / 2, abs=1e-12)
