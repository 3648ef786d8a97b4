"""From trained stages to a strategy, its videos and its result."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from tests.test_evaluation import fake_track
from tests.tiny import FRAMES
from thbench import config
from thbench.cli.parser import main
from thbench.core.errors import UserError
from thbench.data.media import video
from thbench.data.synthetic.make import synthesize
from thbench.evaluation import features, pipeline, protocol, results
from thbench.generation import assemble
from thbench.generation.runner import generate
from thbench.preflight import checks
from thbench.preflight.report import ERROR
from thbench.training import runs as stages
from thbench.training.stage import StageContext


@pytest.fixture
def load(bench):
    return lambda *words: config.load(bench.strategy, [*bench.words, *map(str, words)])


@pytest.fixture
def evaluate(load, tmp_path):
    """Evaluate with other words; videos and results go to the test's own folder."""

    def run(*words):
        # The trained stages stay where they are, so only links to them are needed here.
        runs = tmp_path / "runs"
        if not runs.exists():
            runs.mkdir()
            for folder in Path(load().runs).glob("[!e]*-*"):
                (runs / folder.name).symlink_to(folder)
        chosen = load(f"runs={runs}", f"results={tmp_path / 'results'}", *words)
        result = pipeline.evaluate(chosen, device="cpu", origin="smoke")
        return result, pipeline.write_result(chosen, result)

    run.folders = lambda: sorted((tmp_path / "runs").glob("eval-*"))
    return run


def videos(folder):
    return sorted(folder.rglob("*.mp4"))


# Checking


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("nets.a2v=a2v3", "has no such stage. Did you mean"),
        ("plan.name=nra", "No plan 'nra'. Did you mean 'nar'"),
        ("plan.n=5", "no key 'plan.n'"),
        ("plan={name: rolling, window: 4}", "take sampler.steps=4"),
        ("options.guidence=1", "Did you mean 'guidance'"),
        ("stages.a2v2.model.w_lips=3", "Did you mean 'w_lip'"),
        ("nets.lfg=null", "nets.lfg is missing: DAWN needs the class LatentFlowGenerator. Set "),
        (
            "nets.a2v=pbnet",
            "nets.a2v=pbnet: DAWN needs the class A2VNet, and stage 'pbnet' trains PBNet. Set"
            " nets.a2v=STAGE, one of a2v1, a2v2",
        ),
        ("nets.pbnte=pbnet", "DAWN has no such role. Did you mean 'pbnet'"),
        ("stages.a2v2.model.nte.use_pose=false", "Did you mean 'net'"),
        ("stages.lfg.model.scales=null", "scales takes no null: without it, LFGStage has 4"),
        ("target=thbench.dawn.lfg:LFGStage", "is no Strategy"),
    ],
)
def test_what_can_be_checked_before_training_is(load, word, says):
    with pytest.raises(UserError, match=says):
        assemble.check(load(word))


def test_a_network_that_refuses_its_options_is_a_users_error(load):
    chosen = load("stages.pbnet.model.net={latnt: 3}")
    with pytest.raises(UserError, match=r"stages\.pbnet\.model\.net\.latnt.*'latent'"):
        stages.build_stage(chosen, "pbnet", {}, 320)


def test_what_is_right_passes(load):
    assert assemble.check(load("plan={name: rolling, window: 2}", "options.window=9")).__name__


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("stages.a2v2.model.net.use_poze=false", "stages.a2v2.*Did you mean 'use_pose'"),
        ("stages.a2v2.model.net.dim=x", "stages.a2v2"),
        ("stages.pbnet.model.net.latnt=3", "stages.pbnet.*Did you mean 'latent'"),
    ],
)
def test_a_wrong_network_of_a_late_stage_stops_fit_before_the_first(word, says, bench, tmp_path):
    """At paper scale ``dawn.yaml`` has no ``net:`` at all."""

    def errors(*more, only=None):
        words = ["scale=paper", f"data={bench.data}", word, *more]
        report = checks.check(
            config.load("dawn", words), only, files=False, estimates=False, metrics=False
        )
        # VGG-19 may be missing here.
        return [f"stages.{f.where} {f.text}" for f in report.of(ERROR) if not f.local]

    assert any(re.search(says, error) for error in errors())
    if "pbnet" in word:  # a misspelt key is refused even where the stage is not needed
        assert errors(only="a2v2")
        assert errors("without_pbnet=true")
    assert main(["fit", *bench.dawn, f"runs={tmp_path}", word]) == 2
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("scale", config.scales("dawn"))
@pytest.mark.parametrize("name", ["dawn", "ar", "sar", "ttr", "rolling"])
def test_without_pbnet_none_is_trained_and_nothing_is_led(name, scale):
    """Table 4 of DAWN, for every order of frames."""
    led, alone = (
        config.load(name, [f"scale={scale}", f"without_pbnet={on}"]) for on in ("false", "true")
    )
    assert "pbnet" in stages.order(led)
    assert stages.order(alone) == [stage for stage in stages.order(led) if stage != "pbnet"]
    assert alone.title == f"{led.title}, without PBNet"
    for stage in alone.nets.values():
        if stage != "lfg":
            net = alone.stages[stage].model["net"]
            assert (net["use_pose"], net["use_eyes"]) == (False, False)
            assert {**led.stages[stage].model.get("net", {}), **net} == net


