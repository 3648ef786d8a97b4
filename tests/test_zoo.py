"""Shipped weights: written from runs, found by hash or settings, never in place of own ones."""

import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from tests import toy_training as toy
from tests.test_first_pages import FAST
from thbench import api
from thbench import config as configs
from thbench.cli.parser import main
from thbench.cli.zoo import said, used_by
from thbench.core.errors import UserError
from thbench.data import manifest
from thbench.evaluation import results
from thbench.generation.assemble import assemble
from thbench.preflight.report import StageReport, cells
from thbench.training import fit, runs, zoo, zoo_add
from thbench.training.runs import (
    load_net,
    load_nets,
    locate,
    samples_seen,
    settings_hash,
    stage_run,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty zoo."""
    path = tmp_path / "zoo"
    path.mkdir()
    monkeypatch.setattr(zoo, "FOLDER", path)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two stages, the second on the first: a configuration that is not to be changed."""
    home = tmp_path_factory.mktemp("trained")
    made = toy.config(toy.make_root(home / "data", (6, 6), "tt"), home / "runs", max_steps=2)
    needy = replace(made.stages["toy"], target="tests.toy_training:Needy", needs=["toy"])
    made.stages["second"] = replace(needy, max_steps=1)
    made.nets = {"one": "second", "two": "toy"}
    fit.fit(made)
    return made


@pytest.fixture
def made(trained, tmp_path):
    """The same, to be changed, with data and an empty runs folder of its own."""
    data = replace(trained.data, root=str(tmp_path / "data"))
    shutil.copytree(trained.data.root, data.root, copy_function=shutil.copy2)
    stages = {name: replace(stage) for name, stage in trained.stages.items()}
    return replace(trained, data=data, runs=str(tmp_path / "runs"), stages=stages)


@pytest.fixture
def full(folder, trained):
    """The zoo with both stages."""
    zoo_add.add(trained, [], "float32")
    return folder


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a) and a.keys() == b.keys()


# Files


def test_what_was_trained_comes_back(folder, trained, made):
    names = zoo_add.add(trained, ["scale=tiny", "runs=/home/me", "data=/home/me/faces"], "float32")
    assert names == [f"{n}-{stage_run(trained, n).hash}" for n in ("toy", "second")]
    assert sorted(path.stem for path in folder.iterdir()) == sorted(names)
    wanted, before = load_nets(trained, ["second", "toy"])
    nets, metas = load_nets(made, ["second", "toy"])
    assert all(same(nets[name].state_dict(), wanted[name].state_dict()) for name in nets)
    for name, meta in metas.items():
        assert meta["shipped"]
        assert {**meta, **before[name], "shipped": True} == meta, "all that the checkpoint says"
    meta = metas["second"]
    assert meta["command"] == "thbench fit toys scale=tiny data=faces"
    assert (meta["dtype"], meta["data"]) == ("float32", {"name": "toy"})
    assert (meta["samples_seen"], meta["frames_seen"]) == (4, 12)
    assert sum(meta["samples"].values()) == 4 + 8
    assert meta["parameters"] == sum(p.numel() for p in nets["second"].parameters())
    assert (
        meta["licence"]
        == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]
    )


def test_files_are_the_same_bytes_each_time(full, trained):
    before = {path.name: path.read_bytes() for path in full.iterdir()}
    zoo_add.add(trained, [], "float32")
    assert {path.name: path.read_bytes() for path in full.iterdir()} == before
    assert b"optimizer" not in b"".join(before.values())


def test_what_is_shipped_already_keeps_its_words(full, trained):
    before = {path.name: path.read_bytes() for path in full.iterdir()}
    zoo_add.add(trained, ["trainer.devices=1", "model.other=1"], "float32")
    assert {path.name: path.read_bytes() for path in full.iterdir()} == before
    zoo_add.add(trained, ["model.other=1"], "float16")
    assert {path.name: path.read_bytes() for path in full.iterdir()} != before


