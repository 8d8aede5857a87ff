"""Byte-level byte-pair encoding, trained here (Sennrich et al. 2016, arXiv:1508.07909; on bytes as in GPT-2)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Self

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from llm_jax.errors import TokenizerError
from llm_jax.tokenizers.base import ChatTemplate
from llm_jax.tokenizers.huggingface import HFTokenizer

END_OF_TEXT = "<|endoftext|>"  # id 0: ends a document, and so begins one
PAD = "<|pad|>"  # id 1: not the end of text, which has to be learned and sampled
MIN_VOCAB_SIZE = 256 + 2


class BPETokenizer(HFTokenizer):
    """A byte-level BPE tokenizer: every text has ids, and decode(encode(text)) == text.

    `<|endoftext|>` (id 0) is both beginning and end of text, `<|pad|>` (id 1) pads. Written out in a text, they are
    those tokens; decode skips them.

    >>> tokenizer = BPETokenizer.train(["the little dog and the little fox"], vocab_size=270)
    >>> tokenizer.decode(tokenizer.encode("a little café"))
    'a little café'
    """

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, *, min_frequency: int = 2, chat_template: ChatTemplate | None = None
    ) -> Self:
        """Learn merges from `texts`.

        Args:
            texts: the corpus; merges never cross from one text to the next.
            vocab_size: at least 258 (256 bytes and two special tokens). A small corpus may yield fewer.
            min_frequency: how often a pair must occur to be merged.

        Raises:
            TokenizerError: vocab_size is too small.
            TypeError: texts is one string.
        """
        if isinstance(texts, str):
            raise TypeError("texts must be several strings; wrap a single text as [text].")
        if vocab_size < MIN_VOCAB_SIZE:
            raise TokenizerError(f"vocab_size is {vocab_size}; a byte-level BPE needs at least {MIN_VOCAB_SIZE}.")
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=[END_OF_TEXT, PAD],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend, {"clean_up_tokenization_spaces": False}, chat_template)

    def save(self, path: str | Path) -> None:
        """Write a directory or, where `path` ends in .json, one file. `load` reads both."""
        path = Path(path)
        if path.suffix == ".json":
            path.parent.mkdir(parents=True, exist_ok=True)
            self._backend.save(str(path))
        else:
            self.save_pretrained(path)
