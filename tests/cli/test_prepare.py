"""`llm-prepare` shows what is stored, and removes it."""

import gc
import json

from click.testing import CliRunner

from cli.prepare import main
from llm_jax import demo


def test_stored_tokens_are_listed_and_cleared(tmp_path):
    (tmp_path / "corpus.txt").write_text("\n\n".join(f"The dog saw {i} balls." for i in range(50)))
    cache = ["--set", f"data.cache_dir={tmp_path / 'cache'}"]
    data = ["--set", f"data.dataset_path={tmp_path / 'corpus.txt'}", "--set", f"data.tokenizer_path={demo.PATH}"]

    def call(*flags):
        done = CliRunner().invoke(main, [*flags, *cache])
        gc.collect()  # what it has read is not in use any more
        return done

    assert call("--list").output.startswith("0 in ")
    made = call("--task", "lm", *data, "--set", "data.max_seq_len=16", "--json")
    assert made.exit_code == 0, made.output
    (stored,) = json.loads(call("--list", "--json").output)["shards"]
    assert stored["files"] == [str(tmp_path / "corpus.txt")]
    assert (stored["form"], stored["sequences"], stored["in_use"]) == ("text", 50, False)
    assert "corpus.txt" in call("--list").output
    assert call("--clear").output.startswith("1 removed, ")
    assert call("--list").output.startswith("0 in ")


def test_a_task_is_asked_for():
    done = CliRunner().invoke(main, [])
    assert done.exit_code == 2
    assert "Missing option '--task'" in done.output
