import json
import shutil

import numpy as np
import pytest

from thbench.core.errors import UserError
from thbench.data import manifest
from thbench.data.media import video
from thbench.data.synthetic.make import assign, synthesize
from thbench.data.synthetic.perform import perform
from thbench.data.synthetic.render import render

SMALL = {"identities": 3, "clips": 1, "seconds": 1.0, "size": 96, "seed": 5, "workers": 1}
GOLDEN = "77607ceb837d1d59b7ce39027aaa74824a9b6231194e65704c1f64be964cb735"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic")
    synthesize(out, **SMALL)
    return out


def test_every_clip_is_prepared_with_its_truth(made):
    clips = manifest.read(made)
    assert [clip.split for clip in sorted(clips, key=lambda c: c.id)] == ["train", "val", "test"]
    for clip in clips:
        assert clip.n_frames == 25
        with np.load(made / clip.extra["truth"]) as truth, np.load(made / clip.track) as track:
            assert truth["mouth"].shape == (25,)
            assert track["valid"].all()


def test_frames_are_the_rendered_ones(made):
    clip = min(manifest.read(made), key=lambda c: c.id)
    played = perform(5, 0, 0, 25)
    drawn = render(played.who, played.state, 96).float()
    stored = video.read(made / clip.video).float()
    assert (drawn - stored).square().mean().sqrt() < 6  # two encodings, in grey levels


def test_second_run_makes_nothing_again(made):
    before = {path: path.stat().st_mtime_ns for path in (made / "raw").iterdir()}
    rows = manifest.read(made)
    synthesize(made, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in (made / "raw").iterdir()} == before
    assert manifest.read(made) == rows


def test_interrupted_run_goes_on(tmp_path):
    small = SMALL | {"identities": 2}
    synthesize(tmp_path, **small)
    want = [clip.sha256 for clip in manifest.read(tmp_path)]
    for clip in ("p0001-00.npz", "p0001-00.mp4"):
        (tmp_path / "raw" / clip).unlink()
    synthesize(tmp_path, **small)
    assert (tmp_path / "raw" / "p0001-00.npz").is_file()
    assert [clip.sha256 for clip in manifest.read(tmp_path)] == want


def test_other_settings_are_refused(made):
    assert json.loads((made / "synthetic.json").read_text())["seed"] == 5
    with pytest.raises(UserError, match="other settings"):
        synthesize(made, **SMALL | {"seed": 6})


def test_a_folder_from_before_heads_could_be_calmed_is_known_again(tmp_path, made):
    shutil.copytree(made, tmp_path / "old")
    path = tmp_path / "old" / "synthetic.json"
    settings = json.loads(path.read_text())
    assert settings.pop("liveliness") == 1.0
    path.write_text(json.dumps(settings))
    synthesize(tmp_path / "old", **SMALL)
    with pytest.raises(UserError, match="other settings"):
        synthesize(tmp_path / "old", **SMALL | {"liveliness": 0.5})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 63}, "size"),
        ({"identities": 0}, "identities"),
        ({"seconds": 0.1}, "seconds"),
        ({"blink_rate": 9.0}, "blink_rate"),
        ({"liveliness": 1.5}, "liveliness"),
        ({"splits": {}}, "splits"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        synthesize(tmp_path / "new", **SMALL | change)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("people", [1, 2, 3, 7, 10, 448])
def test_splits_are_filled_by_share(people):
    splits = assign(people, {"train": 400, "val": 24, "test": 24})
    assert len(splits) == people
    assert splits.count("train") >= 1
    if people >= 3:
        assert {"train", "val", "test"} == set(splits)
    if people == 448:
        assert [splits.count(name) for name in ("train", "val", "test")] == [400, 24, 24]


def test_a_recipe_holds_what_a_clip_depends_on_and_nothing_else(made, tmp_path):
    """Rendered on any processor, and beside any other people, it is the same."""
    recipes = {clip.id: clip.extra[manifest.RECIPE] for clip in manifest.read(made)}
    assert len(set(recipes.values())) == 3
    assert manifest.digest(made) == GOLDEN, "raise a version, and this, where frames change"
    for change in ({"identities": 2}, {"seed": 6}, {"seconds": 1.2}, {"size": 64}):
        out = tmp_path / "-".join(change)
        synthesize(out, **SMALL | {"identities": 1} | change)
        own = {clip.id: clip.extra[manifest.RECIPE] for clip in manifest.read(out)}
        assert (own["p0000-00"] == recipes["p0000-00"]) == ("identities" in change)


def test_a_part_of_a_data_set_has_the_clips_of_the_whole(made, tmp_path):
    synthesize(tmp_path / "part", **SMALL, only=["p0002-00"])
    (clip,) = manifest.read(tmp_path / "part")
    (same,) = (each for each in manifest.read(made) if each.id == clip.id)
    assert (clip.split, clip.extra) == (same.split, same.extra)
    with pytest.raises(UserError, match="no clip 'p0009-00'"):
        synthesize(tmp_path / "none", **SMALL, only=["p0009-00"])
