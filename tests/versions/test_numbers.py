"""Libraries against written values: random numbers, resizing, sound, peaks, figures.

The values were the same with the lowest versions and with the locked ones. Tolerances leave room
for processors, not for another definition.
"""

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as vision

from metrics.beats import audio_beats, motion_beats
from metrics.blink import find_blinks
from metrics.flow import magnitude
from metrics.frechet import frechet_distance
from metrics.image import psnr, ssim
from metrics.intervals import bootstrap_mean
from metrics.mfcc import mfcc
from metrics.sharpness import cpbd
from thbench.data.embedding.encoders import encoder

pytestmark = pytest.mark.numbers

SECONDS = np.arange(6 * 16000) / 16000


def near(expected, tolerance):
    return pytest.approx(expected, abs=tolerance)


def test_torch_draws_the_same_random_numbers():
    """Noise belongs to (seed, clip, frame): other numbers would be other videos."""

    def source():
        return torch.Generator().manual_seed(7)

    few, many = torch.randn(3, generator=source()), torch.randn(20, generator=source())
    assert few.tolist() == near([-0.146795, 0.786141, 0.946822], 1e-5)
    assert many[[0, 1, 19]].tolist() == near([-0.820135, 0.395631, -0.356723], 1e-5)
    uniform = torch.rand(3, generator=source())
    assert uniform.tolist() == near([0.534923, 0.198803, 0.659212], 1e-6)
    assert torch.randperm(8, generator=source()).tolist() == [7, 0, 3, 4, 1, 5, 2, 6]
    assert torch.randint(0, 1000, (4,), generator=source()).tolist() == [615, 892, 721, 286]


def test_numpy_draws_the_same_random_numbers():
    source = np.random.default_rng(7)
    assert source.standard_normal(2).tolist() == near([0.00123015, 0.29874554], 1e-7)
    assert source.random(2).tolist() == near([0.77568569, 0.22520719], 1e-7)
    assert source.integers(0, 1000, 3).tolist() == [55, 300, 285]
    assert source.permutation(6).tolist() == [3, 2, 5, 4, 1, 0]


def pattern():
    """Three kinds of detail, uint8 (3, 32, 48)."""
    y, x = torch.meshgrid(torch.arange(32), torch.arange(48), indexing="ij")
    return torch.stack([5 * x % 256, x * y % 256, 255 * ((x // 3 + y // 2) % 2)]).to(torch.uint8)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((10, 16), [[50, 65, 80, 95, 110], [171, 200, 94, 73, 121], [132, 123, 132, 123, 132]]),
        ((50, 70), [[10, 13, 16, 20, 23], [30, 41, 52, 63, 73], [46, 141, 209, 209, 209]]),
    ],
)
def test_frames_are_resized_with_antialiasing(size, expected):
    """A level may differ: torch 2.6 rounds uint8 otherwise than 2.14."""
    got = vision.resize(pattern()[None], list(size), antialias=True)[0, :, size[0] // 2, 3:8]
    assert np.abs(got.int().numpy() - expected).max() <= 1


def test_floats_are_resized_with_antialiasing():
    small = F.interpolate(pattern()[None] / 255, (10, 16), mode="bilinear", antialias=True)
    assert small[0, 1, 5, 3:8].tolist() == near([0.67124, 0.78597, 0.36896, 0.28659, 0.4728], 1e-4)


def test_opencv_resizes_as_ever():
    small = cv2.resize(pattern().permute(1, 2, 0).numpy(), (20, 20))[10, 5:8].astype(int)
    assert np.abs(small - [(63, 207, 0), (75, 220, 255), (87, 29, 127)]).max() <= 1


def test_beats_of_a_click_track():
    clicks = np.zeros_like(SECONDS)
    sound = 0.8 * np.sin(2000 * np.pi * SECONDS[:800]) * np.exp(-80 * SECONDS[:800])
    for at in range(4800, len(clicks), 9600):  # 100 a minute
        clicks[at : at + 800] += sound
    assert audio_beats(clicks).tolist() == [23, 38, 53, 68, 83, 98, 113, 128, 143]


def test_spectra_of_a_tone():
    tone = (0.5 * np.sin(880 * np.pi * SECONDS)).astype(np.float32)
    bands = encoder("logmel")(tone, 25).reshape(25, 8, 40)[12]
    assert bands[4, 2:7].tolist() == near([0.33316, 2.15127, 2.98023, 2.89987, 1.75169], 1e-3)
    assert bands.mean() == near(-1.6037, 2e-3)
    assert mfcc(tone[:16000])[50, :4].tolist() == near([20.4996, 19.5081, 2.6430, -13.1825], 2e-3)


def test_minima_and_peaks():
    turns = np.cumsum(1 + np.cos(np.arange(120) / 7))[:, None, None]
    assert motion_beats(turns).tolist() == [21, 65, 110]
    eyes = np.full(200, 0.3)
    for centre in (30, 90, 150):
        for k in range(-3, 4):
            eyes[centre + k] = 0.3 - 0.22 * (1 - abs(k) / 3)
    found = [(b.start, b.closing, b.end) for b in find_blinks(eyes)]
    assert found == [(27, 27, 33), (87, 87, 93), (147, 147, 153)]


def test_structural_similarity_and_signal_to_noise():
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    clean = (0.5 + 0.3 * torch.sin(x / 5) * torch.cos(y / 7)).expand(1, 3, 48, 64)
    noisy = clean + 0.05 * torch.sin(1.3 * x + 0.9 * y)
    assert ssim(clean, noisy).tolist() == near([0.81008], 1e-4)
    assert psnr(clean, noisy).tolist() == near([29.0308], 1e-3)


def test_optical_flow_of_a_shift():
    def shifted(by):
        across = 60 * np.sin((np.arange(96) - by) / 6)[None]
        grey = 127 + across + 50 * np.cos(np.arange(64) / 5)[:, None]
        return np.repeat(grey[..., None], 3, 2).astype(np.uint8)

    flow = magnitude(shifted(0), shifted(2))
    assert flow.mean() == near(1.7313, 0.02)
    assert np.median(flow) == near(1.9578, 0.02)


def test_sharpness_of_a_half_blurred_picture():
    x, y = np.arange(128)[None], np.arange(128)[:, None]
    boxes = 127 + 50 * np.sign(np.sin(x / 9 + y / 40)) + 40 * np.sign(np.sin(x / 15 - y / 30))
    sharp = boxes.astype(np.uint8)
    soft = cv2.GaussianBlur(sharp, (0, 0), 1)
    assert cpbd(np.where(x < 64, sharp, soft)) == near(0.3876, 0.02)


@pytest.mark.parametrize(("n", "expected"), [(400, 4.00408568), (5, 12.31596771)])
def test_frechet_distance(n, expected):
    """With more samples than dimensions and with fewer: two ways to the same trace."""
    at = torch.arange(8.0 * n, dtype=torch.float64).reshape(n, 8)
    first, second = torch.sin(0.7 * at**1.1), 1.5 * torch.cos(0.9 * at**1.2) + 0.25
    assert float(frechet_distance(first, second)) == near(expected, 1e-6)


def test_interval_of_a_mean():
    assert bootstrap_mean(np.sin(np.arange(30.0))) == near((-0.213270, 0.277180), 1e-5)
