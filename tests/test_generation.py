"""The runner: what a denoiser is shown, in which order, and that results depend on nothing else."""

from dataclasses import replace

import pytest
import torch

from tests.toys import Counting, Recorder, RectifiedFlow, request
from thbench.core.types import Cost
from thbench.diffusion import ddim as sampling
from thbench.generation import plans, runner
from thbench.generation.runner import execute, generate

PLANS = [
    {"name": "nar"},
    {"name": "frames"},
    {"name": "ar", "motion": 2, "stabilize": 3},
    {"name": "sar", "segment": 5, "overlap": 2},
    {"name": "ttr", "stride": 4},
    {"name": "ttr", "stride": 3, "single_model": True},
    {"name": "rolling", "window": 4, "context": 2},
]


def frames_of(strategy, n=13, **options):
    generation = generate(strategy, request(n, **options))
    return torch.cat(list(generation.chunks)), generation


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: p["name"])
@pytest.mark.parametrize("n", [1, 2, 13])
def test_every_plan_makes_every_frame_in_order(plan, n):
    frames, generation = frames_of(Counting(plan), n)
    assert frames.shape == (n, 3, 8, 8)
    assert frames.dtype == torch.uint8
    assert frames[:, 0, 0, 0].tolist() == list(range(n))
    assert 0 < generation.cost.first_frame <= generation.cost.seconds


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: p["name"])
def test_calls_and_evaluations_are_those_of_the_plan(plan):
    strategy = Counting(plan)
    _, generation = frames_of(strategy, 13)
    built = plans.build(n=13, **plan)
    assert generation.cost.evaluations == plans.cost(built, 8).evaluations
    calls = [call for r in strategy.recorders.values() for call in r.calls]
    assert generation.cost.calls == len(calls) >= generation.cost.depth
    assert generation.cost.depth == plans.cost(built, 8).depth


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: p["name"])
def test_a_denoiser_sees_the_observed_frames_clean_and_nothing_else(plan):
    strategy = Counting(plan)
    frames_of(strategy, 13)
    expected = {
        name: [w for w in plans.windows(plans.build(n=13, **plan)) if w.model == name]
        for name in strategy.recorders
    }
    for name, recorder in strategy.recorders.items():
        shown = {tuple(row) for call in recorder.calls for row in call["frames"].tolist()}
        assert shown == {(*w.observe, *w.generate) for w in expected[name]}
        for call in recorder.calls:
            clean = call["t"] == 0
            values = call["noisy"][:, 0, :, 0, 0] * 255
            finished = call["frames"].float().where(call["frames"] >= 0, torch.tensor(-255.0))
            torch.testing.assert_close(values[clean], finished[clean], atol=1e-2, rtol=1e-4)


def logged(strategy):
    """Calls of all denoisers of a strategy, in order."""
    log = []
    for name, recorder in strategy.recorders.items():
        real = recorder.denoise

        def denoise(noisy, t, frames, conditions, context, name=name, real=real):
            log.append({"model": name, "t": t.tolist(), "frames": frames.tolist()})
            return real(noisy, t, frames, conditions, context)

        recorder.denoise = denoise
    return log


