import numpy as np
import pytest
import torch

from metrics.extractors.silero import SileroVAD, speech_frames, speech_spans


def windows(*runs):
    return [p for count, p in runs for _ in range(count)]


def test_speech_begins_and_ends_where_the_rule_says():
    # 20 windows of speech after 10 of none: 5120 to 15360, and 480 samples on either side.
    quiet = windows((10, 0.1), (20, 0.9), (10, 0.1))
    assert speech_spans(quiet, 40 * 512) == [(5120 - 480, 15360 + 480)]
    # Between both levels, speech goes on, and silence does.
    assert speech_spans(windows((10, 0.4), (20, 0.9), (9, 0.4), (5, 0.1)), 44 * 512) == [
        (5120 - 480, 39 * 512 + 480)
    ]
    assert speech_spans(windows((40, 0.9)), 40 * 512 - 7) == [(0, 40 * 512 - 7)]
    assert speech_spans(windows((40, 0.1)), 40 * 512) == []
    assert speech_spans([], 0) == []


def test_short_pauses_do_not_end_speech_and_short_speech_is_none():
    # Silence counts from its fifth window on: the first is 4 x 512 = 2048 samples back.
    for pause, spans in ((3, 1), (4, 1), (5, 2)):
        found = speech_spans(windows((20, 0.9), (pause, 0.1), (20, 0.9)), 60 * 512)
        assert len(found) == spans
    for length, spans in ((7, 0), (8, 1)):  # 3584 and 4096 samples
        assert len(speech_spans(windows((length, 0.9), (10, 0.1)), 60 * 512)) == spans


def test_frames_are_those_of_tenths_of_a_second():
    # .26 to .94 s is .3 to .9 s, frames 7 to 22.
    rows = speech_frames([(4160, 15040)], 25)
    assert rows.shape == (25, 1)
    assert rows[:, 0].nonzero().flatten().tolist() == list(range(7, 23))
    assert not speech_frames([], 25).any()


class Session:
    """A network that hears how loud a window is, and counts windows in its state."""

    def __init__(self):
        self.shown = []

    def run(self, _, given):
        self.shown.append(given["input"].copy())
        assert given["sr"] == 16000
        assert given["state"].flat[0] == len(self.shown) - 1
        loud = np.abs(given["input"][:, 64:]).mean() > 0.1
        return np.array([[0.9 if loud else 0.1]], np.float32), given["state"] + 1


@pytest.fixture
def extractor(monkeypatch, tmp_path):
    monkeypatch.setattr(SileroVAD, "load", lambda self, path: None)
    file = tmp_path / "net.onnx"
    file.write_bytes(b"")
    made = SileroVAD(path=file)
    made._session = Session()
    return made


def test_each_window_comes_with_the_end_of_the_one_before(extractor):
    sound = torch.arange(1, 1301).float() / 1300
    assert len(extractor.probabilities(sound)) == 3
    whole = torch.cat([torch.zeros(64), sound, torch.zeros(1536 - 1300)])
    for k, shown in enumerate(extractor._session.shown):
        assert torch.equal(torch.from_numpy(shown[0]), whole[512 * k : 512 * k + 576])


def test_a_loud_second_is_speech(extractor):
    sound = torch.zeros(48000)
    sound[16000:32000] = 0.5
    rows = extractor.extract(torch.zeros(75, 3, 4, 4), {"waveform": sound})[:, 0]
    assert rows[26:50].all()
    assert not rows[:24].any()
    assert not rows[54:].any()
    assert not extractor_of_silence(extractor).any()


def extractor_of_silence(extractor):
    extractor._session = Session()
    return extractor.extract(torch.zeros(9, 3, 4, 4), {"waveform": torch.zeros(0)})


def test_images_are_refused(extractor):
    with pytest.raises(TypeError, match="heard"):
        extractor.forward(torch.zeros(1, 3, 4, 4))
