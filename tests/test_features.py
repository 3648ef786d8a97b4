"""What scoring sees of a video, and how little of it at a time."""

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from metrics.base import ClipMetric
from metrics.extractors.base import Extractor
from tests import recordings
from tests.data.test_datamodule import stripes
from tests.test_evaluation import fake_track
from thbench.core.errors import UserError
from thbench.data.media import audio, video
from thbench.data.media.video import Chunk, VideoWriter
from thbench.evaluation import features, protocol
from thbench.evaluation.features import FeatureStore
from thbench.evaluation.score import score


class Light(Extractor):
    """Brightness of the first pixel's row, frame by frame."""

    name = "light"

    def forward(self, frames):
        return frames.float()[:, 0, 0]


def test_scoring_sees_fine_patterns_as_grey(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 64, 64) as writer:
        writer.write(stripes(6, 64))
    store = FeatureStore({}, 16)
    frames = store.features(store.open(tmp_path / "a.mp4"), ["frames"], 6)["frames"]
    assert frames.shape == (6, 3, 16, 16)
    frames = torch.cat(list(frames))
    assert frames.dtype == torch.uint8
    assert (frames[..., 1:-1].float() - 127.5).abs().max() < 30


@pytest.mark.parametrize(
    "change", [{"size": 32}, {"limit": 4}, {"length": 3}, {"version": 2}], ids=str
)
def test_features_are_kept_by_size_length_and_extractor(tmp_path, monkeypatch, change):
    made = []
    monkeypatch.setattr(
        Light, "forward", lambda self, x: made.append(x.shape) or x.float()[:, 0, 0]
    )
    with VideoWriter(tmp_path / "a.mp4", 64, 64) as writer:
        writer.write(stripes(6, 64))

    def light(size=16, limit=None, length=6, version=1):
        monkeypatch.setattr(Light, "version", version)
        store = FeatureStore({"light": Light()}, size, limit, tmp_path / "cache")
        video = store.open(tmp_path / "a.mp4")
        return store.features(video, ["light"], min(length, store.length(video)))["light"].shape

    assert light() == light() == (6, 16)
    assert len(made) == 1  # kept
    wanted = (change.get("length", change.get("limit", 6)), change.get("size", 16))
    assert light(**change) == wanted
    assert len(made) == 2
    assert light() == (6, 16)


# Memory

LONG, SMALL = 100, 32
PIXELS = ("psnr", "ssim", "mse", "cpbd", "f-mse")
READERS = ("fd-pyramid", "fvd-synthetic", "lmd", "blinks")


