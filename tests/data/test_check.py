from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metrics import weights
from tests.metrics.test_extractor_arcface import tiny_network
from thbench.cli.parser import main
from thbench.core.files import sha256
from thbench.core.types import N_LANDMARKS, Clip
from thbench.data import manifest
from thbench.data.media import video
from thbench.data.prepare import lookalikes
from thbench.data.prepare.check import WARNING, check
from thbench.data.synthetic.perform import perform
from thbench.data.synthetic.render import render

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


def add_clip(root: Path, name: str, split: str, draw: Callable[[Path], object]) -> Clip:
    clip = Clip(f"{name}/c", name, split, N, f"clips/{name}/c.mp4", f"clips/{name}/c.npz", "")
    draw(root / clip.video)
    write_track(root / clip.track)
    for encoder in ("logmel", "hubert"):
        path = root / "audio" / encoder / f"{clip.id}.npy"
        write_embedding(path, np.zeros((N, 4), np.float32))
    return replace(clip, sha256=sha256(root / clip.video))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    splits = enumerate(("train", "test"))
    draw = [lambda path, k=k: write_video(path, seed=k) for k in range(2)]
    manifest.write(tmp_path, [add_clip(tmp_path, f"p{k}", split, draw[k]) for k, split in splits])
    return tmp_path


def rehash(root: Path) -> None:
    manifest.write(root, [replace(c, sha256=sha256(root / c.video)) for c in manifest.read(root)])


def test_a_whole_data_set_has_no_problem(root: Path) -> None:
    assert check(root, progress=False, faces=False) == []


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
    "mute": ("no audio", lambda r: (write_video(r / "clips/p0/c.mp4", sound=False), rehash(r))),
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
    lines = check(root, progress=False, faces=False)
    assert lines
    assert re.search(message, lines[0])
    assert all(line.startswith("p0/c: ") and "thbench data prepare" in line for line in lines)
    if name != "array gone":
        assert len(lines) == 1


def test_manifest_and_audio_must_be_there(root: Path) -> None:
    for path in sorted((root / "audio").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert ["no embeddings" in line for line in check(root, progress=False, faces=False)] == [True]
    (root / manifest.NAME).write_text("{")
    assert ["not JSON" in line for line in check(root, progress=False, faces=False)] == [True]
    (root / manifest.NAME).unlink()
    assert [
        "no prepared data set" in line for line in check(root, progress=False, faces=False)
    ] == [True]


def test_an_identity_in_two_splits_is_a_warning(root: Path) -> None:
    manifest.write(root, [replace(clip, identity="one") for clip in manifest.read(root)])
    (line,) = check(root, progress=False, faces=False)
    assert line.startswith(f"{WARNING}1 identities")
    assert "one is in test, train" in line


# Faces


def write_face(path: Path, person: int, take: int) -> None:
    played = perform(7, person, take, N)
    with video.VideoWriter(path, 64, 64, waveform=played.speech.waveform) as writer:
        writer.write(render(played.who, played.state, 64))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn people: anna, also called berta in another split and ann in her own; carl and dora."""
    people = {"anna": ("train", 0, 0), "ann": ("train", 0, 1), "berta": ("test", 0, 2),
              "carl": ("train", 1, 0), "dora": ("val", 2, 0)}  # fmt: skip
    root = tmp_path_factory.mktemp("drawn")
    clips = [
        add_clip(root, name, split, lambda path, who=who: write_face(path, *who))
        for name, (split, *who) in people.items()
    ]
    manifest.write(root, [replace(clip, extra={"truth": "t.npz"}) for clip in clips])
    return root


@pytest.fixture
def named(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "named"))


def test_one_person_under_two_names_is_seen(
    named: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(named)]) == 0
    *lines, end = capsys.readouterr().out.splitlines()
    head, *pairs = [line for line in lines if line.startswith(WARNING)]
    assert head.startswith(f"{WARNING}2 pairs of identities in different splits look like the same")
    assert {line.partition(" look")[0] for line in pairs} == {
        f"{WARNING}{name} (train) and berta (test)" for name in ("ann", "anna")
    }
    assert all(float(line.rpartition(" ")[2].rstrip(".")) >= 0.85 for line in pairs)
    assert "see the warnings" in end
    assert main(["data", "check", str(named), "--no-faces"]) == 0
    assert capsys.readouterr().out.endswith(f"{named}: nothing is wrong.\n")


def test_people_who_differ_are_no_warning(named: Path) -> None:
    clips = [clip for clip in manifest.read(named) if clip.identity != "berta"]
    assert lookalikes.warnings(named, clips, progress=False) == []
    apart = [replace(clip, split="train") for clip in manifest.read(named)]
    assert lookalikes.warnings(named, apart, progress=False) == []
    (named / clips[0].video).write_bytes(b"no video")
    write_track(named / clips[1].track, valid=np.zeros(N, bool))
    assert lookalikes.warnings(named, clips, progress=False) == []


def test_recordings_are_not_judged_by_an_expert_of_drawn_faces(
    named: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest.write(named, [replace(clip, extra={}) for clip in manifest.read(named)])
    (line,) = check(named, progress=False)
    assert line.startswith(f"{WARNING}faces of different identities were not compared, for want of")
    assert "thbench weights pull arcface" in line
    tiny = tiny_network(tmp_path / "tiny.onnx")
    monkeypatch.setattr(weights, "find", lambda name: {"arcface": tiny}[name])
    assert lookalikes._extractor(synthetic=False).name == "arcface"


def test_pairs_of_people_are_named_once_and_the_most_alike_first() -> None:
    def at(degrees: float) -> torch.Tensor:
        angle = torch.tensor(degrees).deg2rad()
        return torch.stack([angle.cos(), angle.sin()])

    people = {
        **{("a", "train"): at(0), ("a", "test"): at(90), ("b", "test"): at(20)},
        **{("b", "val"): at(10), ("c", "train"): at(5), ("d", "test"): at(180)},
    }
    pairs = lookalikes.alike(people, 0.9)
    assert [(pair.one, pair.other) for pair in pairs] == [
        (("b", "val"), ("c", "train")),
        (("a", "train"), ("b", "val")),
    ]
    assert str(pairs[1]) == "a (train) and b (val) look like the same person: cosine 0.98"
    assert lookalikes.alike({}, 0.9) == []


def test_a_long_list_of_lookalikes_ends(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookalikes, "SHOWN", 1)
    lines = lookalikes.warnings(named, manifest.read(named), progress=False)
    assert len(lines) == 3
    assert lines[-1] == "and 1 more such pairs."
