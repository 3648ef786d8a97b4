import librosa
import numpy as np
import pytest

from metrics.compiling import compile_lock
from thbench.core.types import SAMPLES_PER_FRAME
from thbench.data.synthetic.identity import generator
from thbench.data.synthetic.speech import SILENCE, VOWELS, Speech, Voice, speak, voice

N = 100


def say(person: int) -> Speech:
    return speak(N, voice(0, person), generator(0, "test", person))


def log_mel(waveform):
    with compile_lock():
        mel = librosa.feature.melspectrogram(
            y=waveform, sr=16_000, n_fft=1024, hop_length=SAMPLES_PER_FRAME, n_mels=80
        )
    return np.log(mel[:, : len(waveform) // SAMPLES_PER_FRAME].T + 1e-5)


def in_context(features, reach=2):
    padded = np.pad(features, ((reach, reach), (0, 0)), mode="edge")
    return np.concatenate([padded[k : k + len(features)] for k in range(2 * reach + 1)], axis=1)


@pytest.fixture(scope="module")
def corpus():
    return [say(person) for person in range(40)], [say(person) for person in range(900, 910)]


def test_shapes_ranges_and_determinism():
    said, again = say(1), say(1)
    assert said.waveform.shape == (N * SAMPLES_PER_FRAME,)
    assert said.waveform.dtype == np.float32
    assert 0.3 < np.abs(said.waveform).max() <= 1
    assert np.array_equal(said.waveform, again.waveform)
    assert not np.array_equal(said.waveform, say(2).waveform)
    for curve, low, high in ((said.mouth, 0, 1), (said.width, -1, 1), (said.loudness, 0, 1)):
        assert curve.shape == (N,)
        assert low <= curve.min()
        assert curve.max() <= high + 1e-6


def test_every_vowel_and_pauses_are_there(corpus):
    heard = np.concatenate([said.vowel for said in corpus[0]])
    assert set(heard) == {SILENCE, *range(len(VOWELS))}
    assert 0.05 < (heard == SILENCE).mean() < 0.6


def test_beats_are_stressed_onsets(corpus):
    for said in corpus[0]:
        assert len(said.beats) >= 2
        assert (np.diff(said.beats) > 0.2).all()
        frame = np.minimum((said.beats * 25).astype(int) + 2, N - 1)
        assert said.loudness[frame].mean() > 0.9


def test_sound_and_mouth_rest_together():
    said = say(4)
    energy = (said.waveform.reshape(N, -1) ** 2).mean(axis=1) ** 0.5
    silent = said.loudness < 1e-3
    assert said.mouth[silent].mean() < 0.06
    assert energy[said.loudness > 0.5].mean() > 10 * energy[silent].mean()


def test_pitch_is_the_speakers():
    low, high = (speak(N, Voice(f0, 1.0, 1.0, 0.01), generator(0, "x")) for f0 in (110, 220))
    with compile_lock():
        heard = [
            np.nanmedian(librosa.yin(s.waveform, fmin=70, fmax=400, sr=16_000)) for s in (low, high)
        ]
    assert heard[1] / heard[0] == pytest.approx(2, rel=0.15)


def test_vowels_sound_distinct(corpus):
    """Nearest class mean over log-mel, held-out voices: far above the chance of one in five."""
    train, test = corpus
    x = np.concatenate([log_mel(s.waveform) for s in train])
    y = np.concatenate([s.vowel for s in train])
    means = np.stack([x[y == k].mean(axis=0) for k in range(len(VOWELS))])
    x = np.concatenate([log_mel(s.waveform) for s in test])
    y = np.concatenate([s.vowel for s in test])
    guess = ((x[:, None] - means) ** 2).sum(axis=-1).argmin(axis=1)
    assert (guess == y)[y != SILENCE].mean() > 0.6


@pytest.mark.parametrize("curve", ["mouth", "width"])
def test_lips_are_linear_in_the_sound(corpus, curve):
    """Ridge regression from five frames of log-mel, on voices not heard before."""
    train, test = corpus
    x = np.concatenate([in_context(log_mel(s.waveform)) for s in train])
    y = np.concatenate([getattr(s, curve) for s in train])
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-6

    def design(features):
        return np.c_[(features - mean) / deviation, np.ones(len(features))]

    a = design(x)
    weights = np.linalg.solve(a.T @ a + 300 * np.eye(a.shape[1]), a.T @ y)
    scores = [
        np.corrcoef(design(in_context(log_mel(s.waveform))) @ weights, getattr(s, curve))[0, 1]
        for s in test
    ]
    assert np.mean(scores) >= 0.9
