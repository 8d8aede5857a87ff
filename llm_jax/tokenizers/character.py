"""A tokenizer with one id per character: SimpleCharacterTokenizer in the package `llm`."""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from llm_jax.errors import TokenizerError, UnknownToken
from llm_jax.tokenizers.base import ChatTemplate
from llm_jax.tokenizers.files import TokenizerFiles

PAD = "<PAD>"


class CharacterTokenizer:
    """The sorted characters of a corpus, then `<PAD>` as the last id.

    Attributes:
        chars: all tokens, in the order of their ids.
        stoi, itos: token to id, id to token.

    Raises:
        TypeError: `corpus` is not a list of strings.

    >>> tokenizer = CharacterTokenizer(["hello", "world"])
    >>> tokenizer.encode("hole"), tokenizer.decode([2, 5, 3, 1])
    ([2, 4, 3, 1], 'hrle')
    """

    pad_char = PAD
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    hidden_tokens: Mapping[str, int] = MappingProxyType({})
    byte_ids: frozenset[int] = frozenset()

    def __init__(self, corpus: list[str], *, chat_template: ChatTemplate | None = None) -> None:
        if not isinstance(corpus, list) or not all(isinstance(text, str) for text in corpus):
            raise TypeError("corpus must be a list of strings; wrap a single text as [text].")
        self.chars = [*sorted(set().union(*corpus)), PAD]
        self.stoi = {char: index for index, char in enumerate(self.chars)}
        self.itos = dict(enumerate(self.chars))
        self.vocab_size = len(self.chars)
        self.pad_token_id: int | None = self.stoi[PAD]
        self.special_tokens = {"pad_token": PAD}
        self.chat_template = chat_template

    def encode(self, text: str) -> list[int]:
        """Ids of the characters; `<PAD>` written out becomes its id.

        Raises:
            UnknownToken: (a KeyError) a character that the corpus does not have.
        """
        try:
            return list(map(self.stoi.__getitem__, _split(text)))
        except KeyError as error:
            char = error.args[0]
            raise UnknownToken(
                f"Character {char!r} (U+{ord(char):04X}) is not in the vocabulary. Only characters of the corpus "
                "that the tokenizer was made from can be encoded; leave it out, or use a BPE tokenizer."
            ) from None

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each."""
        return [self.encode(text) for text in texts]

    def encode_with_ends(self, text: str) -> tuple[list[int], list[int]]:
        """`encode`, and where each token ends in `text`."""
        return self.encode(text), list(accumulate(len(part) for part in _split(text)))

    def encode_with_special_tokens(self, text: str) -> list[int]:
        """`encode`: there are no special tokens to add."""
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The characters joined; the padding token becomes `<PAD>`.

        Raises:
            UnknownToken: (a KeyError) an id outside the vocabulary.
        """
        try:
            return "".join([self.itos[index] for index in ids])
        except KeyError as error:
            raise UnknownToken(
                f"Token id {error.args[0]} is not in the vocabulary: ids go from 0 to {self.vocab_size - 1}."
            ) from None

    def token_bytes(self, index: int) -> bytes:
        """The character's bytes; b"" of an id outside the vocabulary, with which a model may be padded."""
        return self.itos.get(index, "").encode()

    def save_pretrained(self, directory: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json; AutoTokenizer then gives the same ids."""
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": PAD, "clean_up_tokenization_spaces": False}
        TokenizerFiles(self._backend().to_str(pretty=True), config, self.chat_template).write(directory)

    def to_json(self) -> str:
        """The text of its tokenizer.json."""
        return self._backend().to_str()

    @classmethod
    def from_files(cls, files: TokenizerFiles) -> "CharacterTokenizer | None":
        """The character tokenizer in these files; None where they hold a tokenizer of another type."""
        if "WordLevel" not in files.tokenizer:  # a large file takes long to parse, and the library parses it again
            return None
        saved = files.backend()
        model = json.loads(files.tokenizer)["model"]
        if model["type"] != "WordLevel":
            return None
        tokenizer = cls([token for token in model["vocab"] if token != PAD], chat_template=files.chat_template)
        saved.post_processor = None  # transformers adds an empty one when it saves
        return tokenizer if saved.to_str() == tokenizer._backend().to_str() else None

    def _backend(self) -> Backend:
        """The same tokenizer in the `tokenizers` library: word-level, with every character a word."""
        try:
            backend = Backend(models.WordLevel(self.stoi, unk_token=PAD + "?"))  # no such token: unknown is an error
        except TypeError as error:
            raise TokenizerError("A lone surrogate is not text and cannot be saved; clean the corpus.") from error
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        backend.decoder = decoders.Fuse()
        backend.add_special_tokens([AddedToken(PAD, special=True, normalized=False)])
        return backend


def _split(text: str) -> list[str]:
    """Characters, and `<PAD>` as one."""
    return re.findall(rf"(?s){PAD}|.", text)
