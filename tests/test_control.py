"""The shuffled-audio control, on planted features and on small videos with sound."""

import dataclasses
import itertools
import math
import shutil

import numpy as np
import pytest
import torch

from metrics.beats import BAS
from metrics.image import PSNR
from metrics.signed_rank import signed_rank
from metrics.syncnet import LSEC, LSED, sync
from tests.test_evaluation import SIZE, frames
from tests.test_scoring_edges import FRAMES, clicks, nodding, run, sounding
from thbench.core.errors import UserError
from thbench.evaluation import features, protocol, report, results
from thbench.evaluation.control import Exchange, exchange, partners, summarize
from thbench.evaluation.results import Control
from thbench.evaluation.score import score_ground_truth, with_own_motion
from thbench.leaderboard.rank import tables_of
from thbench.leaderboard.render import markdown

D = 8


def noise(n, seed, d=D):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def in_sync(n, seed):
    """Embeddings of lips and audio that say the same."""
    said = noise(n, seed)
    return torch.cat([said, said + 0.1 * noise(n, seed + 1000)], 1)


# Whose audio


def test_each_clip_takes_the_next_one_s_audio_in_order_of_ids():
    assert partners(["b", "c", "a", "b"], {}) == {"a": "b", "b": "c", "c": "a"}
    assert partners(["a", "a"], {}) == {}


def test_the_audio_is_another_person_s_wherever_there_are_enough():
    for counts in itertools.product(range(1, 4), repeat=3):
        who = {f"p{i}-{k}": str(i) for i, n in enumerate(counts) for k in range(n)}
        others = partners(list(who)[::-1], who)
        assert set(others) == set(others.values()) == set(who)
        assert all(clip != other for clip, other in others.items())
        if 2 * max(counts) <= sum(counts):
            assert all(who[clip] != who[other] for clip, other in others.items())
    alone = dict.fromkeys("abc", "one person")
    assert partners("abc", alone) == {"a": "b", "b": "c", "c": "a"}


# Exchanging audio


def test_lips_meet_another_clip_s_audio_row_by_row():
    mine, theirs = in_sync(60, 1), in_sync(40, 2)
    for metric, field in ((LSED(), "distance"), (LSEC(), "confidence")):
        found = exchange(metric, {"syncnet": mine}, {"syncnet": theirs})
        own = sync(mine[:40, :D], mine[:40, D:])
        other = sync(mine[:40, :D], theirs[:, D:])
        assert (found.own, found.other) == (getattr(own, field), getattr(other, field))
        assert found.shorter
        assert found.counts
    whole = exchange(LSEC(), {"syncnet": theirs}, {"syncnet": mine})
    assert not whole.shorter
    assert whole.own == LSEC().measure({"syncnet": theirs}, None)


def test_a_head_meets_another_clip_s_beats():
    def clip(n, first):
        angle = 0.2 * torch.sin(torch.arange(n) / 3)
        pose = torch.nn.functional.pad(angle[:, None], (0, 5))
        wave = torch.from_numpy(np.roll(clicks(n), first * 640))
        return {"pose": pose, "valid": torch.ones(n, dtype=torch.bool), "waveform": wave}

    mine, theirs, metric = clip(100, 0), clip(75, 7), BAS()
    found = exchange(metric, mine, theirs)
    short = {name: value[: 75 * (640 if name == "waveform" else 1)] for name, value in mine.items()}
    assert found.own == metric.measure(short, None)
    assert found.other == metric.measure({**short, "waveform": theirs["waveform"]}, None)
    assert found.own != found.other
    assert found.shorter
    # Own audio that ends before the video: the metric's own value, over all frames.
    early = {**mine, "waveform": mine["waveform"][: 60 * 640]}
    same = exchange(metric, early, theirs)
    assert same.own == metric.measure(early, None)
    assert not same.shorter


