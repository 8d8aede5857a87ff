"""Losses, optimiser, one jitted step, the loop around it, and the sinks of its metrics."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llm_jax.training.config import (
    SECTIONS,
    CheckpointConfig,
    DataConfig,
    DistillationConfig,
    DistributedConfig,
    LoggingConfig,
    MeshConfig,
    ModelSection,
    OptimizationConfig,
    PreferenceConfig,
    Setting,
    TaskName,
    TrainConfig,
    TrainingConfig,
    load_train_config,
    write_config,
)

if TYPE_CHECKING:
    from llm_jax.training.footprint import compiled_beforehand
    from llm_jax.training.optimizer import adamw
    from llm_jax.training.placement import join
    from llm_jax.training.run import TrainingResult, train
    from llm_jax.training.step import Loss, LossSums, TrainState, initial_state, make_train_step
    from llm_jax.training.tasks import TASKS, Task, next_token_loss

# Imported when they are asked for: a mistake in a configuration is to be reported before jax is imported.
_LATE = {
    "adamw": "optimizer",
    "compiled_beforehand": "footprint",
    "TrainingResult": "run",
    "join": "placement",
    "train": "run",
    "Loss": "step",
    "LossSums": "step",
    "TrainState": "step",
    "initial_state": "step",
    "make_train_step": "step",
    "TASKS": "tasks",
    "Task": "tasks",
    "next_token_loss": "tasks",
}

__all__ = [
    "SECTIONS",
    "TASKS",
    "CheckpointConfig",
    "DataConfig",
    "DistillationConfig",
    "DistributedConfig",
    "LoggingConfig",
    "Loss",
    "LossSums",
    "MeshConfig",
    "ModelSection",
    "OptimizationConfig",
    "PreferenceConfig",
    "Setting",
    "Task",
    "TaskName",
    "TrainConfig",
    "TrainState",
    "TrainingConfig",
    "TrainingResult",
    "adamw",
    "compiled_beforehand",
    "initial_state",
    "join",
    "load_train_config",
    "make_train_step",
    "next_token_loss",
    "train",
    "write_config",
]


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
