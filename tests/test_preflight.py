"""What `thbench check` finds, each thing once; and that `fit` asks before it trains."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import preflight as simulated
from tests import toy_training as toy
from thbench import config as configs
from thbench.cli.parser import main
from thbench.config import DrawConfig
from thbench.core import hub
from thbench.core.errors import UserError
from thbench.core.hub import MissingResource
from thbench.data import manifest
from thbench.data.frozen_cache import FrozenRows
from thbench.data.store import Store
from thbench.generation.strategy import Strategy
from thbench.preflight import checks, compute, disk, estimate
from thbench.preflight import report as reports
from thbench.preflight.report import ERROR, OK, WARNING
from thbench.training.runs import stage_run
from thbench.training.stage import Stage

STAGE = "tests.test_preflight:"


class Still(Strategy):
    """Made of one network called toy."""

    def __init__(self, nets, context, plan, sampler):
        super().__init__(nets, context, plan, sampler)
        self.width = self.nets["toy"][0].out_features

    def encode(self, request): ...
    def passes(self, request): ...
    def decode(self, latents, frames, conditions): ...


class Line(Stage):
    """One linear layer over the sound, whose cost is known by heart."""

    def __init__(self, context):
        super().__init__(context)
        self.net = nn.Sequential(nn.Linear(context.audio_dim, 64, bias=False))

    def loss(self, batch):
        return {"loss": self.net(batch.audio).sum()}


class Keeping(Line):
    """Keeps a megabyte of each frame."""

    def frozen_rows(self):
        return FrozenRows("square", self.net, (500, 500), lambda portrait, frames: frames)


class Wanting(Line):
    """Lacks something that stops it, and something that it will fetch."""

    def missing(self, steps):
        yield MissingResource("its weights are on the moon")
        yield MissingResource("a file will be fetched", is_fatal=False)

    def check_draw(self, draw):
        if draw.frames == 2:
            raise UserError("Wanting wants more than 2 frames.")


class Reading(Line):
    """Needs numbers that only real tensors have."""

    def loss(self, batch):
        return {"loss": torch.tensor(batch.audio.numpy().sum())}


@pytest.fixture(autouse=True)
def _one_rate(monkeypatch):
    monkeypatch.setattr(compute, "known_rate", lambda device, precision: 1e9)
    for place in ("thbench.core.hub", "thbench.training.reconstruction"):
        monkeypatch.setattr(f"{place}.reachable", lambda url: False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return toy.make_root(tmp_path_factory.mktemp("data"), (8, 9, 12, 10, 7, 11, 9), "tttttve")


@pytest.fixture
def make(root, tmp_path):
    """The toy strategy, with what is given of its stage."""

    def made(data=root, **stage):
        config = toy.config(data, tmp_path / "runs", **stage)
        config.target, config.nets = f"{STAGE}Still", {"toy": "toy"}
        config.eval.protocol = "synthetic"
        return config

    return made


def look(config, only=None, **options):
    return checks.check(config, only, **{"metrics": False, "estimates": False, **options})


def texts(report, level=ERROR):
    return " | ".join(f"{f.where}: {f.text}" for f in report.of(level))


def test_nothing_stands_against_a_good_one(make):
    report = look(make(), metrics=True, estimates=True)
    assert not report.of(ERROR), texts(report)
    (found,) = report.stages
    assert (str(found.train), str(found.val)) == ("5 of 5", "1 of 1")
    assert found.need.flops > 0
    assert found.seconds == pytest.approx(12 * found.need.flops / (0.4 * 1e9))
    assert report.verdict.startswith("toys: nothing stands against training")
    assert "1 clips of 'test' by protocol synthetic: FD-pyramid" in texts(report, OK)


def test_clips_that_are_too_short_are_counted_and_said(make):
    report = look(make(draw=DrawConfig(9)))
    assert (str(report.stages[0].train), str(report.stages[0].val)) == ("3 of 5", "1 of 1")
    assert "2 of 5 clips of 'train' are left out: 2 have fewer than 9 frames" in texts(
        report, WARNING
    )
    assert look(make(draw=DrawConfig(9, least=7))).stages[0].train.kept == 5
    assert "No clip of the split 'val' has 12 frames" in texts(look(make(draw=DrawConfig(12))))
    quiet = make(draw=DrawConfig(12))
    quiet.trainer.validate_batches = 0
    assert not look(quiet).of(ERROR)


def test_clips_without_a_face_are_counted(make, tmp_path):
    root = toy.make_root(tmp_path / "data", (8, 9, 12), "ttv")
    track = root / "clips/person0/clip.npz"
    content = dict(np.load(track))
    np.savez(track, **{**content, "valid": np.zeros(8, bool)})
    assert look(make(root)).stages[0].train.faceless == 1
    # Windows that begin with the portrait begin where a face is seen first.
    np.savez(track, **{**content, "valid": np.arange(8) >= 6})
    first = look(make(root, draw=DrawConfig(4, "first")))
    assert "1 show no face at their start" in texts(first, WARNING)
    assert look(make(root, draw=DrawConfig(4))).stages[0].train.kept == 2
    # A portrait that is none of the frames to be made needs one more.
    np.savez(track, **{**content, "valid": np.arange(8) == 6})
    assert look(make(root, draw=DrawConfig(1, "other"))).stages[0].train.faceless == 1
    assert look(make(root, draw=DrawConfig(1))).stages[0].train.faceless == 0
    track.write_bytes(b"no archive")
    assert "cannot be read" in texts(look(make(root)))


def test_a_stage_says_what_it_cannot_learn_from_and_what_it_lacks(make):
    report = look(make(target=f"{STAGE}Wanting"))
    assert "its weights are on the moon" in texts(report)
    assert "a file will be fetched" in texts(report, WARNING)
    few = look(make(target=f"{STAGE}Wanting", draw=DrawConfig(2)))
    assert "Wanting wants more than 2 frames" in texts(few)


def test_the_batch_is_dealt_out(make):
    config = make(batch_size=5)
    config.trainer.accumulate = 2
    assert "batch_size=5 cannot be divided" in texts(look(config))
    config = make(target="tests.toy_training:ByHand")
    config.trainer.accumulate = 2
    assert "set trainer.accumulate=1" in texts(look(config))


def test_what_a_stage_compares_is_not_divided(make):
    config = make(target="tests.toy_training:Pairs")
    assert "in pairs" not in texts(look(config))
    config.trainer.accumulate = 4
    assert "in pairs, and a part has 1" in texts(look(config))


def test_sound_and_size_are_the_paper_s(make):
    config = make()
    config.strategy, config.size = "hallo", 32
    assert "data.audio" not in texts(look(config), WARNING)
    config.scale = "paper"
    said = texts(look(config), WARNING)
    assert "data.audio=toy, but the paper's strategy uses wav2vec2-layers" in said
    assert "the clips have 16 x 16 pixels and are enlarged" in said
    assert "size=32, the strategy's own is 512" in said


def test_files_that_the_manifest_promises(make, tmp_path):
    root = toy.make_root(tmp_path / "data")
    (root / "audio/toy/person3/clip.npy").unlink()
    (root / "clips/person2/clip.mp4").unlink()
    said = texts(look(make(root)))
    assert "1 of 6 clips have no 'toy' embedding: No audio encoder 'toy'" in said
    assert "1 of 6 clips have no video" in said
    for path in (root / "audio/toy").rglob("*.npy"):
        path.unlink()
    config = make(root)
    config.data.audio = "logmel"
    assert "6 of 6 clips have no 'logmel' embedding: they are computed once" in texts(
        look(config), OK
    )
    config.data.audio = "hubert"
    assert "cannot be reached: fetch it with `hf download facebook/hubert" in texts(look(config))
    config = make(root)
    config.data.audio = "hubert"
    report = look(config, files=False)
    assert not report.of(ERROR)
    assert report.stages[0].need.parameters == (1024 + 1) * 8 + 2 * 8 + 9


def test_a_stage_that_starts_from_another_network_is_refused(make):
    config = make()
    wide = replace(config.stages["toy"], init_from="toy", model={"width": 9})
    config.stages["second"], config.nets["more"] = wide, "second"
    assert "second: starts from stage 'toy', whose network is another one" in texts(look(config))
    assert not look(config, "toy").of(ERROR)
    assert [found.name for found in look(config, "toy").stages] == ["toy"]
    wide.model = {}
    assert not look(config).of(ERROR)


def test_settings_are_wrong_before_all(make):
    config = make()
    config.nets = {"toy": "tyo"}
    assert "Did you mean 'toy'" in texts(look(config))
    config = make()
    config.nets = {"other": "toy"}
    assert "nets lacks the role 'toy'" in texts(look(config))
    config = make()
    config.data.root = "/nowhere"
    assert "no prepared data set at '/nowhere'" in texts(look(config))
    config = make()
    config.eval.protocol = "dwan"
    assert "Did you mean 'dawn'" in texts(look(config))


def test_the_protocol_fits_the_split(make, tmp_path):
    config = make()
    config.eval.protocol = "dawn"
    report = look(config, metrics=True)
    said = texts(report, WARNING)
    assert (
        "stride 16, all windows, 224 px) needs 16 frames, which no clip has: it will have" in said
    )
    assert "run `thbench weights pull i3d-torchscript`" in said
    assert "1 of 1 clips are shorter than the 200 frames" in texts(report, OK)
    assert "by protocol dawn: BAS (pose), Blink/s" in texts(report, OK)
    without = make(toy.make_root(tmp_path / "data"))
    assert "no clips in the split 'test'" in texts(look(without), WARNING)


def test_room_on_the_disk(make, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "to be written (caches" in texts(look(make()))
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**12))
    assert not look(make()).of(ERROR)


def test_rows_that_are_kept_need_room_until_they_are_there(make, tmp_path, monkeypatch):
    data = toy.make_root(tmp_path / "data")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))

    def caches(kind):
        said = texts(look(make(data, target=f"{STAGE}{kind}")))
        return int(said.partition("caches ")[2].partition(" MB")[0])

    without, frames = caches("Line"), 8 + 9 + 12 + 10 + 7 + 11
    assert caches("Keeping") == without + frames
    for split in ("train", "val"):
        path = Store(data, split, toy.SIZE, "toy").cache_path(f"square-0123-{toy.SIZE}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert caches("Keeping") == without


def test_videos_of_every_seed_need_room(make, tmp_path):
    config = make(toy.make_root(tmp_path / "data", (9, 9), "te"))

    def room(seeds):
        config.eval.seeds = seeds
        clips = [clip for clip in manifest.read(config.data.root) if clip.split == "test"]
        return disk._video_bytes(SimpleNamespace(config=config, eval_data=clips))

    assert room([4, 0, 7]) == 3 * room(None) > 0


def test_memory_of_the_device(make, monkeypatch):
    need = look(make(), estimates=True).stages[0].need
    monkeypatch.setattr(compute, "memory_of", lambda device: need.memory - 1)
    assert "set trainer.accumulate" in texts(look(make(), estimates=True), WARNING)
    monkeypatch.setattr(compute, "memory_of", lambda device: need.held)
    assert "weights, gradients and moments alone" in texts(look(make(), estimates=True))


def test_a_step_is_counted_exactly(make):
    config = make(target=f"{STAGE}Line", draw=DrawConfig(4), ema=0.0)
    need = estimate.Networks(config, 32).need("toy", 3)
    rows, weights = 3 * 4, 32 * 64
    assert need.parameters == need.trained == weights
    assert need.held == need.saved == 3 * 4 * weights  # weights and Adam's two moments
    assert need.flops == 2 * 2 * rows * weights  # forwards, and the gradient of the weights
    # The output, and then the gradient of the weights beside that of the sum.
    assert 4 * rows * 64 <= need.peak <= 4 * (2 * rows * 64 + 2 * weights)
    averaged = make(target=f"{STAGE}Line", draw=DrawConfig(4), ema=0.9)
    assert estimate.Networks(averaged, 32).need("toy", 3).held == 4 * 4 * weights
    twice = estimate.Networks(config, 32).need("toy", 6)
    assert twice.flops == 2 * need.flops


def test_a_stage_that_needs_numbers_has_no_estimate(make):
    report = look(make(target=f"{STAGE}Reading"), estimates=True)
    found = report.stages[0]
    assert not report.of(ERROR)
    assert (found.need.peak, found.seconds) == (None, None)
    assert found.need.memory >= 4 * 4 * found.need.trained
    assert "memory and time are not known" in texts(report, OK)


def test_trained_stages_are_left_alone(make):
    config = make(draw=DrawConfig(1000))
    run = stage_run(config, "toy")
    run.folder.mkdir(parents=True)
    run.last.touch()
    assert look(config).of(ERROR)
    run.update_record(status="done", steps=12)
    assert not look(config).of(ERROR)
    assert look(config).stages[0].trained


def test_models_of_the_hub(tmp_path, monkeypatch):
    def said(source, part=""):
        return [(missing.is_fatal, missing.what) for missing in hub.missing_weights(source, part)]

    assert said(str(tmp_path)) == [
        (True, f"weights: {tmp_path} holds no config.json with weights beside it")
    ]
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/config.json").touch()
    assert said(str(tmp_path), "vae")
    (tmp_path / "vae/model.safetensors").touch()
    assert said(str(tmp_path), "vae") == []
    assert "there is no folder" in said("/no/such/folder")[0][1]
    assert said("some/model")[0][0]
    for name in hub.OFFLINE:
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(hub, "reachable", lambda url: True)
    ((is_fatal, what),) = said("some/model")
    assert not is_fatal
    assert "is fetched when the stage starts" in what


@pytest.mark.parametrize(
    ("strategy", "words", "said"),
    [
        ("dawn", ["stages.lfg.model.perceptual=vgg"], "lfg: the perceptual loss needs VGG-19"),
        (
            "hallo",
            ["stages.autoencoder.model.init_from=some/vae", "stages.video.draw.context=1"],
            "autoencoder: the autoencoder's weights | video: Hallo's second stage needs",
        ),
        ("diffused_heads", ["stages.frame.draw.context=1"], "draw.context 2 or more"),
        ("fd2talk", ["stages.motion.draw.frames=5"], "must exceed the plan's overlap"),
        ("fd2talk", ["stages.morphable.model.bfm=/no.mat"], "there is no file /no.mat"),
    ],
)
def test_stages_of_the_bench_say_what_they_want(strategy, words, said, tmp_path, monkeypatch):
    monkeypatch.setattr("thbench.nn.perceptual._hub", lambda: tmp_path)
    root = simulated.write("hdtf", tmp_path / "data")
    words = [f"data.root={root}", "data.audio=logmel", f"runs={tmp_path}", *words]
    report = look(configs.load(strategy, words), files=False, estimates=False)
    for part in said.split(" | "):
        assert part in texts(report)


@pytest.fixture
def command(make, monkeypatch):
    """Run a command on the toy strategy; what training was asked for."""

    def run(name, *words, **stage):
        trained = []
        monkeypatch.setattr(configs, "load", lambda strategy, words: make(**stage))
        monkeypatch.setattr(
            "thbench.training.fit.fit", lambda config, only: trained.append(only) or {}
        )
        return main([name, "dawn", *words]), trained

    return run


def test_fit_asks_before_the_first_stage_trains(command, capsys):
    assert command("fit") == (0, [None])
    assert capsys.readouterr().out == "toys: nothing stands against training\n"
    assert command("fit", draw=DrawConfig(1000)) == (2, [])
    out, err = capsys.readouterr()
    assert err.startswith("thbench: toy: No clip of the split 'train' has 1000 frames")
    assert "error: toy: No clip of the split 'val'" in out


def test_check_prints_a_table_and_ends_with_a_line(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert command("check") == (0, [])
    out = capsys.readouterr().out.splitlines()
    assert out[1].split() == ["stage", "train", "val", "weights", "memory", "steps", "time"]
    assert out[2].split()[:7] == ["toy", "5", "of", "5", "1", "of", "1"]
    assert out[-1].startswith("toys: nothing stands against training")
    assert command("check", draw=DrawConfig(1000)) == (2, [])
    out, err = capsys.readouterr()
    assert "error" in out
    assert err.startswith("thbench: toys: training cannot end well: 2 error(s)")
    assert err.count("\n") == 1
    command("check", "--manifest-only")
    assert "the clips' files are not read" in capsys.readouterr().out


@pytest.mark.slow
def test_no_strategy_is_impossible_on_short_clips(tmp_path):
    root = simulated.write("cremad", tmp_path / "cremad")
    lengths = [clip.n_frames for clip in manifest.read(root)]
    assert (len(lengths), min(lengths), max(lengths)) == (7442, 32, 120)
    assert np.median(lengths) == pytest.approx(63, abs=1)
    for strategy in ("dawn", "ttr"):  # the page has all
        report = simulated.look(strategy, "cremad", root, "paper", details=False)
        wrong = [f for f in report.of(ERROR) if not f.local]
        assert not wrong, (strategy, wrong)
        assert all(f.train.kept == f.train.total for f in report.stages), strategy


def test_the_page_of_all_is_up_to_date():
    page = (simulated.Path(__file__).parent.parent / "docs/preflight.md").read_text()
    rows = re.findall(r"^\| (\w+) \| possible \| possible \| possible \|$", page, re.M)
    assert set(rows) <= set(configs.names("strategy"))
    assert {"dawn", "hallo", "fd2talk", "diffused_heads", "ttr"} <= set(rows)
    assert "impossible" not in page


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "-"),
        (41, "41 s"),
        (960, "16 min"),
        (4e4, "11 h"),
        (2e7, "231 days"),
        (1e9, "32 years"),
    ],
)
def test_durations_are_for_people(seconds, said):
    assert reports.duration(seconds) == said
