"""Configuration of a training run: the dataclasses, and their strict loader."""

from llm_jax.training.config.load import SECTIONS, Setting, load_train_config, write_config
from llm_jax.training.config.schema import (
    CheckpointConfig,
    DataConfig,
    DistributedConfig,
    LoggingConfig,
    OptimizationConfig,
    TaskName,
    TrainConfig,
    TrainingConfig,
)

__all__ = [
    "SECTIONS",
    "CheckpointConfig",
    "DataConfig",
    "DistributedConfig",
    "LoggingConfig",
    "OptimizationConfig",
    "Setting",
    "TaskName",
    "TrainConfig",
    "TrainingConfig",
    "load_train_config",
    "write_config",
]
