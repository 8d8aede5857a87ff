"""Losses, optimiser, one jitted step, the loop around it, and the sinks of its metrics."""

from llm_jax.training.config import (
    SECTIONS,
    CheckpointConfig,
    DataConfig,
    DistributedConfig,
    LoggingConfig,
    OptimizationConfig,
    Setting,
    TaskName,
    TrainConfig,
    TrainingConfig,
    load_train_config,
    write_config,
)
from llm_jax.training.optimizer import adamw
from llm_jax.training.run import TrainingResult, train
from llm_jax.training.step import Loss, LossSums, TrainState, initial_state, make_train_step
from llm_jax.training.tasks import Task, next_token_loss

__all__ = [
    "SECTIONS",
    "CheckpointConfig",
    "DataConfig",
    "DistributedConfig",
    "LoggingConfig",
    "Loss",
    "LossSums",
    "OptimizationConfig",
    "Setting",
    "Task",
    "TaskName",
    "TrainConfig",
    "TrainState",
    "TrainingConfig",
    "TrainingResult",
    "adamw",
    "initial_state",
    "load_train_config",
    "make_train_step",
    "next_token_loss",
    "train",
    "write_config",
]
