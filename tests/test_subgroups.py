"""Metrics within the clips that share a value of a column of the manifest."""

import dataclasses
import math

import pytest

from metrics.intervals import bootstrap_mean
from tests.leaderboard.rows import result as made_up
from tests.test_scoring_edges import FRAMES, SIZE, frames, nodding, sounding
from thbench.core.errors import UserError
from thbench.core.files import sha256
from thbench.core.types import Clip
from thbench.data import manifest
from thbench.evaluation import features, protocol, report, results
from thbench.evaluation.results import ClipRow, GroupValue
from thbench.evaluation.score import score, score_ground_truth
from thbench.evaluation.subgroups import labels_of, with_subgroups

RULE = protocol.parse(
    "p", {"size": SIZE, "metrics": [{"metric": m} for m in ("psnr", "blinks", "fd-pyramid")]}
)
CITIES = ("Oslo", "Rome", "Rome", None)


@pytest.fixture
def data(tmp_path):
    """Four clips, of which the last has no city."""
    clips = []
    for i, city in enumerate(CITIES):
        path = tmp_path / "data" / "clips" / f"c{i}.mp4"
        sounding(path, frames(FRAMES // 2, seed=i), None)
        extra = {"city": city, "size": i % 2} if city else {"words": ["a"]}
        clips.append(
            Clip(f"c{i}", f"p{i % 2}", "test", 25, f"clips/c{i}.mp4", "x.npz", sha256(path), extra)
        )
    manifest.write(tmp_path / "data", clips)
    return tmp_path / "data"


def rows(values):
    """Rows of clips c0, c1, ... with a value for each seed."""
    return tuple(
        ClipRow(f"c{i}", seed, metrics={"PSNR": v}, reference={"Blink/s": float(i)})
        for i, seeds in enumerate(values)
        for seed, v in enumerate(seeds)
    )


def test_labels_come_from_the_manifest(data):
    assert labels_of(data, "city") == {"c0": "Oslo", "c1": "Rome", "c2": "Rome"}
    assert labels_of(data, "identity") == {"c0": "p0", "c1": "p1", "c2": "p0", "c3": "p1"}
    assert labels_of(data, "size") == {"c0": "0", "c1": "1", "c2": "0"}
    assert set(labels_of(data, "split").values()) == {"test"}
    with pytest.raises(UserError, match=r"there are city, identity, size, split, words.*'city'"):
        labels_of(data, "citi")
    with pytest.raises(UserError, match="lists or mappings"):
        labels_of(data, "words")
    with pytest.raises(UserError, match="no prepared data set"):
        labels_of(data / "clips", "city")


def test_a_group_s_values_are_those_of_its_clips_alone():
    found = [(1.0, 3.0), (5.0, None), (2.0, 4.0), (None, None), (7.0, 9.0)]
    labels = {"c0": "x", "c1": "x", "c2": "y", "c3": "z"}
    values = {"PSNR": results.MetricValue(3.0, "higher"),
              "Blink/s": results.MetricValue(None, "reference", unavailable="no"),
              "FD-pyramid": results.MetricValue(1.0, "lower")}  # fmt: skip
    whole = dataclasses.replace(made_up("a", metrics=values), per_clip=rows(found))
    by = with_subgroups(whole, RULE, "letter", labels).by
    interval = bootstrap_mean([2.0, 5.0], 0.95, 1000)
    assert by.groups == {
        "x": {"PSNR": GroupValue(3.0, interval, 3)},
        "y": {"PSNR": GroupValue(3.0, None, 2)},
        "z": {"PSNR": GroupValue(None, None, 0)},
    }
    assert by.clips == {"x": 4, "y": 2, "z": 2}
    assert (by.column, by.without, by.left_out) == ("letter", 2, ("FD-pyramid",))


def test_scoring_says_what_each_group_has(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(features, "track", nodding)
    how = {"cache": tmp_path / "cache", "progress": False, "by": "city"}
    made = score(data / "clips", data, RULE, run="r", strategy="s", **how)
    assert list(made.by.groups) == ["Oslo", "Rome"]
    for city, of in made.by.groups.items():
        own = [row for row in made.per_clip if CITIES[int(row.id[1])] == city]
        assert made.by.clips[city] == len(own)
        for name, value in of.items():
            kept = [row.metrics[name] for row in own]
            assert value.value == pytest.approx(math.fsum(kept) / len(kept)), name
        assert of["Blink/s"].reference == of["Blink/s"].value
    assert made.by.left_out == ("FD-pyramid",)
    assert results.read(results.write(made, tmp_path / "results")) == made
    report.show(made)
    out = capsys.readouterr().out
    assert "clips without 'city', which are in none of these: 1" in out
    assert "not within 'city', for which its clips are too few: FD-pyramid" in out
    assert any(line.split()[:2] == ["PSNR", "Rome"] for line in out.splitlines())
    truth = score_ground_truth(data, RULE, **how)
    assert truth.by.groups["Rome"]["Blink/s"].n == 2
    with pytest.raises(UserError, match="no column 'town'"):
        score(data / "clips", data, RULE, run="r", strategy="s", **{**how, "by": "town"})