def calls_of(plan, grid, per_level):
    """The calls that a plan asks for: a round's windows of one shape together, level by level."""
    high = plans.levels(plan)
    for round_ in plan:
        alike = {}
        for w in round_:
            alike.setdefault((w.model, len(w.observe), len(w.generate)), []).append(w)
        for (model, n_seen, _), group in alike.items():
            frames = [[*w.observe, *w.generate] for w in group]
            for k in range(group[0].drop * per_level):
                t = [
                    [0] * n_seen + [int(grid[(high - e) * per_level + k]) for e in w.enter]
                    for w in group
                ]
                yield {"model": model, "t": t, "frames": frames}


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: p["name"])
@pytest.mark.parametrize("n", [1, 5, 13])
def test_the_calls_are_exactly_those_of_the_plan_in_its_order(plan, n):
    strategy = Counting(plan)
    log = logged(strategy)
    frames_of(strategy, n)
    built = plans.build(n=n, **plan)
    grid = sampling.grid(strategy.process, strategy.sampler)
    assert log == list(calls_of(built, grid, 8 // plans.levels(built)))


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: p["name"])
def test_nothing_is_observed_before_it_is_finished(plan):
    """Read from the calls alone: a frame is finished after its last call at a level above 0."""
    strategy = Counting(plan)
    log = logged(strategy)
    frames_of(strategy, 13)
    made_in = {}
    for number, call in enumerate(log):
        for frames, t in zip(call["frames"], call["t"], strict=True):
            made_in.update({i: number for i, level in zip(frames, t, strict=True) if level})
    for number, call in enumerate(log):
        for frames, t in zip(call["frames"], call["t"], strict=True):
            seen = [i for i, level in zip(frames, t, strict=True) if not level and i >= 0]
            assert all(made_in[i] < number for i in seen)
            if plan["name"] in ("ar", "sar", "rolling"):
                assert max(seen, default=-1) < min(set(frames) - set(seen) - {-1})


def test_windows_of_a_round_that_are_alike_are_one_call():
    strategy = Counting({"name": "ttr", "stride": 4}, steps=2)
    frames_of(strategy, 13)
    assert [len(call["frames"]) for call in strategy.recorders["gaps"].calls] == [3, 3]
    assert len(strategy.recorders["gaps"].contexts) == 1


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: p["name"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_splitting_calls_to_save_memory_changes_nothing(plan, eta):
    whole, split = Counting(plan, eta=eta), Counting(plan, eta=eta)
    split.frames_per_call, split.decode_chunk = 4, 3
    for part in (whole, split):
        part.recorders["main"].denoise = part.recorders["keys"].denoise = shrink
        part.recorders["gaps"].denoise = shrink
    assert torch.equal(frames_of(whole)[0], frames_of(split)[0])


def shrink(noisy, t, frames, conditions, context):
    """A prediction that depends on the noise, so that its draw shows in the result."""
    return noisy.sigmoid()


def test_seed_and_clip_make_the_noise():
    strategy = Counting({"name": "nar"}, eta=1.0)
    strategy.recorders["main"].denoise = shrink
    first, again = frames_of(strategy)[0], frames_of(strategy)[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, frames_of(strategy, seed=1)[0])
    assert not torch.equal(first, frames_of(strategy, id="b")[0])


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: p["name"])
def test_no_two_frames_start_from_the_same_noise_and_no_two_steps_draw_the_same(plan, monkeypatch):
    drawn, real = [], sampling.step

    def step(process, noisy, prediction, t, s, noise, config):
        drawn.extend(noise)
        return real(process, noisy, prediction, t, s, noise, config)

    monkeypatch.setattr(sampling, "step", step)
    strategy = Counting(plan, eta=1.0)
    frames_of(strategy, 13)
    firsts = {}
    for recorder in strategy.recorders.values():
        for call in recorder.calls:
            for row, frames in enumerate(call["frames"].tolist()):
                for j, i in enumerate(frames):
                    if call["t"][row, j] == strategy.process.steps:
                        firsts[i] = call["noisy"][row, :, j]
    assert sorted(firsts) == list(range(13))
    assert len({x.sum().item() for x in firsts.values()}) == 13
    assert len({x.sum().item() for x in drawn}) == len(drawn)
    for values in (torch.stack(list(firsts.values())), torch.cat([x.flatten() for x in drawn])):
        assert abs(values.mean()) < 0.3
        assert 0.7 < values.std() < 1.3


def test_passes_in_two_spaces_start_from_different_noise():
    strategy = Counting({"name": "nar"})
    (one,) = strategy.passes(request(4))
    starts = []
    for space in ("motion", "flow", "motion"):
        for _ in execute(replace(one, space=space), strategy, None, request(4), Cost()):
            pass
        starts.append(strategy.recorders["main"].calls[-8]["noisy"])
    assert torch.equal(starts[0], starts[2])
    assert not torch.equal(starts[0], starts[1])


def test_calls_take_no_more_frames_than_they_may():
    """But for a window, which is never split."""
    strategy = Counting({"name": "ttr", "stride": 4})
    strategy.frames_per_call = 10
    frames_of(strategy, 29)
    shown = [call["frames"].numel() for call in strategy.recorders["gaps"].calls]
    assert set(shown) == {10, 5}
    strategy.frames_per_call = 3
    assert len(frames_of(strategy, 29)[0]) == 29


@pytest.mark.parametrize(
    ("plan", "most"),
    [
        ({"name": "ar", "motion": 2}, 3),
        ({"name": "sar", "segment": 5}, 15),
        ({"name": "rolling", "window": 1, "context": 4}, 5),
    ],
)
def test_sequential_plans_keep_only_what_is_still_observed(plan, most, monkeypatch):
    strategy = Counting(plan, steps=1)
    asked = request(200)
    (sweep,) = strategy.passes(asked)
    kept = []

    class Watched(runner._State):
        def denoise(self, r, places):
            super().denoise(r, places)
            kept.append(len(self.clean) + len(self.noisy))

    monkeypatch.setattr(runner, "_State", Watched)
    for _ in execute(sweep, strategy, asked, asked, Cost()):
        pass
    assert max(kept) <= most


def test_the_portrait_is_asked_for_only_by_plans_that_observe_it():
    strategy = Counting({"name": "nar"})
    strategy.source_latent = None
    assert len(frames_of(strategy, 3)[0]) == 3


def test_frames_come_before_the_clip_is_finished():
    strategy = Counting({"name": "sar", "segment": 5, "overlap": 2})
    generation = generate(strategy, request(20))
    assert len(strategy.recorders["main"].calls) == 0
    next(generation.chunks)
    assert len(strategy.recorders["main"].calls) == 8


def test_guidance_counts_every_call_that_it_makes():
    plain, guided = Counting({"name": "sar", "segment": 5}), Counting({"name": "sar", "segment": 5})
    for recorder in guided.recorders.values():
        recorder.branches = 2
    costs = [frames_of(strategy, 13)[1].cost for strategy in (plain, guided)]
    assert costs[1].calls == 2 * costs[0].calls
    assert costs[1].evaluations == 2 * costs[0].evaluations
    assert costs[1].depth == costs[0].depth


class Straight(Recorder):
    """Predicts the velocity towards frame i's value, i / 255, from where the frame stands."""

    def denoise(self, noisy, t, frames, conditions, context):
        clean = super().denoise(noisy, t, frames, conditions, context)
        # clean = noisy + left * velocity, with ``left`` of the way still to go.
        left = (t / RectifiedFlow.steps).clamp(min=1e-6)[:, None, :, None, None]
        return (clean - noisy) / left


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: p["name"])
def test_another_noise_process_needs_no_other_runner(plan):
    strategy = Counting(plan, steps=4, eta=1.0)
    strategy.process, strategy.recorders = (
        RectifiedFlow(),
        {name: Straight() for name in strategy.recorders},
    )
    frames, generation = frames_of(strategy, 13)
    assert frames[:, 0, 0, 0].tolist() == list(range(13))
    assert generation.cost.depth == plans.cost(plans.build(n=13, **plan), 4).depth


def test_the_runner_refuses_a_plan_that_observes_what_is_not_there(monkeypatch):
    strategy = Counting({"name": "nar"})
    wrong = ((plans.Window((0, 1), (2,), (1, 1), (0, 0)), plans.Window((2,), (), (1,), (0,))),)
    monkeypatch.setattr(plans, "build", lambda **_: wrong)
    with pytest.raises(ValueError, match="frame 2 is observed before it is finished"):
        frames_of(strategy, 3)
