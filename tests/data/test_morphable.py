"""The landmark morphable model: alignment, bases, fitting, and files that are read."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from metrics.landmarks import IBUG_68
from metrics.morphable import align, fit, place, rotation
from tests.data.test_pose import head
from tests.rotations import rotation_matrix
from thbench.cli.parser import main
from thbench.core.errors import UserError
from thbench.data.face import morphable, pose
from thbench.data.face.morphable import Moments, Morphable, pose_coefficients, to_pose, vertex_error

angle = st.floats(-0.7, 0.7)
PEOPLE, FRAMES = 40, 12


def planted(seed=0, people=PEOPLE, frames=FRAMES, noise=0.0):
    """Faces of three ways to differ and two to move: landmarks (B, T, 478, 3), pose, openings.

    The rigid points neither differ nor move, as the pose would see some of it.
    """
    rng = np.random.default_rng(seed)
    free = np.ones((468, 1))
    free[list(pose.RIGID)] = 0
    base = np.random.default_rng(99)
    mean = 0.3 * base.normal(size=(468, 3))
    mean[list(pose.RIGID)] = np.array(list(pose.RIGID.values()))
    mean[list(pose.RIGID)] -= mean[list(pose.RIGID)].mean(0)
    ways = 0.05 * free * base.normal(size=(5, 468, 3))
    who = rng.normal(size=(people, 1, 3))
    what = rng.normal(size=(people, frames, 2))
    shapes = mean + np.einsum("btk,kni->btni", who, ways[:3]) + np.einsum(
        "btk,kni->btni", what, ways[3:]
    )  # fmt: skip
    angles = rng.uniform(-0.4, 0.4, (people, frames, 3))
    landmarks = np.zeros((people, frames, 478, 3))
    for b in range(people):
        for t in range(frames):
            turned = shapes[b, t] @ rotation_matrix(*angles[b, t]).T
            landmarks[b, t, :468] = 0.5 * turned + (0.52, 0.47, 0.1)
    landmarks[..., :468, :] += noise * rng.normal(size=landmarks[..., :468, :].shape)
    found = pose.pose(landmarks)
    to = torch.float32
    return torch.tensor(landmarks, dtype=to), torch.tensor(found, dtype=to), torch.tensor(what)


def model(identity=3, expression=2, **options):
    landmarks, seen, _ = planted(**options)
    made, moments = Morphable(identity, expression), Moments()
    valid = torch.ones(landmarks.shape[:2], dtype=torch.bool)
    moments.update(made.align(landmarks, seen), valid)
    made.set(moments.solve(identity, expression, made.corners, made.rigid))
    return made.eval().requires_grad_(False)


@given(angle, angle, angle)
def test_rotations_are_those_of_the_bench(yaw, pitch, roll):
    made = rotation(torch.tensor([yaw, pitch, roll], dtype=torch.float64))
    np.testing.assert_allclose(made, rotation_matrix(yaw, pitch, roll), atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(angle, angle, angle, st.floats(0.2, 1))
def test_alignment_undoes_any_pose(yaw, pitch, roll, scale):
    corners = torch.tensor(list(pose.RIGID))[:, None].expand(-1, 2)
    rigid = torch.tensor(list(pose.RIGID))
    landmarks = head(yaw, pitch, roll, scale)
    seen = torch.from_numpy(pose.pose(landmarks))
    made = align(torch.from_numpy(landmarks), seen, corners, rigid)
    face = np.array(list(pose.RIGID.values()))
    np.testing.assert_allclose(made, face - face.mean(0), atol=2e-5)
    back = place(made, seen)
    wanted = landmarks[list(pose.RIGID)] - (0, 0, 0.1)
    np.testing.assert_allclose(back, wanted, atol=2e-5)


def test_what_was_planted_is_found_and_rebuilt_on_people_never_seen():
    made = model()
    landmarks, seen, what = planted(seed=1)
    who, b = made.fit(landmarks, seen)
    assert who.shape == (PEOPLE, FRAMES, 3)
    rebuilt = made.reconstruct(landmarks, seen)
    wanted = landmarks[:, :, :468] - torch.tensor([0, 0, 0.1])
    assert (rebuilt - wanted).abs().max() < 5e-3
    # The two expressions are the planted ones up to a turn within their plane.
    flat, truth = b.flatten(0, 1).double(), what.flatten(0, 1)
    predicted = flat @ torch.linalg.lstsq(flat, truth).solution
    assert torch.corrcoef(torch.stack([predicted[:, 0], truth[:, 0]]))[0, 1] > 0.98
    assert 0.8 < flat.std() < 1.25  # coefficients have unit variance


def test_more_coefficients_leave_less_error_and_none_is_the_mean_face():
    landmarks, seen, _ = planted(seed=1, noise=0.002)
    valid = torch.ones(landmarks.shape[:2], dtype=torch.bool)
    errors = [
        float(vertex_error(model(a, e, noise=0.002), landmarks, seen, valid))
        for a, e in ((1, 1), (2, 1), (3, 2))
    ]
    assert errors[0] > errors[1] > errors[2] > 0
    blank = Morphable(1, 1)
    with torch.no_grad():
        blank.mean.copy_(model().mean)
    assert float(vertex_error(blank, landmarks, seen, valid)) > errors[0]


def test_frames_without_a_face_change_nothing():
    landmarks, seen, _ = planted(people=6)
    valid = torch.rand(landmarks.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.7
    valid[0] = False
    made, damaged = Moments(), Moments()
    blank = Morphable(2, 2)
    made.update(blank.align(landmarks, seen), valid)
    landmarks[~valid] = 0.5
    damaged.update(blank.align(landmarks, seen), valid)
    for name, value in made.state_dict().items():
        torch.testing.assert_close(value, damaged.state_dict()[name])


def test_moments_do_not_depend_on_how_clips_are_batched():
    landmarks, seen, _ = planted(people=6)
    vertices = Morphable(2, 2).align(landmarks, seen)
    valid = torch.ones(vertices.shape[:2], dtype=torch.bool)
    whole, parts = Moments(), Moments()
    whole.update(vertices, valid)
    for i in (0, 2, 5):
        end = {0: 2, 2: 5, 5: 6}[i]
        parts.update(vertices[i:end], valid[i:end])
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(value, parts.state_dict()[name])


def test_too_few_clips_leave_directions_empty_and_nothing_infinite():
    landmarks, seen, _ = planted(people=2, frames=3)
    made, moments = Morphable(8, 12), Moments()
    vertices = made.align(landmarks, seen)
    moments.update(vertices, torch.ones(2, 3, dtype=torch.bool))
    basis = moments.solve(8, 12, made.corners, made.rigid)
    assert int((basis.identity.norm(dim=0) > 0).sum()) == 1
    assert int((basis.expression.norm(dim=0) > 0).sum()) == 2  # as many as were planted
    assert all(part.isfinite().all() for part in fit(vertices, basis))


def test_pose_coefficients_are_relative_where_the_crop_speaks_and_can_be_undone():
    poses, portrait = torch.rand(5, 6) + 0.1, torch.rand(1, 6) + 0.1
    made = pose_coefficients(poses, portrait)
    torch.testing.assert_close(made[:, :3], poses[:, :3])
    torch.testing.assert_close(to_pose(made, portrait), poses)
    assert not pose_coefficients(portrait, portrait)[:, 3:].any()


def test_mouths_are_the_lips_of_the_whole_face():
    made = model()
    who, what = torch.randn(4, 1, 3), torch.randn(4, 5, 2)
    torch.testing.assert_close(made.mouths(who, what), made(who, what)[:, :, made.mouth])
    assert {13, 14, 61, 291, 0, 17} <= set(made.mouth.tolist())


def test_a_file_gives_back_the_model(tmp_path):
    made = model()
    morphable.write(made, tmp_path / "face.safetensors")
    landmarks, seen, _ = planted(seed=2, people=2)
    for a, b in zip(made.fit(landmarks, seen), morphable.read(tmp_path / "face.safetensors").fit(
        landmarks, seen), strict=True):  # fmt: skip
        torch.testing.assert_close(a, b)


# A user's Basel Face Model


def bfm(path, vertices=200, identity=4, expression=3, **changes):
    """A small file as Deep3D's: x right, y up, z to the camera, in decimetres."""
    rng = np.random.default_rng(0)
    keys = rng.permutation(vertices)[:68]
    mean = rng.normal(size=(vertices, 3))
    for k, (a, b) in enumerate(IBUG_68):
        if a == b and a in pose.RIGID:
            mean[keys[k]] = 1.7 * np.array(pose.RIGID[a]) * (1, -1, -1) + (0.1, 0.2, 0.3)
    file = {
        "meanshape": mean.reshape(1, -1),
        "idBase": 0.02 * rng.normal(size=(3 * vertices, identity)),
        "exBase": 0.02 * rng.normal(size=(3 * vertices, expression)),
        "keypoints": keys[None] + 1,
    }
    savemat(path, {k: v for k, v in (file | changes).items() if v is not None})
    return file, keys


