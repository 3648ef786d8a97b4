"""Misspelt keys and wrong values of every strategy are found before any network is built."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
import torch

from thbench import config
from thbench.config import SamplerConfig
from thbench.core.errors import UserError
from thbench.core.registry import resolve
from thbench.core.signatures import accepts, check_keys, fits
from thbench.dawn.dawn import DAWN
from thbench.generation import assemble
from thbench.generation.strategy import Strategy
from thbench.training.runs import build_stage
from thbench.training.stage import Stage

CASES = [(name, scale) for name in config.names("strategy") for scale in config.scales(name)]


def paths(kind, block, leading=None, given=()):
    """Paths of all keys that a class takes, and of those that stand in a block of it."""
    for name, key in accepts(kind, leading, given).keys.items():
        value = block.get(name) if isinstance(block, dict) else None
        yield (name,)
        if isinstance(key.block, type):
            yield from ((name, *path) for path in paths(key.block, value))
        elif key.block is not None:
            known = value if callable(key.block) else key.block
            yield from ((name, inner) for inner in known or ())


def misspelt(block, path):
    """The block with the path's last key misspelt, beside what stands there."""
    changed = deepcopy(block)
    inner = changed
    for name in path[:-1]:
        inner[name] = dict(inner[name]) if isinstance(inner.get(name), dict) else {}
        inner = inner[name]
    inner.pop(path[-1], None)
    inner[f"{path[-1]}z"] = 1
    return changed


@pytest.mark.parametrize(("name", "scale"), CASES)
def test_a_typo_at_any_key_of_a_model_gets_the_right_word(name, scale):
    loaded = config.load(name, [f"scale={scale}"])
    assemble.check(loaded)
    for stage in loaded.stages.values():
        kind, model = resolve(stage.target, Stage), stage.model
        for key, value in model.items():
            declared = accepts(kind, 1).keys[key].block
            assert declared or not isinstance(value, dict), f"{kind}.config_blocks lacks '{key}'"
        for path in list(paths(kind, model, leading=1)):
            stage.model = misspelt(model, path)
            with pytest.raises(UserError, match=f"Did you mean '{path[-1]}'") as caught:
                assemble.check(loaded)
            assert f"{path[-1]}z" in str(caught.value)
        stage.model = model


@pytest.mark.parametrize(("name", "scale"), CASES)
def test_a_typo_at_any_option_or_in_the_plan_gets_the_right_word(name, scale):
    loaded = config.load(name, [f"scale={scale}"])
    kind, options, plan = resolve(loaded.target, Strategy), loaded.options, loaded.plan
    for path in list(paths(kind, options, leading=2, given=("plan", "sampler"))):
        loaded.options = misspelt(options, path)
        with pytest.raises(UserError, match=f"Did you mean '{path[-1]}'"):
            assemble.check(loaded)
    loaded.options = options
    for key in set(plan) - {"name"}:
        loaded.plan = misspelt(plan, (key,))
        with pytest.raises(UserError, match=f"Did you mean '{key}'"):
            assemble.check(loaded)


@pytest.mark.parametrize(
    ("name", "word", "says"),
    [
        ("diffused_heads", "stages.frame.model.net.motin=3",
         r"no key 'stages\.frame\.model\.net\.motin'\. Did you mean 'motion'"),
        ("hallo", "stages.video.model.segmnt=3", r"stages\.video\.model\.segmnt.*'segment'"),
        ("hallo", "stages.image.model.drop.moton=0", "Did you mean 'motion'"),
        ("hallo", "options.weights.lisp=2", "Did you mean 'lip'"),
        ("hallo", "options.guidance={imag: 2}", "Did you mean 'image'"),
        ("fd2talk", "stages.motion.model.net.dept=3", "Did you mean 'depth'"),
        ("fd2talk", "stages.motion.model.plan.segmnt=3", "Did you mean 'segment'"),
        ("fd2talk", "options.frame_sampler.step=3", "Did you mean 'steps'"),
        ("fd2talk", "stages.autoencoder.model.net.chanels=[3]", "Did you mean 'channels'"),
        ("dawn", "stages.a2v1.model.net.process.predicton=x0", "Did you mean 'prediction'"),
        ("dawn", "stages.a2v1.model.net.dim=x", r"net\.dim is 'x', but A2VNetConfig takes int"),
        ("dawn", "stages.a2v1.model.net.mults=2", "mults is 2, but A2VNetConfig takes Sequence"),
        ("dawn", "stages.a2v1.model.net.use_pose=1", "use_pose is 1, but A2VNetConfig takes bool"),
        ("dawn", "stages.a2v1.model.net.dim=null",
         "dim takes no null: without it, A2VNetConfig has 64"),
        ("dawn", "stages.a2v1.optim.name=adm", r"stages\.a2v1: No optimiser.*Did you mean 'adam"),
        ("dawn", "stages.a2v2.optim.schedule=cosin", r"stages\.a2v2: .*Did you mean 'cosine'"),
        ("dawn", "stages.a2v2.precision=bf16-mixd", r"stages\.a2v2\.precision.*'bf16-mixed'"),
        ("dawn", "stages.lfg.draw.source=frist",
         r"stages\.lfg\.draw\.source.*Did you mean 'first'"),
        ("dawn", "sampler.spacing=foo", "sampler.spacing=foo is not known. Known: leading, "),
        ("dawn", "sampler.spacing=trailin", "Did you mean 'trailing'"),
        ("dawn", "sampler.eta=2", r"sampler\.eta must lie in \[0, 1\]"),
        ("dawn", "sampler.threshold=90", r"sampler\.threshold must lie in \[0, 1\]"),
        ("dawn", "tracking.wandb=of", "Did you mean 'off'"),
        ("sar", "plan.segmnt=3", "Did you mean 'segment'"),
        ("dawn", "options.guidence=1", "Did you mean 'guidance'"),
    ],
)  # fmt: skip
def test_wrong_words_are_found_without_a_network(name, word, says, monkeypatch):
    monkeypatch.setattr("torch.nn.Module.__init__", None)  # nothing can be built
    with pytest.raises(UserError, match=says) as caught:
        assemble.check(config.load(name, ["scale=paper", word]))
    assert "\n" not in str(caught.value)


