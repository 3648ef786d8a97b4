import math

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision.models import alexnet

from metrics import weights
from metrics.perceptual import LPIPS, build, lpips_distance


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    features = alexnet(weights=None).features.state_dict()
    return {f"features.{k}": v for k, v in features.items()}


def clip(n=3, size=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def test_agrees_with_torchmetrics_on_the_same_trunk(state):
    """torchmetrics carries the same heads; its trunk is given the same weights."""
    theirs = _LPIPS(pretrained=True, net="alex", pnet_rand=True, eval_mode=True)
    for name, module in theirs.net.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            source = f"features.{name.split('.')[1]}"
            module.load_state_dict({k: state[f"{source}.{k}"] for k in ("weight", "bias")})
    a, b = clip(), clip(seed=1)
    with torch.inference_mode():
        expected = theirs(a / 127.5 - 1, b / 127.5 - 1).flatten()
    assert expected.min() > 1e-6
    ours = lpips_distance(build(state), a, b, batch_size=2)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-7)


def test_equal_frames_are_at_zero_and_blur_moves_away(state):
    net = build(state)
    sharp = clip(2, 64)
    assert lpips_distance(net, sharp, sharp).tolist() == [0, 0]
    blurred = [F.avg_pool2d(sharp.float(), k, 1, k // 2).to(torch.uint8) for k in (3, 7)]
    little, much = (float(lpips_distance(net, sharp, b).mean()) for b in blurred)
    assert 0 < little < much


def test_building_leaves_the_random_numbers_alone(state):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    build(state)
    assert torch.equal(torch.rand(1), expected)


def test_without_the_trunk_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("THBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(weights.WeightsMissing, match="alexnet-owt-7be5be79"):
        LPIPS().prepare()


def test_the_metric_loads_the_checked_file_by_itself(tmp_path, monkeypatch, state):
    entry = weights.WEIGHTS["lpips-alexnet"]
    path = tmp_path / entry.file
    torch.save(state, path)
    known = weights.Weights(entry.file, entry.url, entry.licence, weights.sha256(path))
    monkeypatch.setitem(weights.WEIGHTS, "lpips-alexnet", known)
    monkeypatch.setenv("THBENCH_WEIGHTS", str(tmp_path))
    a, b = clip(), clip(seed=1)
    value = LPIPS().measure({"frames": a}, {"frames": b})
    assert value == pytest.approx(float(lpips_distance(build(state), a, b).mean()), rel=1e-6)


def test_not_defined_without_reference_frames_or_pixels():
    metric = LPIPS()
    assert math.isnan(metric.measure({"frames": clip()}, None))
    for bad in (clip(0), clip(2, 30)):
        assert math.isnan(metric.measure({"frames": bad}, {"frames": bad}))


def test_the_smallest_frames_are_measured(state):
    a, b = clip(1, 31), clip(1, 31, seed=1)
    assert float(lpips_distance(build(state), a, b)) > 0