def test_a_bfm_file_stands_upright_behind_the_same_class(tmp_path):
    file, keys = bfm(tmp_path / "BFM_model_front.mat")
    made = morphable.read(tmp_path / "BFM_model_front.mat")
    assert (len(made.mean), made.n_identity, made.n_expression) == (68, 4, 3)
    origin = np.array(list(pose.RIGID.values())).mean(0)
    for k, (a, b) in enumerate(IBUG_68):
        if a == b and a in pose.RIGID:
            np.testing.assert_allclose(made.mean[k], pose.RIGID[a] - origin, atol=1e-5)
    # A change of shape is turned and scaled like the mean, not shifted.
    raised = (file["exBase"][:, 1].reshape(-1, 3) * (1, -1, -1) / 1.7)[keys]
    np.testing.assert_allclose(made.expression[:, 1].reshape(68, 3), raised, atol=1e-6)
    assert made.mouth.tolist() == list(range(48, 68))


def test_a_bfm_face_is_fitted_from_landmarks(tmp_path):
    bfm(tmp_path / "BFM_model_front.mat")
    made = morphable.read(tmp_path / "BFM_model_front.mat")
    who, what = torch.randn(1, 4), torch.randn(6, 3)
    seen = torch.tensor([[0.2, 0.1, -0.1, 0.5, 0.02, -0.03]]).expand(6, -1)
    landmarks = torch.zeros(6, 478, 3)
    face = torch.tensor(np.array(list(pose.RIGID.values()))).float()
    rigid = list(pose.RIGID)
    landmarks[:, rigid] = place((face - face.mean(0)).expand(6, -1, -1), seen)
    for k, (a, b) in enumerate(IBUG_68):  # both points of a pair where the vertex lies
        landmarks[:, [a, b]] = place(made(who, what)[:, k : k + 1], seen)
    upright = place(made(who, what), seen)[..., :2]
    keep = [k for k, (a, b) in enumerate(IBUG_68) if not {a, b} & set(rigid)]
    error = (made.reconstruct(landmarks, seen)[:, keep, :2] - upright[:, keep]).abs().max()
    assert error < 0.02


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"keypoints": np.ones((1, 5))}, "5 key points"), ({"idBase": None}, "no BFM file")],
)
def test_another_file_is_told_in_one_line(tmp_path, changes, says):
    bfm(tmp_path / "x.mat", **changes)
    with pytest.raises(UserError, match=says):
        morphable.read(tmp_path / "x.mat")
    with pytest.raises(UserError, match="There is no file"):
        morphable.read(tmp_path / "y.mat")
    (tmp_path / "empty.mat").touch()
    with pytest.raises(UserError, match="no BFM file"):
        morphable.read(tmp_path / "empty.mat")
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + b"\0" * 384)
    with pytest.raises(UserError, match="save it again with '-v7'"):
        morphable.read(tmp_path / "new.mat")
    (tmp_path / "z.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="holds no morphable model"):
        morphable.read(tmp_path / "z.safetensors")


@pytest.mark.slow
def test_the_command_finds_measures_and_keeps_a_model(bench, tmp_path, capsys):
    out = tmp_path / "face.safetensors"
    words = ["data", "morphable", str(bench.data)]
    assert main([*words, "--identity", "1", "--expression", "8", "--out", str(out)]) == 0
    first = capsys.readouterr().out
    assert "on 3 clips of 'test'" in first
    assert main([*words, "--model", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == first.splitlines()[:2]
    assert main([*words, "--identity", "9"]) == 2
    assert "identity coefficients" in capsys.readouterr().err
