"""What every metric must keep, tested over the registry: a new one is tested by being named."""

import ast
import functools
import importlib
import math
import socket
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from matplotlib import pyplot
from matplotlib.figure import Figure

import metrics
from metrics.base import BenchMetric, ClipMetric
from metrics.extractors import EXTRACTORS
from metrics.extractors.base import Extractor
from metrics.motion import FacesFound

DIMS = {"arcface": 512, "inception": 2048, "pyramid": 240, "syncnet": 2048}
DIMS |= {"i3d-16-16-all-torchscript": 400, "synthetic-face": 64, "synthetic-motion": 256}
DIMS |= {"synthetic-mouth": 1}
WORDS = ["she", "had", "your", "dark", "suit", "in", "greasy", "wash", "water"]
SIZE = 64
# Smaller than what they are by default; ``fid`` stands for 2048 dimensions.
OPTIONS = {
    "dr": {"frames": 5, "feature": "pyramid"},
    "e-fid": {"mode": "coefficients", "feature": "pyramid", "dim": 240},
}


def load(target):
    module, name = target.split(":")
    return getattr(importlib.import_module(module), name)


def make(name):
    """A metric; with random weights where it runs a network itself."""
    metric = load(metrics.METRICS[name])(**OPTIONS.get(name, {}))
    if name == "lpips":
        metric.net = lpips_net()
    return metric


@cache
def lpips_net():
    from metrics.perceptual import build

    generator = torch.Generator().manual_seed(0)
    shapes = (
        (0, 64, 3, 11),
        (3, 192, 64, 5),
        (6, 384, 192, 3),
        (8, 256, 384, 3),
        (10, 256, 256, 3),
    )
    state = {}
    for place, out, inside, side in shapes:
        scale = (inside * side * side) ** -0.5
        weight = scale * torch.randn(out, inside, side, side, generator=generator)
        state |= {f"features.{place}.weight": weight, f"features.{place}.bias": torch.zeros(out)}
    return build(state)


