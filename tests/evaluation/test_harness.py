"""lm-evaluation-harness gives the same numbers in process, through the server, and on transformers.

It brings some forty packages, so that it is no part of the suite: `make test-lm-eval` installs it and runs this.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="make test-lm-eval installs lm-evaluation-harness")
pytestmark = [pytest.mark.filterwarnings("default")]

from click.testing import CliRunner  # noqa: E402
from lm_eval import simple_evaluate  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from cli.evaluate import main  # noqa: E402
from llm_jax.checkpoint import load_model, save_model  # noqa: E402
from llm_jax.config import ModelConfig  # noqa: E402
from llm_jax.evaluation import evaluate_tasks  # noqa: E402
from llm_jax.model import Model  # noqa: E402
from llm_jax.tokenizers import BPETokenizer  # noqa: E402

ROOT = Path(__file__).parents[2]
TASKS = ["local_choice", "local_rolling", "local_generate"]
WORDS = ["dog", "cat", "ball", "moon", "tree", "bread"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A model that transformers opens too, and three tasks in files: choices, a text's probability, an answer."""
    folder = tmp_path_factory.mktemp("harness")
    texts = [f"The {a} saw a {b} and the {c}." for a in WORDS for b in WORDS for c in WORDS]
    tokenizer = BPETokenizer.train(texts, 320)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64,
        max_seq_len=128, positions="rotary", norm="rms_norm", use_glu=True, activation="silu", qkv_bias=False,
        mlp_bias=False, lm_head_bias=False, dropout=0.0, embedding_scale=1.0,
    )  # fmt: skip
    model = Model.init(config, seed=1)
    model = Model(config, {name: value * (8 if "weight" in name else 1) for name, value in model.params.items()})
    save_model(folder / "model", model, tokenizer)
    rows = [
        {
            "question": f"The {a} saw a",
            "choices": [f" {b}", f" {c} and the {a}.", " x"],
            "gold": i % 3,
            "text": texts[5 * i] * (1 + i % 3),
        }
        for i, (a, b, c) in enumerate((a, b, c) for a in WORDS for b in WORDS[:3] for c in WORDS[3:5])
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    common = (
        "dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {rows}\ntest_split: test\n"
        "num_fewshot: 0\nmetadata:\n  version: 1\n"
    ).format(rows=folder / "rows.jsonl")
    choice = (
        "task: local_choice\noutput_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\n"
    )
    choice += "doc_to_target: gold\ntarget_delimiter: ''\nmetric_list:\n  - metric: acc\n  - metric: acc_norm\n"
    rolling = "task: local_rolling\noutput_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
    rolling += "metric_list:\n  - metric: word_perplexity\n  - metric: bits_per_byte\n"
    generate = "task: local_generate\noutput_type: generate_until\ndoc_to_text: '{{question}}'\n"
    generate += "doc_to_target: '{{choices[0]}}'\nmetric_list:\n  - metric: exact_match\n"
    generate += "generation_kwargs:\n  until: ['.']\n  max_gen_toks: 8\n  do_sample: false\n"
    (folder / "tasks").mkdir()
    for name, text in zip(TASKS, (choice, rolling, generate), strict=True):
        (folder / "tasks" / f"{name}.yaml").write_text(text + common)
    return folder


def harness(folder, model, **options):
    """What the harness measures with a model of its own, with each request's answer."""
    found = simple_evaluate(
        model=model,
        tasks=TASKS,
        task_manager=TaskManager(include_path=str(folder / "tasks")),
        bootstrap_iters=0,
        log_samples=True,
        **options,
    )
    answers = {name: [sample["filtered_resps"] for sample in found["samples"][name]] for name in TASKS}
    numbers = {
        task: {name.split(",")[0]: value for name, value in scores.items() if isinstance(value, float)}
        for task, scores in found["results"].items()
    }
    return numbers, answers


@pytest.fixture(scope="module")
def ours(workplace):
    from llm_jax.evaluation.harness_model import HarnessModel

    loaded = load_model(workplace / "model")
    return harness(workplace, HarnessModel(loaded.model, loaded.tokenizer))


def assert_same(first, second):
    for task in TASKS:
        assert first[1][task] == approximately(second[1][task]), task
        for name in ("acc", "acc_norm", "word_perplexity", "bits_per_byte", "exact_match"):
            if name in first[0][task]:
                assert first[0][task][name] == pytest.approx(second[0][task][name], rel=1e-4), (task, name)


def approximately(value):
    """Nested lists, whose numbers are near."""
    if isinstance(value, list | tuple):
        return type(value)(map(approximately, value))
    return pytest.approx(value, rel=1e-6, abs=1e-4) if isinstance(value, float) else value


def test_as_on_transformers(workplace, ours):
    from lm_eval.models.huggingface import HFLM

    assert_same(ours, harness(workplace, HFLM(str(workplace / "model"), dtype="float32", device="cpu", batch_size=8)))


def test_as_through_the_server(workplace, ours):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "cli.serve", "--model", str(workplace / "model"), "--port", str(port)]
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    server = subprocess.Popen([*command, "--dtype", "float32"], cwd=ROOT, env=environ)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.2)
        arguments = (
            f"model=llm,base_url=http://127.0.0.1:{port}/v1/completions,tokenizer={workplace / 'model'},"
            "tokenizer_backend=huggingface,max_length=126,num_concurrent=1,max_retries=1"
        )
        assert_same(ours, harness(workplace, "local-completions", model_args=arguments))
    finally:
        server.terminate()
        server.wait()


def test_the_command_prints_what_the_harness_measures(workplace, ours):
    arguments = ["--model", str(workplace / "model"), "--tasks", ",".join(TASKS), "--dtype", "float32", "--json"]
    result = CliRunner().invoke(main, [*arguments, "--tasks-path", str(workplace / "tasks")])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines() if line.startswith('{"model"')]
    assert [row["task"] for row in rows] == TASKS
    assert rows[0]["acc"] == pytest.approx(ours[0]["local_choice"]["acc"])
    assert 0 < rows[0]["acc"] < 1
    assert rows[1]["bits_per_byte"] == pytest.approx(ours[0]["local_rolling"]["bits_per_byte"])


def test_tasks_are_measured_in_training(workplace, tmp_path):
    from cli.train import main as train_command

    (tmp_path / "text.txt").write_text("\n\n".join(f"The {a} saw a {b}." for a in WORDS for b in WORDS))
    settings = [
        f"data.dataset_path={tmp_path / 'text.txt'}", f"data.cache_dir={tmp_path / 'cache'}", "data.max_seq_len=64",
        f"checkpoint.checkpoint_dir={tmp_path / 'run'}", f"logging.tasks_path={workplace / 'tasks'}",
        "logging.tasks=[local_choice]", "logging.tasks_limit=5", "logging.log_level=ERROR",
    ]  # fmt: skip
    arguments = ["--task", "lm", "--init-from", str(workplace / "model"), "--epochs", "1", "--device", "cpu"]
    result = CliRunner().invoke(train_command, [*arguments, *(f"--set={setting}" for setting in settings)])
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (epoch,) = [record for record in records if record["event"] == "epoch"]
    assert 0 <= epoch["local_choice/acc"] <= 1


def test_an_unknown_task_is_named(workplace):
    from llm_jax.errors import ConfigError

    loaded = load_model(workplace / "model")
    with pytest.raises(ConfigError, match=r"no task 'local_choise'. Did you mean 'local_choice'"):
        evaluate_tasks(loaded.model, loaded.tokenizer, ["local_choise"], path=workplace / "tasks")
