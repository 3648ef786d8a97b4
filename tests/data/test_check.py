from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from thbench.contracts import N_LANDMARKS, Clip
from thbench.data import manifest, video
from thbench.data.check import WARNING, check
from thbench.data.files import sha256

N = 5


def write_video(path: Path, n: int = N, sound: bool = True, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    waveform = np.sin(np.arange(n * 640) / 9).astype(np.float32) if sound else None
    with video.VideoWriter(path, 16, 16, waveform=waveform) as writer:
        writer.write(torch.randint(256, (n, 3, 16, 16), generator=generator, dtype=torch.uint8))


def write_track(path: Path, **changed: np.ndarray) -> None:
    arrays = {
        "landmarks": np.zeros((N, N_LANDMARKS, 3), np.float16),
        "pose": np.zeros((N, 6), np.float32),
        "eyes": np.zeros((N, 2), np.float32),
        "valid": np.ones(N, bool),
    }
    np.savez(path, **{**arrays, **changed})


def write_embedding(path: Path, features: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, features)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    clips = []
    for k, split in enumerate(("train", "test")):
        clip = Clip(f"p{k}/c", f"p{k}", split, N, f"clips/p{k}/c.mp4", f"clips/p{k}/c.npz", "")
        write_video(tmp_path / clip.video, seed=k)
        write_track(tmp_path / clip.track)
        for encoder in ("logmel", "hubert"):
            path = tmp_path / "audio" / encoder / f"{clip.id}.npy"
            write_embedding(path, np.zeros((N, 4), np.float32))
        clips.append(replace(clip, sha256=sha256(tmp_path / clip.video)))
    manifest.write(tmp_path, clips)
    return tmp_path


def rehash(root: Path) -> None:
    manifest.write(root, [replace(c, sha256=sha256(root / c.video)) for c in manifest.read(root)])


def test_a_whole_data_set_has_no_problem(root: Path) -> None:
    assert check(root, progress=False) == []


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


NAN = np.full((N, 6), np.nan, np.float32)
DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "mp4 gone": (r"c\.mp4 is missing", lambda r: (r / "clips/p0/c.mp4").unlink()),
    "npz gone": (r"c\.npz is missing", lambda r: (r / "clips/p0/c.npz").unlink()),
    "npy gone": (
        r"hubert/p0/c\.npy is missing.*--audio hubert",
        lambda r: (r / "audio/hubert/p0/c.npy").unlink(),
    ),
    "flipped": (r"has changed .*sha256", lambda r: flip_a_byte(r / "clips/p0/c.mp4")),
    "short": (r"4 frames, .* 5", lambda r: (write_video(r / "clips/p0/c.mp4", 4), rehash(r))),
    "mute": ("no sound", lambda r: (write_video(r / "clips/p0/c.mp4", sound=False), rehash(r))),
    "no mp4": ("cannot be decoded", lambda r: ((r / "clips/p0/c.mp4").write_text("x"), rehash(r))),
    "no npz": (r"c\.npz cannot be read", lambda r: (r / "clips/p0/c.npz").write_text("x")),
    "cut npz": (
        r"c\.npz cannot be read",
        lambda r: (r / "clips/p0/c.npz").write_bytes((r / "clips/p0/c.npz").read_bytes()[:300]),
    ),
    "nan": ("'pose' .* not finite", lambda r: write_track(r / "clips/p0/c.npz", pose=NAN)),
    "rows": (
        r"'eyes' .*float32 \(3, 2\), not float32 \(5, 2\)",
        lambda r: write_track(r / "clips/p0/c.npz", eyes=np.zeros((3, 2), np.float32)),
    ),
    "type": (
        "'valid' .* float64",
        lambda r: write_track(r / "clips/p0/c.npz", valid=np.ones(N)),
    ),
    "array gone": (
        "has no 'landmarks'",
        lambda r: np.savez(r / "clips/p0/c.npz", pose=NAN * 0, eyes=NAN[:, :2], valid=NAN),
    ),
    "empty npy": (
        r"c\.npy cannot be read",
        lambda r: (r / "audio/logmel/p0/c.npy").write_bytes(b""),
    ),
    "sound's rows": (
        r"float32 \(4, 4\), not float32 \(5, D\)",
        lambda r: write_embedding(r / "audio/logmel/p0/c.npy", np.zeros((4, 4), np.float32)),
    ),
    "sound's nan": (
        r"logmel/p0/c\.npy has values that are not finite",
        lambda r: write_embedding(r / "audio/logmel/p0/c.npy", NAN),
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found(root: Path, name: str) -> None:
    message, damage = DAMAGE[name]
    damage(root)
    lines = check(root, progress=False)
    assert lines
    assert re.search(message, lines[0])
    assert all(line.startswith("p0/c: ") and "thbench data prepare" in line for line in lines)
    if name != "array gone":
        assert len(lines) == 1


def test_manifest_and_audio_must_be_there(root: Path) -> None:
    for path in sorted((root / "audio").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert ["no embeddings" in line for line in check(root, progress=False)] == [True]
    (root / manifest.NAME).write_text("{")
    assert ["not JSON" in line for line in check(root, progress=False)] == [True]
    (root / manifest.NAME).unlink()
    assert ["no prepared data set" in line for line in check(root, progress=False)] == [True]


def test_an_identity_in_two_splits_is_a_warning(root: Path) -> None:
    manifest.write(root, [replace(clip, identity="one") for clip in manifest.read(root)])
    (line,) = check(root, progress=False)
    assert line.startswith(f"{WARNING}1 identities")
    assert "one is in test, train" in line
