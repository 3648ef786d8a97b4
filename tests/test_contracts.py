"""Frames as floats and as whole numbers."""

import torch

from thbench.core.types import to_uint8, to_unit


def test_every_level_comes_back_and_others_go_to_the_nearest():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_unit(levels)), levels)
    between = torch.tensor([-1.0, 0.4, 0.6, 7.4, 7.6, 254.6, 300.0]) / 255
    assert to_uint8(between).tolist() == [0, 0, 1, 7, 8, 255, 255]
