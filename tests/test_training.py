import errno
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests import toy_training as toy
from thbench.config import OptimConfig
from thbench.core.errors import UserError
from thbench.core.signatures import check_keys
from thbench.core.types import FPS
from thbench.data.media import video
from thbench.training import fit
from thbench.training.callbacks import Ema
from thbench.training.loggers import read_curves
from thbench.training.optim import build_optimizer, rate_scale
from thbench.training.runs import load_net, load_nets, order, read_checkpoint, read_meta, stage_run
from thbench.training.samples import clip_audio, contact_sheet

REPO = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    torch.set_num_threads(1)
    for name in ("WANDB_API_KEY", "TOY_TRACE", "SLURM_JOB_ID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return toy.make_root(folder, (8, 9, 12, 10, 7, 11, 9), "tttttvv")


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    """A run that nothing interrupted, and what it was shown."""
    folder = tmp_path_factory.mktemp("whole")
    os.environ["TOY_TRACE"] = str(folder / "trace")
    try:
        toy.main(str(root), str(folder / "runs"))
    finally:
        del os.environ["TOY_TRACE"]
    return folder


def command(root, runs, *words, **environment):
    return subprocess.run(
        [sys.executable, "-m", "tests.toy_training", str(root), str(runs), *words],
        cwd=REPO, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


PAIRS = "target=tests.toy_training:Pairs"


def last(runs, stage="toy", name="last"):
    (path,) = Path(runs).glob(f"{stage}-*/{name}.ckpt")
    return torch.load(path, weights_only=True)


def differences(a, b, path=""):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        return [d for k in a for d in differences(a[k], b[k], f"{path}/{k}")]
    if isinstance(a, list | tuple):
        assert len(a) == len(b), path
        return [
            d
            for i, (x, y) in enumerate(zip(a, b, strict=True))
            for d in differences(x, y, f"{path}/{i}")
        ]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [] if same else [path]


def curves(runs):
    (path,) = Path(runs).glob("toy-*/metrics.csv")
    return {k: v for k, v in read_curves(path).items() if not k.startswith("speed")}


def shown(path):
    """Samples by number of batch; a later line about the same batch replaces an earlier one."""
    lines = [line.split(" ", 1) for line in Path(path).read_text().splitlines()]
    return {int(number): rest.split(" ") for number, rest in lines}


def assert_same_run(runs, whole, unlogged=None):
    mine, theirs = last(runs), last(whole / "runs")
    assert differences(mine, theirs) == ["/callbacks/steps/seconds"]
    assert "averaging_state" in mine  # the averaged weights were among what was compared
    assert mine["optimizer_states"][0]["state"]
    assert mine["thbench"]["steps"] == 12
    assert differences(last(runs, "toy", "best"), last(whole / "runs", "toy", "best")) == [
        "/callbacks/steps/seconds"
    ]
    found, expected = curves(runs), curves(whole / "runs")
    assert {"train/loss", "val/loss", "optim/lr"} <= expected.keys()
    for name in ("train/loss", "optim/lr"):
        assert found[name] == [(n, value) for n, value in expected[name] if n != unlogged]
    assert found["val/loss"][-1] == expected["val/loss"][-1]


@pytest.mark.slow
def test_a_killed_run_ends_as_if_it_had_not_been_killed(root, whole, tmp_path, monkeypatch):
    killed = command(root, tmp_path / "runs", "signal=SIGKILL@10", TOY_TRACE=str(tmp_path / "t"))
    assert killed.returncode == -9
    assert killed.stdout.splitlines()[0].startswith("toy: training to step 12, ")
    assert len(killed.stdout.splitlines()) == 1  # and nothing from anybody else
    assert [line[:14] for line in killed.stderr.splitlines()] == ["toy: step 5/12"]
    assert last(tmp_path / "runs")["thbench"]["steps"] == 8
    monkeypatch.setenv("TOY_TRACE", str(tmp_path / "t"))
    toy.main(str(root), str(tmp_path / "runs"), "workers=1")
    assert_same_run(tmp_path / "runs", whole)
    assert shown(tmp_path / "t.0") == shown(whole / "trace.0")


@pytest.mark.parametrize("warning", ["SIGTERM", "SIGUSR1"])
def test_a_warned_run_saves_after_the_step_and_goes_on(
    root, whole, tmp_path, monkeypatch, warning, capsys
):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with pytest.raises(SystemExit) as stop:
        toy.main(str(root), str(tmp_path / "runs"), f"signal={warning}@7")
    assert stop.value.code == 143
    assert last(tmp_path / "runs")["thbench"]["steps"] == 7  # between two periodic checkpoints
    assert (tmp_path / "asked").exists() == (warning == "SIGUSR1")
    if warning == "SIGUSR1":
        assert (tmp_path / "asked").read_text() == "requeue 77\n"
    record = json.loads(next((tmp_path / "runs").glob("*/stage.json")).read_text())
    assert (record["status"], record["steps"]) == ("interrupted", 7)
    toy.main(str(root), str(tmp_path / "runs"))
    # To be quick, it leaves before the loggers hear of the step.
    assert_same_run(tmp_path / "runs", whole, unlogged=7)
    assert "interrupted" in capsys.readouterr().out


def test_training_longer_continues_the_run(root, whole, tmp_path, capsys):
    runs = tmp_path / "runs"
    toy.main(str(root), str(runs), "max_steps=6")
    assert json.loads(next(runs.glob("*/stage.json")).read_text())["status"] == "done"
    toy.main(str(root), str(runs), "checkpoint_every=5")
    assert_same_run(runs, whole)
    toy.main(str(root), str(runs))
    lines = capsys.readouterr().out.splitlines()
    (folder,) = runs.glob("toy-*")
    assert lines[0] == f"toy: training to step 6, {folder}"
    assert lines[3] == f"toy: training from step 6 to step 12, {folder}"
    assert lines[6] == f"toy: trained, 12 steps, {folder}"
    assert len(lines) == 7


def test_accumulation_sees_the_same_global_batches(root, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_TRACE", str(tmp_path / "t"))
    toy.main(str(root), str(tmp_path / "runs"), "accumulate=2", "max_steps=5")
    parts, full = shown(tmp_path / "t.0"), shown(whole / "trace.0")
    assert len(parts) == 10
    assert [parts[2 * k + 1] + parts[2 * k + 2] for k in range(5)] == [
        full[k + 1] for k in range(5)
    ]
    # Resumed with other accumulation, the global batches go on where they were.
    toy.main(str(root), str(tmp_path / "runs"), "max_steps=7")
    assert shown(tmp_path / "t.0")[11] == full[6]


@pytest.mark.slow
def test_two_ranks_see_what_one_sees(root, whole, tmp_path):
    words = ("devices=2", "strategy=ddp", "two", PAIRS)
    done = command(root, tmp_path / "runs", *words, TOY_TRACE=str(tmp_path / "t"))
    assert done.returncode == 0, done.stderr
    ranks, full = [shown(tmp_path / f"t.{r}") for r in (0, 1)], shown(whole / "trace.0")
    # The second stage numbers its batches from 1 again, so the first one's later ones are left.
    assert {k: ranks[0][k] + ranks[1][k] for k in range(5, 13)} == {
        k: full[k] for k in range(5, 13)
    }
    assert last(tmp_path / "runs")["thbench"]["steps"] == 12
    assert last(tmp_path / "runs", "second")["thbench"]["needs"]["toy"]["steps"] == 12
    # A line when a stage starts and when it ends, and one on its last validation; torch 2.8's gloo
    # puts words of its own between.
    assert sum(done.stdout.count(f"{stage}: ") for stage in ("toy", "second")) == 6
    assert len(done.stdout.splitlines()) == 6 or "[Gloo]" in done.stdout
    # What they learn is what one process learns, in one part or in two.
    learned = [weights(tmp_path / "runs")]
    for parts in (1, 2):
        toy.main(str(root), str(tmp_path / f"in-{parts}"), PAIRS, f"accumulate={parts}")
        learned.append(weights(tmp_path / f"in-{parts}"))
    for other in learned[1:]:
        for name, value in learned[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-6)
    # Two devices exchange audio within their own parts, as one process does in two parts.
    heard = [curves(tmp_path / name)["val/heard"][-1][1] for name in ("runs", "in-2")]
    assert heard[0] == pytest.approx(heard[1], rel=1e-4)
    assert heard[0] > 10


def weights(runs):
    """Of the averages and of the network in training."""
    saved = last(runs)
    kept = {"averaged": saved["state_dict"], "current": saved["current_model_state"]}
    return {f"{k} {n}": v for k, state in kept.items() for n, v in state.items() if "net." in n}


def test_a_part_that_divides_what_a_stage_compares_is_refused_before_the_first_step(root, tmp_path):
    made = toy.config(root, tmp_path, target="tests.toy_training:Pairs")
    made.trainer.accumulate = 4
    with pytest.raises(UserError, match="in pairs, and a part has 1"):
        fit.fit(made)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(root, tmp_path):
    made = toy.config(root, tmp_path, model={"spoil_at": 6})
    with pytest.raises(UserError, match=r"diverged at step 6: a loss .*train/loss=nan.*optim\.lr"):
        fit.fit(made)
    checkpoint = last(tmp_path)
    assert checkpoint["thbench"]["steps"] == 4
    assert all(torch.isfinite(v).all() for v in checkpoint["state_dict"].values())


def test_weights_that_are_not_finite_are_not_saved(root, tmp_path):
    made = toy.config(root, tmp_path, model={"break_at": 8}, clip=0.0)
    with pytest.raises(UserError, match=r"diverged at step 8: a weight .*train/loss=0"):
        fit.fit(made)
    checkpoint = last(tmp_path)
    assert checkpoint["thbench"]["steps"] == 4
    assert all(torch.isfinite(v).all() for v in checkpoint["current_model_state"].values())
    record = json.loads(next(tmp_path.glob("*/stage.json")).read_text())
    assert record["status"] == "failed"


def test_a_better_checkpoint_outlives_a_resumed_run(root, tmp_path):
    fit.fit(toy.config(root, tmp_path, max_steps=6))
    made = toy.config(root, tmp_path, max_steps=7)
    run = stage_run(made, "toy")
    best = torch.load(run.best, weights_only=True)
    best["thbench"]["best"] = 0.0  # better than anything to come
    torch.save(best, run.best)
    fit.fit(made)
    assert read_checkpoint(run)["thbench"]["steps"] == 7
    assert read_checkpoint(run, run.best)["thbench"]["steps"] == 6


def test_the_folder_follows_what_determines_the_result(root, tmp_path):
    made = toy.config(root, tmp_path)
    folder = stage_run(made, "toy").folder

    def moved(**stage):
        return stage_run(toy.config(root, tmp_path, **stage), "toy").folder != folder

    assert moved(ema=0.5)
    assert moved(batch_size=8)
    assert moved(clip=2.0)
    assert moved(precision="bf16-mixed")
    assert moved(model={"width": 9})
    assert moved(optim=OptimConfig("adam", 1e-4))
    assert not moved(max_steps=99)
    assert not moved(precision="32-true")
    assert stage_run(replace(made, seed=1), "toy").folder != folder
    assert stage_run(replace(made, size=32), "toy").folder != folder
    other = replace(made.trainer, devices=4, workers=9, log_every=5, accumulate=2)
    assert stage_run(replace(made, trainer=other, strategy="another"), "toy").folder == folder
    second = replace(made.stages["toy"], needs=["toy"])
    narrow = replace(made.stages["toy"], model={"width": 4})
    a = replace(made, stages={**made.stages, "second": second})
    b = replace(made, stages={"toy": narrow, "second": second})
    assert stage_run(a, "second").hash != stage_run(b, "second").hash


def test_order_of_stages(root, tmp_path):
    made = toy.config(root, tmp_path)
    base = made.stages["toy"]
    made.stages = {
        "c": replace(base, needs=["a"], init_from="b"),
        "b": replace(base, needs=["a"]),
        "a": base,
        "d": base,
    }
    assert order(made) == ["a", "b", "c", "d"]
    assert order(made, "b") == ["a", "b"]
    with pytest.raises(UserError, match="no stage 'e'"):
        order(made, "e")
    made.stages["a"] = replace(base, needs=["c"])
    with pytest.raises(UserError, match="circle"):
        order(made)


def test_one_stage_alone_needs_its_parents_trained(root, tmp_path):
    made = toy.config(root, tmp_path)
    second = replace(made.stages["toy"], target="tests.toy_training:Needy", needs=["toy"])
    made.stages["second"] = second
    with pytest.raises(UserError, match=r"'second' builds on 'toy'.*stage=toy"):
        fit.fit(made, "second")
    assert not list(tmp_path.iterdir())


def test_frozen_stages_follow_and_are_checked(root, tmp_path):
    made = toy.config(root, tmp_path, max_steps=2)
    second = replace(made.stages["toy"], target="tests.toy_training:Needy", needs=["toy"])
    made.stages["second"] = second
    folders = fit.fit(made)
    assert list(folders) == ["toy", "second"]
    nets, metas = load_nets(made)
    assert metas["second"]["needs"]["toy"] == {"hash": metas["toy"]["hash"], "steps": 2}
    state = torch.load(folders["second"] / "last.ckpt", weights_only=True)["state_dict"]
    assert all(key.startswith("net.") or key == "batches_seen" for key in state)
    before = torch.load(folders["toy"] / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(before[f"net.{k}"], v) for k, v in nets["toy"].state_dict().items())
    made.stages["toy"].max_steps = 3
    with pytest.raises(UserError, match=r"trained on 'toy' at 2 steps, which is now at 3.*delete"):
        fit.fit(made)


def test_trained_stages_are_found_without_the_data(root, tmp_path):
    made = toy.config(root, tmp_path, max_steps=1)
    made.stages["second"] = replace(
        made.stages["toy"], target="tests.toy_training:Needy", needs=["toy"]
    )
    fit.fit(made)
    here, _ = load_nets(made)
    made.data.root = str(tmp_path / "gone")
    elsewhere, metas = load_nets(made)
    assert metas["second"]["steps"] == 1
    assert torch.equal(here["second"][0].weight, elsewhere["second"][0].weight)
    made.stages["toy"].ema = 0.5
    with pytest.raises(UserError, match=r"no data set at .*gone.* no run of stage 'toy'"):
        load_nets(made)
    with pytest.raises(UserError, match="no prepared data set"):
        fit.fit(made)


def test_init_from_starts_with_the_other_stages_weights(root, tmp_path):
    made = toy.config(root, tmp_path, max_steps=2)
    still = OptimConfig("adam", 0.0)
    made.stages["second"] = replace(
        made.stages["toy"], init_from="toy", optim=still, max_steps=1, ema=0.0
    )
    fit.fit(made)
    nets, _ = load_nets(made)
    first, second = nets["toy"].state_dict(), nets["second"].state_dict()
    assert torch.equal(first["0.weight"], second["0.weight"])
    assert torch.equal(first["3.bias"], second["3.bias"])
    made.stages["second"].model = {"width": 3}
    with pytest.raises(UserError, match=r"stage 'toy' do not fit stage 'second'.*same model"):
        fit.fit(made)


def test_a_full_disk_is_one_line(root, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lightning.pytorch.Trainer.save_checkpoint", full)
    with pytest.raises(UserError, match="No space is left"):
        fit.fit(toy.config(root, tmp_path))


def test_a_stage_takes_weights_from_outside_once_before_its_first_step(root, tmp_path, monkeypatch):
    started = []

    def start(stage):
        started.append(float(stage.net[0].weight.sum()))
        torch.nn.init.zeros_(stage.net[3].weight)

    monkeypatch.setattr(toy.ToyStage, "start", start)
    fit.fit(toy.config(root, tmp_path, max_steps=1, optim=OptimConfig("adam", 0.0)))
    kept = last(tmp_path)["current_model_state"]
    assert not kept["net.3.weight"].any()
    fit.fit(toy.config(root, tmp_path, max_steps=2, optim=OptimConfig("adam", 0.0)))
    assert len(started) == 1


def test_a_stage_without_steps_keeps_what_it_starts_from(root, tmp_path, monkeypatch, capsys):
    def start(stage):
        torch.nn.init.constant_(stage.net[0].weight, 0.25)

    monkeypatch.setattr(toy.ToyStage, "start", start)
    made = toy.config(root, tmp_path, max_steps=0)
    fit.fit(made)
    assert "used unchanged" in capsys.readouterr().out
    net, metadata = load_net(made, "toy")
    assert (net[0].weight == 0.25).all()
    assert metadata["steps"] == 0
    fit.fit(made)
    assert "trained, 0 steps" in capsys.readouterr().out


def test_load_net_has_the_averaged_weights(root, whole):
    made = toy.config(root, whole / "runs")
    net, meta = load_net(made, "toy")
    checkpoint = last(whole / "runs")
    assert not net.training
    assert meta["trained_for"] == {"observe": 0}
    assert (meta["audio_dim"], meta["size"], meta["steps"]) == (toy.AUDIO_DIM, toy.SIZE, 12)
    averaged = checkpoint["state_dict"]["net.0.weight"]
    assert torch.equal(net.state_dict()["0.weight"], averaged)
    assert not torch.equal(checkpoint["current_model_state"]["net.0.weight"], averaged)


def test_checkpoints_that_are_missing_foreign_or_damaged(root, whole, tmp_path):
    made = toy.config(root, tmp_path)
    run = stage_run(made, "toy")
    with pytest.raises(UserError, match="not trained"):
        load_net(made, "toy")
    (mine,) = (whole / "runs").glob("*/last.ckpt")
    run.folder.mkdir(parents=True)
    run.last.write_bytes(mine.read_bytes()[:2000])
    for attempt in (lambda: load_net(made, "toy"), lambda: fit.fit(made)):
        with pytest.raises(UserError, match="cannot be read"):
            attempt()
    run.last.write_bytes(mine.read_bytes())
    foreign = stage_run(toy.config(root, tmp_path, ema=0.5), "toy")
    foreign.folder.mkdir()
    foreign.last.write_bytes(mine.read_bytes())
    with pytest.raises(UserError, match=f"hash {run.hash}.*not of 'toy'.*hash {foreign.hash}"):
        read_checkpoint(foreign)
    assert run.steps == read_meta(run)["steps"] == 12
    read_meta(run)["steps"] = 99  # what is kept between calls is nobody's to change
    assert run.steps == 12
    torch.save({"state_dict": {}}, foreign.last)
    for read in (read_checkpoint, read_meta):
        with pytest.raises(UserError, match="not written by thbench"):
            read(foreign)
    shutil.copy(foreign.last, run.last)  # another file of the same name
    with pytest.raises(UserError, match="not written by thbench"):
        read_meta(run)


def test_stages_that_optimise_by_hand_count_batches(root, tmp_path):
    made = toy.config(root, tmp_path, target="tests.toy_training:ByHand", max_steps=3)
    fit.fit(made)
    checkpoint = last(tmp_path)
    assert checkpoint["thbench"]["steps"] == 3
    assert int(checkpoint["current_model_state"]["batches_seen"]) == 3
    assert checkpoint["global_step"] == 6
    made.trainer.accumulate = 2
    made.stages["toy"].max_steps = 4
    with pytest.raises(UserError, match="accumulate=1"):
        fit.fit(made)


@pytest.mark.slow
def test_two_ranks_train_networks_in_turn(root, tmp_path):
    words = ("devices=2", "strategy=ddp", "target=tests.toy_training:Rivals", "max_steps=3")
    done = command(root, tmp_path / "runs", *words)
    assert done.returncode == 0, done.stderr
    assert last(tmp_path / "runs")["thbench"]["steps"] == 3


def test_compiled_parts_are_those_that_losses_call(root, tmp_path, monkeypatch):
    compiled, real = [], nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda part: compiled.append(part) or real(part, backend="eager")
    )
    made = toy.config(root, tmp_path, max_steps=2)
    made.trainer.compile = True
    fit.fit(made)
    assert [type(part) for part in compiled] == [nn.Linear, nn.BatchNorm1d, nn.Dropout, nn.Linear]
    made.trainer.compile = False
    assert isinstance(load_net(made, "toy")[0][0], nn.Linear)  # the checkpoint knows nothing of it


def test_lower_precision(root, tmp_path):
    fit.fit(toy.config(root, tmp_path, precision="bf16-mixed", max_steps=2))
    assert last(tmp_path)["thbench"]["steps"] == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accumulate": 3}, "batch_size=4 cannot be divided.*multiple of 3"),
        ({"precision": "17-mixed"}, "trainer: .*17-mixed"),
        ({"accelerator": "abacus"}, "trainer: .*abacus"),
        ({"strategy": "hope"}, "trainer: .*hope"),
        # The average would have been left out without a word.
        ({"strategy": "fsdp"}, r"averages its weights.*strategy=ddp.*stages\.toy\.ema=0"),
        ({"strategy": "fsdp_cpu_offload"}, "averages its weights"),
    ],
)
def test_settings_that_cannot_be(root, tmp_path, settings, message):
    made = toy.config(root, tmp_path)
    made.trainer = replace(made.trainer, **settings)
    with pytest.raises(UserError, match=message):
        fit.fit(made)
    assert not list(tmp_path.iterdir())


def test_misspelt_model_keys():
    with pytest.raises(UserError, match=r"m\.widht'.*Did you mean 'width'"):
        check_keys(toy.ToyStage, {"widht": 3}, "m", leading=1)
    check_keys(toy.ToyStage, {"width": 3}, "m", leading=1)

    class Demanding(toy.ToyStage):
        def __init__(self, context, depth, width=1):
            super().__init__(context)

    with pytest.raises(UserError, match=r"m\.depth is missing"):
        check_keys(Demanding, {"width": 3}, "m", leading=1)


def test_learning_rates():
    constant = rate_scale(OptimConfig(warmup=4))
    assert [constant(n) for n in (0, 1, 3, 4, 1000)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    cosine = rate_scale(OptimConfig(schedule="cosine", warmup=10, decay_steps=110, floor=0.2))
    assert cosine(9) == cosine(10) == 1.0
    assert cosine(60) == pytest.approx(0.6)
    assert cosine(35) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert cosine(110) == cosine(10_000) == pytest.approx(0.2)
    for wrong, message in (
        (OptimConfig(schedule="cosine"), "decay_steps"),
        (OptimConfig(schedule="cosin"), "Did you mean 'cosine'"),
        (OptimConfig(name="adm"), "Did you mean 'adam"),
    ):
        with pytest.raises(UserError, match=message):
            build_optimizer(nn.Linear(1, 1).parameters(), wrong)
    made = build_optimizer(
        nn.Linear(1, 1).parameters(), OptimConfig("adamw", 0.1, [0.5, 0.6], 0.7, warmup=2)
    )
    group = made["optimizer"].param_groups[0]
    assert isinstance(made["optimizer"], torch.optim.AdamW)
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.05, (0.5, 0.6), 0.7)


def test_the_average_ramps_up():
    ema = Ema(0.5)._kwargs["multi_avg_fn"]
    average, expected = torch.zeros(1), 0.0
    counter = torch.tensor([3])
    for n in range(1, 12):
        ema([average], [torch.full((1,), float(n))], torch.tensor(n))
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
        assert average.item() == pytest.approx(expected, rel=1e-5)
    ema([counter], [torch.tensor([8])], torch.tensor(5))
    assert counter.item() == 8
    same = torch.full((4,), 0.3)
    ema([same], [same.clone()], torch.tensor(4))
    assert torch.equal(same, torch.full((4,), 0.3))  # constants must not drift


def test_sample_videos_have_the_clips_sound(root, tmp_path):
    made = toy.config(root, tmp_path, max_steps=2)
    made.trainer.sample_every = 2
    folder = fit.fit(made)["toy"] / "samples" / "step-000002"
    info = video.probe(folder / "given.mp4")
    assert info.has_audio
    assert info.fps == FPS
    assert 2 <= info.n_frames <= 4
    assert video.read_image(folder / "sheet.png").shape[0] == 3
    assert clip_audio(folder / "given.mp4", torch.tensor([3, 5])) is None


def test_contact_sheet_rows():
    short, long = torch.full((2, 3, 4, 6), 255), torch.full((30, 3, 4, 6), 255)
    sheet = contact_sheet([short.to(torch.uint8), long.to(torch.uint8)], columns=5)
    assert sheet.shape == (3, 2 * (4 + 2) + 2, 5 * (6 + 2) + 2)
    assert sheet[0, :6].sum() == 2 * 24
    assert sheet[0, 6:].sum() == 5 * 24


def test_without_a_validation_split_it_says_so_once(tmp_path, capsys):
    root = toy.make_root(tmp_path / "data", (6, 6), "tt")
    folder = fit.fit(toy.config(root, tmp_path / "runs", max_steps=6))["toy"]
    assert capsys.readouterr().out.count("no validation") == 1
    assert not (folder / "best.ckpt").exists()
    assert "val/loss" not in read_curves(folder / "metrics.csv")
