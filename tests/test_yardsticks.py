"""Yardsticks: what they show, under which names, and that they stand in a strategy's table."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests import toy_training as toy
from tests.test_first_pages import FAST
from thbench import api, config
from thbench.cli.parser import build_parser, main
from thbench.config import Config, DataConfig, EvalConfig
from thbench.core.errors import UserError
from thbench.data import manifest
from thbench.data.media import audio, video
from thbench.evaluation import pipeline, protocol, results, yardsticks
from thbench.evaluation.yardsticks import Nearest
from thbench.generation.requests import SplitRequests
from thbench.leaderboard.rank import tables_of

RULE = protocol.parse("p", {"size": toy.SIZE, "metrics": [{"metric": "psnr"}], "seeds": [0, 2]})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Frame t of clip i has the grey 20 i + 8 t: clips 0 to 2 are for training, 3 and 4 tests."""
    return toy.make_root(tmp_path_factory.mktemp("data"), (6, 9, 8, 7, 5), "tttee")


@pytest.fixture
def asked(root, tmp_path):
    data = DataConfig("toy", str(root), "toy")
    return Config(size=toy.SIZE, data=data, runs=str(tmp_path), strategy="toys")


def greys(path):
    return [round(float(frame.float().mean())) for frame in video.read(path)]


def near(found, wanted):
    return len(found) == len(wanted) and all(
        abs(a - b) <= 3 for a, b in zip(found, wanted, strict=True)
    )


def sounds_like(path, other):
    """The correlation of two files' audio."""
    first, second = (audio.load(p) for p in (path, other))
    n = min(len(first), len(second))
    return np.corrcoef(first[:n], second[:n])[0, 1]


# What they show


def test_a_still_portrait_stands_for_the_clip_s_whole_length_with_its_sound(asked, root):
    folder = yardsticks.write_videos(asked, RULE, "still")
    names = {f"seed-{seed}/person{i}/clip" for seed in (0, 2) for i in (3, 4)}
    made = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*.mp4")}
    assert made.keys() == {f"{name}.mp4" for name in names}
    assert near(greys(made["seed-2/person3/clip.mp4"]), [60] * 7)
    assert near(greys(made["seed-0/person4/clip.mp4"]), [80] * 5)
    assert sounds_like(made["seed-0/person4/clip.mp4"], root / "clips/person4/clip.mp4") > 0.95


def test_a_still_portrait_is_the_one_that_the_strategy_gets(asked):
    rule = protocol.parse(
        "p", {"size": 16, "source_frame": "random", "metrics": [{"metric": "psnr"}]}
    )
    asked.eval = EvalConfig(frames=3)
    folder = yardsticks.write_videos(asked, rule, "still")
    requests = pipeline.requests_of(asked, rule)
    for i, request in enumerate(requests[k] for k in range(len(requests))):
        path = folder / f"seed-0/{requests.name(i)[0]}.mp4"
        assert near(greys(path), [float(request.source.float().mean())] * 3)


def test_the_nearest_clip_of_those_that_are_long_enough_is_shown(asked):
    """Portraits are 0, 20 and 40; those of the tests, 60 and 80, are nearest to the last."""
    folder = yardsticks.write_videos(asked, RULE, "nearest")
    assert near(greys(folder / "seed-0/person3/clip.mp4"), [40 + 8 * t for t in range(7)])
    assert near(greys(folder / "seed-2/person4/clip.mp4"), [40 + 8 * t for t in range(5)])


@pytest.mark.parametrize(("grey", "n", "wanted"), [
    (3, 2, 0), (9, 2, 0), (12, 2, 1), (29, 2, 1), (31, 2, 2), (250, 2, 2),
    (3, 7, 1), (3, 6, 0), (250, 9, 1),
])  # fmt: skip
def test_the_nearest_is_found_by_hand(grey, n, wanted, asked):
    portrait = torch.full((3, toy.SIZE, toy.SIZE), grey, dtype=torch.uint8)
    assert Nearest(asked).find(portrait, n) == wanted


def test_the_nearest_is_that_of_a_loop_over_pixels(asked, monkeypatch):
    monkeypatch.setattr(yardsticks, "_CHUNK", 3)
    found, random = Nearest(asked), np.random.default_rng(0)
    portraits = random.integers(0, 256, (10, 3, 4, 4), dtype=np.uint8)
    found.portraits, found.lengths = torch.from_numpy(portraits), torch.full((10,), 5)
    for one in random.integers(0, 256, (20, 3, 4, 4), dtype=np.uint8):
        far = [sum((int(a) - int(b)) ** 2 for a, b in zip(p.flat, one.flat, strict=True))
               for p in portraits]  # fmt: skip
        assert found.find(torch.from_numpy(one), 5) == far.index(min(far))