def test_what_is_undefined_or_the_same_audio_does_not_count():
    mine, silent = in_sync(30, 1), torch.zeros(0, 2 * D)
    for pair in ((mine, silent), (silent, mine), (silent, silent)):
        found = exchange(LSEC(), *({"syncnet": value} for value in pair))
        assert math.isnan(found.own)
        assert not found.counts
        assert not found.same_audio
    again = torch.cat([noise(30, 5), mine[:, D:]], 1)
    found = exchange(LSEC(), {"syncnet": again}, {"syncnet": mine})
    assert found.same_audio
    assert not found.counts
    assert not PSNR().reads_audio
    assert BAS().reads_audio


# Over clips


def test_seeds_are_averaged_before_clips_are_compared():
    found = {
        f"c{i}": [Exchange(2.0 * i, i + 1.0), Exchange(2.0 * i + 1, i - 1.0)] for i in range(7)
    }
    others = partners(list(found), {})
    control = summarize(found, others, {})
    own, other = [2.0 * i + 0.5 for i in range(7)], [float(i) for i in range(7)]
    test = signed_rank(own, other)
    assert control == Control(7, 6.5, 3.0, test.median, test.p, 7)
    assert test.p == 2 / 128


def test_clips_that_are_left_out_or_unlike_the_others_are_counted():
    rows = {
        "a": [Exchange(1.0, 0.0, shorter=True)],
        "b": [Exchange(math.nan, 0.0)],
        "c": [Exchange(1.0, 1.0, same_audio=True)],
        "d": [Exchange(math.nan, 1.0), Exchange(3.0, 1.0)],
        "e": [],
    }
    others = partners(list(rows), {})
    people = {"a": "x", "b": "x", "c": "y", "d": "z", "e": "z"}
    found = summarize(rows, others, people)
    assert found == Control(2, 2.0, 0.5, 1.5, None, 2, 2, 1, 1, same_person=2)
    assert summarize({"a": []}, {}, {}) == Control(missing=1)


# In a result


@pytest.fixture
def rule():
    blocks = [{"metric": "psnr"}, {"metric": "bas"}]
    return protocol.parse("p", {"size": SIZE, "metrics": blocks, "control": ["bas"]})


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "track", nodding)
    for i in range(7):
        wave = np.roll(clicks(seed=i), 2700 * i)
        sounding(tmp_path / "ref" / f"c{i}.mp4", frames(FRAMES, seed=i), wave)
    shutil.copytree(tmp_path / "ref", tmp_path / "gen" / "seed-1")
    shutil.copytree(tmp_path / "ref", tmp_path / "gen", dirs_exist_ok=True)
    return tmp_path


def test_a_result_says_what_another_clip_s_audio_gives(folders, rule, capsys, monkeypatch):
    whole = run(folders, rule)
    control = whole.metrics["BAS (pose)"].control
    assert whole.metrics["PSNR"].control is None
    assert (control.n, control.missing, control.same_person) == (7, 0, None)
    rows = [row for row in whole.per_clip if row.seed == 0]
    assert len(whole.per_clip) == 14
    assert all(row.control["BAS (pose)"][0] == row.metrics["BAS (pose)"] for row in rows)
    assert control.differ == len([row for row in rows if len({*row.control["BAS (pose)"]}) == 2])
    assert control.differ >= 3
    assert control.own == pytest.approx(whole.metrics["BAS (pose)"].value)
    assert control.other == pytest.approx(sum(r.control["BAS (pose)"][1] for r in rows) / 7)
    plain = dataclasses.replace(rule, control=())
    without = run(folders, plain)
    assert without.metrics["BAS (pose)"] == dataclasses.replace(
        whole.metrics["BAS (pose)"], control=None
    )
    assert without.protocol == whole.protocol
    back = results.read(results.write(whole, folders / "results"))
    assert back == whole
    report.show(whole)
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("BAS (pose): "))
    assert f"{control.own:.3f} with own audio, {control.other:.3f} with another clip's" in line
    text = markdown(tables_of([whole])[0])
    assert "## With another clip's audio" in text
    assert "| BAS (pose) | s |" in text

    def refuse(*args, **kwargs):
        raise AssertionError("decoded again")

    monkeypatch.setattr(features.video, "chunks", refuse)
    assert run(folders, rule).per_clip == whole.per_clip


