"""What a configuration holds: every key of a strategy's YAML with its type and default."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

SCALES = ("paper", "small", "tiny")
"""Sizes of networks, from the largest. A strategy has those that its ``scales:`` block names."""
SHIPPED_SCALE = "small"
"""That of the weights that come with thbench."""
WEIGHTS = ("auto", "runs", "zoo")
"""Where trained stages are taken from to generate, as ``Config.weights`` says."""


PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
"""What networks can generate in."""


TRAINING_PRECISIONS = (
    *(*PRECISIONS, "16-true", "bf16-true", "64-true", "transformer-engine"),
    *("transformer-engine-float16", "16", "bf16", "32", "64"),
)
"""What networks can be trained in, as Lightning names it."""


DECODERS = ("pyav", "decord")
"""What frames of prepared clips can be read with at random; both give the same pixels."""


@dataclass
class OptimConfig:
    """An optimiser and its learning rate over time.

    ``schedule`` is ``constant`` or ``cosine``: after ``warmup`` steps the rate falls along half a
    cosine to ``floor`` times ``lr`` at ``decay_steps`` and stays there. ``decay_steps`` belongs to
    the recipe, not to how long one trains, so training longer continues the same run.
    """

    name: str = "adam"
    lr: float = 2e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: int = 0
    decay_steps: int | None = None
    floor: float = 0.0


@dataclass
class DrawConfig:
    """How a stage draws training samples from clips.

    ``frames`` is the number of consecutive frames, or ``[least, most]``, drawn once per batch.
    ``source`` is where the portrait comes from: ``first`` of those frames, ``opening`` (the clip's
    first frame with a face, always), a ``random`` frame of the clip, or any ``other`` than those
    frames. ``jitter`` is colour jitter (brightness, contrast, saturation, hue), one draw per
    sample, the same for all its frames. With ``video: false`` no frame is decoded: the batch has
    pose, eyes, landmarks and audio only. ``context`` frames are shown on either side as well;
    beyond the clip's ends its first or last frame is shown again, and ``Batch.frames`` says so.

    A clip needs all ``frames`` unless ``least`` says how few will do. Shorter clips are then shown
    whole: clips of like length share a batch, whose frames are as many as its shortest clip has.
    """

    frames: Any = 1
    source: str = "random"
    jitter: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])
    video: bool = True
    context: int = 0
    least: int | None = None


@dataclass
class StageConfig:
    """One thing that is trained.

    ``batch_size`` is the global one, over all devices and accumulation. ``clip`` is the gradient
    norm, 0 for none. ``ema`` is the decay of the averaged weights, 0 for none.
    """

    target: str = ""
    needs: list[str] = field(default_factory=list)
    init_from: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    draw: DrawConfig = field(default_factory=DrawConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    batch_size: int = 8
    max_steps: int = 1000
    clip: float = 0.0
    ema: float = 0.0
    precision: str | None = None


@dataclass
class DataConfig:
    """A prepared data set. ``root`` holds manifest.jsonl; ``audio`` names the audio encoder.

    Decoded frames of a split are kept where they fit in ``cache_gb`` gigabytes; a larger split is
    decoded on demand. They and other caches lie in the folder ``cache``, else in that of
    ``$THBENCH_CACHE``, else in ``<root>/cache``, or in ``~/.cache/thbench/data`` where ``root``
    cannot be written. ``decoder`` is what decodes on demand, ``pyav`` or ``decord``; the pixels are
    the same, so it is no part of what names a run.
    """

    name: str = ""
    root: str = ""
    audio: str = "logmel"
    cache_gb: float = 8.0
    cache: str | None = None
    decoder: str = "pyav"


@dataclass
class TrainerConfig:
    """How training and generation run. ``precision`` is training's, and the only key that changes
    what is learned, so only it is hashed; generation's own is ``sampler.precision``.

    ``threads`` are torch's on the CPU, null for its own choice. A tiny net's step took
    as long with two as with one, and loader workers want a core too. ``frames_per_call`` is the
    memory that generation may take, counted in frames of one network call: windows of a round that
    are more go in several calls, with the same result; a window is never split.
    A validation, ``validate_batches`` global batches every ``validate_every`` steps, takes a second
    forward pass for stages that hear (``val/heard``).
    """

    accelerator: str = "auto"
    devices: Any = "auto"
    nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    accumulate: int = 1
    workers: int = 2
    threads: int | None = None
    frames_per_call: int | None = 512
    checkpoint_every: int = 200
    validate_every: int = 400
    validate_batches: int = 8
    log_every: int = 20
    sample_every: int = 400
    progress: bool = True
    compile: bool = False


@dataclass
class SamplerConfig:
    """The sampler: step count from pure noise to clean, DDIM's eta, spacing, thresholding.

    ``threshold`` is the percentile of dynamic thresholding (Imagen) of the predicted clean value,
    per window, 0 for a plain clamp, or null; ``bound`` is the value below which a threshold never
    falls. ``precision`` is that of the networks while they generate, whatever they were trained in.
    """

    steps: int = 20
    eta: float = 1.0
    spacing: str = "linspace"
    threshold: float | None = None
    bound: float = 1.0
    precision: str = "32-true"


@dataclass
class TrackingConfig:
    """Loggers. CSV is always on. ``logger`` is what else follows a run: ``wandb``, ``tensorboard``
    or ``mlflow``. ``wandb`` is ``auto`` (online with a key, else off), ``online``, ``offline`` or
    ``off``. W&B groups runs by data, of evaluations also by protocol, where ``group`` names none;
    an evaluation shows it the videos of so many clips as ``videos`` says.
    """

    logger: str = "wandb"
    wandb: str = "auto"
    project: str = "thbench"
    group: str | None = None
    videos: int = 8


@dataclass
class EvalConfig:
    """What ``thbench eval`` generates; how it is scored stands in the protocol.

    Without a ``protocol``, synthetic data is scored by ``synthetic``, recordings by the strategy's
    own.
    ``data`` is a prepared data set other than the one trained on; without a root, that one.
    ``seeds``, different whole numbers from 0 on, take the place of the protocol's.
    ``timing: false`` leaves out all times, the protocol's measurement of time and memory among
    them: for a machine that does other work beside. ``by`` is a column of the manifest, within
    whose values metrics are also summed up.
    """

    data: DataConfig = field(default_factory=DataConfig)
    protocol: str | None = None
    split: str = "test"
    limit: int | None = None
    frames: int | None = None
    seeds: Any = None
    watermark: bool = False
    timing: bool = True
    by: str | None = None


@dataclass
class Config:
    """A strategy, whole.

    ``nets`` maps the roles of the strategy's networks to the stages that train them, null for a
    role that nobody plays; ``options`` are the strategy's own switches; ``protocol`` is that of its
    paper; ``demo`` holds the steps of each stage in ``thbench demo``, which leaves a strategy out
    where it is empty.

    ``weights`` says where trained stages are taken from. ``auto``: the user's own runs, and where
    there is none the weights that are shipped for the same hash. ``runs``: own runs alone. ``zoo``:
    shipped weights alone, those with the same settings, whatever data set ``data`` names. ``fit``
    trains all stages anew, but with ``zoo``: it takes those that are shipped for the same hash.
    """

    strategy: str = ""
    title: str = ""
    paper: str = ""
    scale: str = "tiny"
    target: str = ""
    size: int = 128
    seed: int = 0
    runs: str = "runs"
    results: str = "leaderboards/results"
    stages: dict[str, StageConfig] = field(default_factory=dict)
    nets: dict[str, str] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=lambda: {"name": "nar"})
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    options: dict[str, Any] = field(default_factory=dict)
    protocol: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    demo: dict[str, int] = field(default_factory=dict)
    weights: str = "auto"

    @property
    def eval_data(self) -> DataConfig:
        """The data set that is generated and scored, with the audio encoder of the trained nets."""
        chosen = self.eval.data
        if not chosen.root:
            return self.data
        return replace(chosen, audio=self.data.audio, cache=chosen.cache or self.data.cache)
