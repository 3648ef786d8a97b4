"""What every strategy does, for every file in configs/strategy and each of its switches.

The nets are as small as they can be and see a step or two: this is about the machinery.
"""

import math
import shutil
from dataclasses import dataclass, replace

import pytest
import torch
import yaml

from tests.tiny import TINY
from thbench import config
from thbench.core.errors import UserError
from thbench.core.registry import resolve
from thbench.core.types import Request
from thbench.dawn.a2v import A2VStage
from thbench.evaluation import pipeline, protocol
from thbench.generation import assemble, plans
from thbench.generation.runner import generate
from thbench.generation.strategy import Strategy
from thbench.training import fit
from thbench.training.fit import stage_data
from thbench.training.loggers import read_curves
from thbench.training.runs import build_stage, load_net, locate, order, stage_run
from thbench.training.stage import Stage

SMALL_A2V = "{dim: 8, mults: [1], heads: 1, head_dim: 8}"
LONGEST = 24
"""Frames that a training sample may have: clips of the small bench have 25."""
SHARED = ("lfg", "pbnet")


def cases():
    for name in config.names("strategy"):
        yield name, ()
        for switch in own_switches(config.find("strategy", name)):
            # A switch trains networks of its own: half a minute.
            yield pytest.param((name, (f"{switch}=true",)), marks=pytest.mark.slow)


def own_switches(path):
    """Those of the file itself; those of its base are tried with the base."""
    bases = yaml.safe_load(path.read_text()).get("base", [])
    inherited = {s for b in bases for s in switches_of(config.configs_root() / b)}
    return [switch for switch in switches_of(path) if switch not in inherited]


def switches_of(path):
    return config.read_yaml(path).get("switches", {})


def small(name, more, bench, runs, *words):
    """The strategy with small nets, a step for each stage and four sampler steps."""
    tiny = config.load(name, ["scale=tiny", *more])
    known = [
        w for w in bench.words if not w.startswith("stages.") or w.split(".")[1] in tiny.stages
    ]
    chosen = [*known, *more, f"runs={runs}", "sampler.steps=4", "trainer.validate_batches=1"]
    if tiny.plan["name"] == "rolling":  # its window must divide the steps
        chosen += ["plan.window=4", "plan.context=2"]
    for stage, settings in tiny.stages.items():
        if any(word.startswith(f"stages.{stage}.draw") for word in TINY) and not more_of(settings):
            continue
        if stage in SHARED:
            continue
        frames = settings.draw.frames
        least, most = frames if isinstance(frames, list) else (frames, frames)
        chosen += [
            f"stages.{stage}.draw.frames=[{min(least, LONGEST)}, {min(most, LONGEST)}]",
            f"stages.{stage}.batch_size=2",
            f"stages.{stage}.max_steps=1",
        ]
        if "group" in settings.model:  # a batch holds whole groups
            chosen.append(f"stages.{stage}.model.group=2")
        if issubclass(resolve(settings.target, Stage), A2VStage):
            chosen.append(f"stages.{stage}.model.net={SMALL_A2V}")
    return config.load(name, [*chosen, *words])


def more_of(settings):
    """Whether a stage says itself which frames it needs."""
    return "plan" in settings.model


