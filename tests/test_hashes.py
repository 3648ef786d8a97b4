"""Whatever changes a stage, a video or a figure changes the hash that names it."""

import dataclasses
import sys
from types import ModuleType

import pytest

from tests import toy_training as toy
from thbench import config
from thbench.config import DrawConfig, SamplerConfig
from thbench.core.registry import resolve
from thbench.data import manifest
from thbench.data.embedding.encoders import LogMel
from thbench.evaluation import protocol
from thbench.evaluation.pipeline import videos_folder
from thbench.evaluation.protocol import Intervals, OverTime, Timing
from thbench.generation.assemble import Assembled
from thbench.generation.strategy import Strategy
from thbench.training import sources
from thbench.training.runs import remember_sources, stage_run
from thbench.training.sources import content_of
from thbench.training.stage import Stage


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return toy.make_root(tmp_path_factory.mktemp("data"), (6, 6), "te")


def changed(root, to, **fields):
    """The manifest of a data set whose first clip has other ``fields``."""
    clips = manifest.read(root)
    to.mkdir()
    manifest.write(to, [dataclasses.replace(clips[0], **fields), *clips[1:]])
    return to


DATA = [{"sha256": "other"}, {"split": "val"}, {"n_frames": 5}, {"identity": "another"}]


@pytest.mark.parametrize("fields", DATA, ids=str)
def test_a_stage_s_folder_follows_its_data(root, tmp_path, fields):
    here = stage_run(toy.config(root, tmp_path), "toy")
    there = stage_run(toy.config(changed(root, tmp_path / "other", **fields), tmp_path), "toy")
    same = stage_run(toy.config(changed(root, tmp_path / "same"), tmp_path), "toy")
    assert there.hash != here.hash == same.hash


@pytest.mark.parametrize(
    "draw",
    [{"frames": [2, 5]}, {"source": "first"}, {"jitter": [0.1, 0, 0, 0]}, {"context": 2}],
    ids=str,
)
def test_a_stage_s_folder_follows_how_it_draws(root, tmp_path, draw):
    made = toy.config(root, tmp_path)
    other = toy.config(root, tmp_path, draw=DrawConfig(**{"frames": [2, 4], **draw}))
    assert stage_run(other, "toy").hash != stage_run(made, "toy").hash


def test_a_stage_s_folder_does_not_follow_what_decodes_its_frames(root, tmp_path):
    made, other = toy.config(root, tmp_path), toy.config(root, tmp_path)
    other.data.decoder = "decord"
    assert stage_run(made, "toy").hash == stage_run(other, "toy").hash


def test_a_stage_s_folder_follows_its_class_its_sound_and_what_it_starts_from(root, tmp_path):
    made = toy.config(root, tmp_path)
    made.stages["second"] = dataclasses.replace(made.stages["toy"], init_from="toy")
    names = {stage_run(made, name).hash for name in ("toy", "second")}
    made.stages["toy"].model = {"width": 9}  # what the second starts from is another network
    names |= {stage_run(made, name).hash for name in ("toy", "second")}
    made.stages["toy"].target = "tests.toy_training:Needy"
    names.add(stage_run(made, "toy").hash)
    made.data.audio = "logmel"
    names.add(stage_run(made, "toy").hash)
    assert len(names) == 6


def test_a_class_keeps_its_hash_where_it_moves_and_changes_it_with_its_version(
    root, tmp_path, monkeypatch
):
    class Moved(toy.ToyStage):
        stable_name = "toy"

    class Child(Moved):
        pass

    def hash_of(name):
        made = toy.config(root, tmp_path)
        made.stages["toy"].target = name
        return stage_run(made, "toy").hash

    def place(where):
        module = ModuleType(where)
        module.Moved, module.Child = Moved, Child  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, where, module)

    place("before")
    place("after")
    assert hash_of("before:Moved") == hash_of("after:Moved")
    assert hash_of("before:Child") != hash_of("before:Moved"), "a name is not inherited"
    own, child = hash_of("before:Moved"), hash_of("before:Child")
    monkeypatch.setattr(Moved, "version", 2)
    assert hash_of("before:Moved") != own
    assert hash_of("before:Child") != child, "what it derives from has changed"


