"""Tokenizers of GGUF files: llama.cpp's ids from its lists alone, and files from which llama.cpp has the same ids."""

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llm_jax.checkpoint import convert, open_model, save_model
from llm_jax.checkpoint.formats.gguf.pre_tokenizers import PRE_TOKENIZERS
from llm_jax.checkpoint.formats.gguf.tokenizer import read_generation, read_tokenizer
from llm_jax.checkpoint.formats.gguf.tokenizer_lists import CONTROL, UNKNOWN, USER_DEFINED, end_ids
from llm_jax.config import ModelConfig
from llm_jax.errors import CheckpointError
from llm_jax.model import Model
from llm_jax.tokenizers import HFTokenizer, Tokenizer, load_tokenizer
from tests.checkpoint.gguf_files import metadata_of, with_entries
from tests.real_models import GEMMA3, SMOLLM2, SPECIAL, TOKENIZERS, WORDS, real, texts

PREFIX = "tokenizer.ggml."
TEXTS = texts()
SHAPE = dict(
    hidden_size=32, num_layers=1, num_heads=1, positions="rotary", norm="rms_norm", use_glu=True, activation="silu",
    qkv_bias=False, mlp_bias=False, lm_head_bias=False, embedding_scale=1.0, tie_embeddings=True, dropout=0.0,
)  # fmt: skip


def write(tokenizer: Tokenizer, folder: Path) -> Path:
    """A GGUF file of a tiny model with this tokenizer."""
    config = ModelConfig(vocab_size=tokenizer.vocab_size, **SHAPE)
    save_model(folder / "model", Model.init(config), tokenizer)
    convert(open_model(folder / "model"), folder / "model.gguf")
    return folder / "model.gguf"


def from_lists(path: Path) -> Tokenizer:
    """The tokenizer as a file of another writer has it."""
    metadata = metadata_of(path)
    metadata.pop("tokenizer.huggingface.json", None)
    tokenizer = read_tokenizer(path, metadata)
    assert tokenizer is not None
    return tokenizer


@lru_cache
def opened(name: str) -> tuple[dict[str, Any], Tokenizer]:
    """Metadata and tokenizer of a real file."""
    metadata = metadata_of(real(name))
    tokenizer = read_tokenizer(real(name), metadata)
    assert tokenizer is not None
    return metadata, tokenizer


@pytest.fixture(scope="module")
def loaded() -> Callable[[str], Tokenizer]:
    """Real tokenizers: reading a large one takes seconds."""
    return lru_cache(lambda name: load_tokenizer(real(name)))


