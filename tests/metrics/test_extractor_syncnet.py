import math
import pickle

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from metrics import weights
from metrics.extractors.syncnet import (
    Network,
    SyncNet,
    audio_windows,
    build,
    crop,
    face_track,
)
from metrics.mfcc import mfcc

PUBLISHED = {
    "netcnnaud": {
        0: (64, 1, 3, 3),
        4: (192, 64, 3, 3),
        8: (384, 192, 3, 3),
        11: (256, 384, 3, 3),
        14: (256, 256, 3, 3),
        18: (512, 256, 5, 4),
    },
    "netcnnlip": {
        0: (96, 3, 5, 7, 7),
        4: (256, 96, 1, 5, 5),
        8: (256, 256, 1, 3, 3),
        11: (256, 256, 1, 3, 3),
        14: (256, 256, 1, 3, 3),
        18: (512, 256, 1, 6, 6),
    },
    "netfcaud": {0: (512, 512), 3: (1024, 512)},
    "netfclip": {0: (512, 512), 3: (1024, 512)},
}
"""Weights of the layers of syncnet_v2.model; a batch norm follows each but the last two."""


def published_state(counters=True):
    """Random weights under the published names, scaled so that no layer dies away."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for tower, layers in PUBLISHED.items():
        for i, shape in layers.items():
            fan = math.prod(shape[1:])
            key = f"{tower}.{i}"
            state[f"{key}.weight"] = torch.randn(shape, generator=generator) * (2 / fan) ** 0.5
            state[f"{key}.bias"] = torch.zeros(shape[0])
            if shape[0] == 1024:
                continue
            norm = f"{tower}.{i + 1}"
            for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0)):
                state[f"{norm}.{name}"] = torch.full((shape[0],), float(value))
            state[f"{norm}.running_var"] = torch.ones(shape[0])
            if counters:
                state[f"{norm}.num_batches_tracked"] = torch.tensor(7)
    # Pixels reach 255.
    state["netcnnlip.0.weight"] /= 100
    return state


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "syncnet_v2.model"
    torch.save(published_state(counters=False), path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture(scope="module")
def extractor(file):
    return SyncNet(path=file, batch_size=4)


def clip(n, size=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)
    given = {
        "landmarks": 0.25 + 0.5 * torch.rand(n, 478, 3, generator=generator),
        "valid": torch.ones(n, dtype=torch.bool),
        "waveform": torch.rand(640 * n, generator=generator) - 0.5,
    }
    return frames, given


def test_the_published_names_and_shapes_fit():
    state = published_state()
    ours = Network().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in state.items()}


def test_one_pass_over_the_clip_equals_window_by_window(extractor):
    net = extractor.net
    crops = 255 * torch.rand(7, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together = net.lips(crops)
        alone = [
            net.netfclip(net.netcnnlip(crops[i : i + 5].transpose(0, 1)[None]).flatten(1))
            for i in range(3)
        ]
    alone = torch.cat(alone)
    assert alone.abs().mean() > 0.01
    assert (alone[0] - alone[1]).abs().max() > 1e-3
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


# As in the authors' SyncNetModel.py: layers with stride and padding, poolings with kernel as well.
SOUND = [
    (0, 1, 1), (4, 1, 1), ((3, 3), (1, 2), 0), (8, 1, 1), (11, 1, 1), (14, 1, 1), ((3, 3), 2, 0),
    (18, 1, 0),
]  # fmt: skip
LIPS = [
    (0, (1, 2, 2), 0), ((1, 3, 3), (1, 2, 2), 0), (4, (1, 2, 2), (0, 1, 1)),
    ((1, 3, 3), (1, 2, 2), (0, 1, 1)), (8, 1, (0, 1, 1)), (11, 1, (0, 1, 1)), (14, 1, (0, 1, 1)),
    ((1, 3, 3), (1, 2, 2), 0), (18, 1, 0),
]  # fmt: skip


def transcription(state, tower, plan, x):
    """One tower and its head, operation by operation; batch norm adds 1e-5 to variances."""

    def normed(name, x):
        mean, var, gain, bias = (
            state[f"{name}.{k}"].reshape(-1, *[1] * (x.ndim - 2))
            for k in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * gain + bias).clamp(min=0)

    convolve, pool = (F.conv2d, F.max_pool2d) if x.ndim == 4 else (F.conv3d, F.max_pool3d)
    for what, stride, padding in plan:
        if isinstance(what, tuple):
            x = pool(x, what, stride, padding)
            continue
        w, b = (state[f"netcnn{tower}.{what}.{k}"] for k in ("weight", "bias"))
        x = normed(f"netcnn{tower}.{what + 1}", convolve(x, w, b, stride, padding))
    head = f"netfc{tower}"
    x = F.linear(x.flatten(1), state[f"{head}.0.weight"], state[f"{head}.0.bias"])
    return F.linear(normed(f"{head}.1", x), state[f"{head}.3.weight"], state[f"{head}.3.bias"])


def test_both_towers_equal_a_transcription_where_variances_are_small():
    generator = torch.Generator().manual_seed(1)
    state = published_state()
    for name, value in state.items():
        if name.endswith("running_var"):
            state[name] = 1e-4 * (1 + torch.rand(value.shape, generator=generator))
        elif value.ndim > 1 and not name.endswith("3.weight"):
            state[name] = value / 100
        elif name.endswith(("bias", "running_mean")):
            state[name] = 1e-3 * torch.randn(value.shape, generator=generator)
    net = build(state)
    crops = 255 * torch.rand(5, 3, 224, 224, generator=generator)
    cepstra = 3 * torch.randn(2, 13, 20, generator=generator)
    with torch.inference_mode():
        lips = transcription(state, "lip", LIPS, crops.transpose(0, 1)[None])
        sound = transcription(state, "aud", SOUND, cepstra[:, None])
        assert min(lips.std(), sound.std()) > 0.1
        torch.testing.assert_close(net.lips(crops), lips, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(net.sound(cepstra), sound, rtol=1e-3, atol=1e-4)


def test_batches_do_not_change_the_embeddings(file, extractor):
    frames, given = clip(11)
    whole = SyncNet(path=file, batch_size=100).extract(frames, given)
    assert whole.shape == (6, 2048)
    # Processors sum in other orders.
    torch.testing.assert_close(extractor.extract(frames, given), whole, rtol=1e-3, atol=1e-4)
    assert extractor.fingerprint.startswith("syncnet-2-")


def test_lips_and_sound_of_a_row_begin_at_the_same_frame(extractor):
    frames, given = clip(9)
    base = extractor.extract(frames, given)
    late = dict(given, waveform=given["waveform"].clone())
    late["waveform"][640 * 7 :] = 0
    heard = (extractor.extract(frames, late) != base).any(1)
    # Row 2 hears samples up to 160 (4 * 2 + 19) + 400 = 4720, row 3 up to 5360: beyond 4480.
    assert heard.tolist() == [False, False, True, True]
    dark = frames.clone()
    dark[7:] = 0
    assert (extractor.extract(dark, given) != base).any(1).tolist() == [False] * 3 + [True]


def test_audio_windows_are_twenty_columns_every_four():
    wave = np.random.default_rng(0).uniform(-1, 1, 640 * 10)
    cepstra = mfcc(wave)
    windows = audio_windows(wave, 5)
    assert windows.shape == (5, 13, 20)
    for i in range(5):
        np.testing.assert_allclose(windows[i], cepstra[4 * i : 4 * i + 20].T, rtol=1e-6)


@pytest.mark.parametrize("case", ["one frame", "five frames", "silent", "no face", "no sound"])
def test_clips_without_windows_give_no_rows(extractor, case):
    frames, given = clip({"one frame": 1, "five frames": 5}.get(case, 8))
    if case == "silent":
        given["waveform"] = given["waveform"] * 1e-6
    if case == "no face":
        given["valid"][:] = False
        given["landmarks"][:] = 0
    if case == "no sound":
        given["waveform"] = given["waveform"][:0]
    assert extractor.extract(frames, given).shape == (0, 2048)


def test_only_frames_with_sound_count(extractor):
    frames, given = clip(9)
    given["waveform"] = given["waveform"][: 640 * 7 + 639]
    assert extractor.extract(frames, given).shape == (2, 2048)


def official_crop(frame, x, y, half):
    """The authors' crop of one (H, W, 3) frame."""
    border = int(half * 1.8)
    wide = np.pad(frame, ((border, border), (border, border), (0, 0)), constant_values=110)
    y, x = y + border, x + border
    face = wide[
        round(y - half) : round(y + half * 1.8), round(x - half * 1.4) : round(x + half * 1.4)
    ]
    return cv2.resize(face, (224, 224))


