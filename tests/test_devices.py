import pytest
import torch

from thbench.config import TrainerConfig
from thbench.core.errors import UserError
from thbench.training.devices import limit_devices, make_trainer, use_threads


@pytest.mark.parametrize(
    ("devices", "n", "expected"),
    [(8, 3, 3), (2, 5, 2), ("2", 5, 2), ([1, 3, 5], 2, [1, 3]), ("1,3", 5, [1, 3])],
)
def test_no_more_devices_than_clips(devices, n, expected):
    assert limit_devices(TrainerConfig(devices=devices), n) == expected


@pytest.mark.parametrize("devices", ["auto", -1])
def test_all_devices_are_those_that_are_there(devices, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert limit_devices(TrainerConfig(devices=devices), 20) == 8
    assert limit_devices(TrainerConfig(devices=devices), 3) == 3
    assert limit_devices(TrainerConfig(devices=devices, accelerator="cpu"), 20) == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert limit_devices(TrainerConfig(devices=devices), 3) == 1


def test_devices_that_are_none_are_one_line():
    with pytest.raises(UserError, match=r"trainer\.devices=two"):
        limit_devices(TrainerConfig(devices="two"), 3)


def test_threads_are_torchs_own_unless_they_are_set():
    before = torch.get_num_threads()
    try:
        use_threads(TrainerConfig())
        assert torch.get_num_threads() == before
        use_threads(TrainerConfig(threads=before + 1))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["bf16", "16"])
def test_weights_of_16_bits_are_refused(kind):
    with pytest.raises(UserError, match=f"take {kind}-mixed"):
        make_trainer(TrainerConfig(accelerator="cpu", precision=f"{kind}-true"))
