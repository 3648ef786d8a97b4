"""Files in, figures out: against calculations that share no code with the bench."""

import math

import cv2
import librosa
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from metrics.compiling import compile_lock
from metrics.weights import WEIGHTS, Weights, sha256
from tests.lossless import pcm, save
from tests.metrics.test_beats import slow_alignment, slow_motion_beats
from tests.metrics.test_extractor_syncnet import official_crop, published_state
from tests.metrics.test_flow import slow_mse, slow_ofm
from tests.metrics.test_mfcc import slow_mfcc
from thbench.data.media import video
from thbench.evaluation import features, protocol
from thbench.evaluation.score import score

SIZE = 224
BOX = (0.25, 0.2, 0.75, 0.7)
"""Left, top, right and bottom of all faces here, as fractions of the frame."""


def tracked(chunks):
    """A face that stays where it is and turns as the picture brightens."""
    frames = torch.cat(list(chunks))
    n = len(frames)
    left, top, right, bottom = BOX
    corners = torch.tensor([[left, top, 0.0], [right, bottom, 0.0]]).repeat(239, 1)
    pose = torch.zeros(n, 6)
    pose[:, 0] = frames.float().mean((1, 2, 3)) / 255
    return {
        "landmarks": corners.repeat(n, 1, 1),
        "pose": pose,
        "eyes": torch.full((n, 2), 0.3),
        "mouth": torch.zeros(n),
        "valid": torch.ones(n, dtype=torch.bool),
    }


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    monkeypatch.setattr(features, "track", tracked)


def moving(n, size=SIZE, seed=0, step=1):
    """Smooth colours that drift to one side and whose brightness goes up and down."""
    noise = np.random.default_rng(seed).uniform(40, 215, (8, 16, 3)).astype(np.float32)
    wide = cv2.resize(noise, (2 * size, size), interpolation=cv2.INTER_CUBIC)
    light = 20 * np.sin(np.arange(n) / 2)
    frames = [np.roll(wide, -step * t, axis=1)[:, :size] + light[t] for t in range(n)]
    return np.stack(frames).clip(0, 255).astype(np.uint8)


def seen(path):
    """Frames (T, H, W, 3) RGB as OpenCV, with FFmpeg of its own, decodes them."""
    reader, frames = cv2.VideoCapture(str(path)), []
    while (read := reader.read())[0]:
        frames.append(read[1][..., ::-1])
    return np.stack(frames)


def figures(folder, size, *metrics):
    """Of the videos in ``folder``/gen against those in ``folder``/ref."""
    rule = protocol.parse("p", {"size": size, "metrics": list(metrics)})
    made = score(
        folder / "gen", folder / "ref", rule, run="r", strategy="s", progress=False,
        cache=folder / "cache",
    )  # fmt: skip
    return {name: figure.value for name, figure in made.metrics.items()}


# SyncNet, as its authors evaluate it (Chung and Zisserman 2016)


