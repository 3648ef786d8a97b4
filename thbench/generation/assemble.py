"""From a configuration to a strategy that can generate, and to a result of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from thbench import config as configs
from thbench.config import TRAINING_PRECISIONS, Config, StageConfig, content_hash
from thbench.core.errors import UserError, did_you_mean
from thbench.core.plugins import blame
from thbench.core.registry import resolve
from thbench.core.signatures import check_keys
from thbench.data.dataset import SOURCES
from thbench.diffusion.ddim import SPACINGS
from thbench.generation import plans
from thbench.generation.strategy import Strategy
from thbench.training.optim import check_optim
from thbench.training.runs import describe_weights, load_nets, locate, samples_seen
from thbench.training.stage import Stage, StageContext
from thbench.training.tracking import LOGGERS, MODES


@dataclass(frozen=True)
class Assembled:
    """A strategy with the trained networks that it was put together from.

    Attributes:
        strategy: ready to generate, on the CPU.
        config: what it was made from.
        metadata: what each stage's checkpoint says of itself, by role.
    """

    strategy: Strategy
    config: Config
    metadata: Mapping[str, Mapping[str, Any]]

    @property
    def run(self) -> str:
        """Names what determines this strategy's videos, given a request."""
        trained = {role: _content(own) for role, own in sorted(self.metadata.items())}
        config = self.config
        kind = resolve(config.target, Strategy).fingerprint()  # type: ignore[type-abstract]
        recipe = [kind, config.plan, asdict(config.sampler), config.options, trained]
        return f"{config.strategy}-{content_hash(recipe, 8)}"

    @property
    def samples_seen(self) -> int:
        """Training samples shown to its networks, those of stages they started from included."""
        found: dict[str, int] = {}
        for stage in set(self.config.nets.values()):
            found |= samples_seen(self.config, locate(self.config, stage))
        return sum(found.values())

    @property
    def weights(self) -> list[str]:
        """Which weights each stage has, in a few words: own run or shipped, and the steps."""
        by_stage = {own["stage"]: own for own in self.metadata.values()}
        return [describe_weights(self.config, by_stage[stage]) for stage in sorted(by_stage)]

    def zero_shot(self, n: int) -> list[str]:
        """How a plan of ``n`` frames goes beyond what the networks were trained for.

        A network that was trained on the windows of a plan says which; any other plan is beyond it.
        """
        asked = self.config.plan
        plan = plans.build(n=n, **asked)
        observed = max(len(window.observe) for window in plans.windows(plan))
        levels = plans.levels(plan)
        notes: dict[str, None] = {}
        for own in self.metadata.values():
            known = own.get("trained_for", {})
            trained = known.get("plan")
            if trained:
                if plans.filled(trained) != plans.filled(asked):
                    both = f"{plans.describe(asked)}, trained for {plans.describe(trained)}"
                    notes[f"zero-shot: plan {both}"] = None
                continue
            if "observed" in known and observed > known["observed"]:
                seen = known["observed"] or "none"
                notes[f"zero-shot: observes {observed} frames, trained with {seen} observed"] = None
            if known.get("levels") == "clip" and levels > 1:
                notes["zero-shot: a noise level per frame, trained with one for the clip"] = None
        return list(notes)


def assemble(config: Config) -> Assembled:
    """Load what is trained and put it together.

    Raises:
        UserError: a stage is not trained, or an option is wrong.
    """
    kind = check(config)
    trained, metadata = load_nets(config, sorted(set(config.nets.values())))
    nets: dict[str, nn.Module] = {role: trained[stage] for role, stage in config.nets.items()}
    dims = {own["audio_dim"] for own in metadata.values() if own["audio"]}
    context = StageContext(config.size, dims.pop() if dims else 0, seed=config.seed)
    options = {"plan": config.plan, "sampler": config.sampler, **config.options}
    strategy = kind(nets, context, **options)
    strategy.frames_per_call = config.trainer.frames_per_call
    by_role = {role: metadata[stage] for role, stage in config.nets.items()}
    return Assembled(strategy, config, by_role)