@dataclass(frozen=True)
class Made:
    """A strategy fitted for a step, resumed for another, and put together."""

    config: config.Config
    assembled: assemble.Assembled
    request: Request
    before: dict

    @property
    def strategy(self) -> Strategy:
        return self.assembled.strategy

    def frames(self, n, **changes):
        generation = generate(self.strategy, self.asked(n, **changes))
        return torch.cat(list(generation.chunks)), generation

    def asked(self, n, **changes):
        """The request with a sound of ``n`` frames, and no motion to follow."""
        times = -(-n // self.request.n_frames)
        audio = self.request.audio.repeat(times, 1)[:n]
        changes = {"pose": None, "eyes": None, **changes}
        return replace(self.request, audio=audio, waveform=torch.zeros(n * 640), **changes)


@pytest.fixture(scope="module")
def runs(bench, tmp_path_factory):
    """A folder with DAWN's trained stages, as where DAWN was trained before."""
    folder = tmp_path_factory.mktemp("contract") / "runs"
    shutil.copytree(bench.runs, folder, ignore=shutil.ignore_patterns("eval-*", "samples"))
    return folder


@pytest.fixture(
    scope="module", params=list(cases()), ids=lambda case: " ".join([case[0], *case[1]])
)
def made(request, bench, runs):
    name, more = request.param
    before = stamps(runs)
    first = small(name, more, bench, runs)
    assemble.check(first)
    fit.fit(first)
    played = [stage for stage in first.nets.values() if stage not in SHARED]
    further = small(name, more, bench, runs, f"stages.{played[-1]}.max_steps=2")
    fit.fit(further)
    asked = pipeline.requests_of(further, protocol.load("synthetic"))[0]
    return Made(further, assemble.assemble(further), asked, before)


def stamps(runs):
    """When each stage's weights were written, by folder."""
    return {p.parent.name: p.stat().st_mtime_ns for p in runs.glob("*/last.ckpt")}


def test_it_goes_on_where_it_stopped(made):
    for role, stage in made.config.nets.items():
        run = stage_run(made.config, stage)
        assert run.steps == made.config.stages[stage].max_steps, role


def test_what_others_have_trained_is_not_trained_again(made, runs):
    after = stamps(runs)
    for folder, written in made.before.items():
        if folder.split("-")[0] in SHARED:
            assert after[folder] == written
    for stage in SHARED:
        folders = [folder for folder in after if folder.startswith(f"{stage}-")]
        assert len(folders) == 1


def test_only_the_stages_that_it_needs_are_trained(made, runs):
    needed = set(order(made.config))
    for stage in made.config.stages:
        folder = stage_run(made.config, stage).folder.name
        assert (folder in stamps(runs)) == (stage in needed or folder in made.before)


def test_every_weight_that_is_trained_takes_part(made):
    """A layer that is made and never called looks like a condition that the network ignores."""
    for name in made.config.nets.values():
        data = stage_data(made.config, name)
        data.prepare_data()
        needs = {need: load_net(made.config, need)[0] for need in made.config.stages[name].needs}
        stage = build_stage(made.config, name, needs, data.audio_dim).train()
        if not stage.uses_audio:  # then its hash does not name the encoder, so it must not listen
            mute = data.dataset("train").batch(0, range(2))
            stage.loss(replace(mute, audio=mute.audio[..., :0]))
        if name in SHARED or not made.config.stages[name].max_steps:
            continue
        for k in range(8):  # conditions are dropped at random
            stage.loss(data.dataset("train").batch(k, range(2)))["loss"].backward()
        idle = [key for key, p in stage.named_parameters() if p.requires_grad and p.grad is None]
        assert not idle, f"{name}: {idle}"


def test_validation_says_of_each_stage_that_hears_whether_it_does(made):
    for name in order(made.config):
        if not made.config.stages[name].max_steps:
            continue
        kind = resolve(made.config.stages[name].target, Stage)
        logged = read_curves(stage_run(made.config, name).folder / "metrics.csv")
        assert "val/loss" in logged, name
        heard = [value for _, value in logged.get("val/heard", [])]
        assert bool(heard) == (kind.uses_audio and bool(kind.audio_loss)), name
        assert all(0 < value < math.inf for value in heard), name
        if heard:
            both = [logged[f"{whose}/{kind.audio_loss}"] for whose in ("val", "val_other_audio")]
            assert heard[-1] == pytest.approx(both[1][-1][1] / both[0][-1][1], rel=1e-4), name


@pytest.mark.parametrize("n", [1, 7, 60])
def test_it_makes_videos_of_any_length(made, n):
    frames, generation = made.frames(n)
    assert frames.shape == (n, 3, made.config.size, made.config.size)
    assert frames.dtype == torch.uint8
    sweeps = made.strategy.passes(made.asked(n))
    planned = plans.n_frames(sweeps[0].plan)  # a strategy may plan past the clip's end
    assert planned >= n
    assert plans.build(n=planned, **made.config.plan) == sweeps[0].plan
    wanted = [plans.cost(sweep.plan, sweep.sampler.steps) for sweep in sweeps]
    calls = [{denoiser.branches for denoiser in sweep.denoisers.values()} for sweep in sweeps]
    assert all(len(each) == 1 for each in calls)
    assert generation.cost.evaluations == sum(
        cost.evaluations * branches for cost, (branches,) in zip(wanted, calls, strict=True)
    )
    assert generation.cost.calls >= sum(cost.depth for cost in wanted)
    assert 0 < generation.cost.first_frame <= generation.cost.seconds


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(made):
    first = made.frames(3)[0]
    assert torch.equal(first, made.frames(3)[0])
    assert not torch.equal(first, made.frames(3, seed=1)[0])
    assert not torch.equal(first, made.frames(3, id="another")[0])


def test_it_says_what_motion_it_follows(made):
    asked = made.asked(3, pose=torch.zeros(3, 6), eyes=torch.zeros(3, 2))
    with torch.inference_mode():
        given = made.strategy.motion(made.strategy.encode(asked))
    followed = {kind for kind, m in zip(("pose", "eyes"), given, strict=True) if m is not None}
    assert followed == made.strategy.follows


def test_splitting_a_round_makes_the_same_video(made):
    """A window larger than the budget is made whole."""
    whole = made.frames(17)[0]
    before, made.strategy.frames_per_call = made.strategy.frames_per_call, 9
    split = made.frames(17)[0]
    made.strategy.frames_per_call = before
    assert (whole.int() - split.int()).abs().max() <= 1


def test_the_plan_it_was_trained_for_is_not_zero_shot(made):
    known = {
        str(metadata["trained_for"].get("plan"))
        for metadata in made.assembled.metadata.values()
        if metadata["trained_for"].get("plan")
    }
    notes = made.assembled.zero_shot(60)
    assert bool(notes) == (known not in (set(), {str(plans.filled(made.config.plan))}))


def refusal(asked):
    """Why a strategy cannot be put together so; nothing where it can."""
    try:
        assemble.assemble(asked)
    except UserError as error:
        return str(error)
    return ""


def test_another_plan_runs_over_the_same_weights_and_its_row_says_so(made):
    """Or it is refused in a line about the plan, as where a network takes a fixed number of frames.

    Which of both a strategy does, its own tests say; DAWN's latents take any.
    """
    asked = replace(made.config, plan={"name": "sar", "segment": 3, "overlap": 2})
    if said := refusal(asked):
        assert "plan" in said
        assert made.strategy.space != "flow"
        return
    other = assemble.assemble(asked)
    notes = other.zero_shot(10)
    assert notes
    assert all(note.startswith("zero-shot: ") for note in notes)
    chunks = generate(other.strategy, made.asked(7)).chunks
    assert sum(len(chunk) for chunk in chunks) == 7


def test_another_checkpoint_is_refused(made, tmp_path):
    stage = next(stage for stage in made.config.nets.values() if stage not in SHARED)
    run = locate(made.config, stage)
    wrong = next(p for p in run.folder.parent.glob("*/last.ckpt") if p.parent != run.folder)
    kept = tmp_path / "last.ckpt"
    shutil.move(run.last, kept)
    try:
        shutil.copy(wrong, run.last)
        with pytest.raises(UserError, match=f"not of '{stage}'"):
            assemble.assemble(made.config)
    finally:
        run.last.unlink()
        shutil.move(kept, run.last)


def test_what_a_clip_needs_once_is_computed_once(made):
    """Portrait, sound and motion are encoded once, however many windows a plan has."""
    strategy, counts = made.strategy, {}

    def counted(owner, name):
        real = getattr(owner, name)

        def call(*args, **kwargs):
            counts[name] = counts.get(name, 0) + 1
            return real(*args, **kwargs)

        owner.__dict__[name] = call
        return lambda: owner.__dict__.pop(name)

    undo = [counted(strategy, "encode")]
    if "lfg" in strategy.nets:
        undo += [counted(strategy.nets["lfg"], "encode"), counted(strategy.nets["lfg"], "flow")]
        undo += [counted(net, "sample") for role, net in strategy.nets.items() if role == "pbnet"]
        nets = {net for net in strategy.nets.values() if hasattr(net, "static")}
        undo += [counted(net, "static") for net in nets]
    made.frames(5)
    for put_back in undo:
        put_back()
    assert counts.pop("encode") <= 2  # the strategy's, and in it the generator's
    assert counts.pop("flow", 0) <= 1  # the portrait's own, where a plan observes it
    roles = len(set(made.config.nets) - set(SHARED))
    assert counts.pop("static", roles) == roles
    assert counts.pop("sample", 1) == 1
