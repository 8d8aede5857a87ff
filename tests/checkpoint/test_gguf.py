"""GGUF: read back bit for bit, and run by llama.cpp itself with the same greedy tokens."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, trainers

from llm_jax.checkpoint import convert, load_model, open_model, save_model
from llm_jax.checkpoint.formats.gguf import architectures
from llm_jax.checkpoint.formats.gguf.architectures import ARCHITECTURES, ERNIE4_5, SEED_OSS, architecture_for
from llm_jax.errors import CheckpointError
from llm_jax.model import Model
from llm_jax.tokenizers import BPETokenizer, CharacterTokenizer, HFTokenizer, Tokenizer
from tests.checkpoint.families_of_transformers import GEMMA, LLAMA3, LONGROPE, MULTIPLIERS, SHAPES, YARN, make, save
from tests.checkpoint.gguf_files import opened_by_llama_cpp
from tests.compiled import forward

TEXT = ["the quick brown fox jumps over the lazy dog, and the dog sleeps on 🙂 日本 123 times"] * 3
TOKENIZER = BPETokenizer.train(TEXT, 300, chat_template="{{ messages }}")
GEMMA_HEADS = GEMMA | {"query_pre_attn_scalar": 12}
# Models that llama.cpp can compute: each of its architectures, with its variants.
COMPUTED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"num_key_value_heads": 2, "tie_word_embeddings": True, "attention_bias": True}),
    "llama, llama3 rope": ("llama", {"rope_parameters": LLAMA3}),
    "mistral": ("mistral", SHAPES["mistral", "no window"]),
    "mixtral": ("mixtral", SHAPES["mixtral", "one expert a token"]),
    "qwen2, yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3_moe": ("qwen3_moe", SHAPES["qwen3_moe", "renormalised"]),
    "gemma": ("gemma", {"head_dim": 12}),
    "gemma2": ("gemma2", GEMMA_HEADS | {"attn_logit_softcapping": 4.0, "final_logit_softcapping": 3.0}),
    "gemma3_text": ("gemma3_text", GEMMA_HEADS | {"num_hidden_layers": 6}),
    "phi3": ("phi3", {"rope_parameters": {"rope_theta": 300.0, "partial_rotary_factor": 0.5}}),
    "phi3, longrope": ("phi3", {
        "rope_parameters": LONGROPE, "original_max_position_embeddings": 16, "num_hidden_layers": 1,
    }),
    "gpt2": ("gpt2", {}),
    "starcoder2": ("starcoder2", {}),
    "smollm3": ("smollm3", {"num_hidden_layers": 4}),
    "granite": ("granite", MULTIPLIERS),
    "olmo2": ("olmo2", {"num_key_value_heads": 2}),
    "olmo3": ("olmo3", SHAPES["olmo3", "windows, yarn on full layers"] | {
        "rope_parameters": {
            "full_attention": YARN, "sliding_attention": {"rope_type": "default", "rope_theta": YARN["rope_theta"]},
        },
    }),
    "exaone4": ("exaone4", SHAPES["exaone4", "tied, no windows"]),
    "glm4": ("glm4", {"head_dim": 8}),
    "cohere": ("cohere", {"logit_scale": 0.3}),
    "cohere2": ("cohere2", SHAPES["cohere2", "windows"]),
    "arcee": ("arcee", {}),
    "nemotron": ("nemotron", {"mlp_bias": True}),
    "stablelm": ("stablelm", {}),
    "stablelm, parallel": ("stablelm", SHAPES["stablelm", "parallel, biases"]),
    "hunyuan": ("hunyuan_v1_dense", SHAPES["hunyuan_v1_dense", "plain"]),
    "phi": ("phi", {}),
    "gpt_neox": ("gpt_neox", {"hidden_act": "gelu_new", "rotary_pct": 0.5}),
    "gpt_neox, in turn": ("gpt_neox", {"hidden_act": "gelu_new", "use_parallel_residual": False}),
    "falcon": ("falcon", {"activation": "gelu_new"}),
    "falcon, new decoder": ("falcon", SHAPES["falcon", "new decoder"] | {"activation": "gelu_new"}),
    "qwen2_moe": ("qwen2_moe", SHAPES["qwen2_moe", "all sparse"] | {"shared_expert_intermediate_size": 32}),
    "olmoe": ("olmoe", SHAPES["olmoe", "plain"] | {"num_key_value_heads": 4}),
    "glm4_moe": ("glm4_moe", SHAPES["glm4_moe", "q/k norms"] | {"num_key_value_heads": 2}),
    "gpt_oss": ("gpt_oss", SHAPES["gpt_oss", "yarn"] | {"swiglu_limit": 7.0, "rope_parameters": YARN}),
    "ernie4_5": ("ernie4_5", SHAPES["ernie4_5", "tied"]),
    "seed_oss": ("seed_oss", SHAPES["seed_oss", "plain"]),
}  # fmt: skip
GELU = ("gemma", "gemma2", "gemma3_text", "gpt2", "starcoder2", "phi", "gpt_neox", "falcon")
# Those that another one computes too, which they are written as otherwise.
NAMED = {"ernie4_5": ERNIE4_5, "seed_oss": SEED_OSS}
every_computed = pytest.mark.parametrize("name", COMPUTED)


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A directory saved by transformers, with TOKENIZER in it."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            model_type, changes = COMPUTED[name]
            vocab = {"vocab_size": TOKENIZER.vocab_size + 3}  # padded, as in many models
            made[name] = save(make(model_type, changes | vocab), tmp_path_factory.mktemp("gguf") / "model")
            TOKENIZER.save_pretrained(made[name])
        return made[name]

    return get


@pytest.fixture(autouse=True)
def written_as_named(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    name = request.node.callspec.params.get("name") if hasattr(request.node, "callspec") else None
    if name in NAMED:
        monkeypatch.setattr(architectures, "ARCHITECTURES", (NAMED[name], *ARCHITECTURES))


def assert_same_bits(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype, name
        assert np.asarray(tensor).tobytes() == np.asarray(after[name]).tobytes(), name


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "float32") for name in COMPUTED),
        *product(("llama", "gemma2", "phi3", "gpt_oss"), ("float16", "bfloat16")),
    ],
)
def test_read_back_bit_for_bit(model_of: Any, tmp_path: Path, name: str, dtype: str) -> None:
    convert(open_model(model_of(name)), tmp_path / "source", dtype=dtype)
    convert(open_model(tmp_path / "source"), tmp_path / "model.gguf")
    source, back = open_model(tmp_path / "source"), open_model(tmp_path / "model.gguf")
    assert_same_bits(source.params, back.params)
    assert back.config.vocab_size == source.config.vocab_size
    assert back.tokenizer is not None
    assert back.tokenizer.vocab_size == TOKENIZER.vocab_size
    for text in [*TEXT, "unseen: ß\n\n  x"]:
        assert back.tokenizer.encode(text) == TOKENIZER.encode(text)
    assert back.tokenizer.chat_template == TOKENIZER.chat_template
    assert (back.tokenizer.eos_token_id, back.generation.eos_ids) == (TOKENIZER.eos_token_id, source.generation.eos_ids)


def test_q8_0_is_close_and_reads_back_as_written(model_of: Any, tmp_path: Path) -> None:
    source = open_model(model_of("qwen3"))
    convert(source, tmp_path / "a.gguf", dtype="q8_0")
    once = open_model(tmp_path / "a.gguf")
    name = "transformer_blocks.0.mlp.fc1.weight"
    exact, rounded = np.asarray(source.params[name]), np.asarray(once.params[name])
    # A block of 32 values shares a scale: its largest over 127. Rounding loses half a step, and that the scale is
    # stored in half precision loses 127 steps / 2^11 more.
    step = np.abs(exact.reshape(-1, 32)).max(-1, keepdims=True) / 127
    assert (np.abs(exact - rounded).reshape(-1, 32) <= 0.57 * step).all()
    convert(once, tmp_path / "b.gguf", dtype="float32")
    wide = {name: np.asarray(tensor, np.float32) for name, tensor in once.params.items()}
    assert_same_bits(wide, open_model(tmp_path / "b.gguf").params)
    convert(once, tmp_path / "c.gguf", dtype="q8_0")
    assert (tmp_path / "c.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gguf_file_converts_back_to_its_directory(model_of: Any, tmp_path: Path, dtype: str) -> None:
    convert(open_model(model_of("qwen2, yarn")), tmp_path / "first", dtype=dtype)
    convert(open_model(tmp_path / "first"), tmp_path / "model.gguf")
    convert(open_model(tmp_path / "model.gguf"), tmp_path / "back")
    first, back = (tmp_path / name / "model.safetensors" for name in ("first", "back"))
    assert first.read_bytes() == back.read_bytes()
    assert open_model(tmp_path / "first").config == open_model(tmp_path / "back").config


def test_every_architecture_is_tested(model_of: Any) -> None:
    configs = [open_model(model_of(name)).config for name in COMPUTED if name not in NAMED]
    seen = {architecture_for(config)[0].model_type for config in configs} | set(NAMED)
    assert seen == {architecture.model_type for architecture in ARCHITECTURES}


@every_computed
def test_llama_cpp_continues_with_the_same_tokens(model_of: Any, tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.gguf"
    convert(open_model(model_of(name)), path, dtype="float32")
    model = load_model(model_of(name)).model
    llama = opened_by_llama_cpp(path, model.config.max_seq_len)
    text = "the lazy dog, 12 日"
    prompt = TOKENIZER.encode(text)[:16]
    if name != "gpt2":
        assert llama.tokenize(text.encode(), add_bos=False, special=True) == TOKENIZER.encode(text)
    llama.eval(prompt)
    padded = np.array([prompt + [0] * (model.config.max_seq_len - len(prompt))], np.int32)
    logits = np.asarray(forward(model.config, model.params, padded))[0, : len(prompt)]
    # llama.cpp looks GELU up in a table of float16, which is what the families with GELU differ by.
    np.testing.assert_allclose(llama.scores[: len(prompt)], logits, atol=5e-3 if name.split(",")[0] in GELU else 1e-4)
    generated: list[int] = []
    for _ in range(10):
        generated.append(int(llama.scores[llama.n_tokens - 1].argmax()))
        llama.eval(generated[-1:])
    llama.close()
    assert generated == continue_greedily(model, prompt, 10)


def test_without_tokenizer_json_the_lists_of_llama_cpp_are_read(model_of: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    convert(open_model(model_of("qwen3")), path)
    path.write_bytes(path.read_bytes().replace(b"tokenizer.huggingface.json", b"tokenizer.somethingelse.js"))
    back = load_model(path).tokenizer
    assert back is not None
    assert back.eos_token_id == TOKENIZER.eos_token_id
    assert back.vocab_size == TOKENIZER.vocab_size, "the model's padding is not part of it"
    for text in [*TEXT, "unseen: ß\n\n  x<|endoftext|>"]:
        assert back.encode(text) == TOKENIZER.encode(text)


def sentencepiece_like() -> HFTokenizer:
    """A tokenizer.json like Llama 2's: spaces become ▁, unknown characters become bytes."""
    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.train_from_iterator(["the quick brown fox"] * 3, trainers.BpeTrainer(vocab_size=40, show_progress=False))
    content = json.loads(backend.to_str())
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    content["model"]["vocab"] = {token: i for i, token in enumerate([*first, *content["model"]["vocab"]])}
    content["model"]["byte_fallback"] = True
    content["added_tokens"] = [
        {
            "id": i,
            "content": first[i],
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for i in range(3)
    ]
    backend = Backend.from_str(json.dumps(content))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return HFTokenizer(backend, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


def test_llama_cpp_reads_a_tokenizer_like_sentencepiece(tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="the extra 'llama-cpp' is not installed")
    tokenizer = sentencepiece_like()
    model = make("llama", {"vocab_size": tokenizer.vocab_size})
    tokenizer.save_pretrained(save(model, tmp_path / "model"))
    convert(open_model(tmp_path / "model"), tmp_path / "model.gguf")
    llama = llama_cpp.Llama(str(tmp_path / "model.gguf"), n_ctx=28, n_threads=1, verbose=False, vocab_only=True)
    for text in ("the quick brown fox", "brown quick", "a 🙂 fox</s>"):
        assert llama.tokenize(text.encode(), add_bos=False, special=True) == tokenizer.encode(text)
    assert (llama.token_bos(), llama.token_eos()) == (1, 2)
    llama.close()
    back = load_model(tmp_path / "model.gguf").tokenizer
    assert back is not None
    assert back.encode("a 🙂 fox</s>") == tokenizer.encode("a 🙂 fox</s>")


def continue_greedily(model: Model, prompt: list[int], count: int) -> list[int]:
    tokens = np.zeros((1, model.config.max_seq_len), np.int32)
    tokens[0, : len(prompt)] = prompt
    for at in range(len(prompt), len(prompt) + count):
        tokens[0, at] = np.asarray(forward(model.config, model.params, tokens))[0, at - 1].argmax()
    return tokens[0, len(prompt) : len(prompt) + count].tolist()


@pytest.mark.parametrize("tokenizer", [CharacterTokenizer(TEXT), None], ids=["characters", "none"])
def test_tokenizers_that_llama_cpp_does_not_have_are_read_back(
    model_of: Any, tmp_path: Path, tokenizer: Tokenizer | None
) -> None:
    save_model(tmp_path / "model", load_model(model_of("llama")).model, tokenizer)
    convert(open_model(tmp_path / "model"), tmp_path / "model.gguf")
    back = load_model(tmp_path / "model.gguf").tokenizer
    if tokenizer is None:
        assert back is None
    else:
        assert isinstance(back, CharacterTokenizer)
        assert back.chars == tokenizer.chars


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (("mistral", "window"), r"The nearest, llama, differs in window_size \(here 5\)"),
        (("gpt2", "untied, relu"), r"gpt2, differs in activation \(here 'relu'\)"),
        (("gemma2", "soft caps"), r"gemma2, differs in attention_scale"),
    ],
)  # fmt: skip
def test_models_that_llama_cpp_does_not_compute_are_refused(tmp_path: Path, key: tuple[str, str], message: str) -> None:
    stored = open_model(save(make(key[0], SHAPES[key]), tmp_path / "model"))
    with pytest.raises(CheckpointError, match=message):
        convert(stored, tmp_path / "model.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_damaged_files_are_refused(model_of: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    convert(open_model(model_of("llama")), path)
    whole = path.read_bytes()
    for length in (4, 20, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"model\.gguf is damaged or cut short"):
            open_model(path)
    path.write_bytes(whole.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba", 1))
    with pytest.raises(CheckpointError, match="of the architecture 'mamba'; known ones are qwen2, llama"):
        open_model(path)


def test_types_that_no_matrix_has_are_refused_by_name(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((1, 32), np.int32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"token_embd\.weight as i32"):
        open_model(tmp_path / "x.gguf")