# Other people's classes


@dataclass(frozen=True)
class Sizes:
    dim: int
    kind: Literal["wide", "deep"] = "wide"


class Net:
    def __init__(self, sizes, *, depth: int = 2, **sampler):
        pass

    config_blocks: ClassVar = {"**": SamplerConfig}


class Outer:
    config_blocks: ClassVar = {"net": Net, "sizes": Sizes, "parts": ("lip", "face")}

    def __init__(self, context, net: dict | None = None, sizes=None, parts=None):
        pass


class Further(Outer):
    def __init__(self, context, *, more: float = 1.0, **options: Any):
        super().__init__(context, **options)


class Anything(Outer):
    config_blocks: ClassVar = {"**": None}

    def __init__(self, context, **options):
        pass


class Forwarding(DAWN):
    """Takes what all strategies take as it comes."""

    def __init__(self, *args, tone: float = 1.0, **options):
        super().__init__(*args, **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mor": 1}, "Did you mean 'more'"),
        ({"nte": {}}, "Did you mean 'net'"),
        ({"net": {"dept": 1}}, "Did you mean 'depth'"),
        ({"net": {"sizes": 1}}, r"no key 'm\.net\.sizes'"),  # comes from the outer class
        ({"net": {"spacin": "x"}}, "Did you mean 'spacing'"),
        ({"sizes": {"dmi": 1}}, "Did you mean 'dim'"),
        ({"sizes": {}}, r"m\.sizes\.dim is missing: Sizes cannot do without it"),
        ({"sizes": {"dim": 1, "kind": "wid"}}, r"m\.sizes\.kind=wid.*Did you mean 'wide'"),
        ({"parts": {"lisp": 1}}, "Did you mean 'lip'"),
        ({"more": "x"}, "more is 'x', but Further takes float"),
    ],
    ids=str,
)
def test_declared_blocks_are_checked_whoever_wrote_the_class(options, says):
    with pytest.raises(UserError, match=says):
        check_keys(Further, options, "m", leading=1)


class Undeclared(Stage):
    """Does not say what takes the keys of ``net:``."""

    def __init__(self, context, *, net: dict | None = None):
        super().__init__(context)
        self.net = Sized(**(net or {}))

    def loss(self, batch):
        return {}


class Sized(torch.nn.Linear):
    def __init__(self, *, width: int = 2):
        super().__init__(width, width)


def test_a_block_that_nobody_declares_is_checked_when_its_network_is_built():
    stage = config.StageConfig(f"{__name__}:Undeclared", model={"net": {"widht": 3}})
    chosen = config.Config(stages={"one": stage})
    check_keys(Undeclared, stage.model, "stages.one.model", leading=1)
    with pytest.raises(UserError, match=r"stages\.one\.model.*Did you mean 'width'"):
        build_stage(chosen, "one", {}, 4)


def test_what_is_right_passes():
    good = {"net": {"depth": 1, "steps": 3}, "sizes": {"dim": 1, "kind": "deep"}, "more": 2}
    check_keys(Further, {**good, "parts": {"lip": 1}}, "m", leading=1)
    check_keys(Anything, {"whatever": 1}, "m", leading=1)
    check_keys(
        Forwarding, {"tone": 1, "window": 3}, "options", leading=2, given=("plan", "sampler")
    )


@pytest.mark.parametrize(
    ("value", "hint", "right"),
    [
        (1, int, True), (1e3, int, True), (1.5, int, False), (True, int, False), (1, float, True),
        ("1", float, False), (True, bool, True), (1, bool, False), ("x", str, True),
        (1, str, False),
        (None, int | None, True), ("full", int | str | None, True), ([1, 2], list[int], True),
        ([1, "a"], list[int], False), ([1, 2], tuple[int, int], True),
        ([1], tuple[int, int], False), ([1], tuple[int, ...], True),
        ({}, dict[str, int], True), (3, dict[str, int], False),
        ("a", Literal["a", "b"], True), ("c", Literal["a", "b"], False), (3, SamplerConfig, True),
        (3, Any, True),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_of_yaml_fits_a_type_or_not(value, hint, right):
    assert fits(value, hint) is right