@cache
@functools.lru_cache(maxsize=64)
def clip(i, n=None):
    """Made-up features of one clip, whatever a metric may need."""
    generator = torch.Generator().manual_seed(i)
    n = n or 24 + i % 3
    coarse = torch.randint(0, 256, (n, 3, 16, 16), generator=generator).float()
    frames = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear")
    words = [WORDS[k] for k in torch.randint(len(WORDS), (6,), generator=generator).tolist()]
    features = {
        "frames": frames.to(torch.uint8),
        "frames@128": torch.nn.functional.interpolate(frames, (128, 128)).to(torch.uint8),
        "size": torch.tensor([SIZE, SIZE]),
        "lipreader": torch.tensor(list(" ".join(words).encode()), dtype=torch.uint8)[:, None],
        "landmarks": torch.rand(n, 478, 3, generator=generator),
        "pose": 0.1 * torch.randn(n, 6, generator=generator),
        "eyes": 0.3 * torch.rand(n, 1, generator=generator).repeat(1, 2),
        "mouth": torch.rand(n, generator=generator),
        "valid": torch.ones(n, dtype=torch.bool),
        "waveform": torch.rand(n * 640, generator=generator) - 0.5,
        # Speech, then a pause.
        "silero-vad": (torch.arange(n) < n // 2).float()[:, None],
    }
    for name, dim in DIMS.items():
        features[name] = torch.randn(n, dim, generator=generator)
    return features


def pair(i):
    return clip(i), clip(i + 1000, 24 + i % 3)


@pytest.fixture(params=sorted(metrics.METRICS))
def metric(request):
    return make(request.param)


def fill(metric, indices):
    for i in indices:
        metric.update(*pair(i))
    return metric


def test_it_says_what_it_is(metric):
    assert isinstance(metric, BenchMetric)
    assert metric.name
    assert metric.direction in ("higher", "lower", "zero", "reference")
    assert metric.bounds[0] < metric.bounds[1]
    assert metric.version >= 1
    assert metric.needs
    assert set(metric.needs) <= set(clip(0))
    assert {"higher": True, "lower": False}.get(metric.direction) == metric.higher_is_better


def test_figure_is_within_bounds_and_free_of_order(metric):
    forward = float(fill(metric, range(5)).compute())
    assert not math.isnan(forward)
    assert metric.bounds[0] <= forward <= metric.bounds[1]
    assert all("\n" not in note for note in metric.notes())
    metric.reset()
    backward = float(fill(metric, reversed(range(5))).compute())
    same = 0 if isinstance(metric, ClipMetric) else 1e-9
    assert backward == pytest.approx(forward, rel=same)


def test_it_can_be_plotted(metric):
    value = fill(metric, range(3)).compute()
    figure, axes = metric.plot([value, 2 * value])
    assert axes.lines[0].get_ydata() == pytest.approx([float(value), 2 * float(value)])
    assert metric.name in axes.get_ylabel()
    assert metric.unit in axes.get_ylabel()
    pyplot.close(figure)
    none, same = metric.plot(ax=Figure().add_subplot())
    assert none is None
    drawn = [point for dots in same.collections for point in dots.get_offsets()[:, 1].tolist()]
    if isinstance(metric, ClipMetric):
        clips = [metric.measure_clip(*pair(i)) for i in range(3)]
        wanted = [v for side in (1, 0) for v in (c[side] for c in clips) if not math.isnan(v)]
        assert drawn == pytest.approx(wanted)
        assert same.lines[-1].get_ydata() == pytest.approx([float(value)] * 2)
    else:
        assert same.lines[0].get_ydata() == pytest.approx([float(value)])
    assert metric.compute() == value


def test_a_plot_of_clips_says_how_many_have_no_value():
    metric = FacesFound()
    for value in (0.5, math.nan, 1.0):
        metric.record(value)
    axes = metric.plot(ax=Figure().add_subplot())[1]
    assert axes.get_xlabel() == "clip (1 of 3 without a value)"
    assert axes.collections[0].get_offsets()[:, 0].tolist() == [1, 3]


def test_a_plot_shows_the_best_value_that_there_is():
    best = {"psnr": 100.0, "fid": 0.0, "av-offset": 0.0}
    for name, value in best.items():
        axes = make(name).plot(torch.tensor(7.0), Figure().add_subplot())[1]
        assert axes.lines[-1].get_ydata() == [value] * 2
    assert len(make("blinks").plot(torch.tensor(7.0), Figure().add_subplot())[1].lines) == 1


CLIPWISE = [
    name for name in sorted(metrics.METRICS) if issubclass(load(metrics.METRICS[name]), ClipMetric)
]


@pytest.mark.parametrize("metric", CLIPWISE, indirect=True)
def test_recording_known_values_equals_measuring(metric):
    measured = float(fill(metric, range(4)).compute())
    known = [metric.measure_clip(*pair(i)) for i in range(4)]
    metric.reset()
    for value, reference in known:
        metric.record(value, reference)
    assert float(metric.compute()) == measured


def test_no_clips_and_undefined_clips_are_no_figure(metric):
    assert metric._update_count == 0
    if isinstance(metric, ClipMetric):
        metric.record(math.nan)
        assert math.isnan(float(metric.compute()))
        metric.record(0.5)
        assert float(metric.compute()) == 0.5


# Extractors that cannot be built without a weight file, or a user's own program.
WEIGHTY = ("arcface", "i3d", "inception", "landmark-expression", "lipreader")
WEIGHTY += ("silero-vad", "syncnet")

SHARES = {"uneven": ((0, 2, 4), (1, 3)), "one without clips": ((0, 1, 2), ())}


def work(rank, port, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    figures = {
        (share, name): float(fill(make(name), SHARES[share][rank]).compute())
        for share in SHARES
        for name in sorted(metrics.METRICS)
    }
    if rank == 0:
        torch.save(figures, out)
    torch.distributed.destroy_process_group()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one(tmp_path):
    out = tmp_path / "figures.pt"
    mp.spawn(work, (free_port(), out), nprocs=2)
    together = torch.load(out, weights_only=True)
    for (share, name), figure in together.items():
        one, two = SHARES[share]
        alone = float(fill(make(name), one + two).compute())
        assert figure == pytest.approx(alone, rel=1e-9, nan_ok=True), (share, name)


BARE = [name for name in sorted(EXTRACTORS) if name not in WEIGHTY]


@pytest.mark.parametrize("name", BARE)
def test_batch_size_does_not_change_features(name):
    cls = load(EXTRACTORS[name])
    frames = clip(0)["frames"]
    whole, one, odd = (cls(batch_size=n).extract(frames, clip(0)) for n in (64, 1, 7))
    # Processors sum a batch in other orders than a picture.
    near = {"rtol": 1e-3, "atol": 1e-4 * float(whole.abs().max())}
    torch.testing.assert_close(one, whole, **near)
    torch.testing.assert_close(odd, whole, **near)


def faceless(features):
    return {**features, "valid": torch.zeros_like(features["valid"])}


def silent(features):
    return {**features, "waveform": torch.zeros_like(features["waveform"])}


def soundless(features):
    return {**features, "waveform": torch.zeros(0)}


def short(features):
    """One frame of a clip; the lip reader's text is not per frame."""
    whole = {k: features[k] for k in ("lipreader", "size")}
    return {k: v[: 640 if k == "waveform" else 1] for k, v in features.items()} | whole


def rowless(features):
    """What extractors give on a clip that is too short for them."""
    kept = {k: v for k, v in features.items() if k not in DIMS}
    return {**kept, **{k: features[k][:0] for k in DIMS}}


@pytest.mark.parametrize("spoil", [faceless, silent, soundless, short])
def test_a_clip_that_is_not_as_it_should_be_has_a_value_or_none(metric, spoil):
    """None of them is an error, and no figure is infinite."""
    for i in range(2):
        metric.update(*map(spoil, pair(i)))
    figure = float(metric.compute())
    assert math.isnan(figure) or metric.bounds[0] <= figure <= metric.bounds[1]
    assert not math.isinf(figure)
    if spoil is faceless and "valid" in metric.needs:
        assert figure == 0 if isinstance(metric, FacesFound) else math.isnan(figure)


@pytest.mark.parametrize("metric", ["fvd", "lse-c", "lse-d", "av-offset"], indirect=True)
def test_a_clip_without_rows_adds_nothing(metric):
    alone = float(fill(metric, range(3)).compute())
    metric.update(*map(rowless, pair(3)))
    assert float(metric.compute()) == pytest.approx(alone, rel=1e-9)


@pytest.mark.parametrize("metric", CLIPWISE, indirect=True)
def test_a_clip_metric_without_a_reference_has_its_own_value_or_none(metric):
    """Ground-truth rows rest on this: what compares is NaN, everything else does not change."""
    with_reference = metric.measure_clip(*pair(0))[0]
    alone = metric.measure_clip(pair(0)[0], None)[0]
    assert math.isnan(alone) or alone == with_reference


def test_folded_and_held_rows_merge():
    """Of two processes, one has folded its features into sums and the other still holds them."""
    cls = load(metrics.METRICS["fd-pyramid"])
    many, few, alone = cls(), cls(), cls()
    for i in range(12):
        features = [{"pyramid": torch.randn(40 if i < 10 else 7, 240)} for _ in range(2)]
        (many if i < 10 else few).update(*features)
        alone.update(*features)
    for name in many._defaults:
        mine, other = getattr(many, name), getattr(few, name)
        setattr(many, name, mine + other)
    assert int(many.generated_count) > 0
    assert many.generated_rows
    assert float(many.compute()) == pytest.approx(float(alone.compute()), rel=1e-9)


@pytest.mark.parametrize("name", sorted(EXTRACTORS))
def test_extractors_are_named_as_registered(name):
    cls = load(EXTRACTORS[name])
    assert issubclass(cls, Extractor)
    assert cls.name == name


def test_metrics_import_neither_the_bench_nor_the_baselines():
    root = Path(metrics.__file__).parent
    files = sorted(root.rglob("*.py"))
    assert len(files) > 8
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            for name in names:
                assert name.split(".")[0] not in ("thbench", "baselines"), f"{path}: {name}"
