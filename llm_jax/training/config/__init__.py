"""Configuration of a training run: the dataclasses, and their strict loader."""

from llm_jax.training.config.durations import Duration
from llm_jax.training.config.load import SECTIONS, Setting, load_train_config, write_config
from llm_jax.training.config.model_section import ModelSection
from llm_jax.training.config.objectives import DistillationConfig, PreferenceConfig
from llm_jax.training.config.schema import (
    CheckpointConfig,
    DataConfig,
    DistributedConfig,
    LoggingConfig,
    MeshConfig,
    OptimizationConfig,
    TaskName,
    TrainConfig,
    TrainingConfig,
)

__all__ = [
    "SECTIONS",
    "CheckpointConfig",
    "DataConfig",
    "DistillationConfig",
    "DistributedConfig",
    "Duration",
    "LoggingConfig",
    "MeshConfig",
    "ModelSection",
    "OptimizationConfig",
    "PreferenceConfig",
    "Setting",
    "TaskName",
    "TrainConfig",
    "TrainingConfig",
    "load_train_config",
    "write_config",
]
