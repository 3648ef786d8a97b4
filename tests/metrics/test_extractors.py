from unittest import mock

import pytest
import torch
from pytorch_fid import inception as fid

from metrics import weights
from metrics.extractors.inception import Inception
from metrics.extractors.pyramid import Pyramid, describe
from metrics.frechet import frechet_distance


def random_state():
    """Weights of pytorch-fid's own network, which insists on loading some when it is built."""
    torch.manual_seed(0)
    kept = {}

    def keep(self, state, *args, **kwargs):
        kept.update(self.state_dict())

    with (
        mock.patch.object(fid, "load_state_dict_from_url", return_value={}),
        mock.patch.object(torch.nn.Module, "load_state_dict", keep),
    ):
        fid.fid_inception_v3()
    # PyTorch's default weights shrink a ReLU network's signal by about sqrt(6) a layer.
    return {k: v * 6**0.5 if v.ndim == 4 else v for k, v in kept.items()}


@pytest.mark.parametrize("size", [(72, 64), (420, 512)], ids=["enlarged", "reduced"])
def test_inception_features_equal_pytorch_fids(size, tmp_path):
    state = random_state()
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    with mock.patch.object(fid, "load_state_dict_from_url", return_value=state):
        theirs = fid.InceptionV3().eval()
    frames = torch.randint(0, 256, (3, 3, *size), dtype=torch.uint8)
    ours = Inception(path=path, batch_size=2)
    expected = theirs(frames.float() / 255)[0].flatten(1)
    assert expected.abs().max() > 1e-3
    least = 1e-4 * float(expected.abs().max())  # processors sum in other orders
    torch.testing.assert_close(ours.extract(frames), expected, rtol=1e-3, atol=least)
    assert ours.fingerprint.startswith("inception-1-")


def test_official_weights_are_found_checked_or_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("THBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(weights.WeightsMissing, match=r"download https://.*6726825d\.pth"):
        Inception()
    (tmp_path / weights.WEIGHTS["fid-inception"].file).write_bytes(b"not the weights")
    with pytest.raises(weights.WeightsMissing, match="hash differs"):
        Inception()


def test_hashes(tmp_path):
    path = tmp_path / "hello"
    path.write_bytes(b"hello\n")
    assert weights.git_blob(path) == "ce013625030ba8dba906f756967f9e9ca394464a"
    entry = weights.Weights("hello", "", "", sha256="5891b5b5")
    assert weights.matches(path, entry)
    assert not weights.matches(path, weights.Weights("hello", "", ""))


def test_features_are_taken_in_full_precision_whatever_ran_before():
    class Watcher(Pyramid):
        def forward(self, frames):
            self.seen = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
            return super().forward(frames)

    before, watcher = torch.get_float32_matmul_precision(), Watcher()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
            watcher.extract(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
            assert torch.backends.cudnn.allow_tf32
        assert watcher.seen == ("highest", False)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_pyramid_sees_brightness_colour_and_edges():
    flat = torch.full((1, 3, 40, 40), 100, dtype=torch.uint8)
    features = describe(flat)
    assert features.shape == (1, 240)
    torch.testing.assert_close(features[0, :16], torch.full((16,), 100.0))
    assert features[0, 16:].abs().max() < 1e-3
    red = flat.clone()
    red[:, 0] = 200
    assert (describe(red)[0, 32:48] > 20).all()


def test_pyramid_distance_grows_with_blur_and_noise():
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (80, 3, 16, 16)).float()
    frames = torch.nn.functional.interpolate(frames, (64, 64), mode="bicubic").clamp(0, 255)
    extract = Pyramid().extract
    clean = extract(frames.to(torch.uint8))

    def apart(changed):
        return float(frechet_distance(extract(changed.clamp(0, 255).to(torch.uint8)), clean))

    noise = torch.randn_like(frames)
    noisy = [apart(frames + sigma * noise) for sigma in (0, 4, 8, 16)]
    blur = [
        apart(torch.nn.functional.avg_pool2d(frames, k, 1, k // 2, count_include_pad=False))
        for k in (1, 3, 5, 7)
    ]
    for series in (noisy, blur):
        assert series[0] == pytest.approx(0, abs=1e-4)
        assert series == sorted(series)
        assert series[1] > 0.5
