"""What every stage and strategy computes, in a few numbers: ``python -m tests.fingerprints``.

A stage makes one seeded training step: its losses, the norms of its gradients, how far its weights
move and the norm of its buffers. A strategy makes a few frames with untrained networks: mean,
deviation and projections. What all stages share is there twice: what is drawn from a data set, and
what some steps of the trainer leave. ``fingerprints.json`` holds the numbers with the names and
versions (``Versioned.fingerprint``) under which they were seen, so that code which computes
something else under the same version is found: its results would be taken for the old code's.

    python -m tests.fingerprints [--large] [--check] [NAME ...]

records anew what was raised in version or set otherwise, and what is new. It refuses numbers that
changed under the same versions. ``--check`` records nothing. ``--large`` takes the networks that
``make test`` leaves to ``make test-paper`` as well; Hallo's need 13 GB and some minutes.

Stages see a batch made here, not a data set. Networks at paper scale have the paper's sizes; frames
are as small and as few as they allow, and the frozen networks that they build on are small ones,
which have cases of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from baselines.fd2talk.morphable import MorphableStage
from baselines.hallo import face
from tests import toy_training as toy
from tests.rotations import rotation_matrix
from thbench import config
from thbench.config import (
    Config,
    DataConfig,
    DrawConfig,
    StageConfig,
    TrainerConfig,
    content_hash,
)
from thbench.core import console
from thbench.core.errors import UserError
from thbench.core.registry import resolve
from thbench.core.types import EYES_DIM, Batch, Request
from thbench.data.datamodule import ClipData
from thbench.data.dataset import frame_range
from thbench.data.embedding.encoders import ENCODERS
from thbench.data.face import pose
from thbench.generation import assemble
from thbench.generation.runner import generate
from thbench.generation.strategy import Strategy
from thbench.nn.perceptual import VGG19
from thbench.nn.regions import FACE, LEFT_EYE, LIPS, RIGHT_EYE
from thbench.training import devices, fit
from thbench.training.reconstruction import ReconstructionStage
from thbench.training.runs import build_stage, order
from thbench.training.stage import Frozen, Stage, StageContext

RECORD = Path(__file__).with_suffix(".json")
HARNESS = 1
"""Raised when this file shows the networks something else."""
RTOL = 1e-3
"""Numbers may differ by this share: AMD's and Intel's processors, with AVX2 or AVX-512, round
otherwise in each product, which adds up to some 1e-5."""
ATOL = 1e-6
SCALES = ("paper", "tiny", "small")
"""In this order: what is alike at two scales goes by the first one's name."""
LONGEST, GENERATED = 64, 18
CLIPS = {"lip": 2, "morphable": 2}
"""In a batch at paper scale, by stage, where it is not 1; at tiny scale it is 2."""
SIZES = {"lfg": 128, "autoencoder": 32, "fd2talk": 64, "hallo": 64, "diffused_heads": 64}
"""Of frames at paper scale, in pixels, by stage or else by strategy; the others' are 32."""
FRAMES = {"morphable": 40}
"""By stage, where a draw is not as short as the stage takes: fewer would be explained whole."""
STAND_INS: dict[str, dict[str, Any]] = {
    "lfg": {"regions": 3, "bottleneck": 1, "region_net": [4, 8, 2], "background_net": [4, 8, 2],
            "flow_net": [4, 8, 2]},
    "fd2talk.autoencoder": {"channels": [8, 8, 16], "layers": 1, "groups": 4},
    "hallo.autoencoder": {"channels": [8, 8, 16, 16], "layers": 1, "groups": 4},
}  # fmt: skip
"""``net:`` of the frozen networks at paper scale, by stage, or by strategy and stage; what others
see of them is the paper's."""
LARGE = (
    *("diffused_heads.frame paper", "fd2talk.autoencoder paper", "fd2talk.frame paper"),
    *("hallo.autoencoder paper", "hallo.image paper", "hallo.video paper"),
    *("rolling.a2v2 paper", "sar.a2v2 paper", "ttr.keys2 paper"),
    *("ttr.one1 paper", "ttr.one2 paper", "ttr.one1 tiny", "ttr.one2 tiny"),
)
"""Left to ``make test-paper``: those that take more than some seconds, and windows of other lengths
of a network that has a case already."""
FEW: dict[str, dict[str, Any]] = {
    "hallo.image paper": {"trains": "attention", "net": {"layers": 1}},
    "hallo.video paper": {"segment": 2, "net": {"layers": 1}},
}
"""Keys of ``model:`` without which a case takes 16 GB."""


