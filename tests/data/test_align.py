"""Frames of 4:3, as CREMA-D has them, aligned and padded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.data.test_silent import prepare
from tests.recordings import Track, record, talk
from thbench.core.errors import UserError
from thbench.core.types import N_LANDMARKS
from thbench.data import manifest
from thbench.data.face import align
from thbench.data.face.crop import Square, crop_square
from thbench.data.media import video
from thbench.data.prepare.job import Settings

N = 36


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A face of 240 pixels in frames of 480 x 360 that moves to the right and turns."""
    said = talk(N, 240)
    frames = []
    for t, frame in enumerate(said.frames):
        angle, shift = np.deg2rad(6 * np.sin(t / 6)), 1.5 * t - 25
        turn = torch.tensor([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]])
        grid = F.affine_grid(turn[None].float(), [1, 3, 240, 240], align_corners=False)
        turned = F.grid_sample(frame[None].float(), grid, align_corners=False)[0].byte()
        wide = torch.full((3, 360, 480), 90, dtype=torch.uint8)
        x = round(120 + shift)
        wide[:, 60:300, x : x + 240] = turned
        frames.append(wide)
    root = tmp_path_factory.mktemp("cremad")
    sound = Track(said.sound, rate=16000)
    record(root / "1015_DFA_ANG_XX.mp4", torch.stack(frames), sound)
    return root


def landmarks(root: Path) -> np.ndarray:
    """The clip's (T, 478, 2), in fractions of the frame."""
    (clip,) = manifest.read(root)
    assert (clip.split, clip.identity, clip.n_frames) == ("test", "s15", N)
    info = video.probe(root / clip.video)
    assert (info.width, info.height) == (64, 64)
    found = np.load(root / clip.track)
    assert found["valid"].all()
    return np.asarray(found["landmarks"], np.float32)[..., :2]


def test_aligned_eyes_and_nose_stay_in_place(raw: Path, tmp_path: Path) -> None:
    assert prepare(raw, tmp_path / "face", kind="cremad") == 0
    assert prepare(raw, tmp_path / "align", "--crop", "align", kind="cremad") == 0
    stable, places = list(align.PLACES), np.array(list(align.PLACES.values()))
    moving, still = (landmarks(tmp_path / name)[:, stable] for name in ("face", "align"))
    roll = [np.arctan2(*(x[:, 3] - x[:, 0]).T[::-1]) for x in (moving, still)]
    assert still.mean(1).std(0).max() < 0.02 < moving.mean(1).std(0).max()
    assert roll[1].std() < 0.5 * roll[0].std()
    assert np.abs(still.mean((0, 1)) - places.mean(0)).max() < 0.02
    width = np.linalg.norm(still[:, 3] - still[:, 0], axis=1).mean()
    assert width == pytest.approx(0.376, abs=0.06)


def test_a_padded_frame_is_whole_with_black_bars(raw: Path, tmp_path: Path) -> None:
    assert prepare(raw, tmp_path, "--crop", "pad", kind="cremad") == 0
    assert landmarks(tmp_path)[..., 1].std() > 0
    (clip,) = manifest.read(tmp_path)
    frames = video.read(tmp_path / clip.video)
    assert frames[:, :, :6].max() < 20  # 480 x 360 in 64 x 64 leaves 8 rows on either side
    assert frames[:, :, -6:].max() < 20
    assert (frames[:, :, 12:-12, :4].float().mean() - 90).abs() < 4


def test_a_frame_that_is_not_square_is_not_taken_whole(
    raw: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert prepare(raw, tmp_path, "--crop", "none", kind="cremad") == 2
    assert "not square (480x360): use crop=face, align or pad" in capfd.readouterr().err


def test_beyond_the_edges_it_is_black_if_wanted() -> None:
    frames = torch.full((2, 3, 6, 8), 7, dtype=torch.uint8)
    whole = crop_square(frames, Square(0, -1, 8), 8, black=True)
    assert (whole[:, :, 1:7] == 7).all()
    assert (whole[:, :, [0, 7]] == 0).all()
    assert (crop_square(frames, Square(0, -1, 8), 8) == 7).all()
    assert (frames == 7).all()


def test_a_similarity_is_found_and_kept_at_the_end() -> None:
    rng = np.random.default_rng(0)
    places = np.array(list(align.PLACES.values())) * 64
    turn = 2.5 * np.array([[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]])
    points = rng.uniform(0, 99, (12, N_LANDMARKS, 2))
    points[:, list(align.PLACES)] = places @ turn.T + (30, 20)
    found = align.similarities(points, 64)
    assert found.shape == (12, 2, 3)
    back = points[:, list(align.PLACES)] @ found[0, :, :2].T + found[0, :, 2]
    assert back[0] == pytest.approx(places)
    points[:, list(align.PLACES)] += np.arange(12)[:, None, None]
    found = align.similarities(points, 64)
    kept = 12 - align.WINDOW
    assert (found[kept:] == found[kept]).all()
    assert (found[kept - 1] != found[kept]).any()
    middle = places @ turn.T + (30, 20) + 3  # the mean of the first seven
    assert middle @ found[0, :, :2].T + found[0, :, 2] == pytest.approx(places)
    assert len(align.similarities(points[:3], 64)) == 3  # fewer than a window


def test_pixels_lie_where_landmarks_say() -> None:
    frame = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    frame[:, :, 10:20, 20:30] = 200
    same = np.array([[[1.0, 0, 0], [0, 1, 0]]])
    assert torch.equal(align.warp(frame, same, 40), frame)
    half = align.warp(frame, same / 2, 20)
    assert (half[:, :, 6:9, 11:14] == 200).all()
    assert half[:, :, :4].max() == 0
    assert half[0, 0].float().mul(torch.arange(20.0) + 0.5).sum() / half[0, 0].sum() == 12.5
    shifted = same + np.array([[0, 0, 5], [0, 0, -3]])
    moved = align.warp(frame, shifted, 40)
    assert torch.equal(moved[:, :, :30, 10:], frame[:, :, 3:33, 5:35])


def test_what_does_not_look_for_faces_chooses_none() -> None:
    Settings(64, crop="align", face="speaking").check()
    with pytest.raises(UserError, match="chooses whom to crop to"):
        Settings(64, crop="pad", face="speaking").check()
    with pytest.raises(UserError, match="crop='x' is unknown: use face, align, pad, none"):
        Settings(64, crop="x").check()