def test_half_precision_is_for_parameters_alone(full, trained, made):
    whole, _ = load_net(made, "toy")
    net, _ = load_net(trained, "toy")
    net.register_buffer("seen", torch.full((), 70_000.0))
    net.register_buffer("count", torch.tensor(3))
    stored = zoo_add._stored(net, "float16", "toy")
    assert (stored["seen"].dtype, stored["count"].dtype) == (torch.float32, torch.int64)
    zoo_add.add(trained, [], "float16")
    halved, meta = load_net(made, "toy")
    assert meta["dtype"] == "float16"
    assert {p.dtype for p in halved.parameters()} == {torch.float32}
    assert not same(halved.state_dict(), whole.state_dict())
    shown = torch.randn(2, toy.AUDIO_DIM)
    assert torch.allclose(halved(shown), whole(shown), atol=5e-3)
    net[0].weight.fill_(70_000.0)
    with pytest.raises(UserError, match="float16 cannot hold: take --dtype float32 with stage=toy"):
        zoo_add._stored(net, "float16", "toy")


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut off":
        path.write_bytes(content[: len(content) - 5])
    elif how == "cut in its header":
        path.write_bytes(content[:40])
    elif how == "a changed value":
        content[-1] ^= 1
        path.write_bytes(content)
    elif how == "another program's":
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(1)}, path)
    elif how == "no weights":
        path.write_text("<html>not found</html>")
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize(
    "how",
    ["cut off", "cut in its header", "a changed value", "another program's", "no weights", "empty"],
)
def test_a_damaged_file_is_an_error_with_a_remedy(how, full, made):
    path = zoo.path_of("toy", stage_run(made, "toy").hash)
    damage(path, how)
    with pytest.raises(UserError, match=r"shipped weights .*cannot be used.*install thbench again"):
        load_net(made, "toy")
    fit.fit(made, "toy")  # which does not use them
    assert not load_net(made, "toy")[1]["shipped"]


def test_a_renamed_file_is_refused(full, made):
    path = zoo.path_of("toy", stage_run(made, "toy").hash)
    path.rename(full / "toy-0123456789ab.safetensors")
    with pytest.raises(UserError, match="it holds toy-"):
        list(zoo.entries())


# Finding them


def test_own_runs_win(full, trained, made):
    shutil.copytree(trained.runs, made.runs)
    metas = load_nets(made, ["second", "toy"])[1]
    assert not any(meta["shipped"] for meta in metas.values())
    made.weights = "zoo"
    assert all(meta["shipped"] for meta in load_nets(made, ["second", "toy"])[1].values())
    made.weights = "auto"
    made.data.root = "gone"
    assert locate(made, "toy").shipped is None
    shutil.rmtree(made.runs)
    assert locate(made, "toy").shipped
    made.weights = "runs"
    with pytest.raises(
        UserError, match=r"no run of stage 'toy' .* shipped.*weights=zoo takes them"
    ):
        locate(made, "toy")


def test_they_are_found_without_runs_and_data(full, trained, made):
    made.data.root = "gone"
    nets = load_nets(made, ["second", "toy"])[0]
    assert same(nets["second"].state_dict(), load_net(trained, "second")[0].state_dict())
    assert sum(samples_seen(made, locate(made, "second")).values()) == 12
    with pytest.raises(UserError, match="no prepared data set"):
        fit.fit(made)


def test_other_data_are_not_passed_over_in_silence(full, made, tmp_path):
    made.data.root = str(toy.make_root(tmp_path / "other", (7, 7), "tt"))
    with pytest.raises(UserError, match=r"'toy' is not trained.*trained on 'toy' \(digest .*=zoo"):
        load_net(made, "second")
    made.weights = "zoo"
    assert load_net(made, "second")[1]["shipped"]
    made.weights = "auto"
    fit.fit(made, "toy")
    assert not load_net(made, "toy")[1]["shipped"]