@dataclass(frozen=True)
class Case:
    """One thing whose numbers are recorded.

    Attributes:
        name: in the record.
        kind: the class whose version they belong to.
        settings: a hash of all else that they depend on.
        loaded: the strategy's configuration; None for one of ``SHARED``.
        stage: what is trained for a step; None for a generation.
        built_on: the stages whose networks take part.
    """

    name: str
    kind: type[Stage] | type[Strategy]
    settings: str
    loaded: Config | None = None
    stage: str | None = None
    built_on: tuple[type[Stage], ...] = ()

    @property
    def versions(self) -> dict[str, list[int]]:
        """Versions by the names of the class and of those whose networks it uses."""
        found = [kind.fingerprint() for kind in (self.kind, *self.built_on)]
        return {each["name"]: each["versions"] for each in found}

    def values(self) -> dict[str, float]:
        """The numbers, computed."""
        try:
            with torch.random.fork_rng(devices=[]):
                return self._values()
        finally:
            if self.name.endswith("paper"):
                gc.collect()  # trainers and networks hold each other

    def _values(self) -> dict[str, float]:
        if self.loaded is None:
            return SHARED[self.name]()
        return _step(self) if self.stage else _generation(self.loaded)


@functools.cache
def cases() -> dict[str, Case]:
    """All cases by name; stages that strategies share, or that differ in nothing here, once."""
    found = {name: Case(name, Stage, str(HARNESS)) for name in SHARED}
    seen: set[str] = set()
    strategies = config.names("strategy")
    for strategy in sorted(strategies, key=lambda name: (name != "dawn", name)):
        for scale in sorted(config.scales(strategy), key=SCALES.index):
            loaded = config.load(strategy, [f"scale={scale}"])
            for stage in loaded.stages:
                case = _stage_case(loaded, stage, scale)
                if case.settings not in seen:
                    found[case.name] = case
                seen.add(case.settings)
        found[f"{strategy} generates"] = _generation_case(strategy)
    return found


def verdict(case: Case, known: Mapping[str, Any] | None, values: Mapping[str, float]) -> str:
    """What is wrong with a case's numbers, with the remedy; nothing where nothing is."""
    again = f"record it: python -m tests.fingerprints '{case.name}'"
    if known is None:
        return f"{case.name} is not recorded: {again}"
    if known["versions"] != case.versions:
        both = f"{_named(known['versions'])}, and is now of {_named(case.versions)}"
        return f"{case.name} was seen with {both}: {again}"
    if known["settings"] != case.settings:
        return f"{case.name} is configured otherwise, which the hash holds: {again}"
    changed = differences(known["values"], values)
    if not changed:
        return ""
    return (
        f"{case.name}: {'; '.join(changed)}. {case.kind.__name__} computes something else under"
        f" the same version, and its hash would find old results: raise `version` of"
        f" {case.kind.__module__}:{case.kind.__name__}, or of the class it inherits the change"
        f" from, and {again}"
    )


