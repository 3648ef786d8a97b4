"""A GPU gives what the CPU gives. benchmarks/gpu.sh runs this where decord may be missing."""

import copy

import pytest
import torch
from torch.utils.data import DataLoader

from benchmarks import untrained
from metrics.extractors import EXTRACTORS
from metrics.extractors.synthetic import SyntheticFace, SyntheticIdentity, SyntheticMotion
from thbench import config
from thbench.core import console
from thbench.data.synthetic.make import synthesize
from thbench.generation import assemble, plans
from thbench.generation.requests import SplitRequests
from thbench.generation.runner import generate
from thbench.training import devices, fit
from thbench.training.runs import order

pytestmark = pytest.mark.cuda

DEVICE, ACCELERATOR = "cuda", "gpu"
STRATEGIES = config.names("strategy")
FRAMES = 6
SYNTHETIC = (SyntheticFace, SyntheticIdentity, SyntheticMotion)
"""Extractors whose weights travel with the package and that need frames alone."""


@pytest.fixture(autouse=True)
def exact():
    """No TF32: it is the arithmetic that is compared."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.fixture(scope="session")
def prepared(request, tmp_path_factory):
    """A prepared data set of four clips of a second: the carried one, or made here."""
    given = request.config.getoption("prepared")
    if given is not None:
        return given
    root = tmp_path_factory.mktemp("cuda") / "data"
    splits = {"train": 2, "val": 1, "test": 1}
    synthesize(root, identities=4, seconds=1.0, size=64, workers=1, splits=splits)
    return root


def small(name, *words):
    """The tiny strategy with as few sampler steps as its plan allows."""
    tiny = config.load(name, ["scale=tiny"])
    steps = 2 * plans.levels(plans.build(n=FRAMES, **tiny.plan))
    return config.load(name, ["scale=tiny", f"sampler.steps={steps}", *words])


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_video_is_the_one_that_the_cpu_makes(name):
    loaded = small(name)
    torch.manual_seed(0)
    with untrained.random_faces():
        here = untrained.strategy(loaded, "cpu")
        there = copy.deepcopy(here).to(DEVICE)
        request = untrained.request(loaded, FRAMES)
        frames = [torch.cat(list(generate(s, request).chunks)).float() for s in (here, there)]
    assert frames[0].std() > 1
    away = (frames[0] - frames[1]).abs()
    assert away.mean() < 0.5, "grey levels of 255"
    assert away.quantile(0.99) <= 2


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_stage_takes_a_step_in_mixed_precision(name, tmp_path):
    """Its loss is that of 32 bits, as far as 16 can be; noise drawn on the CPU would be other."""
    loaded = small(name, "trainer.threads=1")
    nets = {}
    for stage in order(loaded):
        shown = untrained.batch(loaded, stage, 2)
        made = untrained.untrained(loaded, stage, nets, "cpu")
        nets[stage] = copy.deepcopy(made.net)
        if not loaded.stages[stage].max_steps:
            continue
        whole, _ = step(copy.deepcopy(made), shown, loaded, tmp_path, "32-true")
        mixed, moved = step(made, shown, loaded, tmp_path, "bf16-mixed")
        assert mixed == pytest.approx(whole, rel=0.1), stage
        assert moved, f"no weight of {stage} changed"


def step(stage, shown, loaded, folder, precision):
    """The loss of one training step, and whether weights moved."""
    before = {k: v.detach().clone() for k, v in stage.net.cpu().state_dict().items()}
    with console.quiet():
        trainer = devices.make_trainer(
            loaded.trainer,
            alternating=not stage.automatic_optimization,
            accelerator=ACCELERATOR,
            devices=1,
            precision=precision,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            default_root_dir=folder,
        )
        trainer.fit(stage, DataLoader([shown], batch_size=None))
    after = stage.net.cpu().state_dict()
    return float(stage.terms["train/loss"]), any(
        not torch.equal(before[key], after[key]) for key in before
    )


@pytest.mark.parametrize("kind", SYNTHETIC, ids=lambda kind: kind.name)
def test_features_are_the_cpus(kind):
    assert kind.name in EXTRACTORS
    frames = torch.randint(0, 256, (20, 3, 64, 64), dtype=torch.uint8)
    here, there = (kind(device=device).extract(frames) for device in ("cpu", DEVICE))
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-3 * float(here.abs().max()))


def test_a_run_from_data_to_video(prepared, tmp_path):
    """Training, its checkpoint, and generation by the trainer that `thbench eval` uses."""
    words = [f"data={prepared}", f"runs={tmp_path}", "tracking.wandb=off", "trainer.workers=0"]
    words += ["trainer.progress=false", "trainer.sample_every=0", "trainer.validate_every=1"]
    words += [f"trainer.accelerator={ACCELERATOR}", "trainer.devices=1"]
    words += ["stages.frame.max_steps=2", "stages.frame.precision=bf16-mixed"]
    loaded = small("diffused_heads", *words)
    fit.fit(loaded)
    strategy = assemble.assemble(loaded).strategy.to(DEVICE)
    asked = SplitRequests(loaded.data, "test", loaded.size, frames=FRAMES)[0]
    made = torch.cat(list(generate(strategy, asked).chunks))
    assert made.shape == (FRAMES, 3, loaded.size, loaded.size)
