"""Tokenizers of each make, built from the bundled corpus."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from llm_jax.tokenizers import BPETokenizer, HFTokenizer

CORPUS = Path(__file__).parents[2] / "data" / "dummy_corpus.txt"


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return CORPUS.read_text(encoding="utf-8").split("\n\n")[:200]


@pytest.fixture(scope="session")
def bpe(texts: list[str]) -> BPETokenizer:
    return BPETokenizer.train(texts, vocab_size=600)


@pytest.fixture(scope="session")
def sentencepiece(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> HFTokenizer:
    """Like Llama 2's: ▁ for spaces, one prepended to the text, and bytes for characters without a token."""
    backend = Backend(models.BPE(unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False)
    backend.train_from_iterator(texts, trainer)
    spec = json.loads(backend.to_str())
    spec["model"]["byte_fallback"] = True
    spec["added_tokens"] = spec["added_tokens"][:3]  # the bytes are ordinary tokens, which the decoder joins
    spec["pre_tokenizer"] = None
    backend = Backend.from_str(json.dumps(spec))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    directory = tmp_path_factory.mktemp("sentencepiece")
    backend.save(str(directory / "tokenizer.json"))
    roles = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}, "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | roles))
    return HFTokenizer.from_pretrained(directory)


@pytest.fixture(scope="session")
def metaspace(texts: list[str]) -> HFTokenizer:
    """A Unigram model, like T5's and ALBERT's: the decoder drops the space of the first word."""
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=500, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([AddedToken("<pad>", special=True)])
    return HFTokenizer(backend, {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"})


@pytest.fixture(scope="session", params=["bpe", "sentencepiece", "metaspace"])
def any_tokenizer(request: pytest.FixtureRequest) -> HFTokenizer:
    return request.getfixturevalue(request.param)
