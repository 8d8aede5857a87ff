# /// script
# requires-python = ">=3.11"
# dependencies = ["lm-eval[api]==0.4.13", "transformers==5.24.0"]
#
# [tool.uv]
# exclude-newer = "2026-11-28T00:00:00Z"
# ///
"""EleutherAI's harness, by its command line: multiple choice and generation, on a task of two questions."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

ROWS = [{"question": "Hi", "choices": ["a", "b"], "answer": 0}, {"question": "Say", "choices": ["c", "d"], "answer": 1}]
CHOICE = """
task: two_choices
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""
GENERATE = """
task: two_texts
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["!"], max_gen_toks: 20}
metric_list: [{metric: exact_match}]
"""
SERVER, MODEL = os.environ["OPENAI_BASE_URL"], os.environ["MODEL"]

with tempfile.TemporaryDirectory() as directory:
    rows = Path(directory, "rows.jsonl")
    rows.write_text("\n".join(map(json.dumps, ROWS)))
    for name, text in (("choice", CHOICE), ("generate", GENERATE)):
        Path(directory, f"{name}.yaml").write_text(text.replace("ROWS", str(rows)))

    def evaluate(kind: str, route: str, tasks: str, *more: str) -> None:
        where = f"model=llm,base_url={SERVER}/{route},tokenizer={MODEL},num_concurrent=1,max_length=512"
        command = ["lm-eval", "run", "--model", kind, "--model_args", where, "--tasks", tasks, *more]
        environment = {**os.environ, "HF_HOME": directory, "HF_DATASETS_OFFLINE": "0"}
        done = subprocess.run([*command, "--include_path", directory], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert tasks.split(",")[0] in done.stdout, done.stdout

    evaluate("local-completions", "completions", "two_choices,two_texts")
    evaluate("local-chat-completions", "chat/completions", "two_texts", "--apply_chat_template")