@pytest.mark.parametrize(("x", "y", "half"), [(100, 90, 50), (40, 30, 50), (190, 170, 60)])
def test_the_crop_is_the_authors(x, y, half):
    rng = np.random.default_rng(0)
    frame = cv2.resize(rng.uniform(0, 255, (20, 20, 3)).astype(np.float32), (200, 200))
    ours = crop(
        torch.from_numpy(frame).permute(2, 0, 1)[None], torch.tensor([[x, y, half]]).float()
    )
    theirs = official_crop(frame, x, y, half)
    # At its rim ``cv2.resize`` repeats pixels of the crop, where ours sees those beyond.
    inner = slice(3, -3)
    difference = ours[0].permute(1, 2, 0).numpy()[inner, inner] - theirs[inner, inner]
    assert np.abs(difference).max() < 0.05


def test_the_face_box_is_that_of_the_landmarks_smoothed():
    corners = torch.tensor([[0.25, 0.1, 0], [0.75, 0.5, 0]])
    landmarks = corners.repeat(25, 1, 1)
    landmarks[12] += 0.3
    track = face_track(landmarks, height=200, width=100)
    torch.testing.assert_close(track, torch.tensor([50.0, 60.0, 40.0]).expand(25, 3))
    one = face_track(landmarks[:1], 200, 100)
    torch.testing.assert_close(one, torch.tensor([[50.0, 60.0, 40.0]]))


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_files_of_something_else_are_refused_and_run_nothing(tmp_path, monkeypatch):
    trap, evil = tmp_path / "trap", tmp_path / "evil.model"
    torch.save({"netfclip.0.weight": Touch(trap)}, evil)
    with pytest.raises(weights.WeightsUnreadable):
        SyncNet(path=evil)
    with evil.open("wb") as out:
        pickle.dump(Touch(trap), out)
    with pytest.raises(weights.WeightsUnreadable):
        SyncNet(path=evil)
    assert not trap.exists()
    state = published_state()
    wrong = dict(state, extra=torch.zeros(1))
    lacking = {k: v for k, v in state.items() if k != "netfcaud.3.bias"}
    misshapen = dict(state, **{"netfcaud.3.bias": torch.zeros(512)})
    for other in (wrong, lacking, misshapen):
        with pytest.raises(weights.WeightsUnreadable, match="not SyncNet's"):
            build(other)
    monkeypatch.setenv("THBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(weights.WeightsMissing, match=r"syncnet_v2\.model"):
        SyncNet()
