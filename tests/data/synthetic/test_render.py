"""The frames themselves, then what a landmark tracker reads from them."""

import numpy as np
import pytest
import torch

from thbench.data.face import pose as measured
from thbench.data.face.landmarks import track
from thbench.data.synthetic.head import distance, trace
from thbench.data.synthetic.identity import HAIR_STYLES, draw
from thbench.data.synthetic.perform import perform
from thbench.data.synthetic.render import State, _Stand, render, rotation

SIZE = 128


def still(n=1, **values):
    return State.neutral(n, **{name: torch.tensor(value) for name, value in values.items()})


def test_shape_type_and_determinism():
    state = still(3, yaw=[0.0, 0.2, 0.4])
    frames = render(draw(0, 0), state, 96)
    assert frames.shape == (3, 3, 96, 96)
    assert frames.dtype == torch.uint8
    assert torch.equal(frames, render(draw(0, 0), state, 96))


def test_frames_do_not_depend_on_their_neighbours():
    played = perform(0, 1, 0, 30)
    whole = render(played.who, played.state, 64).int()
    alone = torch.cat([render(played.who, played.state[t : t + 1], 64) for t in range(30)]).int()
    # Windows of pixels differ, so the last bit of a float may.
    assert (whole - alone).abs().max() <= 2


@pytest.mark.parametrize("style", HAIR_STYLES)
def test_every_style_is_drawn_without_holes(style):
    who = next(draw(0, i) for i in range(300) if draw(0, i).style == style)
    turned = render(who, still(4, yaw=[0, 0.6, 0, 0.0], pitch=[0, 0, 0.4, -0.4]), 64).float()
    assert torch.isfinite(turned).all()
    assert turned.std() > 20
    assert turned.mean(dim=(1, 2, 3)).min() > 20


def test_rotation_is_a_rotation_with_the_documented_signs():
    angles = torch.tensor([0.3, -0.5]), torch.tensor([0.2, 0.1]), torch.tensor([-0.3, 0.4])
    turn = rotation(*angles)
    torch.testing.assert_close(turn @ turn.mT, torch.eye(3).expand(2, 3, 3), atol=1e-6, rtol=0)
    nose, zero, some = torch.tensor([0.0, 0.0, 1.0]), torch.zeros(1), torch.tensor([0.3])
    assert (rotation(some, zero, zero) @ nose)[0, 0] > 0  # to the right of the image
    assert (rotation(zero, some, zero) @ nose)[0, 1] > 0  # up
    crown = torch.tensor([0.0, 1.0, 0.0])
    assert (rotation(zero, zero, some) @ crown)[0, 0] > 0  # clockwise


@pytest.mark.parametrize("index", range(4))
def test_traced_points_lie_on_the_head(index):
    who, state = draw(0, index), still(2, yaw=[0.0, 0.5], pitch=[0.0, 0.3], mouth=[0.0, 1.0])
    stand = _Stand.of(who, state)
    rays = stand.rays(SIZE, (slice(0, SIZE), slice(0, SIZE)))
    drop = torch.tensor([0.0, 0.1])[:, None, None]
    seen = trace(who, rays, drop, (0.3, 0.4))
    gap = distance(who, seen.point, drop).abs()[seen.alpha == 1] / (2 / SIZE / who.head_size)
    assert gap.quantile(0.99) < 0.5  # pixels
    assert 0.2 < (seen.alpha > 0.5).float().mean() < 0.6


@pytest.mark.parametrize(
    ("change", "rows"), [({"mouth": [1.0]}, (0.55, 1.0)), ({"closure": [1.0]}, (0.30, 0.55))]
)
def test_mouth_and_eyes_change_where_they_are(change, rows):
    """At 64 px a fully open mouth, or closed eyes, differ in many pixels and only there."""
    who = draw(0, 7)
    gap = (render(who, still(**change), 64).int() - render(who, still(), 64).int()).abs()[0].amax(0)
    changed = (gap > 25).nonzero()
    assert len(changed) >= 40
    assert rows[0] * 64 <= changed[:, 0].min()
    assert changed[:, 0].max() < rows[1] * 64


@pytest.fixture(scope="module")
def clips():
    """Performances of people, their frames' tracks, at 128 px."""
    played = [perform(11, person, 0, 75) for person in (500, 501, 502, 503)]
    return [(p, track(render(p.who, p.state, SIZE))) for p in played]


def within(clips, planted, read):
    """Mean over the clips of the correlation within each."""
    values = [np.corrcoef(planted(p), read(t))[0, 1] for p, t in clips if planted(p).std() > 0]
    return float(np.mean(values))


def test_the_face_is_found(clips):
    assert np.concatenate([t.valid for _, t in clips]).mean() >= 0.99


def test_mouth_opening_is_read_back(clips):
    read = within(clips, lambda p: p.speech.mouth, lambda t: measured.mouth_opening(t.landmarks))
    assert read >= 0.9


def test_closed_eyes_are_read_back(clips):
    assert within(clips, lambda p: p.motion.closure, lambda t: -t.eyes.mean(axis=1)) >= 0.8


@pytest.mark.parametrize("column", range(3), ids=("yaw", "pitch", "roll"))
def test_pose_is_read_back(clips, column):
    name = ("yaw", "pitch", "roll")[column]
    read = within(clips, lambda p: getattr(p.motion, name), lambda t: t.pose[:, column])
    assert read >= (0.85 if name == "pitch" else 0.9)  # a falling jaw looks a little like a nod


def test_the_nose_stands_out():
    """Parallax: when the head turns, the tip of the nose (1) moves past the eyes (33, 263)."""
    frames = render(draw(11, 500), still(2, yaw=[-0.25, 0.25]), SIZE)
    x = np.concatenate([track(frame[None]).landmarks[:, :, 0] for frame in frames])
    lead = x[:, 1] - x[:, [33, 263]].mean(axis=1)
    assert lead[1] - lead[0] > 0.04
