"""What can be trained: data, parameters and a loss each."""

from llm_jax.training.config import TaskName
from llm_jax.training.tasks.answers import SupervisedTask
from llm_jax.training.tasks.distillation import DistillationTask
from llm_jax.training.tasks.language_model import LanguageModelTask
from llm_jax.training.tasks.losses import next_token_loss, squared_error, token_log_probs
from llm_jax.training.tasks.preference_task import PreferenceTask
from llm_jax.training.tasks.regression import RegressionTask, load_mlp
from llm_jax.training.tasks.task import Task, TaskBuilder

TASKS: dict[TaskName, TaskBuilder] = {
    "lm": LanguageModelTask.build,
    "sft": SupervisedTask.build,
    "dpo": PreferenceTask.build,
    "distill": DistillationTask.build,
    "regression": RegressionTask.build,
}

__all__ = [
    "TASKS",
    "DistillationTask",
    "LanguageModelTask",
    "PreferenceTask",
    "RegressionTask",
    "SupervisedTask",
    "Task",
    "TaskBuilder",
    "load_mlp",
    "next_token_loss",
    "squared_error",
    "token_log_probs",
]
