import math

import pytest
import torch
from torch.nn import functional as F

from metrics import weights
from metrics.extractors.i3d import (
    I3D,
    SIZE,
    InceptionI3D,
    build,
    pad_same,
    preprocess,
    starts,
)
from metrics.frechet import frechet_distance
from metrics.fvd import FVD
from thbench.data.media.video import VideoWriter, read
from thbench.evaluation import protocol
from thbench.evaluation.score import score

VARIANCE = 1e-3

# Input channels and those of b0, b1a, b1b, b2a, b2b, b3b, as in the published file.
TABLE = """
3b 192 64 96 128 16 32 32
3c 256 128 128 192 32 96 64
4b 480 192 96 208 16 48 64
4c 512 160 112 224 24 64 64
4d 512 128 128 256 24 64 64
4e 512 112 144 288 32 64 64
4f 528 256 160 320 32 128 128
5b 832 256 160 320 32 128 128
5c 832 384 192 384 48 128 128
"""


def units():
    """Name, input and output channels and kernel size of every convolution with batch norm."""
    yield from [
        ("Conv3d_1a_7x7", 3, 64, 7),
        ("Conv3d_2b_1x1", 64, 64, 1),
        ("Conv3d_2c_3x3", 64, 192, 3),
    ]
    for line in TABLE.split("\n")[1:-1]:
        name, *rest = line.split()
        inside, b0, b1a, b1b, b2a, b2b, b3b = map(int, rest)
        for unit, a, b, kernel in [
            ("b0", inside, b0, 1),
            ("b1a", inside, b1a, 1),
            ("b1b", b1a, b1b, 3),
            ("b2a", inside, b2a, 1),
            ("b2b", b2a, b2b, 3),
            ("b3b", inside, b3b, 1),
        ]:
            yield f"Mixed_{name}.{unit}", a, b, kernel


