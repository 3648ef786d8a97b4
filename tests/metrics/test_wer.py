import math

import pytest
import torch

from metrics.extractors.lipreader import LipReader
from metrics.weights import WeightsMissing
from metrics.wer import WER, decode, encode, wer


class Toy:
    """Reads the brightness of the first frame."""

    version = "3"

    def __init__(self, device):
        self.device = device

    def __call__(self, frames, landmarks, valid):
        return f"HELLO {int(next(iter(frames))[0].max())}"


class Unversioned:
    def __init__(self, device):
        pass


def test_word_error_rate():
    assert wer("Hello world", "hello WORLD") == 0
    assert wer("hello there old world", "hello new world") == pytest.approx(2 / 3)
    assert wer("", "one two") == 1
    assert math.isnan(wer("anything", " "))


def test_text_survives_being_a_feature():
    for text in ("", "naïve café", "abc"):
        assert decode(encode(text)) == text
        assert encode(text).shape == (len(text.encode()), 1)


def test_without_a_lip_reader_the_remedy_is_named(monkeypatch):
    monkeypatch.delenv("THBENCH_LIPREADER", raising=False)
    with pytest.raises(WeightsMissing, match="set THBENCH_LIPREADER=module:Class"):
        LipReader()
    wrongs = ("nowhere:Reader", "math:Reader", "math", "math:pi", "../a:b")
    for wrong in (*wrongs, f"{__name__}:Unversioned"):
        monkeypatch.setenv("THBENCH_LIPREADER", wrong)
        with pytest.raises(WeightsMissing, match="THBENCH_LIPREADER="):
            LipReader()


def test_a_lip_reader_of_ones_own(monkeypatch):
    monkeypatch.setenv("THBENCH_LIPREADER", f"{__name__}:Toy")
    reader = LipReader()
    assert reader.fingerprint == f"lipreader-1-{__name__}:Toy-3"
    clips = [
        reader.extract(
            torch.full((2, 3, 4, 4), level, dtype=torch.uint8),
            {"landmarks": torch.zeros(2, 478, 3), "valid": torch.ones(2).bool()},
        )
        for level in (7, 8)
    ]
    assert decode(clips[0]) == "HELLO 7"
    metric = WER()
    metric.update({"lipreader": clips[0]}, {"lipreader": clips[0]})
    assert float(metric.compute()) == 0
    metric.update({"lipreader": clips[1]}, {"lipreader": clips[0]})
    assert float(metric.compute()) == pytest.approx(0.25)
    assert math.isnan(WER().measure({"lipreader": clips[0]}, None))
