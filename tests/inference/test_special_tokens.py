"""Prompts with the special tokens that their tokenizer adds, completions without the prompt's end, stop strings."""

import json
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from llm_jax.config import ModelConfig
from llm_jax.evaluation import evaluate_text
from llm_jax.inference import (
    Conversation,
    SamplingParams,
    TextStream,
    TokenEvent,
    batch_generate,
    generate,
    prepare_request,
    stream_generate,
)
from llm_jax.model import Model
from llm_jax.tokenizers import CharacterTokenizer, HFTokenizer
from tests.compiled import forward

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LETTERS = ["▁", *"abcdefghijklmnopqrstuvwxyz"]


def llama_like(*, add_bos: bool = True) -> HFTokenizer:
    """A tokenizer like Llama 2's: ▁ before a text, bytes for what it has no letters for, a BOS."""
    vocab = {token: index for index, token in enumerate([*SPECIAL, *BYTES, *LETTERS])}
    backend = Backend(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    if add_bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    template = "<s>{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
    return HFTokenizer(backend, {"bos_token": "<s>", "eos_token": "</s>"}, template)


TOKENIZER = llama_like()


def always(token: str, after: str | None = None) -> Model:
    """A model whose likeliest next token is always the same; another one `after` that one."""
    config = ModelConfig(
        vocab_size=TOKENIZER.vocab_size, hidden_size=8, num_layers=1, num_heads=1, max_seq_len=64, positions="none",
        norm="rms_norm", lm_head_bias=True, dropout=0.0,
    )  # fmt: skip
    params = {name: np.zeros_like(value) for name, value in Model.init(config).params.items()}
    first = TOKENIZER._backend.token_to_id(token)
    params["lm_head.bias"][first] = 1.0
    if after is not None:
        params["embedding_layer.token_embeddings.weight"][first, 0] = 1.0
        params["final_norm.weight"] = np.ones_like(params["final_norm.weight"])
        params["lm_head.weight"][TOKENIZER._backend.token_to_id(after), 0] = 5.0
    return Model(config, params)


def prompt_ids(prompt: str, **options: Any) -> tuple[int, ...]:
    sampling = SamplingParams(max_new_tokens=options.pop("new", 4))
    return prepare_request(always("a").config, TOKENIZER, prompt, sampling, truncate=True, **options).prompt_ids


def test_a_raw_prompt_gets_the_bos_that_its_tokenizer_adds_and_one_option_turns_it_off() -> None:
    whole, plain = TOKENIZER.encode_with_special_tokens("abc"), TOKENIZER.encode("abc")
    assert whole == [1, *plain]
    assert prompt_ids("abc") == tuple(whole)
    assert prompt_ids("abc", add_special_tokens=False) == tuple(plain)
    assert prompt_ids("") == (1,)


def test_the_bos_of_a_prompt_that_is_too_long_stays_before_its_right_end() -> None:
    prompt = "abcdefghij" * 9
    ids = prompt_ids(prompt)
    assert len(ids) == 60
    assert ids == (1, *TOKENIZER.encode(prompt)[-59:])


@pytest.mark.parametrize("face", [generate, batch_generate, stream_generate])
def test_every_face_has_the_option(face: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model repeats its first token but one: with a BOS that is another one than without."""
    model = after_bos()
    for option, expected in ((True, "z"), (False, "a")):
        prompts = ["b"] if face is batch_generate else "b"
        texts = face(model, TOKENIZER, prompts, 1, 0.0, add_special_tokens=option)
        text = "".join(texts)
        assert text[-1] == expected


def after_bos() -> Model:
    """Says z where a BOS is in its context, else a: attention spreads evenly and carries what the BOS embeds."""
    config = ModelConfig(
        vocab_size=TOKENIZER.vocab_size, hidden_size=8, num_layers=1, num_heads=1, max_seq_len=64, positions="none",
        norm="rms_norm", lm_head_bias=True, qkv_bias=False, dropout=0.0,
    )  # fmt: skip
    params = {name: np.zeros_like(value) for name, value in Model.init(config).params.items()}
    token = TOKENIZER._backend.token_to_id
    params["embedding_layer.token_embeddings.weight"][token("<s>"), 0] = 1.0
    params["transformer_blocks.0.norm1.weight"] += 1.0
    params["final_norm.weight"] += 1.0
    params["transformer_blocks.0.self_attn.qkv_proj.weight"][16, 0] = 1.0
    params["transformer_blocks.0.self_attn.out_proj.weight"][0, 0] = 1.0
    params["lm_head.bias"][token("a")] = 1.0
    params["lm_head.weight"][token("z"), 0] = 5.0
    return Model(config, params)


def test_a_chat_prompt_gets_what_its_template_writes_and_no_second_bos() -> None:
    conversation = Conversation(always("a"), TOKENIZER, SamplingParams(max_new_tokens=2, temperature=0.0))
    conversation.messages.append({"role": "user", "content": "hi"})
    ids = conversation._fitting_request().prompt_ids
    assert ids[:2] == (1, 3)
    assert ids.count(1) == 1


def test_every_window_of_an_evaluation_begins_with_the_bos() -> None:
    """A plain version: each window of 8 alone, with a BOS in the place of its first token."""
    rng = np.random.default_rng(0)
    model = after_bos()
    params = {
        name: value + 0.3 * rng.standard_normal(value.shape).astype(np.float32) for name, value in model.params.items()
    }
    model = Model(model.config, params)
    text = "the quick brown fox jumps over the lazy dog"
    ids = TOKENIZER.encode_with_special_tokens(text)
    loss = 0.0
    for start in range(0, len(ids) - 1, 8):
        inputs = np.array([[1, *ids[start + 1 : start + 8]]], np.int32)[:, : len(ids) - 1 - start]
        logits = np.asarray(forward(model.config, model.params, inputs), np.float64)[0]
        for row, target in zip(logits, ids[start + 1 : start + 9], strict=False):
            loss += np.log(np.exp(row).sum()) - row[target]
    score = evaluate_text(model, TOKENIZER, text, window=8, stride=8)
    assert score.tokens == len(ids) - 1
    assert score.bytes == len(text)
    assert score.loss == pytest.approx(loss / (len(ids) - 1), rel=1e-4)
    assert evaluate_text(model, TOKENIZER, text, add_special_tokens=False).tokens == len(ids) - 2


@pytest.mark.parametrize("prompt", ["日本語", "ab 日本語", "ქართული ენა", "ภาษาไทย", "မြန်မာဘာသာ", "🙂", "x", ""])
def test_nothing_of_the_end_of_a_prompt_leaks_into_the_completion(prompt: str) -> None:
    assert generate(always("a"), TOKENIZER, prompt, 3, temperature=0.0) == prompt + "aaa"
    assert "".join(stream_generate(always("a"), TOKENIZER, prompt, 3, temperature=0.0)) == "aaa"


@pytest.mark.parametrize("cut", range(1, 10))
def test_a_prompt_of_ids_that_ends_within_a_character_leaves_the_rest_to_the_completion(cut: int) -> None:
    ids = TOKENIZER.encode("日本語a")
    stream = TextStream(TOKENIZER, prompt_ids=ids[:cut])
    events = [TokenEvent(token, finish="length" if at == len(ids) - 1 else None) for at, token in enumerate(ids)][cut:]
    whole_characters = (cut - 1) // 3  # ids[0] is ▁
    assert "".join(stream.push(event).text for event in events) == "日本語a"[whole_characters:]


@pytest.mark.parametrize("broken", [[0xE6], [0xE6, 0x97], [0xFF], [0x0A, 0xE6]])
def test_bytes_of_a_completion_that_are_no_text_are_one_sign_each(broken: list[int]) -> None:
    """They make the whole run of bytes invalid, that of the prompt included, of which nothing may be said again."""
    tokens = [5 + byte for byte in broken] + [TOKENIZER._backend.token_to_id("a")]
    stream = TextStream(TOKENIZER, prompt_ids=TOKENIZER.encode("日本語"))
    events = [TokenEvent(token, finish="length" if n == len(tokens) else None) for n, token in enumerate(tokens, 1)]
    assert "".join(stream.push(event).text for event in events) == "\ufffd" * len(broken) + "a"


@pytest.mark.parametrize("face", [generate, stream_generate])
def test_a_stop_string_that_is_a_special_token_ends_the_text_before_it(face: Any) -> None:
    model = always("a", after="<|im_end|>")
    assert "".join(face(model, TOKENIZER, "b", 9, 0.0, stop="<|im_end|>")).endswith("a")
    request = prepare_request(
        model.config, TOKENIZER, "b", SamplingParams(), truncate=True, stop=["<|im_end|>", "b", "</s>"]
    )
    assert request.sampling.stop_ids == (2, 4)


def test_ids_that_only_pad_the_vocabulary_leave_no_text() -> None:
    letters = CharacterTokenizer(["abc"])
    stream = TextStream(letters, prompt_ids=[0, 77])
    events = [TokenEvent(1), TokenEvent(99), TokenEvent(2, finish="length")]
    assert "".join(stream.push(event).text for event in events) == "bc"
    with pytest.raises(KeyError, match="99"):
        letters.decode([99])


def test_a_token_that_only_the_configuration_declares_is_one_id(tmp_path: Any) -> None:
    from transformers import AutoTokenizer

    backend = Backend(models.BPE(vocab={chr(33 + i): i for i in range(94)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(tmp_path / "tokenizer.json"))
    end = {
        "content": "<|im_end|>",
        "special": True,
        "normalized": False,
        "lstrip": False,
        "rstrip": False,
        "single_word": False,
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "added_tokens_decoder": {"94": end},
    }  # fmt: skip
    for name, content in (
        ("tokenizer_config.json", config),
        ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}),
        ("added_tokens.json", {"<|im_end|>": 94, "<tool>": 95}),
    ):
        (tmp_path / name).write_text(json.dumps(content))
        ours, theirs = HFTokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
        for text in ("ab<|im_end|>", "<tool>a<|im_end|>"):
            assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
            assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text), skip_special_tokens=True)
        assert ours.encode("<|im_end|>") == [ours.eos_token_id] == [theirs.eos_token_id]
        assert ours.vocab_size == len(theirs)
        ours.save_pretrained(tmp_path / "again")
        assert HFTokenizer.load(tmp_path / "again").encode("<|im_end|>") == [ours.eos_token_id]