def test_a_clip_starts_with_the_portrait_that_was_compared(asked, root, tmp_path):
    """The last training clip's first two frames show no face, so it has six from there on."""
    other = tmp_path / "late"
    shutil.copytree(root, other)
    path = other / "clips/person2/clip.npz"
    track = dict(np.load(path))
    track["valid"][:2] = False
    np.savez(path, **track)
    asked.data.root = str(other)
    nearest = Nearest(asked)
    requests = pipeline.requests_of(asked, RULE)
    (short,) = (requests[i] for i in range(2) if requests.name(i)[0] == "person4/clip")
    shown = torch.cat(list(nearest(short))).float().mean((1, 2, 3))
    assert near(shown.tolist(), [56 + 8 * t for t in range(5)])
    assert nearest.find(short.source, 6) == 2
    assert nearest.find(short.source, 7) == 1


def test_what_nearest_cannot_show_is_refused(asked, root, tmp_path):
    longer = tmp_path / "longer"
    asked.eval.data = DataConfig("longer", str(toy.make_root(longer, (9, 12), "ee")), "toy")
    with pytest.raises(UserError, match=r"the 12 frames .* say eval\.frames=9 for"):
        yardsticks.write_videos(asked, RULE, "nearest")
    asked.eval = EvalConfig(split="train")
    with pytest.raises(UserError, match="nearest training clip is the clip itself"):
        yardsticks.write_videos(asked, RULE, "nearest")
    asked.eval = EvalConfig()
    asked.data.root = str(longer)
    with pytest.raises(UserError, match="no clips in its split 'train'"):
        yardsticks.write_videos(asked, RULE, "nearest")
    with pytest.raises(UserError, match=r"no yardstick 'stil'\. Did you mean 'still'"):
        yardsticks.evaluate(asked, "stil", device="cpu", origin="smoke")


@pytest.mark.parametrize("limit", [None, 1])
def test_another_s_audio_is_that_of_the_next_clip_and_the_rest_its_own(limit, root):
    """Clips 3 and 4 have 7 and 5 frames; audio at frame t of clip i is (t, t + i, 0)."""
    data = DataConfig("toy", str(root), "toy")
    options = {"limit": limit, "follow": True}
    own = SplitRequests(data, "test", toy.SIZE, **options)
    other = SplitRequests(data, "test", toy.SIZE, others_audio=True, **options)
    heard = [(t, i) for t, i in ((0, 4), (1, 4), (2, 4), (3, 4), (4, 4), (0, 4), (1, 4))]
    assert other[0].audio.tolist() == [[t, t + i, 0] for t, i in heard]
    assert own[0].audio.tolist() == [[t, t + 3, 0] for t in range(7)]
    if limit is None:
        assert other[1].audio.tolist() == [[t, t + 3, 0] for t in range(5)]
    for key in ("id", "seed", "source", "waveform", "pose", "eyes", "source_pose"):
        a, b = (getattr(requests[0], key) for requests in (own, other))
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_one_clip_has_no_other(tmp_path):
    data = DataConfig("toy", str(toy.make_root(tmp_path, (5, 5), "te")), "toy")
    with pytest.raises(UserError, match="one clip in its split 'test', and no other's audio"):
        SplitRequests(data, "test", toy.SIZE, others_audio=True)


# Where they lie, and going on


def test_videos_that_are_there_are_kept(asked):
    folder = yardsticks.write_videos(asked, RULE, "still")
    made = sorted(folder.rglob("*.mp4"))
    before = {path: path.stat().st_mtime_ns for path in made}
    made[1].unlink()
    content = made[0].read_bytes()
    assert yardsticks.write_videos(asked, RULE, "still") == folder
    assert sorted(folder.rglob("*")) == sorted(
        {*made, *(p.parent for p in made), *folder.iterdir()}
    )
    changed = [path for path in made if path.stat().st_mtime_ns != before[path]]
    assert changed == [made[1]]
    assert made[0].read_bytes() == content


def test_other_videos_lie_in_another_folder(asked, root, tmp_path):
    def place(kind="nearest", **change):
        return yardsticks.write_videos(asked, RULE, kind)

    places = [place(), place("still")]
    asked.size = 32
    places += [place(), place("still")]
    asked.eval.frames = 4
    places.append(place("still"))
    still = places[-1]
    more = tmp_path / "more"
    shutil.copytree(root, more)
    clips = manifest.read(root)
    manifest.write(more, [clip for clip in clips if clip.id != "person0/clip"])
    before = place()
    asked.eval.data, asked.data.root = asked.data, str(more)
    asked.eval.data = DataConfig("toy", str(root), "toy")
    places += [before, place()]
    assert len(set(places)) == len(places)
    assert place("still") == still, "it does not depend on what was trained on"


# Rows


