"""Pictures come part by part, and nobody holds more than a few parts of them."""

import weakref

import numpy as np
import pytest
import torch

import metrics
from metrics.base import FrameMetric, by_frame, frame_mean
from metrics.extractors.arcface import ArcFace
from metrics.extractors.base import Extractor
from metrics.extractors.i3d import I3D
from metrics.extractors.lipreader import LipReader
from metrics.extractors.pyramid import Pyramid
from metrics.extractors.syncnet import WIDTH, SyncNet
from metrics.extractors.synthetic import SyntheticFace, SyntheticIdentity, SyntheticMotion
from metrics.extractors.synthetic_sync import SyntheticSync
from metrics.flow import FrameMSE
from metrics.frames import PART_FRAMES, Frames, as_frames, part_size
from metrics.image import MSE, PSNR
from tests.metrics.test_contract import clip, load, make

T = 180
BATCH = 8


class Watched(Frames):
    """Small random pictures in chunks of three, and how many of them were alive at most."""

    def __init__(self, length=T, size=32, seed=0):
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.randint(0, 256, (length, 3, size, size), generator=generator)
        self.pictures = coarse.to(torch.uint8)
        self.alive = self.most = 0

    @property
    def shape(self):
        return tuple(self.pictures.shape)

    def __iter__(self):
        for part in self.pictures.split(3):
            # NumPy's memory lives as long as any tensor that looks at it.
            copied = part.numpy().copy()
            self._count(len(part))
            weakref.finalize(copied, self._count, -len(part))
            chunk = torch.from_numpy(copied)
            del copied
            yield chunk

    def _count(self, change):
        self.alive += change
        self.most = max(self.most, self.alive)


@pytest.mark.parametrize(
    "spans",
    [[(0, 5), (3, 30), (3, 30), (40, 50)], [(10, 11), (49, 50)], [(0, 0), (0, 50)], []],
    ids=str,
)
def test_spans_are_what_slices_are(spans):
    frames = Watched(50)
    found = list(frames.spans(spans))
    assert len(found) == len(spans)
    for (start, stop), part in zip(spans, found, strict=True):
        assert torch.equal(part, frames.pictures[start:stop])


def test_parts_follow_each_other_and_may_look_back():
    frames = Watched(50)
    assert torch.equal(torch.cat(list(frames.split(9))), frames.pictures)
    assert [len(part) for part in frames.split(20, before=2)] == [20, 22, 12]
    assert [len(part) for part in as_frames(frames.pictures[:0]).split()] == [0]
    assert part_size(64, 64) == PART_FRAMES > part_size(512, 512) > part_size(4320, 7680) == 1


@pytest.mark.parametrize("spans", [[(0, 51)], [(5, 9), (4, 9)]], ids=["too far", "backwards"])
def test_frames_that_cannot_be_had_are_refused(spans):
    with pytest.raises(ValueError, match="frames are"):
        list(Watched(50).spans(spans))


@pytest.mark.parametrize("use", [lambda f: f.float(), lambda f: f[3]], ids=["method", "index"])
def test_whoever_wants_all_pictures_at_once_is_told_how_they_come(use):
    with pytest.raises((AttributeError, TypeError), match="read part by part"):
        use(Watched(5))


class Deaf(SyncNet):
    """SyncNet without its network."""

    def __init__(self):
        Extractor.__init__(self, batch_size=BATCH)
        self.net = self

    def sound(self, cepstra):
        return torch.zeros(len(cepstra), WIDTH)

    def forward(self, frames):
        return torch.zeros(len(frames) - 4, WIDTH)


class Blind(I3D):
    """I3D without its network."""

    def __init__(self):
        Extractor.__init__(self, batch_size=BATCH)
        self.window, self.stride, self.windows = 16, 11, None

    def forward(self, frames):
        return frames.float().mean((1, 2, 3, 4))[:, None].repeat(1, 400)


class Nobody(ArcFace):
    """ArcFace without its network."""

    def __init__(self):
        Extractor.__init__(self, batch_size=BATCH)
        self._session = self

    def get_outputs(self):
        return [np.zeros((1, 2))]

    def forward(self, frames):
        return frames.mean((2, 3))[:, :2]


class Illiterate(LipReader):
    """A lip reader that looks at every picture."""

    def __init__(self):
        Extractor.__init__(self)

    def reader(self, frames, landmarks, valid):
        return " ".join(str(len(part)) for part in frames)