def test_no_two_classes_have_one_name():
    kinds = set()
    for strategy in config.names("strategy"):
        loaded = config.load(strategy)
        kinds.add(resolve(loaded.target, Strategy))
        kinds |= {resolve(stage.target, Stage) for stage in loaded.stages.values()}
    found = [kind.__dict__.get("stable_name") for kind in kinds]
    assert all(found), "one has no name of its own"
    assert len(set(found)) == len(found)


def test_a_stage_that_hears_nothing_is_shared_by_strategies_of_any_encoder(root, tmp_path):
    deaf = {"dawn": {"lfg"}, "hallo": {"autoencoder"}, "diffused_heads": set(),
            "fd2talk": {"morphable", "autoencoder", "frame"}}  # fmt: skip
    for strategy, expected in deaf.items():
        found = []
        for encoder in ("logmel", "hubert"):
            words = [f"data={root}", f"data.audio={encoder}", f"runs={tmp_path}"]
            loaded = config.load(strategy, words)
            found.append({name: stage_run(loaded, name).hash for name in loaded.stages})
        assert {name for name in found[0] if found[0][name] == found[1][name]} == expected


COUNTING = "tests.toys:Counting"
ACCOUNTS = {"main": {"hash": "a", "steps": 5}}


def run_of(config, metadata=None):
    return Assembled(None, config, metadata or ACCOUNTS).run  # type: ignore[arg-type]


def test_a_run_is_named_by_everything_that_makes_its_videos(root, tmp_path):
    made = dataclasses.replace(toy.config(root, tmp_path), target=COUNTING)
    names = [run_of(made)]
    for metadata in ({"main": {"hash": "b", "steps": 5}}, {"main": {"hash": "a", "steps": 6}}):
        names.append(run_of(made, metadata))
    for change in (
        {"target": "thbench.dawn.dawn:DAWN"},
        {"plan": {"name": "ar"}},
        {"options": {"guidance": 2}},
        {"sampler": SamplerConfig(eta=0.5)},
        {"sampler": SamplerConfig(threshold=0.9)},
        {"sampler": SamplerConfig(precision="bf16-mixed")},
    ):
        names.append(run_of(dataclasses.replace(made, **change)))
    assert len(set(names)) == len(names)


RULE = protocol.parse("p", {"size": 16, "metrics": [{"metric": "psnr"}]})


def test_videos_lie_by_run_data_and_what_was_asked_for(root, tmp_path):
    made = dataclasses.replace(toy.config(root, tmp_path), target=COUNTING)

    def place(config=made, rule=RULE, metadata=ACCOUNTS, **change):
        config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, **change))
        return videos_folder(config, Assembled(None, config, metadata), rule)  # type: ignore[arg-type]

    other = dataclasses.replace(
        made.data, root=str(changed(root, tmp_path / "other", sha256="other"))
    )
    places = [
        place(),
        place(dataclasses.replace(made, data=other)),
        place(metadata={"main": {"hash": "b", "steps": 5}}),
        *(place(**c) for c in ({"split": "val"}, {"limit": 2}, {"frames": 9}, {"watermark": True})),
        *(
            place(rule=dataclasses.replace(RULE, **c))
            for c in ({"source_frame": "random"}, {"pose": "generated"}, {"frames": 5})
        ),
    ]
    assert len(set(places)) == len(places)


OTHER = {
    "size": 32,
    "metrics": ({"metric": "ssim"},),
    "frames": 5,
    "source_frame": "random",
    "pose": "generated",
    "own_motion": "noted",
    "seeds": (0, 1),
    "timing": Timing(),
    "intervals": Intervals(draws=7),
    "over_time": OverTime(7),
}
"""Another value of everything that a protocol says but its names and what changes no value."""


def test_a_protocol_s_hash_follows_every_key_but_its_names():
    assert {f.name for f in dataclasses.fields(RULE)} == {"name", "title", "control", *OTHER}
    hashes = {dataclasses.replace(RULE, **{key: value}).hash for key, value in OTHER.items()}
    assert len(hashes) == len(OTHER)
    assert RULE.hash not in hashes
    assert dataclasses.replace(RULE, name="q", title="another").hash == RULE.hash
    assert dataclasses.replace(RULE, control=("lse-c",)).hash == RULE.hash


@pytest.mark.parametrize("versioned", ["metrics.image.PSNR", "metrics.extractors.pyramid.Pyramid"])
def test_a_protocol_s_hash_follows_the_versions_of_what_it_uses(monkeypatch, versioned):
    used = {"size": 16, "metrics": [{"metric": "psnr"}, {"metric": "fd-pyramid"}]}
    before = protocol.parse("p", used).hash
    assert protocol.parse("p", used).hash == before
    monkeypatch.setattr(f"{versioned}.version", 99)
    assert protocol.parse("p", used).hash != before


