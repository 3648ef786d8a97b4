"""Configuration: a typed schema, YAML files, overrides and content hashes. No torch is imported."""

from thbench.config.hashing import content_hash, to_yaml
from thbench.config.loading import configs_root, find, load, names, read_data, read_yaml
from thbench.config.schema import (
    DECODERS,
    PRECISIONS,
    SCALES,
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

__all__ = [
    "DECODERS",
    "PRECISIONS",
    "SCALES",
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
    "read_data",
    "read_yaml",
    "to_yaml",
]