@pytest.fixture(scope="module")
def written(loaded: Callable[[str], Tokenizer], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A file with a real tokenizer, which takes longer still."""
    return lru_cache(lambda name: write(loaded(name), tmp_path_factory.mktemp(name)))


def vocabulary(path: Path) -> Any:
    llama_cpp = pytest.importorskip("llama_cpp", reason="the extra 'llama-cpp' is not installed")
    return llama_cpp.Llama(str(path), vocab_only=True, verbose=False)


def ids_of(llama: Any, text: str) -> list[int]:
    return llama.tokenize(text.encode(), add_bos=True, special=True)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_of_real_tokenizers_are_those_of_transformers(name: str, loaded: Callable[[str], Tokenizer]) -> None:
    # LlamaTokenizer of transformers 5 builds another normaliser than this tokenizer.json has, and drops a space.
    oracle = (PreTrainedTokenizerFast if name == "llama2" else AutoTokenizer).from_pretrained(real(name))
    tokenizer = loaded(name)
    for text in TEXTS:
        assert tokenizer.encode_with_special_tokens(text) == oracle.encode(text)
        ids = tokenizer.encode(text)
        assert ids == oracle.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("name", "ids"), [("llama3_1", [128000, 9906]), ("llama2", [1, 22557]), ("gemma3", [2, 9259]), ("qwen3", [9707])]
)
def test_hello_of_real_tokenizers(name: str, ids: list[int], loaded: Callable[[str], Tokenizer]) -> None:
    assert loaded(name).encode_with_special_tokens("Hello") == ids


def differs_in_llama_cpp(name: str, text: str) -> bool:
    """Texts whose ids in llama.cpp are not its tokenizer.json's, whatever a file says."""
    # Qwen's vocabulary has an ordinary token </s>, which llama.cpp takes for the end of a text.
    # Its pattern of gpt-4o has no combining marks: those of the last scripts, and the one after the flag.
    marks = ("हिन्दी", "မြန်မာ", "ไทย", "🏳️")
    return (name == "qwen3" and "</s>" in text) or (name == "gptoss" and any(mark in text for mark in marks))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_is_written_gives_llama_cpp_the_same_ids_and_is_read_back_from_its_lists(
    name: str, loaded: Callable[[str], Tokenizer], written: Callable[[str], Path]
) -> None:
    tokenizer, path = loaded(name), written(name)
    lists, llama = from_lists(path), vocabulary(path)
    for text in TEXTS:
        ids = ids_of(llama, text)
        assert lists.encode_with_special_tokens(text) == ids
        if not differs_in_llama_cpp(name, text):
            assert tokenizer.encode_with_special_tokens(text) == ids
    llama.close()


@pytest.mark.parametrize("name", [SMOLLM2, GEMMA3])
def test_real_files_have_the_ids_and_ends_of_llama_cpp(name: str) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="the extra 'llama-cpp' is not installed")
    llama, (metadata, tokenizer) = vocabulary(real(name)), opened(name)
    for text in TEXTS:
        assert tokenizer.encode_with_special_tokens(text) == ids_of(llama, text)
        assert tokenizer.encode(text) == llama.tokenize(text.encode(), add_bos=False, special=True)
    vocab = llama_cpp.llama_model_get_vocab(llama._model.model)
    ends = {index for index in range(llama.n_vocab()) if llama_cpp.llama_vocab_is_eog(vocab, index)}
    assert set(read_generation(metadata).eos_ids) == ends
    llama.close()


def test_gemmas_ids_are_those_of_sentencepiece(loaded: Callable[[str], Tokenizer]) -> None:
    """Runs of spaces and of newlines are tokens of its vocabulary, which SentencePiece finds before it merges.

    Of the readings of one vocabulary SentencePiece itself is right. Texts with control tokens are left out, which are
    plain text to it, and those with ▁, which it cannot tell from a space; all others are the same for llama.cpp's
    lists, for tokenizer.json and for SentencePiece.
    """
    sentencepiece = pytest.importorskip("sentencepiece")
    from sentencepiece import sentencepiece_model_pb2 as model_pb2

    metadata, lists = opened(GEMMA3)
    tokens, types = metadata[PREFIX + "tokens"], metadata[PREFIX + "token_type"]
    proto = model_pb2.ModelProto()
    proto.trainer_spec.model_type = model_pb2.TrainerSpec.BPE
    proto.trainer_spec.byte_fallback = True
    ids = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    for role, index in ids.items():
        setattr(proto.trainer_spec, role, index)
    proto.normalizer_spec.CopyFrom(
        model_pb2.NormalizerSpec(name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False)
    )
    for token, score, type_ in zip(tokens, metadata[PREFIX + "scores"], types, strict=True):
        # A GGUF file has user-defined tokens as the text that they stand for.
        piece = token.replace(" ", "▁") if type_ == USER_DEFINED else token
        proto.pieces.add(piece=piece, score=score, type=type_)
    oracle = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())

    controls = [token for token, type_ in zip(tokens, types, strict=True) if type_ in (CONTROL, UNKNOWN)]
    special = ["▁", *(token for token in controls if token in SPECIAL)]
    plain = [text for text in TEXTS if not any(token in text for token in special)]
    assert len(plain) > 100
    tokenizer = loaded("gemma3")
    assert oracle.encode(" " * 50 + "x") == [167, 155, 236781]
    for text in plain:
        assert lists.encode(text) == tokenizer.encode(text) == oracle.encode(text), text


def test_spaces_and_special_tokens_of_a_real_vocabulary_written_by_others(
    loaded: Callable[[str], Tokenizer], written: Callable[[str], Path]
) -> None:
    mistral = from_lists(written("llama2"))
    assert mistral.encode(" Hello world") == [28705, 22557, 1526]
    llama3 = from_lists(written("llama3_1"))
    assert llama3.vocab_size == 128256
    assert llama3.encode("a <|endoftext|> b")[:4] == loaded("llama3_1").encode("a <|endoftext|> b")[:4]
    assert llama3.encode("<|endoftext|>")[:3] == [27, 91, 8862]


