"""What every strategy must do, for every file in configs/strategy: a new one is tested at once."""

import pytest

from thbench import config
from thbench.core.registry import resolve
from thbench.data.dataset import least_frames
from thbench.generation import assemble, plans
from thbench.generation.strategy import Strategy
from thbench.training import params
from thbench.training.runs import order, settings_hash

STRATEGIES = config.names("strategy")
SCALED = [(name, scale) for name in STRATEGIES for scale in config.scales(name)]
ON_FLOWS = ("ar", "sar", "ttr", "rolling")


@pytest.mark.parametrize(("name", "scale"), SCALED)
def test_every_stage_builds_at_every_scale(name, scale):
    loaded = config.load(name, [f"scale={scale}"])
    nets = params.build(name, scale)
    assert set(loaded.nets.values()) <= set(nets)
    for stage, net in nets.items():
        count = sum(p.numel() for p in net.parameters())
        assert count > 0, stage
        if scale != "paper":
            assert count < 8e6, f"{stage} has {count / 1e6:.1f}M parameters: not {scale}"


@pytest.mark.parametrize(("name", "scale"), SCALED)
def test_the_shortest_clip_of_crema_d_is_learned_from(name, scale):
    """Its 7442 clips have 32 to 125 frames; PBNet draws 200, TTR's keys up to 57."""
    loaded = config.load(name, [f"scale={scale}"])
    for stage in order(loaded):
        assert least_frames(loaded.stages[stage].draw) <= 32, stage


@pytest.mark.parametrize("name", STRATEGIES)
def test_its_class_its_roles_and_its_plan_exist(name):
    for scale in config.scales(name):
        loaded = config.load(name, [f"scale={scale}"])
        assert issubclass(resolve(loaded.target, Strategy), Strategy)
        assert set(loaded.nets.values()) <= set(loaded.stages)
        assert resolve(loaded.target, Strategy).roles
        assemble.check(loaded)
        for n in (1, 7, 60, 200):
            plan = plans.build(n=n, **loaded.plan)
            plans.check(plan)
            plans.cost(plan, loaded.sampler.steps)


@pytest.mark.parametrize("name", STRATEGIES)
def test_all_scales_are_the_same_classes(name):
    loaded = {scale: config.load(name, [f"scale={scale}"]) for scale in config.scales(name)}
    targets = {k: {n: s.target for n, s in each.stages.items()} for k, each in loaded.items()}
    if name == "fd2talk":
        targets["small"].pop("autoencoder")  # Hallo's, see the next test
    paper = targets.pop("paper")
    assert "tiny" in targets
    for each in targets.values():
        assert each == {n: paper[n] for n in each}


def test_at_the_small_scale_two_strategies_have_one_autoencoder():
    loaded = [config.load(name, ["scale=small"]) for name in ("fd2talk", "hallo")]
    assert len({settings_hash(each, "autoencoder") for each in loaded}) == 1


@pytest.mark.parametrize(("name", "scale"), SCALED)
def test_its_schedules_end_where_its_training_does(name, scale):
    for stage in config.load(name, [f"scale={scale}"]).stages.values():
        if stage.optim.schedule == "cosine":
            assert stage.optim.warmup < stage.optim.decay_steps == stage.max_steps


@pytest.mark.parametrize("scale", config.SCALES)
def test_orders_of_the_same_latents_see_the_same_number_of_samples(scale):
    def samples(name, *words):
        loaded = config.load(name, [f"scale={scale}", *words])
        return sum(
            loaded.stages[stage].max_steps * loaded.stages[stage].batch_size
            for stage in order(loaded)
        )

    rows = [(name,) for name in ON_FLOWS]
    for row in (*rows, ("ttr", "single_model=true")):
        assert samples(*row) == samples("dawn"), row
