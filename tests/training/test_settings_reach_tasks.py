"""Every setting of an objective reaches the task that is made of a configuration."""

import dataclasses
import json

import pytest

from llm_jax import demo
from llm_jax.training import Setting, load_train_config
from llm_jax.training.tasks import TASKS

OTHER = {  # than the default, of every field of the sections
    "training.z_loss": 0.25,
    "preference.loss": "orpo",
    "preference.beta": 0.7,
    "preference.label_smoothing": 0.2,
    "distillation.temperature": 3.0,
    "distillation.weight": 0.4,
    "lora.rank": 3,
    "lora.alpha": 5.0,
    "lora.dropout": 0.125,
}
RECORD = {"prompt": "Tom saw", "completion": " a ball", "chosen": " a ball", "rejected": " a moon", "text": "Tom ran."}


@pytest.mark.parametrize("name", ["lm", "sft", "dpo", "distill"])
def test_every_setting_reaches_its_task(name, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps(RECORD | {"text": f"Tom ran {i}."}) for i in range(4)))
    given = [f"{key}={value}" for key, value in OTHER.items()]
    given += [f"model.init_from={demo.PATH}", f"data.dataset_path={data}", f"data.cache_dir={tmp_path}"]
    given += [f"distillation.teacher={demo.PATH}", "data.max_seq_len=32"]
    config = load_train_config(environ={}, overrides=[Setting.parse(flag, "test") for flag in given])
    task = TASKS[name](config, None)
    assert task.settings == config.training
    assert task.start.lora == config.lora
    assert task.start.adapter.dropout == OTHER["lora.dropout"]
    assert {(module.rank, module.scale) for module in task.start.adapter.modules} == {(3, 5 / 3)}
    for section in {"dpo": ["preference"], "distill": ["distillation"]}.get(name, []):
        assert getattr(task, section) == getattr(config, section)
        changed = {field.name for field in dataclasses.fields(getattr(config, section))}
        assert changed - {"teacher"} == {key.split(".")[1] for key in OTHER if key.startswith(section)}