def test_without_pbnet_a_video_is_made(load):
    chosen = load("without_pbnet=true", "eval.frames=3")
    rule = dataclasses.replace(protocol.load("synthetic"), pose="generated")
    request = pipeline.requests_of(chosen, rule)[0]
    width, nets = request.audio.shape[1], {}
    for stage in stages.order(chosen):
        needs = {need: nets[need] for need in chosen.stages[stage].needs}
        nets[stage] = stages.build_stage(chosen, stage, needs, width).net
    assert "pose" not in nets["a2v2"].kinds
    roles = {role: nets[stage] for role, stage in chosen.nets.items()}
    strategy = assemble.check(chosen)(
        roles, StageContext(chosen.size, width), chosen.plan, chosen.sampler
    )
    assert sum(len(part) for part in generate(strategy, request).chunks) == 3
    assert strategy.follows == frozenset()


# Runs


def test_a_run_is_named_by_what_makes_its_videos(load):
    run = assemble.assemble(load()).run
    same = ["eval.limit=1", "trainer.devices=2", "title=x", "results=x", "trainer.workers=1"]
    other = ["sampler.steps=4", "plan.name=ar", "nets.a2v=a2v1"]
    assert run.startswith("dawn-")
    assert assemble.assemble(load(*same)).run == run
    assert len({run, *(assemble.assemble(load(word)).run for word in other)}) == len(other) + 1


def test_networks_are_frozen_and_their_samples_counted(load):
    made = assemble.assemble(load())
    assert not any(p.requires_grad for p in made.strategy.parameters())
    assert not made.strategy.training
    assert sorted(made.metadata) == ["a2v", "lfg", "pbnet"]
    # lfg 2 steps of 2, pbnet, a2v1 and a2v2 1 step of 2.
    assert made.samples_seen == 2 * 2 + 2 + 2 + 2


@pytest.mark.parametrize(
    ("plan", "notes"),
    [
        ("{name: nar}", []),
        ("{name: frames}", []),
        ("{name: sar, segment: 10, overlap: 4}", ["observes 4 frames"]),
        ("{name: ar, motion: 2}", ["observes 2 frames"]),
        ("{name: ttr, stride: 4}", ["observes 2 frames"]),
        ("{name: rolling, window: 2, context: 0}", ["a noise level per frame"]),
        ("{name: rolling, window: 2, context: 3}", ["observes 3 frames", "a noise level"]),
    ],
)
def test_what_goes_beyond_training_is_labelled(load, plan, notes):
    found = assemble.assemble(load(f"plan={plan}")).zero_shot(FRAMES)
    assert len(found) == len(notes)
    for note, wanted in zip(found, notes, strict=True):
        assert note.startswith("zero-shot: ")
        assert wanted in note


def test_a_short_clip_needs_nothing_beyond_training(load):
    made = assemble.assemble(load("plan={name: sar, segment: 10, overlap: 4}"))
    assert made.zero_shot(10) == []


# Evaluating


@pytest.mark.slow
def test_evaluating_again_makes_nothing_and_gives_the_same(evaluate):
    first, path = evaluate()
    (folder,) = evaluate.folders()
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*.*")}
    again, same = evaluate()
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*.*")} == before
    assert (again.metrics, again.per_clip, again.cost) == (
        first.metrics,
        first.per_clip,
        first.cost,
    )
    assert path == same
    assert evaluate.folders() == [folder]


def test_a_result_says_where_it_comes_from(evaluate, bench):
    result, path = evaluate()
    assert results.read(path) == result
    content = json.loads(path.read_text())
    assert content["origin"] == "smoke"
    assert content["space"] == "flow"
    assert content["samples_seen"] == 10
    assert content["notes"] == []
    assert content["coverage"]["scored"] == content["coverage"]["expected"] == 3
    assert content["protocol"]["hash"] == protocol.load("synthetic").hash
    assert content["cost"]["frames"] == FRAMES
    assert content["cost"]["calls"] == 2
    assert content["cost"]["evaluations"] == 2 * FRAMES
    assert str(bench.home) not in path.read_text()
    rows = path.with_suffix(".clips.jsonl").read_text().splitlines()
    assert [json.loads(row)["id"] for row in rows] == [f"p000{i}-00" for i in (3, 4, 5)]


