"""The planted truth is measured: people, sounds and blinks that no expert was trained on."""

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch

from metrics.blink import BlinkRate
from metrics.extractors.pyramid import Pyramid
from metrics.extractors.synthetic import (
    READS,
    SyntheticFace,
    SyntheticIdentity,
    SyntheticMotion,
    SyntheticMouth,
)
from metrics.extractors.synthetic_sync import SyntheticSync
from metrics.identity import CSIM
from metrics.syncnet import AVOffset
from metrics.weights import WeightsUnreadable
from thbench.core.types import SAMPLES_PER_FRAME
from thbench.data.synthetic.perform import perform
from thbench.data.synthetic.render import render
from thbench.evaluation.features import track

SEED, SIZE, FRAMES = 4242, 128, 75
PEOPLE = range(3)
OFFSETS = range(-8, 9)


@cache
def clip(person):
    """What was performed, and the features of its frames, as scoring finds them."""
    played = perform(SEED, person, 0, FRAMES)
    frames = render(played.who, played.state, SIZE)
    waveform = torch.from_numpy(played.speech.waveform)
    return played, {"frames": frames, "waveform": waveform, **track(frames)}


def early(waveform, k):
    """The sound ``k`` frames early (late where negative), as long as before."""
    gap = torch.zeros(abs(k) * SAMPLES_PER_FRAME)
    parts = [waveform[len(gap) :], gap] if k > 0 else [gap, waveform[: len(waveform) - len(gap)]]
    return torch.cat(parts)


def test_shifted_sound_is_read_as_shifted():
    expert, metric = SyntheticSync(), AVOffset("synthetic-sync", valid_only=True)
    right = []
    for person in PEOPLE:
        _, found = clip(person)
        for k in OFFSETS:
            given = found | {"waveform": early(found["waveform"], k)}
            rows = {"synthetic-sync": expert.extract(found["frames"], given)}
            right.append(metric.measure(rows, None) == k)
    assert np.mean(right) >= 0.9


def test_another_person_lowers_csim():
    expert = SyntheticIdentity()
    metric = CSIM("synthetic-identity")
    seen = [clip(person)[1] for person in PEOPLE]
    rows = [s | {"synthetic-identity": expert.extract(s["frames"])} for s in seen]
    same = [metric.measure(r, dict(r, valid=r["valid"])) for r in rows]
    swapped = [metric.measure(a, b) for a, b in zip(rows, [*rows[1:], rows[0]], strict=True)]
    later = rows[0] | {"synthetic-identity": rows[0]["synthetic-identity"].roll(20, dims=0)}
    assert min(same) > 0.999
    assert metric.measure(rows[0], later) > max(swapped) + 0.3


@pytest.mark.slow
def test_blinks_are_counted_as_planted():
    """Within five per cent, as Face Mesh sees them."""
    planted = counted = 0.0
    for person in range(10, 18):
        played = perform(SEED, person, 0, 100, blink_rate=0.8)
        state = played.state
        still = {n: torch.zeros(len(state)) for n in ("yaw", "pitch", "roll", "brow")}
        frames = render(played.who, dataclasses.replace(state, **still), SIZE)
        rate = BlinkRate().measure(track(frames), None)
        planted += len(played.motion.blinks)
        counted += rate * len(state) / 25
    assert planted > 15
    assert counted == pytest.approx(planted, rel=0.05)


def test_motion_features_notice_a_frozen_clip():
    expert = SyntheticMotion()
    frames = clip(0)[1]["frames"]
    moving, frozen = expert.extract(frames), expert.extract(frames[:1].expand_as(frames))
    assert moving.shape == ((FRAMES - 16) // 8 + 1, 256)
    assert moving[:, 64:].mean() > 0.05
    assert frozen[:, 64:].abs().max() < 1e-5
    assert expert.extract(frames[:15]).shape == (0, 256)


def test_the_mouth_is_one_of_what_the_net_reads():
    frames = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    opening, everything = SyntheticMouth().extract(frames), SyntheticFace().read(frames)
    assert opening.shape == (5, 1)
    torch.testing.assert_close(opening[:, 0], everything[:, READS.index("mouth")])


@pytest.mark.parametrize("expert", [SyntheticFace, SyntheticIdentity, Pyramid])
def test_a_fine_pattern_looks_grey(expert):
    """Frames are reduced with antialiasing: two black columns around two white ones."""
    line = torch.tensor([0, 255, 255, 0], dtype=torch.uint8).repeat(128)
    stripes, grey = line.expand(1, 3, 512, 512), torch.full((1, 3, 512, 512), 127).byte()
    black = torch.zeros_like(grey)
    striped, plain, dark = (expert().extract(frames) for frames in (stripes, grey, black))
    assert (striped - plain).norm() < 0.2 * (dark - plain).norm()


def test_a_clip_without_a_face_or_sound_has_no_sync():
    _, found = clip(0)
    expert = SyntheticSync()
    silent = found | {"waveform": torch.zeros_like(found["waveform"])}
    faceless = found | {"valid": torch.zeros_like(found["valid"])}
    mute = found | {"waveform": torch.zeros(0)}
    for given in (silent, faceless, mute):
        assert expert.extract(found["frames"], given).shape == (0, 64)


def test_another_net_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsUnreadable, match=r"a\.safetensors"):
        SyntheticFace(path=tmp_path / "a.safetensors")
