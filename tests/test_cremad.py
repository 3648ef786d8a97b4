"""Recordings of CREMA-D's lengths, laid out as CREMA-D, from the raw videos to a result."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import TINY
from thbench.cli.parser import main
from thbench.core.types import SAMPLES_PER_FRAME
from thbench.data import manifest
from thbench.data.media import audio, video

pytestmark = pytest.mark.real

TRAIN = [str(actor) for actor in range(1001, 1020) if actor not in (1006, 1014, 1015, 1016)]
VAL, TEST = ["1006", "1014"], ["1015", "1020", "1021", "1030"]
SENTENCES = ("DFA", "IEO", "TIE")
LENGTHS = np.round(np.concatenate([np.linspace(32, 63, 13), np.linspace(66, 125, 11)])).astype(int)
"""Frames of 24 clips: from CREMA-D's shortest to its longest, with its median."""


def lay_out(clips: Path, out: Path) -> dict[str, int]:
    """Cut 24 real clips to these lengths and name them as CREMA-D does; frames by name."""
    people = [
        sorted(folder.glob("*.mp4")) for folder in sorted((clips / "voxceleb-mini").iterdir())
    ]
    people += [[path] for path in sorted((clips / "varied").iterdir())]
    actors = [*TEST, *VAL, *TRAIN][: len(people)]
    sources = [
        (f"{actor}_{SENTENCES[k]}_NEU_XX", path)
        for k in range(len(SENTENCES))
        for actor, person in zip(actors, people, strict=True)
        for path in person[k : k + 1]
    ]
    # Not by actor: each split has short and long ones.
    lengths = np.random.default_rng(0).permutation(LENGTHS)
    found = {}
    for (name, path), n in zip(sources, lengths.tolist(), strict=False):
        frames = torch.stack(
            list(islice((f for chunk in video.stream(path, 16) for f in chunk), n))
        )
        frames = frames[..., : frames.shape[-2] // 2 * 2, : frames.shape[-1] // 2 * 2]
        sound = audio.load(path)[: len(frames) * SAMPLES_PER_FRAME]
        target = out / f"{name}.mp4"
        with video.VideoWriter(target, *frames.shape[-2:], waveform=sound, crf=18) as writer:
            writer.write(frames)
        found[name] = len(frames)
    return found


def test_crema_d_is_prepared_trained_on_and_scored(clips, tmp_path, capfd):
    raw, root = tmp_path / "raw", tmp_path / "cremad"
    lengths = lay_out(clips, raw)
    assert len(lengths) == 24
    assert min(lengths.values()) == 32
    assert 58 <= np.median(list(lengths.values())) <= 68  # some recordings end before
    assert max(lengths.values()) > 100
    assert main(["data", "prepare", "cremad", str(raw), "--out", str(root), "--size", "64"]) == 0
    kept = manifest.read(root)
    assert len(kept) >= 21, capfd.readouterr().out
    assert {clip.id: clip.n_frames for clip in kept}.items() <= lengths.items()
    assert {clip.split for clip in kept} == {"train", "val", "test"}

    # Tiny networks as they are, but for the steps; PBNet draws 50 frames, which many clips
    # do not have.
    words = [word for word in TINY if ".net=" not in word and "draw" not in word]
    words += [f"data={root}", f"runs={tmp_path / 'runs'}", f"results={tmp_path / 'results'}"]
    capfd.readouterr()
    assert main(["fit", "dawn", *words]) == 0, capfd.readouterr().err
    said = capfd.readouterr()
    assert "left out" not in said.out + said.err  # every clip is learned from
    assert main(["eval", "dawn", *words]) == 0, capfd.readouterr().err
    (path,) = (tmp_path / "results").glob("*.json")
    result = json.loads(path.read_text())
    test = [clip for clip in kept if clip.split == "test"]
    assert result["coverage"]["expected"] == len(test) >= 4
    assert result["coverage"]["scored"] >= len(test)
    assert not result["coverage"]["unreadable"]
    assert result["protocol"]["name"] == "dawn"  # not the one of synthetic faces
