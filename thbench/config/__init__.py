"""Configuration: a typed schema, YAML files, overrides and content hashes. No torch is imported."""

from thbench.config.hashing import content_hash, to_yaml
from thbench.config.loading import load, read_data, read_yaml
from thbench.config.schema import (
    DECODERS,
    PRECISIONS,
    SCALES,
    TRAINING_PRECISIONS,
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
    "TRAINING_PRECISIONS",
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
    "load",
    "names",
    "origin",
    "package_of",
    "read_data",
    "read_yaml",
    "searching",
    "to_yaml",
]