def differences(before: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
    """Which numbers changed by more than processors do."""
    found = [f"{name} is new" for name in now.keys() - before.keys()]
    found += [f"{name} is gone" for name in before.keys() - now.keys()]
    for name in sorted(before.keys() & now.keys()):
        if not np.isclose(now[name], before[name], rtol=RTOL, atol=ATOL):
            found.append(f"{name} was {before[name]:.6g} and is {now[name]:.6g}")
    return found


def read() -> dict[str, Any]:
    """The record."""
    return dict(json.loads(RECORD.read_text())) if RECORD.is_file() else {}


def _named(versions: Mapping[str, list[int]]) -> str:
    listed = (f"{name} {'.'.join(map(str, each))}" for name, each in versions.items())
    return f"version {', '.join(listed)}"


# What the networks are shown


def batch(clips: int, n: int, size: int, width: int, video: bool = True) -> Batch:
    """``clips`` clips of ``n`` frames; the second frame of the first shows no face."""
    points, found = faces(clips, n + 1)
    rng = np.random.default_rng(2)
    side = size if video else 0
    pictures = drawn(rng, (clips, n + 1), side)
    valid = torch.ones(clips, n, dtype=torch.bool)
    valid[0, 1:2] = n < 3  # of one or two frames all are seen
    eyes = torch.from_numpy(rng.uniform(0.2, 0.4, (clips, n + 1, EYES_DIM))).float()
    return Batch(
        video=pictures[:, 1:].contiguous(),
        source=pictures[:, 0].contiguous(),
        audio=sound(rng, (clips, n, width)),
        pose=found[:, 1:],
        eyes=eyes[:, 1:],
        landmarks=points[:, 1:],
        valid=valid,
        source_pose=found[:, 0],
        source_eyes=eyes[:, 0],
        source_landmarks=points[:, 0],
        frames=torch.arange(n).expand(clips, n) + 5,
        source_frame=torch.zeros(clips, dtype=torch.int64),
        extent=torch.stack([points.amin(1), points.amax(1)], 1)[..., :2].contiguous(),
        ids=tuple("abcdefgh"[:clips]),
    )


def request(n: int, size: int, width: int) -> Request:
    """A portrait and the sound of ``n`` frames."""
    points, found = faces(1, 1)
    rng = np.random.default_rng(3)
    return Request(
        id="a",
        source=drawn(rng, (1, 1), size)[0, 0],
        audio=sound(rng, (n, width)),
        waveform=torch.zeros(n * 640),
        source_pose=found[0, 0],
        source_eyes=torch.full((EYES_DIM,), 0.3),
        source_landmarks=points[0, 0],
        seed=0,
    )


def sound(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(0.3 * rng.standard_normal(shape, np.float32) - 0.1)


def drawn(rng: np.random.Generator, shape: tuple[int, ...], side: int) -> Tensor:
    """Pictures uint8 (*shape, 3, side, side): coarse blocks, alike within a clip, and grain."""
    grain = rng.integers(0, 40, (*shape, 3, side, side))
    if not side:
        return torch.from_numpy(grain.astype(np.uint8))
    blocks = rng.integers(0, 180, (shape[0], 1, 3, 8, 8)) + rng.integers(0, 30, (*shape, 3, 8, 8))
    large = blocks.repeat(side // 8, -1).repeat(side // 8, -2)
    return torch.from_numpy((large + grain).astype(np.uint8))


def faces(clips: int, n: int) -> tuple[Tensor, Tensor]:
    """Landmarks (B, T, 478, 3) of ovals in their places whose lips move, and their poses."""
    rng = np.random.default_rng(1)
    mean = rng.uniform(-0.3, 0.3, (478, 3)) * (1, 1, 0.3)
    rings = ((FACE, 0.0, 0.1, 0.45, 0.6), (LIPS, 0.0, 0.3, 0.2, 0.12),
             (RIGHT_EYE, -0.2, -0.12, 0.08, 0.03), (LEFT_EYE, 0.2, -0.12, 0.08, 0.03))  # fmt: skip
    for ring, x, y, across, down in rings:
        turn = np.linspace(0, 2 * np.pi, len(ring), endpoint=False)
        mean[list(ring), :2] = np.stack([x + across * np.sin(turn), y - down * np.cos(turn)], 1)
    mean[list(pose.RIGID)] = np.array(list(pose.RIGID.values()))
    free = np.ones((478, 1))
    free[list(pose.RIGID)] = 0
    who = 0.02 * free * rng.standard_normal((clips, 1, 478, 3))
    lips = np.zeros((478, 3))
    lips[list(LIPS), 1] = mean[list(LIPS), 1] - 0.3
    opened = rng.uniform(0, 1.5, (clips, n, 1, 1)) * lips * free
    shapes = mean + who + opened + 0.01 * free * rng.standard_normal((clips, n, 478, 3))
    found = np.empty_like(shapes)
    for clip, frame in np.ndindex(clips, n):
        turned = shapes[clip, frame] @ rotation_matrix(*rng.uniform(-0.2, 0.2, 3)).T
        found[clip, frame] = 0.5 * turned + (0.5, 0.5, 0.1) + rng.uniform(-0.03, 0.03, 3)
    return torch.from_numpy(found).float(), torch.from_numpy(pose.pose(found)).float()


# Stages


def _stage_case(loaded: Config, name: str, scale: str) -> Case:
    """A stage as it is built and shown here."""
    label = f"{loaded.strategy}.{name} {scale}"
    loaded = replace(loaded, scale=scale, stages=dict(loaded.stages))
    if scale == "paper":
        loaded.size = SIZES.get(name, SIZES.get(loaded.strategy, 32))
        for need in loaded.stages[name].needs:
            stand_in = STAND_INS.get(need, STAND_INS.get(f"{loaded.strategy}.{need}"))
            if stand_in:
                loaded.stages[need] = _with(loaded.stages[need], net=stand_in)
    few = dict(FEW.get(label, {}))
    if net := few.pop("net", None):
        few["net"] = {**loaded.stages[name].model["net"], **net}
    own = _with(loaded.stages[name], **few)
    kind: type[Stage] = resolve(own.target, Stage)  # type: ignore[type-abstract]
    # What changes no result may need a data set, as kept flows do.
    own = replace(own, model={k: v for k, v in own.model.items() if k not in kind.neutral})
    loaded.stages[name] = own
    needs = [loaded.stages[need].model for need in own.needs]
    # Of the draw, only this reaches the batch; the rest is a case of its own.
    draw = [own.draw.video, own.draw.context]
    shown = [HARNESS, kind.fingerprint()["name"], own.model, draw, own.optim, own.clip,
             loaded.size, loaded.seed, _width(loaded), needs]  # fmt: skip
    return Case(label, kind, content_hash(shown), loaded, name, _classes(loaded, name))


def _classes(loaded: Config, stage: str | None = None) -> tuple[type[Stage], ...]:
    """Of the stages that one needs, or of all that roles need."""
    wanted = loaded.stages[stage].needs if stage else list(loaded.nets.values())
    found = {name: None for need in wanted for name in [*_needs(loaded, need), need]}
    return tuple(resolve(loaded.stages[name].target, Stage) for name in found)


def _needs(loaded: Config, stage: str) -> list[str]:
    own = loaded.stages[stage].needs
    return [name for need in own for name in (*_needs(loaded, need), need)]


def _with(stage: StageConfig, **model: Any) -> StageConfig:
    return replace(stage, model={**stage.model, **model})


def _fewest(stage: Stage, draw: DrawConfig) -> int:
    """The fewest frames in a draw that a stage can be trained on."""
    for n in range(min(2, frame_range(draw.frames)[1]), LONGEST):
        with contextlib.suppress(UserError):
            stage.check_draw(replace(draw, frames=n, least=None))
            return n
    raise AssertionError(f"{type(stage).__name__} takes no draw shorter than {LONGEST} frames")


def _width(loaded: Config) -> int:
    return int(ENCODERS.load(loaded.data.audio.partition("=")[0]).default_dim)


def _built(loaded: Config, name: str) -> Stage:
    """A stage whose weights the seed gives, without zeros that would hide what lies behind."""
    needs = {}
    for need in loaded.stages[name].needs:
        needs[need] = _awake(_found(_built(loaded, need))).net
    return build_stage(loaded, name, needs, _width(loaded))


def _found(stage: Stage) -> Stage:
    """A stage that solves for its network has solved for it."""
    if isinstance(stage, MorphableStage) and stage.moments is not None:
        shown = batch(2, 24, 0, 1, video=False)
        stage.moments.update(stage.net.align(shown.landmarks, shown.pose), shown.valid)
        stage.solve()
    return stage


def _awake(stage: Stage) -> Stage:
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in stage.net.parameters():
            if weight.ndim > 1 and not weight.any():
                weight.normal_(0, weight[0].numel() ** -0.5)
    return stage


class _Gradients(Callback):
    """Norms of the gradients before each optimiser's step."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        weights = (p for group in optimizer.param_groups for p in group["params"])
        self.norms.append(norm(p.grad for p in weights if p.grad is not None))


def _step(case: Case) -> dict[str, float]:
    """The numbers of one training step."""
    assert case.loaded is not None
    assert case.stage is not None
    loaded, name = case.loaded, case.stage
    settings = loaded.stages[name]
    stage = _awake(_built(loaded, name))
    if isinstance(stage, ReconstructionStage) and stage.perceptual == "vgg":
        stage.frozen["vgg"] = Frozen(_vgg())
    n = FRAMES.get(name) or _fewest(stage, settings.draw)
    clips = CLIPS.get(name, 1) if loaded.scale == "paper" else 2
    n += 2 * settings.draw.context
    shown = batch(clips, n, loaded.size, _width(loaded), settings.draw.video)
    trained = [p for p in stage.net.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    gradients = _Gradients()
    _train(stage, shown, settings.clip, gradients)
    moved = (now.detach() - then for now, then in zip(trained, before, strict=True))
    kept = (b for b in stage.net.buffers() if b.is_floating_point())
    return {
        **{k.removeprefix("train/"): float(v) for k, v in sorted(stage.terms.items())},
        **{f"gradient {i}": value for i, value in enumerate(gradients.norms)},
        "moved": norm(moved),
        "buffers": norm(kept),
    }


def _train(stage: Stage, shown: Batch, clip: float, callback: Callback) -> None:
    """One step by a trainer such as ``thbench fit`` has."""
    manual = not stage.automatic_optimization
    settings = TrainerConfig(accelerator="cpu", devices=1, progress=False)
    with console.quiet(), _given_faces(), tempfile.TemporaryDirectory() as folder:
        trainer = devices.make_trainer(
            settings,
            alternating=manual,
            max_epochs=1,
            gradient_clip_val=(clip or None) if not manual else None,
            logger=False,
            enable_checkpointing=False,
            callbacks=[callback],
            default_root_dir=folder,
        )
        trainer.fit(stage, DataLoader([shown], batch_size=None))  # type: ignore[arg-type]


@functools.cache
def _vgg() -> nn.Module:
    torch.manual_seed(0)
    return VGG19(weights=None)


@contextlib.contextmanager
def _given_faces() -> Iterator[None]:
    """Within, ArcFace, whose weights are not here, is a fixed projection of the portrait."""

    class Projected:
        def extract(self, frames: Tensor, given: object = None) -> Tensor:
            coarse = torch.nn.functional.adaptive_avg_pool2d(frames.float(), 8).flatten(1)
            rng = np.random.default_rng(4)
            onto = rng.standard_normal((coarse.shape[1], face.WIDTHS["arcface"]), np.float32)
            return coarse / 255 @ torch.from_numpy(onto) / 8

    with mock.patch.object(face, "extractor", return_value=Projected()):
        yield


def norm(tensors: Iterator[Tensor]) -> float:
    """The root of the sum of all squares, in double precision."""
    norms = (torch.linalg.vector_norm(t, dtype=torch.float64) for t in tensors)
    return float(sum(float(each) ** 2 for each in norms) ** 0.5)


# Generations


def _generation_case(strategy: str) -> Case:
    """A strategy's generation at tiny scale."""
    loaded = config.load(strategy, ["scale=tiny"])
    window = loaded.plan.get("window", 4)
    loaded.sampler.steps = window
    kind = resolve(loaded.target, Strategy)  # type: ignore[type-abstract]
    stages = {name: loaded.stages[name].model for name in order(loaded)}
    recipe = [loaded.plan, loaded.sampler, loaded.options, loaded.nets, stages]
    shown = [HARNESS, GENERATED, kind.fingerprint()["name"], recipe, loaded.size, loaded.seed]
    settings = content_hash([*shown, _width(loaded)])
    return Case(f"{strategy} generates", kind, settings, loaded, None, _classes(loaded))


def _generation(loaded: Config) -> dict[str, float]:
    """The numbers of a short video."""
    kind = assemble.check(loaded)
    nets: dict[str, nn.Module] = {}
    for role, stage in loaded.nets.items():
        nets[role] = _awake(_found(_built(loaded, stage))).net.eval()
    setting = StageContext(loaded.size, _width(loaded), seed=loaded.seed)
    made = kind(nets, setting, plan=loaded.plan, sampler=loaded.sampler, **loaded.options)
    asked = request(GENERATED, loaded.size, _width(loaded))
    frames = torch.cat(list(generate(made, asked).chunks)).double() / 255
    onto = np.random.default_rng(5).standard_normal((4, frames.numel()), np.float32)
    found = torch.from_numpy(onto).double() @ frames.flatten() / frames.numel() ** 0.5
    return {
        "mean": float(frames.mean()),
        "deviation": float(frames.std()),
        **{f"projection {i}": float(value) for i, value in enumerate(found)},
    }


# What all stages share


def _draws() -> dict[str, float]:
    """Clips, windows, portraits and colours of some batches."""
    with tempfile.TemporaryDirectory() as folder:
        root = toy.make_root(Path(folder), lengths=(9, 14, 12, 10, 13, 11), splits="tttttt")
        data = DataConfig("toy", str(root), "toy")
        draw = DrawConfig([8, 12], jitter=[0.2, 0.1, 0.1, 0.0], least=6)
        made = ClipData(data, draw, 4, size=toy.SIZE, seed=3)
        made.prepare_data()
        shown = [made.dataset("train").batch(k, range(4)) for k in range(6)]
    places = [(k + 1) * float(b.frames.double().sum()) for k, b in enumerate(shown)]
    who = [float((b.pose[:, 0, 0] // 100 * torch.arange(1, 5)).sum()) for b in shown]
    return {
        "frames": sum(places),
        "clips": sum((k + 1) * clips for k, clips in enumerate(who)),
        "portraits": float(sum(b.source_frame.double().sum() for b in shown)),
        "colours": float(np.mean([b.video.double().mean() for b in shown])),
    }


def _trainer() -> dict[str, float]:
    """Weights and averages after some steps, with a warm-up, clipping and accumulation."""
    with tempfile.TemporaryDirectory() as folder:
        root = toy.make_root(Path(folder) / "data")
        made = toy.config(root, Path(folder) / "runs", max_steps=6, clip=0.1)
        made.trainer.accumulate, made.trainer.progress = 2, False
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            run = fit.fit_stage(made, "toy")
        saved = torch.load(run.last, weights_only=True)
    averaged, current = _determined(saved["state_dict"]), _determined(saved["current_model_state"])
    return {
        **{f"averaged {k}": norm(iter([v])) for k, v in averaged.items()},
        "current": norm(iter(current.values())),
    }


def _determined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights and statistics, without a bias that a batch norm takes out again.

    Its gradient is rounding alone, of which Adam makes whole steps, on each processor others.
    """
    numbers = {k: v for k, v in state.items() if v.is_floating_point()}
    return {k: v for k, v in numbers.items() if k not in ("net.0.bias", "net.1.running_mean")}


SHARED: Mapping[str, Callable[[], dict[str, float]]] = {"draws": _draws, "trainer": _trainer}
"""Cases of what all stages share, whose version is ``Stage``'s."""


# Recording


def main(words: list[str]) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.fingerprints")
    parser.add_argument("names", nargs="*", metavar="NAME", help="these cases alone")
    parser.add_argument("--large", action="store_true", help="those of make test-paper as well")
    parser.add_argument("--check", action="store_true", help="compare, and record nothing")
    given = parser.parse_args(words)
    record, refused = read(), False
    if unknown := [name for name in given.names if name not in cases()]:
        parser.error(f"there is no case {unknown[0]!r}: it is one of {', '.join(cases())}")
    chosen = given.names or [n for n in cases() if given.large or n not in LARGE]
    for name in chosen:
        case, known = cases()[name], record.get(name)
        values = case.values()
        own = {"versions": case.versions, "settings": case.settings}
        text = verdict(case, known, values)
        if text and given.check:
            print(text)
            refused = True
        elif text and known and own == {key: known[key] for key in own}:
            print(f"refused: {text}")
            refused = True
        elif text:
            record[name] = {**own, "values": {k: float(f"{v:.8g}") for k, v in values.items()}}
            print(f"recorded: {name}")
    if given.check:
        return int(refused)
    kept = {name: record[name] for name in sorted(record) if name in cases()}
    RECORD.write_text(json.dumps(kept, indent=1) + "\n")
    return int(refused)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1:]))