class Watch:
    """How many decoded frames are alive, and were at most; how often files are walked through."""

    def __init__(self, monkeypatch, size):
        self.alive = self.most = self.walks = self.sounds = 0
        self.asked = set()
        whole, load = video.chunks, audio.load

        def chunks(path, chunk=64):
            self.walks += 1
            self.asked.add(chunk)
            for part in whole(path, chunk):
                pixels = np.ascontiguousarray(part.frames.permute(0, 2, 3, 1).numpy()).copy()
                self._count(len(pixels))
                weakref.finalize(pixels, self._count, -len(pixels))
                frames = torch.from_numpy(pixels).permute(0, 3, 1, 2)
                del pixels
                yield Chunk(frames, part.damaged, part.away)
                del frames

        def sound(path):
            self.sounds += 1
            return load(path)

        monkeypatch.setattr(video, "chunks", chunks)
        monkeypatch.setattr(audio, "load", sound)
        # Four frames of that size at a time.
        monkeypatch.setattr(features, "CHUNK_BYTES", 4 * 3 * size * size)
        monkeypatch.setattr(features, "track", fake_track)

    def _count(self, change):
        self.alive += change
        self.most = max(self.most, self.alive)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two long videos with sound."""
    folder = tmp_path_factory.mktemp("pair")
    played = recordings.talk(50, SMALL)
    for side, light in (("gen", 0.8), ("ref", 1.0)):
        wave = np.tile(played.sound, 2)
        frames = (played.frames.float() * light).to(torch.uint8)
        with VideoWriter(folder / side / "a.mp4", SMALL, SMALL, waveform=wave) as writer:
            for _ in range(LONG // 50):
                writer.write(frames)
    return folder


def figures(pair, cache, size=SMALL):
    specs = [{"metric": name} for name in (*PIXELS, *READERS)]
    specs += [
        {"metric": "lse-d", "features": "synthetic-sync"},
        {"metric": "dr", "feature": "pyramid"},
    ]
    specs += [{"metric": "f-mse", "mode": "as-published"}]
    block = {"frames": 25, "metrics": [{"metric": "psnr"}, {"metric": "f-mse"}]}
    rule = protocol.parse("p", {"size": size, "metrics": specs, "over_time": block})
    return score(
        pair / "gen", pair / "ref", rule, run="r", strategy="s", progress=False, cache=cache
    )


def test_scoring_holds_few_frames_whatever_the_length_and_every_figure_is_the_same(
    pair, tmp_path, monkeypatch
):
    watch = Watch(monkeypatch, 128)
    held = figures(pair, tmp_path / "held")
    without = {name for name, figure in held.metrics.items() if figure.value is None}
    assert without == {"CPBD"}  # its blocks are larger
    assert watch.most >= 2 * LONG
    assert watch.walks == watch.sounds == 2  # once for each video
    monkeypatch.setattr(features, "HELD_BYTES", 0)
    watch.most = watch.sounds = 0
    read = figures(pair, tmp_path / "read")
    # Of both videos a part, the one before it, and what was decoded with their ends.
    assert 0 < watch.most <= 2 * (2 * 32 + 3 * 4) < 2 * LONG
    assert watch.sounds == 2
    assert watch.alive == 0
    assert watch.asked == {4}
    for name in held.metrics.keys() - without:
        assert read.metrics[name].value == pytest.approx(held.metrics[name].value, rel=1e-5), name
    assert held.over_time.keys() == {"PSNR", "F-MSE (formula)"}
    for name, curve in held.over_time.items():
        assert read.over_time[name].values == pytest.approx(curve.values, rel=1e-5), name


@pytest.mark.parametrize(("bytes_", "expected"), [(1, 1), (5 * 3 * SMALL * SMALL, 5), (2**40, 64)])
def test_as_many_frames_are_decoded_at_a_time_as_memory_allows(pair, monkeypatch, bytes_, expected):
    watch = Watch(monkeypatch, SMALL)
    monkeypatch.setattr(features, "CHUNK_BYTES", bytes_)
    store = FeatureStore({}, 16)
    assert store.length(store.open(pair / "gen" / "a.mp4")) == LONG
    assert watch.asked == {expected}


class Greedy(ClipMetric):
    """Wants all pictures at once."""

    direction = "higher"
    needs = ("frames@64",)
    name = "Greedy"

    def measure(self, generated, reference):
        return float(generated["frames@64"].float().mean())


def test_a_metric_that_wants_all_frames_at_once_is_refused(monkeypatch):
    monkeypatch.setitem(protocol.metric_registry._targets, "greedy", f"{__name__}:Greedy")
    with pytest.raises(UserError, match=r"'greedy' needs all frames .*FrameMetric"):
        protocol.parse("p", {"size": 16, "metrics": [{"metric": "greedy"}]})


def resident(key):
    """MiB of a line of the process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux knows the peak")
def test_memory_of_scoring_does_not_grow_with_the_clip(tmp_path, monkeypatch):
    """Of 300 frames of 128 x 128: 30 MB in bytes for both videos, 118 MB as floats."""
    monkeypatch.setattr(features, "CHUNK_BYTES", 2**20)
    monkeypatch.setattr(features, "HELD_BYTES", 2**23)
    played = recordings.talk(50, 128)
    rule = protocol.parse("p", {"size": 128, "metrics": [{"metric": "psnr"}, {"metric": "f-mse"}]})

    def rise(n, seed):
        folder = tmp_path / str(seed)
        for side, light in (("gen", 0.8), ("ref", 1.0)):
            frames = (played.frames.float() * light).to(torch.uint8)
            with VideoWriter(folder / side / "a.mp4", 128, 128, preset="ultrafast") as writer:
                for _ in range(n // 50):
                    writer.write(frames)
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        score(
            folder / "gen", folder / "ref", rule, run="r", strategy="s", progress=False,
            cache=folder,
        )  # fmt: skip
        return resident("VmHWM") - before

    rise(50, 0)  # what is loaded at the first call
    assert rise(300, 1) < 130