def byte_level() -> HFTokenizer:
    """A vocabulary whose merges show where a text was split: they go across words, but not along runs of one sign."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2500, initial_alphabet=alphabet, max_token_length=8, min_frequency=2, show_progress=False
    )
    pairs = [f"{first}{space}{second}" for first, second in pairwise(WORDS) for space in (" ", "\n", "")]
    backend.train_from_iterator(pairs * 2, trainer)
    return HFTokenizer(backend)


@pytest.fixture(scope="module")
def file_of_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose pre-tokenizer is replaced by every other one."""
    tokenizer = byte_level()
    tokenizer._backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return write(tokenizer, tmp_path_factory.mktemp("gpt2"))


@pytest.mark.parametrize("pre", PRE_TOKENIZERS, ids=lambda pre: pre.names[0])
def test_each_pre_tokenizer_splits_as_llama_cpp_does(file_of_gpt2: Path, tmp_path: Path, pre: Any) -> None:
    path, metadata = with_entries(
        file_of_gpt2, tmp_path / "model.gguf", {PREFIX + "pre": pre.names[0], PREFIX + "add_bos_token": False}
    )
    metadata.pop("tokenizer.huggingface.json")
    tokenizer, llama = read_tokenizer(path, metadata), vocabulary(path)
    assert tokenizer is not None
    for text in TEXTS:
        assert tokenizer.encode(text) == llama.tokenize(text.encode(), add_bos=False, special=True), text
    llama.close()


@pytest.mark.parametrize("flags", [{}, {"add_bos_token": True}, {"add_bos_token": True, "add_eos_token": True}])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_flags_of_a_file_decide_what_surrounds_a_text(tmp_path: Path, kind: str, flags: dict[str, bool]) -> None:
    from tests.checkpoint.test_gguf import TOKENIZER, sentencepiece_like

    whole = write(TOKENIZER if kind == "gpt2" else sentencepiece_like(), tmp_path)
    changes = {PREFIX + name: False for name in ("add_bos_token", "add_eos_token")}
    changes |= {PREFIX + name: value for name, value in flags.items()}
    spaces: list[dict[str, Any]] = (
        [{}] if kind == "gpt2" else [{PREFIX + "add_space_prefix": add} for add in (True, False)]
    )
    for space in spaces:
        path, metadata = with_entries(whole, tmp_path / "flags.gguf", changes | space)
        metadata.pop("tokenizer.huggingface.json")
        tokenizer, llama = read_tokenizer(path, metadata), vocabulary(path)
        assert tokenizer is not None
        for text in ("the quick brown fox", " fox", "", "a 🙂 fox</s> dog", "x<|endoftext|>y"):
            assert tokenizer.encode_with_special_tokens(text) == ids_of(llama, text), (text, space)
        llama.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "bert"}, "of the kind 'bert'"),
        ({"model": "t5"}, "of the kind 't5'"),
        ({"pre": "no-such-pre"}, "splits text by 'no-such-pre'"),
        ({"add_sep_token": True}, "add_sep_token"),
        ({"merges": ["a nosuchtoken"]}, "merges 'a nosuchtoken'"),
        ({"token_type": [1, 1]}, "tokens and 2 types"),
        ({"tokens": ["a", "b", "a"]}, "the token 'a' twice"),
    ],
)
def test_lists_that_cannot_be_read_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    metadata = {"model": "gpt2", "pre": "gpt-2", "tokens": ["a", "b", "ab"], "merges": ["a b"]} | changes
    with pytest.raises(CheckpointError, match=message):
        read_tokenizer(Path("x.gguf"), {PREFIX + name: value for name, value in metadata.items()})


def test_ends_of_a_text_are_those_of_llama_cpp() -> None:
    tokens = ["a", "<|end|>", "<|return|>", "<|call|>", "<|im_end|>"]
    metadata = {
        PREFIX + "tokens": tokens,
        PREFIX + "model": "gpt2",
        PREFIX + "eos_token_id": 2,
        PREFIX + "eot_token_id": 0,
    }
    assert end_ids(metadata) == (2, 0, 3, 4)
