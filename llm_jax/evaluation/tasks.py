"""Tasks of lm-evaluation-harness, in this process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_jax.errors import ConfigError, nearest
from llm_jax.model import Model, ModelDtype
from llm_jax.tokenizers import Tokenizer


def evaluate_tasks(
    model: Model,
    tokenizer: Tokenizer,
    tasks: Sequence[str],
    *,
    path: str | Path | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    use_chat_template: bool = False,
    dtype: ModelDtype = "float32",
    max_batch: int | None = None,
) -> dict[str, dict[str, Any]]:
    """The metrics of each task by name; needs the extra `lm-eval`.

    Args:
        tasks: names of the harness' tasks, groups and tags, or of those in `path`.
        path: a directory with tasks of one's own: YAML files as the harness reads them.
        num_fewshot: examples before each question; the task's own number unless given.
        limit: the most examples of each task.
        use_chat_template: ask by the tokenizer's chat template.

    Raises:
        ConfigError: lm-eval is not installed, or there is no such task.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        from llm_jax.evaluation.harness_model import HarnessModel
    except ImportError as error:
        raise ConfigError(f"Tasks need lm-evaluation-harness: install the extra 'lm-eval' ({error}).") from error
    manager = TaskManager(include_path=None if path is None else str(path))
    unknown = [name for name in tasks if name not in manager.all_tasks]
    if unknown:
        near = nearest(unknown[0], manager.all_tasks, 0.6)
        hint = f" Did you mean {near!r}?" if near else ""
        raise ConfigError(f"There is no task {unknown[0]!r}.{hint} Name the directory of your own with --tasks-path.")
    found = simple_evaluate(
        model=HarnessModel(model, tokenizer, dtype=dtype, max_batch=max_batch),
        tasks=list(tasks),
        task_manager=manager,
        num_fewshot=num_fewshot,
        limit=limit,
        apply_chat_template=use_chat_template,
        bootstrap_iters=0,
        log_samples=False,
    )
    return {name: _metrics(scores) for name, scores in found["results"].items()}


def _metrics(scores: dict[str, Any]) -> dict[str, Any]:
    """`acc,none` as `acc`; with a filter's name where there is one. Standard errors are left out."""
    metrics = {}
    for name, value in scores.items():
        metric, _, chosen = name.partition(",")
        if isinstance(value, int | float) and not metric.endswith("_stderr"):
            metrics[metric if chosen in ("", "none") else f"{metric} ({chosen})"] = value
    return metrics
