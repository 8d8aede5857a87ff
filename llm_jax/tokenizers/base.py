"""The interface of all tokenizers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back.

    Attributes:
        vocab_size: one more than the highest id; the number of rows an embedding needs.
        pad_token_id, bos_token_id, eos_token_id: None where the tokenizer has no such token.
        special_tokens: role to token, as transformers names them: {"eos_token": "</s>", …}.
        chat_template: Jinja source, or named sources, or None for the default format of `render_chat`.
        hidden_tokens: the special tokens, which leave no text when they are decoded: written form to id.
        byte_ids: ids that are one byte each, a run of which is decoded as a whole.
    """

    chat_template: "ChatTemplate | None"

    @property
    def vocab_size(self) -> int: ...
    @property
    def pad_token_id(self) -> int | None: ...
    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def eos_token_id(self) -> int | None: ...
    @property
    def special_tokens(self) -> Mapping[str, str]: ...
    @property
    def hidden_tokens(self) -> Mapping[str, int]: ...
    @property
    def byte_ids(self) -> frozenset[int]: ...

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, with no special tokens added; a special token written out in the text becomes its id.

        For a part of a text, or a rendered chat, whose template writes the special tokens.
        """
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each."""
        ...

    def encode_with_ends(self, text: str) -> tuple[list[int], list[int]]:
        """`encode`, and for each id the number of characters of `text` up to where its token ends."""
        ...

    def encode_with_special_tokens(self, text: str) -> list[int]:
        """Ids of `text` as the tokenizer's maker meant it, with a BOS, say, before it. For a whole raw text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`."""
        ...

    def token_bytes(self, index: int) -> bytes:
        """The bytes that a token adds to a text; of a special token, which adds none, those of its written form."""
        ...

    def to_json(self) -> str:
        """The text of its tokenizer.json."""
        ...

    def save_pretrained(self, directory: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json so that transformers.AutoTokenizer gives the same ids."""
        ...


ChatTemplate = str | dict[str, str]
