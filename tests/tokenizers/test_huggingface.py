import json
import subprocess
import sys

import pytest
from transformers import AutoTokenizer

from llm_jax.errors import TokenizerError
from llm_jax.tokenizers import HFTokenizer, load_tokenizer

SAMPLES = ["Once upon a time", " two spaces  and a tab\t", "漢字 é 👩\u200d🚀", "", "<s> and </s>", "line\nline"]


def test_same_ids_and_text_as_transformers(any_tokenizer, texts, tmp_path):
    any_tokenizer.save_pretrained(tmp_path)
    oracle = AutoTokenizer.from_pretrained(tmp_path)
    loaded = HFTokenizer.from_pretrained(tmp_path)
    for text in SAMPLES + texts[:20]:
        ids = oracle.encode(text, add_special_tokens=False)
        assert loaded.encode(text) == any_tokenizer.encode(text) == ids
        assert loaded.decode(ids) == oracle.decode(ids, skip_special_tokens=True)
    for role in ("bos", "eos", "pad"):
        assert getattr(loaded, f"{role}_token_id") == getattr(oracle, f"{role}_token_id")
    assert loaded.vocab_size == len(oracle)


def test_special_tokens_may_be_objects(sentencepiece):
    assert sentencepiece.special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert sentencepiece.eos_token_id == 2
    assert sentencepiece.pad_token_id is None


def test_padding_and_truncation_stored_in_the_file_do_not_touch_encode(bpe, tmp_path):
    bpe.save(tmp_path / "tokenizer.json")
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    spec["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    text = "a longer text than three tokens"
    assert HFTokenizer.from_pretrained(tmp_path).encode(text) == bpe.encode(text)


def test_vocab_size_covers_the_highest_id(bpe, tmp_path):
    bpe.save(tmp_path / "tokenizer.json")
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    del spec["model"]["vocab"]["\u00ff"]  # a byte that no merge uses: its id is now a gap
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    assert HFTokenizer.load(tmp_path).vocab_size == bpe.vocab_size


def test_an_older_layout_is_read_through_transformers(bpe, tmp_path):
    model = json.loads(bpe._backend.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    for loaded in (HFTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)):
        assert loaded.encode("Hello, world") == bpe.encode("Hello, world")
        assert loaded.eos_token_id == bpe.eos_token_id


def test_the_custom_code_of_a_tokenizer_is_not_run(tmp_path):
    trap = tmp_path / "executed"
    (tmp_path / "code.py").write_text(f"open({str(trap)!r}, 'w')")
    config = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "code.Own"]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match="custom code"):
        load_tokenizer(tmp_path)
    assert not trap.exists()


def test_a_local_directory_does_not_import_transformers(bpe, tmp_path):
    bpe.save_pretrained(tmp_path)
    code = (
        "import sys; from llm_jax.tokenizers import HFTokenizer, load_tokenizer; "
        "HFTokenizer.from_pretrained(sys.argv[1]); load_tokenizer(sys.argv[1]); print('transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_chat_templates_are_read_from_every_file_that_may_hold_them(bpe, tmp_path):
    bpe.save_pretrained(tmp_path)
    config_path = tmp_path / "tokenizer_config.json"
    plain = json.loads(config_path.read_text())
    config_path.write_text(json.dumps(plain | {"chat_template": "inline"}))
    assert load_tokenizer(tmp_path).chat_template == "inline"

    named = [{"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}]
    config_path.write_text(json.dumps(plain | {"chat_template": named}))
    loaded = load_tokenizer(tmp_path)
    assert loaded.chat_template == {"default": "one", "tool_use": "two"}

    loaded.save_pretrained(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").chat_template == loaded.chat_template
    assert AutoTokenizer.from_pretrained(tmp_path / "again").chat_template == loaded.chat_template


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "a JSON object"),
        (b"{}", "cannot be read"),
        (b"\xff", "not text"),
        (None, "no tokenizer at"),
    ],
)
def test_an_unreadable_tokenizer_is_a_tokenizer_error(content, message, tmp_path):
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path)


def test_an_empty_directory_is_no_tokenizer(tmp_path):
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        HFTokenizer.from_pretrained(tmp_path)
