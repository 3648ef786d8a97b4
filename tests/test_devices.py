from typing import ClassVar

import pytest
import torch

from tests.test_predict import TRAINER, Asked
from tests.toys import Counting, request
from thbench.config import TrainerConfig
from thbench.core.errors import UserError
from thbench.evaluation import timing
from thbench.evaluation.protocol import Timing
from thbench.generation import execution
from thbench.generation.runner import generate
from thbench.generation.writer import ClipWriter
from thbench.training.devices import limit_devices, make_trainer, use_threads


@pytest.mark.parametrize(
    ("named", "n", "expected"),
    [(8, 3, 3), (2, 5, 2), ("2", 5, 2), ([1, 3, 5], 2, [1, 3]), ("1,3", 5, [1, 3])],
)
def test_no_more_devices_than_clips(named, n, expected):
    assert limit_devices(TrainerConfig(devices=named), n) == expected


@pytest.mark.parametrize("named", ["auto", -1])
def test_all_devices_are_those_that_are_there(named, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert limit_devices(TrainerConfig(devices=named), 20) == 8
    assert limit_devices(TrainerConfig(devices=named), 3) == 3
    assert limit_devices(TrainerConfig(devices=named, accelerator="cpu"), 20) == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert limit_devices(TrainerConfig(devices=named), 3) == 1


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


class Watching(Counting):
    """Notes whether its networks run in lower precision."""

    seen: ClassVar[list[bool]] = []

    def encode(self, request):
        self.seen.append(torch.is_autocast_enabled("cpu"))
        return super().encode(request)

    def decode(self, latents, frames, conditions):
        self.seen.append(torch.is_autocast_enabled("cpu"))
        return super().decode(latents, frames, conditions)


def by_eval(strategy, folder):
    writer = ClipWriter(folder, "toy", "run-1")
    execution.generate_split(strategy, Asked(), writer, TRAINER)


def by_timing(strategy, folder):
    rule = Timing(frames=4, repeats=1)
    timing.time_generation(strategy, Asked(), rule, TRAINER, device="cpu", run="r", folder=folder)


def alone(strategy, folder):
    with execution.on_one_device(strategy, "cpu", TRAINER):
        list(generate(strategy, request(4)).chunks)


@pytest.mark.parametrize("way", [by_eval, by_timing, alone], ids=lambda way: way.__name__)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_networks_generate_in_the_sampler_s_precision(way, precision, tmp_path):
    """However ``trainer.precision`` has trained them."""
    Watching.seen.clear()
    strategy = Watching({"name": "nar"}, steps=2)
    strategy.sampler.precision = precision
    way(strategy, tmp_path)
    assert len(Watching.seen) >= 2
    assert set(Watching.seen) == {precision == "bf16-mixed"}
