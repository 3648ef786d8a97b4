import sys

import cv2
import numpy as np
import pytest
import torch

from metrics import weights
from metrics.extractors.arcface import (
    FIVE_POINTS,
    TEMPLATE,
    ArcFace,
    align,
    five_points,
    similarity,
)
from metrics.landmarks import to_68


def field(number, value):
    """A protobuf field: a whole number, or bytes with their length."""

    def varint(n):
        out = b""
        while n > 127:
            out, n = out + bytes([n & 127 | 128]), n >> 7
        return out + bytes([n])

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor_info(name, *dims):
    shape = b"".join(field(1, field(2 if isinstance(d, str) else 1, d)) for d in dims)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))


def tiny_network(path):
    """An ONNX file that gives the exponential of the mean of each colour of a face."""
    pool = field(1, "x") + field(2, "pooled") + field(4, "GlobalAveragePool")
    grow = field(1, "pooled") + field(2, "grown") + field(4, "Exp")
    flat = field(1, "grown") + field(2, "y") + field(4, "Flatten")
    graph = field(1, pool) + field(1, grow) + field(1, flat) + field(2, "tiny")
    graph += field(11, tensor_info("x", "n", 3, 112, 112)) + field(12, tensor_info("y", "n", 3))
    path.write_bytes(field(1, 8) + field(8, field(2, 13)) + field(7, graph))
    return path


def face(n, size, turn=0.3, scale=0.8, at=(20.0, 30.0)):
    """Landmarks whose five points are the template turned, scaled and shifted, in a frame."""
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = np.array(TEMPLATE) @ matrix.T + at
    landmarks = torch.zeros(n, 478, 3)
    for pair, (x, y) in zip(FIVE_POINTS, points, strict=True):
        for k, side in zip(pair, (-1, 1), strict=True):
            spread = side * 3.0 if pair[0] != pair[1] else 0
            landmarks[:, k, 0] = float(x + 0.5 + spread) / size
            landmarks[:, k, 1] = float(y + 0.5) / size
    return landmarks, points


def test_the_five_points_are_those_of_300_w():
    """The eye on the left of the picture first, as the template has it; an eye between corners."""
    landmarks = torch.rand(2, 478, 3)
    known, found = to_68(landmarks), five_points(landmarks)
    for k, corners in enumerate([(36, 39), (42, 45)]):
        torch.testing.assert_close(found[:, k], known[:, corners].mean(1))
    torch.testing.assert_close(found[:, 3:], known[:, (48, 54)])
    (left, right, nose, *_), across = TEMPLATE, [x for x, _ in TEMPLATE]
    assert left[0] < nose[0] < right[0]
    assert across[3] < across[4]


def test_similarity_is_the_least_squares_fit():
    rng = np.random.default_rng(0)
    source, target = rng.standard_normal((6, 5, 2)), rng.standard_normal((5, 2))
    target[:, 0] += source[0, :, 0]
    found = similarity(torch.from_numpy(source), torch.from_numpy(target))
    for points, matrix in zip(source, found.numpy(), strict=True):
        rows, values = [], []
        for (x, y), (u, v) in zip(points, target, strict=True):
            rows += [[x, -y, 1, 0], [y, x, 0, 1]]
            values += [u, v]
        a, b, e, f = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
        np.testing.assert_allclose(matrix, [[a, -b, e], [b, a, f]], atol=1e-12)


def test_a_mirrored_face_is_not_mirrored_back():
    template = torch.tensor(TEMPLATE, dtype=torch.float64)
    mirrored = template * torch.tensor([-1.0, 1.0])
    assert torch.linalg.det(similarity(mirrored[None], template)[0, :, :2]) > 0


def test_aligned_faces_equal_opencvs_warp():
    size = 128
    landmarks, points = face(1, size)
    np.testing.assert_allclose(five_points(landmarks)[0] * size - 0.5, points, atol=1e-4)
    coarse = np.random.default_rng(0).uniform(0, 255, (12, 12, 3)).astype(np.float32)
    picture = cv2.resize(coarse, (size, size)).astype(np.uint8)
    matrix, _ = cv2.estimateAffinePartial2D(points, np.array(TEMPLATE))
    theirs = cv2.warpAffine(picture.astype(np.float32), matrix, (112, 112))
    ours = align(torch.from_numpy(picture).permute(2, 0, 1)[None], landmarks)
    # OpenCV rounds places to 1/32 pixel, most visible at the black rim.
    difference = np.abs(ours[0].permute(1, 2, 0).numpy() - theirs)
    assert difference.max() < 8
    assert difference.mean() < 0.2


def test_embeddings_of_a_network(tmp_path):
    path = tiny_network(tmp_path / "tiny.onnx")
    landmarks, _ = face(7, 128)
    frames = torch.tensor([255, 51, 0]).view(1, 3, 1, 1).repeat(7, 1, 128, 128).to(torch.uint8)
    valid = torch.ones(7, dtype=torch.bool)
    valid[2] = False
    given = {"landmarks": landmarks, "valid": valid}
    found = ArcFace(path=path, batch_size=4).extract(frames, given)
    inside = align(frames[:1], landmarks[:1])[0].numpy() / 127.5 - 1
    expected = np.exp(inside.mean((1, 2)))  # tells by how much colours are scaled, not only how
    expected /= np.linalg.norm(expected)
    assert found.shape == (7, 3)
    assert (found[2] == 0).all()
    np.testing.assert_allclose(found[valid], np.tile(expected, (6, 1)), atol=1e-5)
    whole = ArcFace(path=path).extract(frames, given)
    torch.testing.assert_close(found, whole)
    valid[:] = False
    assert (ArcFace(path=path).extract(frames, given) == 0).all()


def test_what_is_missing_is_said_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("THBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(weights.WeightsMissing, match=r"buffalo_l\.zip"):
        ArcFace()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(weights.WeightsMissing, match=r"pip install 'thbench\[arcface\]'"):
        ArcFace(path=tiny_network(tmp_path / "tiny.onnx"))
