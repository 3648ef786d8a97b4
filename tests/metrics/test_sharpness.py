import math

import cv2
import numpy as np
import pytest
import torch

from metrics.sharpness import CPBD, canny_edges, cpbd, edge_widths, sobel_edges
from tests import lossless
from thbench.evaluation import protocol
from thbench.evaluation.score import score

# What slow_cpbd gives for picture(seed, divisor).
FIGURES = {
    (0, 1): 0.6228739002932552,
    (0, 5): 0.710515793682527,
    (1, 1): 0.6386730424387328,
    (1, 3): 0.6644645340751043,
    (2, 1): 0.6481143552311436,
    (3, 3): 0.6875226039783002,
}


def picture(seed=0, divisor=1):
    """200 x 200 of integer arithmetic alone: patches, blurred from the second column of blocks on.

    The third is faint, and flat from its second block on but for one small spot.
    """
    draw = np.random.default_rng(seed)
    image = np.kron(draw.integers(0, 256, (20, 25)), np.ones((10, 8), int))
    for width, left in ((3, 64), (4, 96), (7, 128)):
        part = np.pad(image[:, left:], ((0, 0), (width // 2, width - width // 2 - 1)), mode="edge")
        image[:, left:] = np.lib.stride_tricks.sliding_window_view(part, width, 1).sum(2) // width
    image[40:90, 20:110] += draw.integers(-20, 21, (50, 90))
    image[:, 128:] = 100 + image[:, 128:] // 8
    image[64:, 128:] = 100
    image[150:158, 160:] += 25
    return (image.clip(0, 255) // divisor).astype(np.uint8)


# The authors' rule, one pixel at a time. Edges: MATLAB's edge().


def at(image, y, x):
    """The picture goes on as its outermost pixels do."""
    height, width = image.shape
    return float(image[min(max(y, 0), height - 1), min(max(x, 0), width - 1)])


def slow_sobel(image):
    """edge(image, 'sobel', 2, 'vertical'): b = gx^2 over 4, and two ways to be a maximum."""
    height, width = image.shape
    gx, gy = np.zeros((height, width)), np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            for i, weight in ((-1, 1), (0, 2), (1, 1)):
                gx[y, x] += weight * (at(image, y + i, x + 1) - at(image, y + i, x - 1)) / 8
                gy[y, x] += weight * (at(image, y + 1, x + i) - at(image, y - 1, x + i)) / 8
    b = np.pad(gx**2, 1)
    edges = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            here = b[y + 1, x + 1]
            row = b[y + 1, x] <= here and here > b[y + 1, x + 2]
            column = b[y, x + 1] <= here and here > b[y + 2, x + 1]
            sideways = abs(gx[y, x]) >= abs(gy[y, x])
            edges[y, x] = here > 4 and ((sideways and row) or column)
    return edges


def slow_canny(image):
    """edge(image, 'canny') with a filter of 8 ceil(sqrt 2) taps."""
    height, width = image.shape
    places = [k - 7.5 for k in range(16)]
    bell = [math.exp(-(p**2) / 4) for p in places]
    bell = [v / sum(bell) for v in bell]
    slope = [bell[1] - bell[0]]
    slope += [(bell[k + 1] - bell[k - 1]) / 2 for k in range(1, 15)]
    slope += [bell[15] - bell[14]]
    rise, fall = sum(v for v in slope if v > 0), -sum(v for v in slope if v < 0)
    slope = [v / rise if v > 0 else v / fall for v in slope]

    def convolved(picture, kernel):
        """Down the columns; the kernel's place k meets the pixel 8 - k below."""
        wide = np.pad(picture.astype(float), ((7, 8), (0, 0)), mode="edge")
        made = [
            sum(v * wide[y + 15 - k] for k, v in enumerate(kernel)) for y in range(len(picture))
        ]
        return np.stack(made)

    gx = convolved(convolved(image, bell).T, slope).T
    gy = convolved(convolved(image.T, bell).T, slope)
    size = np.sqrt(gx**2 + gy**2)
    size = size / size.max()
    bins = [0] * 64
    for value in size.flat:
        bins[math.floor(63 * value + 0.5)] += 1
    high = next(k for k in range(1, 65) if sum(bins[:k]) > 0.7 * height * width) / 64
    weak, stack = set(), []
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            if size[y, x] > 0.4 * high and slow_maximum(size, gx[y, x], gy[y, x], y, x):
                weak.add((y, x))
                if size[y, x] > high:
                    stack.append((y, x))
    edges = np.zeros((height, width), bool)
    while stack:
        y, x = stack.pop()
        edges[y, x] = True
        for i in (-1, 0, 1):
            for j in (-1, 0, 1):
                if (y + i, x + j) in weak and not edges[y + i, x + j]:
                    stack.append((y + i, x + j))
    return edges


def slow_maximum(size, gx, gy, y, x):
    """No less than at the two points where the gradient's line leaves the ring of neighbours."""
    far = max(abs(gx), abs(gy))
    for way in (1, -1):
        # Bilinear between pixels; one of the two coordinates is whole.
        v, u = y + way * gy / far, x + way * gx / far
        top, left = math.floor(v), math.floor(u)
        total = 0.0
        for i, wi in ((top, 1 - (v - top)), (top + 1, v - top)):
            for j, wj in ((left, 1 - (u - left)), (left + 1, u - left)):
                if wi * wj > 0:
                    total += wi * wj * size[i, j]
        if size[y, x] < total - 1e-12:
            return False
    return True


def slow_direction(image, y, x):
    """Of the gradient, in eighths of a turn; straight down and up are taken for 0."""
    height, width = image.shape
    across = (at(image, y, x + 1) - at(image, y, x - 1)) / (1 + (0 < x < width - 1))
    down = (at(image, y + 1, x) - at(image, y - 1, x)) / (1 + (0 < y < height - 1))
    return 0.0 if across == 0 else math.degrees(math.atan2(down, across)) / 45


def slow_side(row, x, way, sign):
    """Pixels from an edge to the extremum on one side, where the row falls off ``sign``."""
    for margin in range(101):
        inner, outer = x + way * (1 + margin), x + way * (2 + margin)
        if not 0 <= outer < len(row) or sign * way * (row[outer] - row[inner]) <= 0:
            break
    return margin + 1


def slow_widths(image, edges):
    height, width = image.shape
    image = image.astype(float)
    widths = np.zeros((height, width))
    if not any(slow_direction(image, y, x) for y in range(height) for x in range(width)):
        return widths
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            turn = round(slow_direction(image, y, x))
            if edges[y, x] and turn in (0, 4, -4):
                sign = 1 if turn == 0 else -1
                sides = (slow_side(image[y], x, way, sign) for way in (-1, 1))
                widths[y, x] = sum(sides)
    return widths


def slow_cpbd(image):
    """With the authors' histogram of 101 bins."""
    widths, canny = slow_widths(image, slow_sobel(image)), slow_canny(image)
    bins = [0] * 101
    for top in range(0, image.shape[0] - 63, 64):
        for left in range(0, image.shape[1] - 63, 64):
            block = np.s_[top : top + 64, left : left + 64]
            if np.count_nonzero(canny[block]) <= 64 * 64 * 0.002:
                continue
            contrast = int(image[block].max()) - int(image[block].min())
            noticeable = ([5] * 51 + [3] * 205)[contrast]
            for width in widths[block].flat:
                if width:
                    blurred = 1 - math.exp(-((width / noticeable) ** 3.6))
                    bins[math.floor(100 * blurred + 0.5)] += 1
    return sum(bins[:64]) / sum(bins) if sum(bins) else 0.0


@pytest.mark.parametrize("which", FIGURES)
def test_figures_are_the_authors(which):
    assert cpbd(picture(*which)) == pytest.approx(FIGURES[which], abs=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_the_slow_transcription_agrees_at_every_pixel(seed):
    image = picture(seed)
    edges = slow_sobel(image)
    np.testing.assert_array_equal(sobel_edges(image), edges)
    np.testing.assert_array_equal(canny_edges(image), slow_canny(image))
    np.testing.assert_array_equal(edge_widths(image, edges), slow_widths(image, edges))
    assert slow_cpbd(image) == pytest.approx(FIGURES[seed, 1], abs=1e-12)
    assert edges[[0, -1]].any()


def test_files_go_in_and_the_authors_figure_comes_out(tmp_path):
    keys = list(FIGURES)
    for i, pair in enumerate((keys[:2], keys[2:4])):
        lossless.save(tmp_path / "gen" / f"c{i}.mp4", [picture(*key) for key in pair])
        lossless.save(tmp_path / "ref" / f"c{i}.mp4", [picture(9)] * 2)
    rule = protocol.parse("p", {"size": 200, "metrics": [{"metric": "cpbd"}]})
    kwargs = {"run": "r", "strategy": "s", "progress": False, "cache": tmp_path / "cache"}
    result = score(tmp_path / "gen", tmp_path / "ref", rule, **kwargs)
    first, second = (row.metrics["CPBD"] for row in result.per_clip)
    assert first == pytest.approx((FIGURES[keys[0]] + FIGURES[keys[1]]) / 2, abs=1e-12)
    assert second == pytest.approx((FIGURES[keys[2]] + FIGURES[keys[3]]) / 2, abs=1e-12)
    assert result.metrics["CPBD"].value == pytest.approx((first + second) / 2, abs=1e-12)


def trapezoids(contrast, ramp):
    """Rows that rise and fall over so many pixels, between two levels."""
    steps = 100 + np.arange(ramp + 1) * contrast // ramp
    wave = np.concatenate([steps, np.full(12, steps[-1]), steps[::-1], np.full(12, 100)])
    return np.tile(np.tile(wave, 10)[:128], (128, 1)).astype(np.uint8)


@pytest.mark.parametrize(
    ("contrast", "ramp", "figure"),
    [(50, 4, 1), (50, 5, 1), (50, 6, 0), (51, 3, 1), (51, 4, 0), (120, 3, 1), (120, 4, 0)],
)
def test_just_noticeable_widths(contrast, ramp, figure):
    """Up to a contrast of 50, edges of five pixels count as sharp; above, of three."""
    image = trapezoids(contrast, ramp)
    assert set(np.unique(edge_widths(image, sobel_edges(image)))) == {0, ramp}
    assert cpbd(image) == figure


@pytest.mark.parametrize("share", [8, 9])
def test_more_than_two_in_a_thousand_pixels_make_an_edge_block(share, monkeypatch):
    edges = np.zeros((128, 128), bool)
    edges[5, 10 : 10 + share] = True
    monkeypatch.setattr("metrics.sharpness.canny_edges", lambda luma: edges)
    assert cpbd(trapezoids(120, 3)) == (share > 8)


def test_a_ramp_is_as_wide_as_it_is_long_but_no_side_over_101():
    image = np.tile(np.clip(np.arange(300) - 20, 0, 255), (5, 1)).astype(np.uint8)
    image[0] = image[1, ::-1]  # not all directions are 0
    edges = np.zeros(image.shape, bool)
    edges[2:, 150] = True
    assert edge_widths(image, edges)[2:, 150].tolist() == [202, 202, 0]


def test_where_the_row_is_level_at_an_edge_the_direction_counts_as_zero():
    image = np.full((64, 64), 50)
    image[9, 33:] = image[11, 33:] = 200
    image[10, 32] = 90
    image = image.astype(np.uint8)
    edges = np.zeros(image.shape, bool)
    edges[10, 32] = True
    assert edge_widths(image, edges)[10, 32] == 2


def test_nothing_is_measured_where_all_directions_are_zero():
    """So the authors' program does: of a rising step it tells nothing, of a falling one it does."""
    step = np.repeat([0, 200], (40, 24))[None].repeat(64, axis=0).astype(np.uint8)
    assert (cpbd(step), cpbd(200 - step)) == (0, 1)
    assert (slow_cpbd(step), slow_cpbd(200 - step)) == (0, 1)


def test_falls_with_blur():
    luma = picture()
    series = [cpbd(luma)]
    series += [cpbd(cv2.GaussianBlur(luma, (0, 0), s)) for s in (1.0, 2.0, 4.0)]
    assert series == sorted(series, reverse=True)
    assert series[0] > series[-1] + 0.3


def test_flat_small_and_missing_pictures():
    assert cpbd(np.full((64, 64), 9, np.uint8)) == 0
    assert cpbd(np.zeros((64, 64), np.uint8)) == 0
    assert math.isnan(cpbd(picture()[:63]))
    for frames in (torch.zeros(0, 3, 64, 64), torch.zeros(2, 3, 60, 64)):
        assert math.isnan(CPBD().measure({"frames": frames.to(torch.uint8)}, None))


def test_a_clip_has_the_mean_of_its_frames():
    images = [picture(seed=s) for s in range(2)]
    frames = torch.stack([torch.from_numpy(i).expand(3, -1, -1) for i in images])
    value = CPBD().measure({"frames": frames}, None)
    assert value == pytest.approx(sum(map(cpbd, images)) / 2, abs=1e-12)
