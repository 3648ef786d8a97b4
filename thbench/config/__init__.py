"""Configuration: a typed schema, YAML files, overrides and content hashes. No torch is imported."""

from thbench.config.hashing import content_hash, flatten, to_yaml
from thbench.config.loading import load, made_by, read_data, read_yaml, scales
from thbench.config.schema import (
    DECODERS,
    PRECISIONS,
    SCALES,
    SHIPPED_SCALE,
    TRAINING_PRECISIONS,
    WEIGHTS,
    Config,
    DataConfig,
    DrawConfig,
    EvalConfig,
    OptimConfig,
    SamplerConfig,
    StageConfig,
    TrackingConfig,
    TrainerConfig,
)
from thbench.config.search import configs_root, find, names, origin, package_of, searching

__all__ = [
    "DECODERS",
    "PRECISIONS",
    "SCALES",
    "SHIPPED_SCALE",
    "TRAINING_PRECISIONS",
    "WEIGHTS",
    "Config",
    "DataConfig",
    "DrawConfig",
    "EvalConfig",
    "OptimConfig",
    "SamplerConfig",
    "StageConfig",
    "TrackingConfig",
    "TrainerConfig",
    "configs_root",
    "content_hash",
    "find",
    "flatten",
    "load",
    "made_by",
    "names",
    "origin",
    "package_of",
    "read_data",
    "read_yaml",
    "scales",
    "searching",
    "to_yaml",
]