@pytest.mark.parametrize(
    "words",
    [
        ["eval.limit=2"],
        ["eval.frames=9"],
        ["plan={name: sar, segment: 10, overlap: 4}"],
        ["eval.split=val"],
        ["eval.watermark=true"],
        ["sampler.steps=1"],
    ],
    ids=str,
)
def test_other_videos_go_to_another_folder(evaluate, words):
    _, path = evaluate("eval.limit=1")
    (folder,) = evaluate.folders()
    before = [p.read_bytes() for p in videos(folder)]
    result, other = evaluate("eval.limit=1", *words)
    assert other != path
    assert len(evaluate.folders()) == 2
    assert [p.read_bytes() for p in videos(folder)] == before
    beyond = [n for n in result.notes if n.startswith("zero-shot")]
    assert bool(beyond) == ("sar" in words[0])
    frames = result.per_clip[0].frames
    assert frames == (9 if "frames" in words[0] else FRAMES)


def test_seeds_of_ones_own_share_the_folder_and_only_those_asked_for_are_scored(evaluate):
    few = ("eval.limit=2", "eval.frames=5")
    first, path = evaluate(*few)
    (folder,) = evaluate.folders()
    before = {p: p.stat().st_mtime_ns for p in videos(folder)}
    three, other = evaluate(*few, "eval.seeds=[2,0,1]")
    assert evaluate.folders() == [folder]
    assert {p: p.stat().st_mtime_ns for p in before} == before, "seed 0 is not made again"
    assert len(videos(folder)) == 6
    assert (three.seeds, three.coverage.scored) == ((0, 1, 2), 6)
    assert other.stem == f"{path.stem}-seeds-0-1-2"
    rows = {(row.id, row.seed): row.metrics for row in three.per_clip}
    assert {key: rows[key] for key in rows if key[1] == 0} == {
        (row.id, 0): row.metrics for row in first.per_clip
    }
    by_seed = [[rows[id, seed]["PSNR"] for id, s in rows if s == seed] for seed in range(3)]
    assert by_seed[0] != by_seed[1] != by_seed[2]
    assert first.protocol.hash != three.protocol.hash, "rows of other seeds share no table"
    again, same = evaluate(*few, "eval.seeds=[0]")
    assert (again.seeds, same) == ((0,), path)
    assert (again.metrics, again.protocol) == (first.metrics, first.protocol)
    assert again.coverage == first.coverage, "other seeds' videos are no unpaired ones"


def test_the_place_depends_on_the_data_not_on_where_they_lie(evaluate, load, bench, tmp_path):
    made, rule = assemble.assemble(load()), protocol.load("synthetic")
    here = pipeline.videos_folder(load(), made, rule).name
    moved = tmp_path / "moved"
    moved.mkdir()
    lines = (bench.data / "manifest.jsonl").read_text()
    (moved / "manifest.jsonl").write_text(lines)
    assert pipeline.videos_folder(load(f"data.root={moved}"), made, rule).name == here
    (moved / "manifest.jsonl").write_text(lines.replace('"test"', '"val"', 1))
    assert pipeline.videos_folder(load(f"data.root={moved}"), made, rule).name != here


@pytest.mark.parametrize(
    ("words", "calls"),
    [
        (["plan=ar", "plan.motion=1"], 2 * 9),
        (["plan=ttr", "plan.stride=4"], 2 + 2),
        (["plan={name: rolling, window: 2}"], 10),
        (["plan=sar", "plan.segment=5"], 2 * 2),
        (["options.window=4"], 2),
    ],
    ids=str,
)
def test_a_plan_is_chosen_by_words_without_training_anything(evaluate, words, calls):
    result, _ = evaluate("eval.limit=1", "eval.frames=9", *words)
    assert result.cost.calls == calls
    assert (result.cost.first_frame, result.cost.seconds) == (None, None)
    assert bool(result.notes) == ("plan" in words[0])


@pytest.mark.parametrize(("word", "budget"), [("trainer.frames_per_call=9", 9), ("seed=0", 512)])
def test_memory_of_a_call_is_a_setting(load, word, budget):
    assert assemble.assemble(load(word)).strategy.frames_per_call == budget
    with pytest.raises(UserError, match="frames_per_call must be 1 or more"):
        assemble.check(load("trainer.frames_per_call=0"))


def test_a_sequential_plan_generates_with_networks_trained_for_another(evaluate, capsys):
    result, path = evaluate("plan.name=sar", "plan.segment=10", "plan.overlap=4", "eval.limit=1")
    assert result.cost.calls == 3 * 2  # three segments, two steps
    assert result.cost.evaluations == 2 * (10 + 14 + 9)
    assert results.read(path).notes == ("zero-shot: observes 4 frames, trained with none observed",)
    (made,) = videos(evaluate.folders()[0])
    assert video.probe(made).n_frames == FRAMES


