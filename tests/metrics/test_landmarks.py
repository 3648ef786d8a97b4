import math

import pytest
import torch

from metrics.landmarks import IBUG_68, LMD, MOUTH, eye_span, landmark_distance, to_68
from tests.tiny import HDTF

MIRROR = [
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31,
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
]  # fmt: skip
"""Where each of the 68 points lies on a mirrored face."""


def clip(n, size=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "size": torch.tensor([size, size]),
        "landmarks": torch.rand(n, 478, 3, generator=generator),
        "valid": torch.ones(n, dtype=torch.bool),
    }


def test_a_plain_transcription_agrees():
    mine, theirs = clip(3), clip(3, seed=1)
    raw, centred, normalised = [], [], []

    def point(features, t, p, axis):
        a, b = IBUG_68[p]
        values = features["landmarks"][t, :, axis].tolist()
        return 50 * (values[a] + values[b]) / 2

    for t in range(3):
        apart = [
            math.dist(*[[point(f, t, p, a) for a in (0, 1)] for f in (mine, theirs)])
            for p in range(68)
        ]
        raw.append(sum(apart) / 68)
        eyes = math.dist(*[[point(theirs, t, p, a) for a in (0, 1)] for p in (36, 45)])
        normalised.append(raw[-1] / eyes)
        lips = []
        for f in (mine, theirs):
            middle = [sum(point(f, t, p, a) for p in range(48, 68)) / 20 for a in (0, 1)]
            lips.append([[point(f, t, p, a) - middle[a] for a in (0, 1)] for p in range(48, 68)])
        centred.append(sum(map(math.dist, *lips)) / 20)

    for values, options in (
        (raw, {}),
        (centred, {"mode": "mouth-centred"}),
        (normalised, {"scale": "normalised"}),
    ):
        found = LMD(**options).measure(mine, theirs)
        assert found == pytest.approx(sum(values) / 3, rel=1e-6)


def test_a_moved_face_counts_raw_but_not_mouth_centred():
    points = torch.rand(4, 68, 2)
    moved = points + torch.tensor([0.3, 0.4])
    torch.testing.assert_close(landmark_distance(points, moved), torch.full((4,), 0.5))
    assert landmark_distance(points, moved, "mouth-centred").abs().max() < 1e-6
    assert slice(48, 68) == MOUTH


def test_normalised_does_not_depend_on_the_resolution():
    small, large = [
        LMD(scale="normalised").measure(clip(3, size), clip(3, size, seed=1)) for size in (50, 200)
    ]
    assert small == pytest.approx(large)
    assert LMD().measure(clip(3, 200), clip(3, 200, seed=1)) == pytest.approx(
        4 * LMD().measure(clip(3, 50), clip(3, 50, seed=1))
    )


def test_x_is_a_fraction_of_the_width_and_y_of_the_height():
    mine, theirs = clip(2), clip(2)
    for features in (mine, theirs):
        features["size"] = torch.tensor([20, 80])
    theirs["landmarks"][..., 0] += 0.1
    assert LMD().measure(mine, theirs) == pytest.approx(8, rel=1e-4)
    theirs["landmarks"][..., 0] -= 0.1
    theirs["landmarks"][..., 1] += 0.1
    assert LMD().measure(mine, theirs) == pytest.approx(2, rel=1e-4)


def test_frames_missed_in_either_video_are_left_out():
    mine, theirs = clip(4), clip(4)
    mine["landmarks"][1] += 1
    theirs["landmarks"][2] += 1
    mine["valid"][1] = theirs["valid"][2] = False
    assert LMD().measure(mine, theirs) == 0
    mine["valid"][:] = False
    assert math.isnan(LMD().measure(mine, theirs))
    assert math.isnan(LMD().measure(clip(0), clip(0)))
    assert math.isnan(LMD().measure(mine, None))


def test_names_and_options():
    assert LMD().name == "LMD (raw, px)"
    assert LMD("mouth-centred", "normalised").name == "LMD (mouth-centred, normalised)"
    assert LMD().unit == "px"
    assert LMD(scale="normalised").unit == ""
    with pytest.raises(ValueError, match="mode is raw"):
        LMD(mode="mouth")


@pytest.mark.real
def test_the_points_of_a_mirrored_face_are_mirrored(clips):
    from thbench.data.face import landmarks
    from thbench.data.media import video

    frame = next(video.stream(clips / HDTF))[:1]
    found, mirrored = (landmarks.track(f) for f in (frame, frame.flip(-1)))
    assert found.valid.all()
    assert mirrored.valid.all()
    points, others = (to_68(torch.from_numpy(t.landmarks)) for t in (found, mirrored))
    others = others[:, MIRROR] * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
    apart = (points - others).norm(dim=-1) / eye_span(points)[:, None]
    assert apart.max() < 0.12
    # The chin lies below the lips, the brows above the eyes, the jaw runs from left to right.
    x, y = points[0].unbind(-1)
    assert y[8] > y[57] > y[51] > y[33] > y[27]
    assert y[17:22].max() < y[36:42].min()
    assert y[22:27].max() < y[42:48].min()
    assert (x[3:14].diff() > 0).all()