@pytest.mark.parametrize("data", ["here", "gone"])
@pytest.mark.parametrize("weights", ["auto", "zoo"])
def test_other_settings_are_not_found_and_the_nearest_is_named(data, weights, full, made):
    made.weights = weights
    made.data.root = made.data.root if data == "here" else "gone"
    made.stages["toy"].clip = 7.0
    with pytest.raises(UserError, match=r"The shipped toy \w+ differs in clip=1\.0 \(here 7\.0\)"):
        load_net(made, "toy")
    # A stage is another one where one that it builds on is.
    with pytest.raises(UserError, match=r"The shipped \w+ \w+ differs in"):
        load_net(made, "second")
    for key, value in {"ema": 0.5, "batch_size": 8, "precision": "bf16-mixed"}.items():
        setattr(made.stages["toy"], key, value)
    with pytest.raises(UserError) as found:
        load_net(made, "toy")
    assert "differs in" not in str(found.value), "four settings differ"


def test_own_and_shipped_stages_that_do_not_fit_are_refused(full, made):
    made.stages["toy"].max_steps = 1  # as if training had been interrupted
    fit.fit(made, "toy")
    with pytest.raises(UserError, match=r"at 2 steps, but found is toy .*1 steps.*weights=zoo"):
        load_nets(made, ["second", "toy"])
    made.weights = "zoo"
    assert load_nets(made, ["second", "toy"])


def test_an_own_stage_finds_the_shipped_one_that_it_was_trained_on(full, trained, made):
    shutil.copytree(trained.runs, made.runs)
    shutil.rmtree(stage_run(made, "toy").folder)
    metas = load_nets(made, ["second", "toy"])[1]
    assert [metas[name]["shipped"] for name in ("second", "toy")] == [False, True]
    shutil.rmtree(full)
    with pytest.raises(UserError, match=r"'second' was trained on 'toy' in .* which is gone"):
        load_net(made, "second")


def test_fit_trains_anew_and_says_so(full, made, capsys):
    folders = fit.fit(made)
    out = capsys.readouterr().out
    assert "toy, second: weights with these settings are shipped" in out
    assert all((path / "last.ckpt").is_file() for path in folders.values())
    assert "toy: training to step 2" in out
    fit.fit(made)
    assert "are shipped" not in capsys.readouterr().out


def test_fit_takes_shipped_stages_when_asked_to(folder, trained, made, capsys):
    made.weights = "zoo"
    with pytest.raises(UserError, match=r"no stage of .* is shipped for these settings"):
        fit.fit(made)
    zoo_add.add(trained, [], "float16", "toy")
    names, taken = runs.training_order(made)
    assert (names, list(taken)) == (["second"], ["toy"])
    assert cells(StageReport("toy", taken["toy"].steps, trained=True, shipped=True))[0] == "shipped"
    folders = fit.fit(made)
    out = capsys.readouterr().out
    assert "toy: shipped, 2 steps, taken as it is" in out
    assert "toy: training" not in out
    assert folders["toy"].parent == folder
    assert (folders["second"] / "last.ckpt").is_file()
    own = runs.read_checkpoint(stage_run(made, "second"))[runs.META]
    assert own["needs"]["toy"]["shipped"] == "float16"
    assert zoo_add.add(made, [], "float16") == [f"second-{own['hash']}"]
    assert set(fit.fit(made)) == {"toy", "second"}  # nothing is left to train
    made.stages["toy"].max_steps = 3
    assert "toy: training to step 3" in (fit.fit(made, "toy") and capsys.readouterr().out)


def test_fit_does_not_train_what_only_a_shipped_stage_started_from(made, folder, capsys):
    """As DAWN's first stage, where the second is shipped."""
    made.stages["third"] = replace(made.stages["toy"], init_from="toy")
    made.nets = {"one": "third"}
    before = replace(made, runs=f"{made.runs}-before")
    fit.fit(before)
    zoo_add.add(before, [], "float32")
    made.weights = "zoo"
    capsys.readouterr()
    assert list(fit.fit(made)) == ["third"]
    assert "training" not in capsys.readouterr().out