# What lies outside


def folder_of(path, **files):
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / f"{name}.json").write_text(content)
    return str(path)


def outside_hash(root, tmp_path, source, stage="autoencoder"):
    words = [
        f"data={root}",
        f"runs={tmp_path / 'runs'}",
        f"stages.{stage}.model.init_from={source}",
    ]
    return stage_run(config.load("hallo", ["scale=tiny", *words]), stage).hash


def test_weights_from_outside_count_by_what_they_are_not_by_where_they_lie(root, tmp_path):
    here = folder_of(tmp_path / "here", config="a", model="b")
    there = folder_of(tmp_path / "far" / "there", config="a", model="b")
    (tmp_path / "far" / "there" / "README.md").write_text("not a weight")
    other = folder_of(tmp_path / "other", config="a", model="c")
    renamed = folder_of(tmp_path / "renamed", config="a", weights="b")
    found = [outside_hash(root, tmp_path, path) for path in (here, there, other, renamed)]
    assert found[0] == found[1]
    assert len(set(found)) == 3
    # A name on the hub counts as it is written.
    hub = {outside_hash(root, tmp_path, name) for name in ("me/one", "me/two")}
    assert len(hub | set(found)) == 5
    # So does a file of its own, as the Basel Face Model is.
    files = [tmp_path / name for name in ("a.mat", "b.mat", "c.mat")]
    for path, content in zip(files, ("x", "x", "y"), strict=True):
        path.write_text(content)
    first, same, differs = (content_of(str(path), tmp_path) for path in files)
    assert first == same != differs


def test_what_an_encoder_is_given_counts_by_content_too(root, tmp_path):
    def run(source):
        made = toy.config(root, tmp_path / "runs")
        made.data.audio = f"hubert={source}"
        return stage_run(made, "toy").hash

    here = folder_of(tmp_path / "here", config="a")
    assert run(here) == run(folder_of(tmp_path / "there", config="a"))
    assert run(here) != run(folder_of(tmp_path / "other", config="b"))


def test_a_stage_s_folder_follows_the_version_of_its_encoder(root, tmp_path, monkeypatch):
    made = toy.config(root, tmp_path)
    made.data.audio = "logmel"
    before = stage_run(made, "toy").hash
    monkeypatch.setattr(LogMel, "version", "logmel-99")
    assert stage_run(made, "toy").hash != before


def test_a_runs_folder_remembers_what_lay_where_it_no_longer_does(root, tmp_path):
    runs = tmp_path / "runs"
    source = folder_of(tmp_path / "weights", config="a")
    before = outside_hash(root, tmp_path, source)
    loaded = config.load("hallo", ["scale=tiny", f"stages.autoencoder.model.init_from={source}",
                                   f"data={root}", f"runs={runs}"])  # fmt: skip
    remember_sources(loaded, "autoencoder")
    (tmp_path / "weights" / "config.json").unlink()
    assert outside_hash(root, tmp_path, source) == before
    # What lies there now counts again, however the record has it.
    (tmp_path / "weights" / "config.json").write_text("b")
    assert outside_hash(root, tmp_path, source) != before


def test_what_changes_memory_alone_changes_no_hash(root, tmp_path):
    loaded = config.load("hallo", ["scale=tiny", f"data={root}", f"runs={tmp_path}"])
    plain = stage_run(loaded, "image").hash
    loaded.stages["image"].model["chunk"] = 7
    assert stage_run(loaded, "image").hash == plain
    loaded.stages["image"].model["w_lip"] = 1
    assert stage_run(loaded, "image").hash != plain


def test_files_from_outside_are_read_once_and_again_where_they_change(tmp_path, monkeypatch):
    read, real = [], sources.sha256
    monkeypatch.setattr(sources, "sha256", lambda path: read.append(path) or real(path))
    (tmp_path / "config.json").write_text("{}")
    first = content_of(str(tmp_path), tmp_path / "runs")
    assert content_of(str(tmp_path), tmp_path / "runs") == first
    assert len(read) == 1
    (tmp_path / "config.json").write_text('{"other": 1}')
    assert content_of(str(tmp_path), tmp_path / "runs") != first
    assert len(read) == 2