def syncnet(state, tower, x):
    """One tower, (n, ...) to (n, 1024): a convolution, or a pooling of (kernel, stride, pad)."""
    sound = tower.endswith("aud")
    conv, pool = (F.conv2d, F.max_pool2d) if sound else (F.conv3d, F.max_pool3d)
    pools = {7: (3, (1, 2), 0), 17: (3, 2, 0)}
    strides, pads = {}, {i: 1 for i in (0, 4, 8, 11, 14)}
    if not sound:
        pools = {3: ((1, 3, 3), (1, 2, 2), 0), 7: ((1, 3, 3), (1, 2, 2), (0, 1, 1))}
        pools[17] = ((1, 3, 3), (1, 2, 2), 0)
        strides, pads = {0: (1, 2, 2), 4: (1, 2, 2)}, {i: (0, 1, 1) for i in (4, 8, 11, 14)}

    def layer(name, x, apply):
        x = apply(x, state[f"{name}.weight"], state[f"{name}.bias"])
        head, at = name.rsplit(".", 1)
        norm = f"{head}.{int(at) + 1}"
        given = [state[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(x, *given))

    for at in range(19):
        if at in pools:
            x = pool(x, *pools[at])
        if f"netcnn{tower[5:]}.{at}.weight" in state and at in (0, 4, 8, 11, 14, 18):
            how = {"stride": strides.get(at, 1), "padding": pads.get(at, 0)}
            x = layer(f"netcnn{tower[5:]}.{at}", x, lambda x, w, b, how=how: conv(x, w, b, **how))
    head = f"netfc{tower[5:]}"
    x = layer(f"{head}.0", x.flatten(1), F.linear)
    return F.linear(x, state[f"{head}.3.weight"], state[f"{head}.3.bias"])


def authors_evaluation(state, frames, samples, vshift=15):
    """LSE-D and LSE-C of frames (T, H, W, 3) RGB and 16-bit samples."""
    left, top, right, bottom = (SIZE * side for side in BOX)
    half = max(right - left, bottom - top) / 2
    at = (left + right) / 2, (top + bottom) / 2, half
    crops = [official_crop(frame[..., ::-1], *at).astype(np.float32) for frame in frames]
    pictures = torch.from_numpy(np.stack(crops)).permute(3, 0, 1, 2)
    cepstra = torch.from_numpy(slow_mfcc(samples.astype(float))).float().T
    lips, sounds = [], []
    for i in range(min(len(frames), math.floor(len(samples) / 640)) - 5):
        lips.append(syncnet(state, "netfclip", pictures[None, :, i : i + 5]))
        sounds.append(syncnet(state, "netfcaud", cepstra[None, None, :, 4 * i : 4 * i + 20]))
    lips, sounds = torch.cat(lips), F.pad(torch.cat(sounds), (0, 0, vshift, vshift))
    span = 2 * vshift + 1
    rows = [
        F.pairwise_distance(lip.expand(span, -1), sounds[i:][:span]) for i, lip in enumerate(lips)
    ]
    means = torch.stack(rows, 1).mean(1)
    return float(means.min()), float(means.median() - means.min())


@pytest.mark.parametrize("sounding", [16, 30], ids=["sound ends first", "picture ends first"])
def test_lse_is_the_authors_where_sound_and_picture_differ_in_length(
    sounding, tmp_path, monkeypatch
):
    state = published_state()
    entry = WEIGHTS["syncnet"]
    torch.save(state, tmp_path / entry.file)
    known = Weights(entry.file, entry.url, entry.licence, sha256(tmp_path / entry.file))
    monkeypatch.setitem(WEIGHTS, "syncnet", known)
    monkeypatch.setenv("THBENCH_WEIGHTS", str(tmp_path))
    rng = np.random.default_rng(0)
    wave = 0.3 * np.sin(np.cumsum(rng.uniform(0, 0.6, 640 * sounding)))
    path = save(tmp_path / "gen" / "a.mov", moving(24), wave)
    save(tmp_path / "ref" / "a.mov", moving(24, seed=1), wave)
    with torch.inference_mode():
        expected = authors_evaluation(state, seen(path), pcm(wave))
    found = figures(tmp_path, SIZE, {"metric": "lse-d"}, {"metric": "lse-c"})
    assert expected[1] > 0.02 * expected[0]
    assert list(found.values()) == pytest.approx(expected, rel=2e-3)


def test_bas_hears_no_silence_behind_sound_that_ends_first(tmp_path):
    frames, sounding = 150, 70
    rng = np.random.default_rng(1)
    wave = np.zeros(640 * sounding)
    for frame in np.cumsum(rng.integers(7, 15, 6)):
        wave[640 * frame :][:800] = rng.uniform(-0.5, 0.5, 800) * np.exp(-np.arange(800) / 150)
    path = save(tmp_path / "gen" / "a.mov", moving(frames, 64), wave)
    save(tmp_path / "ref" / "a.mov", moving(frames, 64, seed=1), wave)
    turned = seen(path).mean((1, 2, 3))[:, None, None] / 255
    moves = slow_motion_beats(turned.tolist(), 5.0)

    def expected(samples):
        with compile_lock():
            beats = librosa.beat.beat_track(y=samples / 32768, sr=16000, hop_length=640)[1]
        return slow_alignment(beats.tolist(), moves)

    (found,) = figures(tmp_path, 64, {"metric": "bas"}).values()
    assert len(moves) > 5
    assert found == pytest.approx(expected(pcm(wave)), rel=1e-5)
    assert abs(found / expected(np.pad(pcm(wave), (0, 640 * 80))) - 1) > 0.03


@pytest.mark.parametrize("size", [64, 128, 320])
def test_smoothness_as_published_shrinks_the_file_itself(size, tmp_path):
    """Whatever the protocol's size: from the file's own to 128 pixels, not antialiased."""
    rough = np.random.default_rng(0).integers(0, 256, (320, 340, 3), dtype=np.uint8)
    fine = cv2.GaussianBlur(rough, (0, 0), 0.8)
    frames = np.stack([fine[:, 3 * t :][:, :320] for t in range(4)])
    path = save(tmp_path / "gen" / "a.mov", frames)
    save(tmp_path / "ref" / "a.mov", frames)
    small = np.stack([cv2.resize(frame, (128, 128)) for frame in seen(path)])
    soft = np.stack([cv2.resize(f, (128, 128), interpolation=cv2.INTER_AREA) for f in seen(path)])
    wanted = [{"metric": name, "mode": "as-published"} for name in ("ofm", "f-mse")]
    flow, change = figures(tmp_path, size, *wanted).values()
    assert flow == pytest.approx(slow_ofm(small, True), rel=1e-3)
    assert change == pytest.approx(slow_mse(small, True), rel=1e-9)
    assert abs(change / slow_mse(soft, True) - 1) > 0.03


def test_another_decoder_makes_features_anew(tmp_path, monkeypatch):
    for folder in ("gen", "ref"):
        save(tmp_path / folder / "a.mp4", moving(6, 64))
    wanted = ({"metric": "fd-pyramid"}, {"metric": "blinks"})
    figures(tmp_path, 64, *wanted)
    kept = set(tmp_path.glob("cache/**/*.*"))
    figures(tmp_path, 64, *wanted)
    assert set(tmp_path.glob("cache/**/*.*")) == kept
    monkeypatch.setattr(video, "decoder", lambda: "av 99.0")
    figures(tmp_path, 64, *wanted)
    assert len(set(tmp_path.glob("cache/**/*.*"))) == 2 * len(kept)