@pytest.fixture(scope="module")
def rows(bench, tmp_path_factory):
    """All yardsticks of the bench's DAWN, and itself, under the same words."""
    home = tmp_path_factory.mktemp("rows")
    (home / "psnr.yaml").write_text(yaml.safe_dump(FAST))
    runs = home / "runs"
    runs.mkdir()
    for folder in bench.runs.glob("[!e]*-*"):
        (runs / folder.name).symlink_to(folder)
    words = [*bench.dawn, f"runs={runs}", f"results={home / 'results'}"]
    words += [f"eval.protocol={home / 'psnr.yaml'}", "eval.frames=4", "eval.limit=2"]
    words += ["eval.seeds=[0,3]", "eval.by=identity"]
    assert main(["eval", *words]) == 0
    for name in yardsticks.YARDSTICKS:
        assert main(["eval", *words, "--yardstick", name]) == 0
    return {r.title: r for r in results.read_folder(home / "results")}, words


def test_they_stand_in_one_table_with_the_strategy(rows):
    found, _ = rows
    assert set(found) == {
        "DAWN (NAR)", "DAWN (NAR), another's audio", "Ground truth", "Still portrait",
        "Nearest training clip (portrait's pixels)",
    }  # fmt: skip
    (table,) = tables_of(found.values())
    assert {row.title for row in table.rows} == set(found)
    assert table.rows[0].title == "Ground truth"
    assert {r.origin for title, r in found.items() if title != "Ground truth"} == {"smoke"}
    for title, result in found.items():
        assert set(result.by.groups) == {"p0003", "p0004"}
        if title != "Ground truth":
            assert (result.seeds, result.coverage.scored) == ((0, 3), 4)
            assert not result.coverage.unpaired
            assert bool(result.cost) == title.startswith("DAWN"), "nothing else costs time"


def test_each_is_scored_with_what_it_shows(rows, bench):
    found, _ = rows
    psnr = {title: r.metrics["PSNR"].value for title, r in found.items()}
    assert psnr["Ground truth"] is None
    assert psnr["Still portrait"] > psnr["Nearest training clip (portrait's pixels)"]
    assert psnr["DAWN (NAR)"] != psnr["DAWN (NAR), another's audio"]
    other = found["DAWN (NAR), another's audio"]
    assert any("the next test clip's audio" in note for note in other.notes)
    assert (other.strategy, found["DAWN (NAR)"].strategy) == ("shuffled", "dawn")
    assert any("mean squared" in note for note in next(
        r for title, r in found.items() if title.startswith("Nearest")
    ).notes)  # fmt: skip
    still = {(r.id, r.seed): r.metrics for r in found["Still portrait"].per_clip}
    assert still["p0003-00", 0] == still["p0003-00", 3] != still["p0004-00", 0]


def test_shuffled_videos_are_named_so_and_have_their_own_sound(rows, bench):
    runs = [Path(word[5:]) for word in rows[1] if word.startswith("runs=")][-1]
    made = sorted(runs.glob("eval-dawn-*/seed-3/p0003-00.mp4"))
    own, other = sorted(made, key=lambda path: len(video.read_metadata(path)["run"]))
    tags = [video.read_metadata(path)["run"] for path in (own, other)]
    assert tags[1] == f"{tags[0]}-others-audio"
    assert not torch.equal(video.read(own), video.read(other))
    assert sounds_like(other, bench.data / "clips/p0003-00.mp4") > 0.6
    assert sounds_like(other, bench.data / "clips/p0004-00.mp4") < 0.3


def test_the_ground_truth_s_row_of_all_clips_is_that_of_score(bench, tmp_path, monkeypatch):
    rule = tmp_path / "psnr.yaml"
    rule.write_text(yaml.safe_dump(FAST))
    words = [*bench.words, f"eval.protocol={rule}", f"results={tmp_path}"]
    whole = api.evaluate(bench.strategy, *words, yardstick="ground-truth")
    assert whole.run == "ground-truth-data-psnr"
    part = api.evaluate(bench.strategy, *words, "eval.limit=1", yardstick="ground-truth")
    assert part.run.startswith("ground-truth-data-psnr-")
    assert (len(whole.per_clip), len(part.per_clip)) == (3, 1)
    assert whole.origin == "measured (synthetic)"


@pytest.mark.parametrize("yardstick", ["still", "ground-truth"])
def test_yardsticks_have_values_within_a_column_too(yardstick, bench, tmp_path):
    rule = tmp_path / "psnr.yaml"
    rule.write_text(yaml.safe_dump(FAST))
    words = [*bench.words, f"eval.protocol={rule}", f"results={tmp_path}", "eval.by=identity"]
    found = api.evaluate(bench.strategy, *words, yardstick=yardstick)
    assert set(found.by.groups) == {row.id.split("-")[0] for row in found.per_clip}


def test_the_command_names_all_of_them():
    parser = build_parser().parse_args(["eval", "dawn"]).parser
    (option,) = (a for a in parser._actions if "--yardstick" in a.option_strings)
    assert tuple(option.choices) == yardsticks.YARDSTICKS
    assert config.load("dawn").eval == EvalConfig()