@pytest.fixture(scope="module")
def state():
    """Random tensors with the published names and shapes, that keep the signal's size.

    Variances are small, so that what batch norm adds to them matters.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    made = {}
    for name, inside, out, kernel in units():
        scale = math.sqrt(VARIANCE * 2 / (inside * kernel**3))
        made[f"{name}.conv3d.weight"] = scale * draw(out, inside, kernel, kernel, kernel)
        made[f"{name}.bn.weight"] = 1 + 0.1 * draw(out)
        made[f"{name}.bn.bias"] = 0.1 * draw(out)
        made[f"{name}.bn.running_mean"] = 0.1 * math.sqrt(VARIANCE) * draw(out)
        made[f"{name}.bn.running_var"] = VARIANCE * (1 + 0.1 * draw(out).abs())
        made[f"{name}.bn.num_batches_tracked"] = torch.tensor(7)
    made["logits.conv3d.weight"] = draw(400, 1024, 1, 1, 1) / 32
    made["logits.conv3d.bias"] = draw(400)
    return made


class Program(torch.nn.Module):
    """Stands in for the TorchScript file: the same call, other features."""

    def forward(
        self,
        x: torch.Tensor,
        rescale: bool = True,
        resize: bool = True,
        return_features: bool = False,
    ) -> torch.Tensor:
        if rescale:
            x = 2 * x / 255 - 1
        if resize:
            x = F.interpolate(x, size=[x.shape[2], 224, 224], mode="trilinear", align_corners=False)
        features = x.mean(dim=[3, 4]).flatten(1)
        features = features.repeat(1, 400 // features.shape[1] + 1)[:, :400]
        return features if return_features else features.softmax(1)


def publish(monkeypatch, folder, name, save):
    """Write a file and make it the published one of that name."""
    entry = weights.WEIGHTS[name]
    path = folder / entry.file
    save(path)
    known = weights.Weights(entry.file, entry.url, entry.licence, weights.sha256(path))
    monkeypatch.setitem(weights.WEIGHTS, name, known)
    monkeypatch.setenv("THBENCH_WEIGHTS", str(folder))
    return path


@pytest.fixture
def kinetics(tmp_path, monkeypatch, state):
    publish(monkeypatch, tmp_path, "i3d-kinetics400", lambda path: torch.save(state, path))


@pytest.fixture
def torchscript(tmp_path, monkeypatch):
    program = torch.jit.script(Program())
    return publish(monkeypatch, tmp_path, "i3d-torchscript", program.save)


def clip(n, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def test_the_published_names_and_shapes_are_the_networks(state):
    ours = {k: v.shape for k, v in InceptionI3D().state_dict().items()}
    assert ours == {k: v.shape for k, v in state.items()}
    assert len(ours) == 57 * 6 + 2


def test_every_tensor_is_taken_and_another_file_refused(state):
    net = build(state)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert not net.training
    bare = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert torch.equal(build(bare).logits.conv3d.bias, state["logits.conv3d.bias"])
    with pytest.raises(RuntimeError, match="logits"):
        build({k: v for k, v in state.items() if k != "logits.conv3d.bias"})


@pytest.mark.parametrize("size", range(5, 10))
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (3, 2), (2, 2), (1, 1)])
def test_same_padding_is_tensorflows(size, kernel, stride):
    x, w = torch.rand(size).double(), torch.rand(kernel).double()
    # TensorFlow: ceil(n / stride) outputs; of the zeros needed, the smaller half in front.
    outputs = math.ceil(size / stride)
    before = max((outputs - 1) * stride + kernel - size, 0) // 2
    expected = []
    for i in range(outputs):
        places = [i * stride + k - before for k in range(kernel)]
        expected.append(
            sum(float(w[k]) * float(x[p]) for k, p in enumerate(places) if 0 <= p < size)
        )
    padded = pad_same(x.reshape(1, 1, size, 1, 1), (kernel, 1, 1), (stride, 1, 1))
    ours = F.conv3d(padded, w.reshape(1, 1, kernel, 1, 1), stride=(stride, 1, 1))
    torch.testing.assert_close(ours.flatten(), torch.tensor(expected).double())


def transcription(state, x):
    """The network of the paper's figure, operation by operation, as TATS and VideoGPT run it.

    Their ``pytorch_i3d.py`` adds 1e-5 to variances, where the paper's own program adds 1e-3.
    """

    def around(x, k, s):
        pads = []
        for n, a, b in zip(x.shape[2:], k, s, strict=True):
            total = max((math.ceil(n / b) - 1) * b + a - n, 0)
            pads.append((total // 2, total - total // 2))
        return F.pad(x, [p for pair in reversed(pads) for p in pair])

    def unit(name, x, stride=1):
        w = state[f"{name}.conv3d.weight"]
        x = F.conv3d(around(x, w.shape[2:], (stride,) * 3), w, stride=stride)
        mean, var, gain, bias = (
            state[f"{name}.bn.{k}"].reshape(1, -1, 1, 1, 1)
            for k in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * gain + bias).clamp(min=0)

    def pool(x, k, s):
        return F.max_pool3d(around(x, k, s), k, s)

    def mixed(name, x):
        name = f"Mixed_{name}"
        return torch.cat(
            [
                unit(f"{name}.b0", x),
                unit(f"{name}.b1b", unit(f"{name}.b1a", x)),
                unit(f"{name}.b2b", unit(f"{name}.b2a", x)),
                unit(f"{name}.b3b", pool(x, (3, 3, 3), (1, 1, 1))),
            ],
            1,
        )

    x = pool(unit("Conv3d_1a_7x7", x, 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit("Conv3d_2c_3x3", unit("Conv3d_2b_1x1", x)), (1, 3, 3), (1, 2, 2))
    x = pool(mixed("3c", mixed("3b", x)), (3, 3, 3), (2, 2, 2))
    for block in "bcdef":
        x = mixed(f"4{block}", x)
    x = mixed("5c", mixed("5b", pool(x, (2, 2, 2), (2, 2, 2))))
    x = F.avg_pool3d(x, (2, 7, 7), 1)
    weight, bias = state["logits.conv3d.weight"], state["logits.conv3d.bias"]
    return F.conv3d(x, weight, bias).mean(2).flatten(1)


def test_windows_are_cut_batched_and_scored_as_the_transcription_does(state, kinetics):
    frames = clip(15)
    alone = I3D(window=10, stride=5, source="kinetics", batch_size=1).extract(frames)
    assert alone.shape == (2, 400)
    together = I3D(window=10, stride=5, source="kinetics", batch_size=20).extract(frames)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    pixels = F.interpolate(frames[5:15].float(), (SIZE, SIZE), mode="bilinear") / 127.5 - 1
    with torch.inference_mode():
        expected = transcription(state, pixels.transpose(0, 1)[None])
    assert expected.std() > 0.1
    torch.testing.assert_close(alone[1:], expected, rtol=1e-3, atol=1e-3)


def test_files_go_in_and_tats_figure_comes_out(tmp_path, state, kinetics):
    """Two windows a side: covariances of rank one, whose distance is a closed form."""
    rows = {}
    for side, seed in (("gen", 0), ("ref", 2)):
        for i in range(2):
            path = tmp_path / side / f"c{i}.mp4"
            with VideoWriter(path, 64, 64) as writer:
                writer.write(F.interpolate(clip(9, 8, seed + i).float(), 64).byte())
            pixels = F.interpolate(read(path).float(), (SIZE, SIZE), mode="bilinear") / 127.5 - 1
            with torch.inference_mode():
                found = transcription(state, pixels.transpose(0, 1)[None])
            rows.setdefault(side, []).append(found[0].double())
    rule = protocol.parse(
        "p", {"size": 64, "metrics": [{"metric": "fvd", "window": 9, "mode": "tats"}]}
    )
    result = score(
        tmp_path / "gen",
        tmp_path / "ref",
        rule,
        run="r",
        strategy="s",
        progress=False,
        cache=tmp_path / "cache",
    )
    (figure,) = result.metrics.values()
    (a, b), (c, d) = rows.values()
    means = ((a + b) / 2 - (c + d) / 2).square().sum()
    # Divided by n - 1 = 1, the covariance of two points is their difference times itself, halved.
    spread = ((a - b).square().sum() + (c - d).square().sum()) / 2 - ((a - b) @ (c - d)).abs()
    expected = float(means + spread)
    assert expected > 0.1
    assert figure.value == pytest.approx(expected, rel=1e-4)
    assert figure.extractors[0].startswith("i3d-2-")


def test_preprocessing_spans_minus_one_to_one():
    windows = torch.zeros(2, 9, 3, 8, 8, dtype=torch.uint8)
    windows[1] = 255
    made = preprocess(windows)
    assert made.shape == (2, 3, 9, 224, 224)
    torch.testing.assert_close(made[0], torch.full_like(made[0], -1.0))
    torch.testing.assert_close(made[1], torch.full_like(made[1], 1.0))


def test_the_torchscript_file_is_called_as_stylegan_v_does(torchscript):
    frames = clip(40)
    rows = I3D(window=16, stride=8).extract(frames)
    assert rows.shape == (4, 400)
    means = 2 * F.interpolate(frames.float(), (224, 224), mode="bilinear").mean((2, 3)) / 255 - 1
    expected = means[8:24].T.flatten()
    torch.testing.assert_close(rows[1, :48], expected, rtol=1e-4, atol=1e-5)


def test_a_torchscript_file_of_another_hash_is_not_run(torchscript):
    torchscript.write_bytes(torchscript.read_bytes() + b" ")
    with pytest.raises(weights.WeightsMissing, match="hash differs"):
        I3D()


@pytest.mark.parametrize(
    ("frames", "arguments", "expected"),
    [
        (15, (16, 16), []),
        (16, (16, 16), [0]),
        (50, (16, 16), [0, 16, 32]),
        (40, (16, 8), [0, 8, 16, 24]),
        (40, (16, 8, 2), [0, 24]),
        (40, (16, 8, 1), [0]),
        (40, (16, 8, 9), [0, 8, 16, 24]),
        (0, (16, 16), []),
    ],
)
def test_starts(frames, arguments, expected):
    assert starts(frames, *arguments) == expected


def test_fingerprint_tells_whatever_changes_the_features(torchscript, kinetics):
    options = [
        {},
        {"window": 32},
        {"stride": 8},
        {"windows": 1},
        {"source": "kinetics"},
    ]
    prints = {I3D(**o).fingerprint for o in options}
    assert len(prints) == len(options)
    assert all("224" in p for p in prints)
    assert I3D().fingerprint == I3D(stride=16, batch_size=99).fingerprint


@pytest.mark.parametrize(
    "options", [{"window": 8}, {"stride": 0}, {"windows": 0}, {"source": "other"}]
)
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match=r"frames or more|at least 1|one of"):
        I3D(**options)


def test_short_clips_give_no_rows_and_are_counted(torchscript):
    metric = FVD()
    assert metric.recipes[metric.feature][0] == "i3d"
    extract = I3D(**metric.recipes[metric.feature][1]).extract
    assert extract(clip(15)).shape == (0, 400)
    long = [extract(clip(40, seed=s)) for s in range(6)]
    for a, b in zip(long[:3], long[3:], strict=True):
        metric.update({metric.feature: a}, {metric.feature: b})
    metric.update({metric.feature: extract(clip(15))}, {metric.feature: extract(clip(15))})
    expected = frechet_distance(torch.cat(long[:3]), torch.cat(long[3:]), ddof=0)
    assert float(metric.compute()) == pytest.approx(float(expected), rel=1e-9)
    assert metric.notes()[:2] == [
        "windows: 6 generated and 6 reference, of 4 clips",
        "1 clips are shorter than 16 frames",
    ]


def test_no_window_at_all_is_no_figure():
    metric = FVD(32)
    empty = {metric.feature: torch.zeros(0, 400)}
    metric.update(empty, empty)
    assert torch.isnan(metric.compute())


def test_name_feature_and_divisor_follow_the_options():
    assert FVD().name == "FVD16 (stylegan-v, stride 16, all windows, 224 px)"
    assert FVD().ddof == 0
    other = FVD(32, stride=8, windows=1, mode="tats")
    assert other.name == "FVD32 (tats, stride 8, 1 windows, 224 px)"
    assert other.ddof == 1
    assert other.recipes == {
        "i3d-32-8-1-kinetics": (
            "i3d",
            {"window": 32, "stride": 8, "windows": 1, "source": "kinetics"},
        )
    }
    assert FVD(ddof=1).name != FVD().name
    with pytest.raises(ValueError, match="mode is one of"):
        FVD(mode="other")


@pytest.mark.weights
def test_golden_value_of_the_published_network(request, monkeypatch):
    """Eight black clips against eight white ones, 30 frames of 64 x 64."""
    monkeypatch.setenv("THBENCH_WEIGHTS", str(request.config.getoption("weights").resolve()))
    extract = I3D(window=30).extract
    black, white = (torch.full((30, 3, 64, 64), v, dtype=torch.uint8) for v in (0, 255))
    sides = [extract(frames).repeat(8, 1) for frames in (black, white)]
    assert float(frechet_distance(*sides, ddof=0)) == pytest.approx(151.256, rel=1e-3)
