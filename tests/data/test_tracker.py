"""The face tracker against what MediaPipe found in the same drawn faces (``record_tracker.py``)."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests import face_mesh
from thbench.data.face import landmarks
from thbench.data.face.tracker import mesh, network, tflite
from thbench.data.face.tracker.detection import FaceDetector
from thbench.data.face.tracker.region import Region
from thbench.data.synthetic.perform import perform
from thbench.data.synthetic.render import render

RECORDED = Path(__file__).parent / "tracker.npz"
FILMED = (0, 1, 7, 12, 16, 19)  # frames of the clip whose points are recorded
LOST, JUMP = range(8, 12), 16
SIZE = 256


@cache
def faces(identity: int, frames: int, size: int) -> torch.Tensor:
    """A drawn talking face (frames, 3, size, size)."""
    played = perform(0, identity, 0, frames)
    return render(played.who, played.state, size)


@cache
def stills() -> dict[str, np.ndarray]:
    """Pictures (H, W, 3): a face that fills one, turned ones, small ones, two, none."""
    one, other = faces(1, 20, 256)[0], faces(2, 20, 256)[19]
    small = F.interpolate(other[None], (72, 72), mode="bilinear", antialias=True)[0]
    wide = torch.full((3, 180, 400), 90, dtype=torch.uint8)
    wide[:, 40:112, 300:372] = small
    two = torch.cat([one, other], 2)
    aside = torch.rot90(F.pad(one, (0, 90, 60, 0), value=30), 1, (1, 2))
    pictures = {"one": one, "wide": wide, "two": two, "aside": aside, "none": wide.flip(1) * 0 + 70}
    return {name: p.permute(1, 2, 0).contiguous().numpy() for name, p in pictures.items()}


@cache
def filmed() -> torch.Tensor:
    """A clip whose face is gone for four frames, comes back elsewhere, and jumps away at once."""
    frames = torch.full((20, 3, SIZE, SIZE), 60, dtype=torch.uint8)
    face = F.interpolate(faces(1, 20, 256), (120, 120), mode="bilinear", antialias=True)
    for k, (top, left) in enumerate([(20, 30)] * LOST.stop + [(132, 132)] * 4 + [(0, 0)] * 4):
        frames[k, :, top : top + 120, left : left + 120] = face[k]
    frames[list(LOST)] = 0
    return frames


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(RECORDED) as file:
        return dict(file)


@pytest.mark.parametrize("kind", ["near", "far"])
def test_detectors_find_mediapipes_boxes(recorded, kind) -> None:
    detector = FaceDetector(kind)
    for name, picture in stills().items():
        boxes, scores = (recorded[f"{kind}-{what}-{name}"] for what in ("boxes", "scores"))
        found = detector(picture)
        assert len(found) == len(boxes), name
        if found:
            apart = np.stack([face.box for face in found]) - boxes
            assert np.abs(apart * np.tile(picture.shape[1::-1], 2)).max() < 0.1, name
            np.testing.assert_allclose([face.score for face in found], scores, atol=0.005)
    sizes = {name: len(recorded[f"{kind}-boxes-{name}"]) for name in stills()}
    assert sizes["two"] == 2
    assert sizes["none"] == 0
    assert sizes["wide"] == (kind == "far")  # a small face


def test_afresh_the_points_are_mediapipes(recorded) -> None:
    found = landmarks.FaceMesh(moving=False).batch(list(stills().values()))
    for (name, picture), points in zip(stills().items(), found, strict=True):
        theirs = recorded[f"mesh-{name}"]
        assert (points is None) == (len(theirs) == 0), name
        if points is not None:
            apart = pixels(points, theirs, picture)
            assert np.median(apart) < 0.06, name
            assert apart.max() < 0.2, name  # Intel's and AMD's kernels differ
            assert np.abs(points - theirs)[:, 2].max() * picture.shape[1] < 0.2, name
    assert sum(points is not None for points in found) >= 3


def test_a_clip_is_followed_as_mediapipe_does(recorded) -> None:
    found = landmarks.track(filmed())
    valid = [bool(recorded[f"valid-{k}"]) for k in range(len(filmed()))]
    assert found.valid.tolist() == valid
    assert [k for k, seen in enumerate(valid) if not seen] == list(LOST)
    assert not recorded["kept"][JUMP]  # lost by what followed it, found by looking afresh
    assert recorded["kept"][JUMP - 1]
    for k in FILMED:
        apart = pixels(found.landmarks[k], recorded[f"track-{k}"], np.zeros((SIZE, SIZE, 3)))
        assert np.median(apart) < 0.1, k
        assert apart.max() < 0.5, k


def pixels(points: np.ndarray, theirs: np.ndarray, picture: np.ndarray) -> np.ndarray:
    return np.linalg.norm((points - theirs)[:, :2] * picture.shape[1::-1], axis=-1)


def test_following_differs_from_looking_afresh_and_forgets_with_its_block() -> None:
    first, second = filmed()[:2].permute(0, 2, 3, 1).contiguous().numpy()
    with landmarks.FaceMesh() as tracker:
        tracker(first)
        followed = tracker(second)
    afresh = landmarks.FaceMesh(moving=False)(second)
    assert np.abs(followed - afresh).max() > 1e-4
    with tracker:
        np.testing.assert_array_equal(tracker(second), afresh)


def test_several_pictures_at_once_are_as_each_alone() -> None:
    pictures = list(stills().values())
    tracker = landmarks.FaceMesh(moving=False)
    for picture, points in zip(pictures, tracker.batch(pictures), strict=True):
        alone = tracker(picture)
        assert (points is None) == (alone is None)
        if points is not None:
            assert pixels(points, alone, picture).max() < 0.02
    assert tracker.batch([]) == []


def test_autocast_changes_nothing() -> None:
    picture = stills()["one"]
    plain = landmarks.FaceMesh(moving=False)(picture)
    with torch.autocast("cpu", torch.bfloat16):
        half = landmarks.FaceMesh(moving=False)(picture)
    np.testing.assert_array_equal(plain, half)


@pytest.mark.cuda
def test_a_gpu_finds_the_same_points() -> None:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True  # what training leaves behind
    pictures = list(stills().values())
    there = landmarks.FaceMesh(moving=False, device="cuda").batch(pictures)
    torch.backends.cudnn.allow_tf32 = before
    for picture, a, b in zip(
        pictures, there, landmarks.FaceMesh(moving=False).batch(pictures), strict=True
    ):
        assert (a is None) == (b is None)
        if a is not None:
            assert pixels(a, b, picture).max() < 0.02


def test_eyes_rims_are_face_meshs_own() -> None:
    for rim, outline in (
        (mesh.LEFT_EYE, face_mesh.RIGHT_EYE),
        (mesh.RIGHT_EYE, face_mesh.LEFT_EYE),
    ):
        assert set(rim[:16]) == set(outline)
    points = [i for some in mesh.REFINED.values() for i in some]
    assert len(points) == len(set(points)) == 80 + 2 * 71 + 2 * 5


def test_a_turned_square_is_cut_level() -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[45:55, 20:80] = 255  # a bar across
    upright = Region(50, 50, 80, np.pi / 2).cut(picture, 80, 0)[..., 0]
    assert (upright[15:65, 38:42] == 255).all()
    assert not upright[:, :30].any()
    assert not upright[:, 50:].any()


def test_sparse_weights_lie_where_they_belong() -> None:
    # rows by blocks of four, of which those that hold something are stored
    graph = tflite.read(network.MODELS / "face_detection_full_range_sparse.tflite")
    sparse = [v for v in graph.constants.values() if v.ndim == 4 and (v == 0).mean() > 0.5]
    assert len(sparse) == 46
    assert all(0.6 < (v == 0).mean() < 0.8 for v in sparse)


def test_other_files_are_refused(tmp_path) -> None:
    (tmp_path / "other.tflite").write_bytes(b"not a network at all")
    with pytest.raises(ValueError, match="is no TensorFlow Lite file"):
        tflite.read(tmp_path / "other.tflite")


def test_the_networks_are_the_published_ones() -> None:
    listed = dict(
        re.findall(r"`(\w+\.tflite)` \| `(\w{64})`", (network.MODELS / "README.md").read_text())
    )
    files = {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in network.MODELS.glob("*.t*")
    }
    assert listed == files
    assert "Apache License" in (network.MODELS / "LICENSE").read_text()