# Adding them


def test_only_what_is_trained_and_fits_is_added(folder, trained, made):
    longer = replace(trained, stages={**trained.stages})
    longer.stages["toy"] = replace(trained.stages["toy"], max_steps=3)
    with pytest.raises(UserError, match=r"trained to 2 of 3 steps.*stages\.toy\.max_steps=2"):
        zoo_add.add(longer, [], "float32")
    with pytest.raises(UserError, match=r"second-\w+ was trained on toy-\w+ at 2.*not in the zoo"):
        zoo_add.add(trained, [], "float32", "second")
    with pytest.raises(UserError, match="not trained"):
        zoo_add.add(made, [], "float32")
    assert not list(folder.iterdir())
    assert len(zoo_add.add(trained, [], "float16", "toy")) == 1
    assert len(zoo_add.add(trained, [], "float32", "second")) == 1


def test_a_second_one_of_the_same_settings_is_refused(full, made, tmp_path):
    made.data.root = str(toy.make_root(tmp_path / "other", (7, 7), "tt"))
    fit.fit(made)
    with pytest.raises(UserError, match=r"has the settings of toy-.*other data.* delete .*toy-"):
        zoo_add.add(made, [], "float32")


def test_the_zoo_stays_small(folder, trained, monkeypatch):
    monkeypatch.setattr(zoo_add, "BUDGET", 1000)
    with pytest.raises(UserError, match=r"more than 0.*take --dtype float16"):
        zoo_add.add(trained, [], "float32")
    assert not list(folder.iterdir())


def test_stages_that_others_only_started_from_are_left_out():
    for name, stages in (
        ("dawn", ["lfg", "pbnet", "a2v2"]),
        ("ttr", ["lfg", "pbnet", "keys2", "gaps2"]),
    ):
        assert zoo_add.used_stages(configs.load(name, ["scale=small"])) == stages


# The commands, with a small DAWN


@pytest.fixture(scope="module")
def added(bench, tmp_path_factory):
    """A zoo with the bench's DAWN."""
    path = tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "FOLDER", path)
        assert main(["zoo", "add", *bench.dawn]) == 0
    return path


@pytest.fixture
def shipped(added, monkeypatch):
    """The zoo has the bench's DAWN."""
    monkeypatch.setattr(zoo, "FOLDER", added)