def test_every_command_gives_the_result_a_place(bench, evaluate, tmp_path, capsys):
    evaluate()
    words = ["eval", *bench.dawn, f"runs={tmp_path / 'runs'}", f"results={tmp_path / 'results'}"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "[smoke]: 3 of 3 clips scored" in shown
    assert f"{FRAMES} frames, no times taken; depth " in shown
    assert f"result: {tmp_path / 'results'}" in shown.replace("\n", "")


def test_the_default_protocol_follows_data_and_strategy(load, tmp_path, bench):
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    lines = (bench.data / "manifest.jsonl").read_text()
    (recorded / "manifest.jsonl").write_text(re.sub(r'"extra": {[^}]*}', '"extra": {}', lines))
    assert pipeline.protocol_of(load()).name == "synthetic"
    for words in ([f"data={recorded}"], [f"eval.data={recorded}"]):
        assert pipeline.protocol_of(load(*words)).name == "dawn"
        assert pipeline.protocol_of(load(*words, "eval.protocol=synthetic")).name == "synthetic"
    assert pipeline.protocol_of(load("eval.protocol=hallo")).name == "hallo"
    with pytest.raises(UserError, match=r"eval\.protocol=NAME \(dawn, "):
        pipeline.protocol_of(load(f"data={recorded}", "protocol=''"))


@pytest.mark.parametrize("name", config.names("strategy"))
def test_every_strategy_names_its_paper_s_protocol(name):
    own = config.load(name).protocol
    assert own == {"diffused_heads": "diffused-heads", "fd2talk": "fd2talk", "hallo": "hallo"}.get(
        name, "dawn"
    )
    assert protocol.load(own).pose in protocol.POSES


MOVING = """
size: 64
pose: reference
own_motion: {}
timing: {{frames: 12, warmup: 0, repeats: 1}}
metrics: [{{metric: psnr}}, {{metric: diversity}}, {{metric: blinks}}]
"""


def test_own_motion_is_measured_on_clips_made_once_more(evaluate, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "track", fake_track)
    monkeypatch.setenv("THBENCH_CACHE", str(tmp_path / "cache"))
    words, found = ["eval.limit=1", "eval.frames=9", "eval.timing=true"], {}
    for kind in ("noted", "generated"):
        (tmp_path / f"{kind}.yaml").write_text(MOVING.format(kind))
        found[kind] = evaluate(*words, f"eval.protocol={tmp_path / kind}.yaml")[0]
    free = tmp_path / "free.yaml"
    free.write_text(MOVING.format("noted").replace("pose: reference", "pose: generated"))
    own = evaluate(*words, f"eval.protocol={free}")[0]
    name = "Diversity (pose)"
    led, again = found["noted"].metrics, found["generated"].metrics
    assert led["PSNR"] == again["PSNR"] != own.metrics["PSNR"]
    assert again[name].value == own.metrics[name].value != led[name].value
    assert "made once more" in again[name].notes[0]
    assert "which the clips follow" in led[name].notes[0]
    assert len(evaluate.folders()) == 2  # clips with own motion are those of a free protocol
    (row,) = found["generated"].per_clip
    assert set(row.metrics) == {"PSNR", name, "Blink/s"}
    # The time is of what the protocol's other figures are of, at the length that it says.
    for result in (*found.values(), own):
        assert (result.timed.frames, result.timed.repeats) == (12, 1)
        assert result.cost.frames == 9
        assert result.cost.seconds > 0
    assert found["noted"].timed == found["generated"].timed != own.timed


def test_another_data_set_is_generated_and_scored_by_the_nets_of_the_first(
    evaluate, bench, tmp_path
):
    other = tmp_path / "other"
    synthesize(
        other, identities=2, seconds=1.0, size=64, workers=1, seed=7, splits={"train": 1, "test": 1}
    )
    result, path = evaluate(f"eval.data={other}", "eval.frames=5")
    assert result.data.name == "other"
    assert result.coverage.expected == 1
    assert "trained on data" in result.notes
    assert path.name.startswith("dawn-other-")


def test_another_data_set_is_heard_by_the_networks_encoder(load, tmp_path, bench, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # it would try for long
    other = tmp_path / "other"
    shutil.copytree(bench.data, other)
    shutil.rmtree(other / "audio")
    asked = pipeline.requests_of(load(f"eval.data={other}"), protocol.load("synthetic"))
    theirs = pipeline.requests_of(load(), protocol.load("synthetic"))
    assert torch.equal(asked[0].audio, theirs[0].audio)  # made anew from the clip's sound
    shutil.rmtree(other / "audio")
    with pytest.raises(UserError, match=r"no 'hubert' embedding .* cannot be computed here"):
        pipeline.requests_of(load(f"eval.data={other}", "data.audio=hubert"), protocol.load("dawn"))
