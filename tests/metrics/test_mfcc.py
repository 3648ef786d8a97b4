import math

import numpy as np
import pytest

from metrics.mfcc import mel_filters, mfcc


def slow_mfcc(samples):
    """One window, one bin, one filter at a time, over 16-bit samples."""
    flat = [samples[0]] + [samples[i] - 0.97 * samples[i - 1] for i in range(1, len(samples))]
    count = 1 if len(flat) <= 400 else 1 + math.ceil((len(flat) - 400) / 160)
    flat += [0.0] * (count * 160 + 400)

    def mel(hertz):
        return 2595 * math.log10(1 + hertz / 700)

    def corner(i):
        hertz = 700 * (10 ** (mel(8000) * i / 27 / 2595) - 1)
        return math.floor(513 * hertz / 16000)

    rows = []
    for start in range(0, count * 160, 160):
        window = np.array(flat[start : start + 400])
        power = []
        for k in range(257):
            angle = -2j * math.pi * k * np.arange(400) / 512
            power.append(abs((window * np.exp(angle)).sum()) ** 2 / 512)
        logs = []
        for f in range(26):
            low, centre, high = corner(f), corner(f + 1), corner(f + 2)
            total = sum(power[b] * (b - low) / (centre - low) for b in range(low, centre))
            total += sum(power[b] * (high - b) / (high - centre) for b in range(centre, high))
            logs.append(math.log(total or np.finfo(float).eps))
        row = []
        for c in range(13):
            value = sum(
                logs[m] * math.cos(math.pi * c * (2 * m + 1) / 52) for m in range(26)
            ) * math.sqrt((1 if c == 0 else 2) / 26)
            row.append(value * (1 + 11 * math.sin(math.pi * c / 22)))
        row[0] = math.log(sum(power) or np.finfo(float).eps)
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("length", [1, 400, 401, 1600])
def test_a_plain_transcription_agrees(length):
    rng = np.random.default_rng(length)
    samples = np.round(3000 * rng.standard_normal(length))
    samples[length // 2 : length // 2 + 600] = 0
    np.testing.assert_allclose(mfcc(samples / 32768), slow_mfcc(samples.tolist()), atol=1e-8)


@pytest.mark.parametrize("frames", [6, 25, 200])
def test_a_clip_has_one_column_less_than_four_a_frame(frames):
    assert mfcc(np.ones(640 * frames)).shape == (4 * frames - 1, 13)


def test_silence_is_finite_and_nothing_is_nothing():
    quiet = mfcc(np.zeros(1600))
    assert np.isfinite(quiet).all()
    assert (quiet[:, 0] == np.log(np.finfo(float).eps)).all()
    assert mfcc(np.zeros(0)).shape == (0, 13)


def test_a_tone_lies_in_its_filter_and_loudness_in_the_first_column():
    tone = 0.25 * np.sin(2 * np.pi * 1000 * np.arange(1600) / 16000)
    louder = mfcc(2 * tone) - mfcc(tone)
    np.testing.assert_allclose(louder[1:8, 0], math.log(4), atol=1e-3)
    best = mel_filters()[:, 32].argmax()  # 1000 Hz is bin 32 of 512 at 16 kHz
    assert mel_filters()[best, 32] > 0.5
    assert mel_filters().shape == (26, 257)


def test_samples_are_16_bit_and_clipped():
    wave = np.random.default_rng(0).uniform(-1, 1, 1600)
    np.testing.assert_array_equal(
        mfcc(wave), mfcc(np.round(wave * 32768).clip(None, 32767) / 32768)
    )
    np.testing.assert_array_equal(mfcc(np.full(800, 3.0)), mfcc(np.full(800, 1.0)))


def test_a_long_sound_is_transformed_in_blocks(monkeypatch):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000)
    whole = mfcc(samples)
    monkeypatch.setattr("metrics.mfcc.BLOCK", 7)
    np.testing.assert_allclose(mfcc(samples), whole, rtol=1e-10)
