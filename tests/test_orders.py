"""README's animation shows what the plans say."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.orders import CALLS, CELL, FRAMES, ROWS, Row, header, page, save
from thbench.generation import plan_drawing, plans


def row(name):
    title, plan = ROWS[name]
    frames = np.arange(FRAMES, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, CELL, CELL, 3), np.uint8
    )
    grid = plan_drawing.grid(plans.build(n=FRAMES, **plan), CALLS)
    return Row(name, title, frames, np.full(frames.shape, 255.0), grid)


@pytest.mark.parametrize("name", ROWS)
def test_each_frame_goes_from_noise_to_what_was_generated(name):
    shown = row(name)
    for i in range(FRAMES):
        levels = [shown.level(call, i) for call in range(len(shown.grid) + 1)]
        touched = [level for level in levels if level != plan_drawing.UNTOUCHED]
        assert touched[0] == 1, "from pure noise"
        assert touched == sorted(touched, reverse=True)
        assert touched[-1] == 0
    assert np.asarray(shown.cell(len(shown.grid), 5)).max() == 5
    assert np.asarray(shown.cell(0, 0)).min() == 255


def test_calls_are_the_plans_depth():
    depth = {name: len(row(name).grid) for name in ROWS}
    assert depth == {"dawn": 4, "ttr": 8, "sar": 12, "rolling": 15, "ar": 48}


def test_it_is_written_as_an_endless_animation(tmp_path):
    rows = [row("dawn"), row("sar")]
    head = header(Image.fromarray(rows[0].frames[0]), np.zeros(100, np.float32))
    save([page(head, rows, call) for call in range(3)], tmp_path / "out.gif")
    with Image.open(tmp_path / "out.gif") as image:
        assert (image.n_frames, image.info["loop"]) == (3, 0)