EXTRACTORS = [
    Deaf, Blind, Nobody, Illiterate, SyntheticFace, SyntheticMotion, SyntheticIdentity,
    SyntheticSync, Pyramid,
]  # fmt: skip


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_no_network_holds_a_clip(kind):
    extractor = kind()
    extractor.batch_size = BATCH
    frames, given = Watched(), clip(0, T)
    rows = extractor.extract(frames, given)
    assert 0 < frames.most <= 2 * 16 + BATCH
    whole = extractor.extract(frames.pictures, given)
    if kind is not Illiterate:
        torch.testing.assert_close(rows, whole)
    assert frames.alive <= 3


FRAMEWISE = [n for n, t in sorted(metrics.METRICS.items()) if issubclass(load(t), FrameMetric)]


@pytest.mark.parametrize("name", FRAMEWISE)
def test_no_metric_of_pixels_holds_a_clip(name, monkeypatch):
    """And its figure is that of the whole clip."""
    monkeypatch.setattr("metrics.frames.PART_BYTES", 3 * 64 * 64 * 5)
    metric = make(name)
    mine, theirs = (Watched(40, 64, seed) for seed in (0, 1))
    values = by_frame([metric], {"frames": mine}, {"frames": theirs})[0]
    assert max(mine.most, theirs.most) <= 16 + metric.context
    assert len(values.values) == 40 - metric.before
    whole = [{"frames": side.pictures} for side in (mine, theirs)]
    monkeypatch.setattr("metrics.frames.PART_BYTES", 2**30)
    monkeypatch.setattr("metrics.frames.PART_FRAMES", 40)
    expected = metric.measure_frames(whole[0], whole[1])
    torch.testing.assert_close(values.values, expected.double(), rtol=1e-5, atol=1e-6)
    assert (len(values.references) > 0) == (metric.direction == "reference")


def test_metrics_share_a_pass_whatever_they_look_back_on(monkeypatch):
    monkeypatch.setattr("metrics.frames.PART_BYTES", 3 * 32 * 32 * 4)
    sides = [Watched(22, 32, seed) for seed in (0, 1)]
    walks = []
    walk = Watched.__iter__
    monkeypatch.setattr(Watched, "__iter__", lambda self: walks.append(self) or walk(self))
    both = [{"frames": side} for side in sides]
    together = by_frame([FrameMSE(), PSNR(), MSE()], *both)
    assert len(walks) == 2
    for metric, found in zip((FrameMSE(), PSNR(), MSE()), together, strict=True):
        (alone,) = by_frame([metric], *both)
        assert all(map(torch.equal, found, alone))


def test_clips_of_different_length_are_refused():
    with pytest.raises(ValueError, match="same number of frames"):
        by_frame([PSNR()], {"frames": Watched(5)}, {"frames": Watched(6)})


def test_frames_without_a_value_are_left_out_of_the_mean():
    values = torch.tensor([1.0, torch.nan, 3.0])
    assert frame_mean(values) == 2
    assert all(map(np.isnan, map(frame_mean, (values[1:2], values[:0]))))


class Masked(FrameMetric):
    """Brightness where a face was seen, and the sound below it."""

    direction = "higher"
    needs = ("frames", "valid", "waveform", "size")
    name = "Masked"

    def measure_frames(self, generated, reference):
        assert tuple(generated["size"]) == (32, 32)
        light = generated["frames"].float().mean((1, 2, 3))
        loud = generated["waveform"].view(-1, 640).mean(1)
        return torch.where(generated["valid"], light + loud, torch.nan)


def test_a_metric_of_pixels_reads_other_features_of_the_same_frames():
    frames = Watched(70)
    valid = torch.arange(70) % 3 > 0
    wave = torch.arange(70.0).repeat_interleave(640)
    given = {"frames": frames, "valid": valid, "waveform": wave, "size": torch.tensor([32, 32])}
    light = frames.pictures.float().mean((1, 2, 3)) + torch.arange(70)
    assert Masked().measure(given, None) == pytest.approx(float(light[valid].double().mean()))
    given["valid"] = valid[:-1]
    with pytest.raises(ValueError, match="'valid' has 69 rows for 70 frames"):
        Masked().measure(given, None)