def test_a_video_is_made_without_runs_and_data(shipped, bench, files, tmp_path, capsys):
    words = [*bench.dawn, f"runs={tmp_path / 'none'}", "data.root=gone"]
    given = ["--image", str(files / "me.png"), "--audio", str(files / "me.wav")]
    assert main(["generate", *words, *given, "-o", str(tmp_path / "a.mp4")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("weights: a2v2 ")
    assert out.count("(shipped, float16, ") == 3
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("known", [True, False])
def test_results_name_shipped_weights_and_what_they_were_trained_on(
    known, shipped, bench, tmp_path, capsys
):
    """Scored on the very data set, or on another one."""
    data = tmp_path / "data"
    shutil.copytree(bench.data, data)
    if not known:
        manifest.write(data, [replace(clip, identity="x") for clip in manifest.read(data)])
    words = [*bench.dawn, f"runs={tmp_path / 'none'}", f"results={tmp_path / 'results'}"]
    few = ("eval.limit=1", "eval.frames=2", f"data={data}")
    protocol = tmp_path / "psnr.yaml"
    protocol.write_text(yaml.safe_dump(FAST))
    wanted = ["eval", *words, *few, f"eval.protocol={protocol}"]
    assert main(wanted) == (0 if known else 2)
    if not known:
        assert "weights=zoo takes them" in capsys.readouterr().err
        assert main([*wanted, "weights=zoo"]) == 0
    assert "(shipped, float16, " in capsys.readouterr().out
    (result,) = results.read_folder(tmp_path / "results")
    assert {stage: ref.shipped for stage, ref in result.weights.items()} == dict.fromkeys(
        ("a2v2", "lfg", "pbnet"), True
    )
    assert result.samples_seen == 10, "a2v1, which is not shipped, is counted"
    assert [note for note in result.notes if "trained on" in note] == (
        [] if known else ["trained on data"]
    )


def test_own_runs_are_named_and_halved_weights_are_another_run(shipped, bench):
    words = bench.dawn[1:]
    own = api.load(bench.strategy, *words)
    taken = api.load(bench.strategy, *words, "weights=zoo")
    assert f"({bench.runs}/a2v2-" in own.weights[0]
    assert "shipped" in taken.weights[0]
    assert own.run != taken.run
    assert own.samples_seen == taken.samples_seen
    assert assemble(replace(own.config, weights="runs")).run == own.run


def test_list(shipped, capsys, monkeypatch):
    monkeypatch.setattr(configs, "names", lambda kind: ["dawn"])
    assert main(["zoo", "list"]) == 0
    out = capsys.readouterr().out
    for word in ("a2v2", "lfg", "pbnet", "float16", "none as configured today (dawn)"):
        assert word in out
    assert " + " in next(line for line in out.splitlines() if " a2v2 " in line), "a2v1's samples"
    (recipe,) = (line for line in out.splitlines() if line.startswith("trained by: thbench fit "))
    assert "scale=tiny" in recipe
    assert out.count("licence: Apache-2.0\n") == 1
    assert main(["zoo", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["stage"] for row in rows] == ["a2v2", "lfg", "pbnet"]
    assert all(row["bytes"] == Path(row["file"]).stat().st_size for row in rows)
    assert all(row["used_by"] == {} for row in rows)


def test_list_names_all_strategies_that_share_a_stage(monkeypatch):
    monkeypatch.setattr(configs, "names", lambda kind: ["dawn", "sar", "hallo"])
    found = []
    for name, stage in (("dawn", "lfg"), ("dawn", "a2v2")):
        settings = settings_hash(configs.load(name, ["scale=small"]), stage)
        meta = {"stage": stage, "hash": "1", "settings": settings}
        found.append(zoo.Shipped(zoo.path_of(stage, "1"), 0, meta))
    users = used_by(found)
    assert users["lfg-1"]["small"] == ["dawn", "sar"]
    assert users["a2v2-1"]["small"] == ["dawn"]


def test_recipes_and_licences_are_said_once_where_all_share_them():
    def shipped(stage, command):
        meta = {"stage": stage, "hash": "0123456789ab", "command": command}
        return zoo.Shipped(zoo.path_of(stage, "0123456789ab"), 0, meta)

    alike = [shipped(stage, "thbench fit dawn scale=small") for stage in ("lfg", "pbnet")]
    assert said("trained by", alike, "command") == ["trained by: thbench fit dawn scale=small"]
    mixed = [*alike, *(shipped(f"stage{i}", "thbench fit sar scale=small") for i in range(8))]
    lines = said("trained by", mixed, "command")
    assert lines[0] == (
        "trained by: thbench fit dawn scale=small (lfg 0123456789ab, pbnet 0123456789ab)"
    )
    assert lines[1].startswith("trained by: thbench fit sar scale=small (stage0 0123456789ab, ")
    assert max(map(len, lines)) <= 100
    whole = " ".join(line.strip() for line in lines)
    assert all(f"stage{i} 0123456789ab" in whole for i in range(8))


# What is shipped


def test_the_wheel_has_the_weights():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]
    package = ROOT / "thbench"
    taken = {path for pattern in data["thbench"] for path in package.glob(pattern)}
    assert taken == {path for path in zoo.FOLDER.rglob("*") if path.is_file()}


def test_what_is_shipped_is_whole_and_used():
    """Each file can be read, builds on shipped ones alone, and some strategy uses it."""
    found = list(zoo.entries())
    zoo_add._check_whole({}, {})
    assert all(used_by(found).values())
    for each in found:
        zoo.read(each)