def test_the_reference_has_a_control_of_its_own(folders, rule):
    truth = score_ground_truth(folders / "ref", rule, cache=folders / "cache", progress=False)
    assert truth.metrics["BAS (pose)"].control.n == 7


def test_frames_are_decoded_once(folders, rule, monkeypatch):
    seen = []
    plain = features.video.chunks

    def counted(path, *args):
        seen.append(path)
        return plain(path, *args)

    monkeypatch.setattr(features.video, "chunks", counted)
    for control in ((), ("bas",)):
        run(folders, dataclasses.replace(rule, control=control), cache=folders / f"new{control}")
    once, again = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert once == again
    assert {path.parent.name for path in once} >= {"gen", "ref"}


def test_one_clip_has_no_other(folders, rule):
    for path in (folders / "gen").rglob("c[1-6].mp4"):
        path.unlink()
    found = run(folders, rule)
    assert found.metrics["BAS (pose)"].control == Control(missing=1)
    text = "\n".join(report.lines(found))
    assert "BAS (pose): no clip has a value with another clip's audio" in text


def test_own_motion_brings_its_own_control(folders, rule):
    made = run(folders, rule)
    part = dataclasses.replace(
        made,
        metrics={"BAS (pose)": results.MetricValue(0.5, "reference", control=Control(3))},
        per_clip=(results.ClipRow("c0", control={"BAS (pose)": (1.0, 2.0)}),),
    )
    both = with_own_motion(made, part)
    assert both.metrics["BAS (pose)"].control == Control(3)
    assert both.per_clip[0].control == {"BAS (pose)": (1.0, 2.0)}
    rule = dataclasses.replace(rule, own_motion="generated", pose="reference")
    assert rule.of_own_motion({"pose"}).control == ("bas",)
    assert rule.of_own_motion({"eyes"}) is None


@pytest.mark.parametrize(
    ("p", "median", "direction", "says"),
    [
        (None, 1.0, "higher", "no p value, since only 4 clips differ"),
        (0.05, 1.0, "higher", "not told apart, so read no sync from it on these videos"),
        (0.049, 1.0, "higher", "p = 0.049: told apart"),
        (0.01, -1.0, "higher", "the other audio fits better"),
        (0.01, 1.0, "lower", "the other audio fits better"),
        (0.01, 1.0, "zero", "the other audio fits better"),
        (0.01, -1.0, "lower", "told apart"),
        (0.01, -1.0, "reference", "told apart"),
    ],
)
def test_what_the_test_says_is_told_in_words(p, median, direction, says):
    control = Control(9, 1.0, 2.0, median, p, differ=4, same_person=3, shorter=2)
    text = report.describe_control(control, direction)
    assert says in text
    assert text.endswith("2 cut to the shorter audio; 3 with another audio of the same person")
    unknown = dataclasses.replace(control, same_person=None)
    assert report.describe_control(unknown, direction).endswith("who speaks is not known")


@pytest.mark.parametrize(
    ("control", "message"),
    [
        ("bas", r"written \[lse-c, lse-d\]"),
        (["baz"], "none of its metrics. Did you mean 'bas'"),
        (["psnr"], "'psnr' reads no audio"),
        (["fd-pyramid"], "'fd-pyramid' reads no audio"),
        (["av-offset"], "give it `absolute: true`"),
    ],
)
def test_wrong_controls_are_explained(control, message):
    blocks = [{"metric": m} for m in ("bas", "psnr", "fd-pyramid", "av-offset")]
    with pytest.raises(UserError, match=message):
        protocol.parse("p", {"size": 8, "metrics": blocks, "control": control})