def check(config: Config) -> type[Strategy]:
    """The strategy's class, after checking all that can be checked before anything is trained.

    No network is built: keys and values are compared with what constructors say that they take
    (``thbench.core.signatures``).

    Raises:
        UserError: no such class, stage, plan, key or option, a value that cannot be, or steps that
            do not fit the plan.
    """
    package = configs.package_of(config.strategy)
    with blame(package, f"strategy '{config.strategy}'"):
        kind: type[Strategy] = resolve(config.target, Strategy)  # type: ignore[type-abstract]
        stages: dict[str, type[Stage]] = {
            name: resolve(stage.target, Stage)  # type: ignore[type-abstract]
            for name, stage in config.stages.items()
        }
    _check_roles(config, kind)
    for name, settings in config.stages.items():
        check_keys(stages[name], settings.model, f"stages.{name}.model", leading=1)
        _check_training(settings, f"stages.{name}")
    _check_settings(config)
    _check_plan(config)
    bind_options(kind, config.options)
    return kind


def _content(own: Mapping[str, Any]) -> tuple[Any, ...]:
    """What names a stage's weights. Half precision is other weights than those of the run."""
    halved = own.get("shipped") and own["dtype"] != "float32"
    return (own["hash"], own["steps"], *([own["dtype"]] if halved else []))


def _check_training(settings: StageConfig, where: str) -> None:
    _check_choice(f"{where}.draw.source", settings.draw.source, SOURCES)
    if settings.precision is not None:
        _check_choice(f"{where}.precision", settings.precision, TRAINING_PRECISIONS)
    try:
        check_optim(settings.optim)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _check_settings(config: Config) -> None:
    """Values of keys that the schema has, which networks do not see."""
    _check_choice("trainer.precision", config.trainer.precision, TRAINING_PRECISIONS)
    _check_choice("tracking.logger", config.tracking.logger, LOGGERS)
    _check_choice("tracking.wandb", config.tracking.wandb, MODES)
    budget = config.trainer.frames_per_call
    if budget is not None and budget < 1:
        raise UserError(f"trainer.frames_per_call must be 1 or more, or null, not {budget}.")
    sampler = config.sampler
    _check_choice("sampler.spacing", sampler.spacing, SPACINGS)
    if not 0 <= sampler.eta <= 1:
        raise UserError(f"sampler.eta must lie in [0, 1], not {sampler.eta}.")
    if sampler.threshold is not None and not 0 <= sampler.threshold <= 1:
        raise UserError(
            f"sampler.threshold must lie in [0, 1], or be null, not {sampler.threshold}."
        )


def _check_plan(config: Config) -> None:
    if "n" in config.plan:
        raise UserError("There is no key 'plan.n': a video is as long as its audio.")
    plans.steps_per_level(plans.build(n=1, **config.plan), config.sampler.steps)


def _check_choice(where: str, value: Any, known: Collection[str]) -> None:
    if value not in known:
        raise UserError(f"{where}={value} is not known.{did_you_mean(str(value), known)}")


def _check_roles(config: Config, kind: type[Strategy]) -> None:
    """Each role has a stage that trains such a network, as far as the classes say."""
    kind.check_roles(config.nets)
    wanted = kind.role_classes()
    for role, stage in config.nets.items():
        if stage not in config.stages:
            known = did_you_mean(stage, config.stages)
            raise UserError(
                f"nets.{role}={stage}: strategy '{config.strategy}' has no such stage.{known}"
            )
        trained = _network_class(config, stage)
        if role in wanted and not _may_be(trained, wanted[role]):
            fitting = [s for s in config.stages if _may_be(_network_class(config, s), wanted[role])]
            raise UserError(
                f"nets.{role}={stage}: {kind.__name__} needs the class"
                f" {wanted[role].__name__}, and stage '{stage}' trains {trained.__name__}. Set"
                f" nets.{role}=STAGE, one of"
                f" {', '.join(fitting) or 'none that this strategy has'}."
            )


def _network_class(config: Config, stage: str) -> type[nn.Module]:
    return resolve(config.stages[stage].target, Stage).network_class()  # type: ignore[type-abstract]


def _may_be(declared: type[nn.Module], wanted: type[nn.Module]) -> bool:
    """Whether a network declared as one class may be of another: as it, or more special."""
    return issubclass(declared, wanted) or issubclass(wanted, declared)


def bind_options(kind: type[Strategy], options: Mapping[str, Any]) -> None:
    """Check ``options:`` against what the strategy's constructor takes beyond the common part.

    Raises:
        UserError: an option that it does not know (with the nearest), misses or has no null for.
    """
    check_keys(kind, options, "options", leading=2, given=("plan", "sampler"))
