"""The bytes of single tokens of a Hugging Face tokenizer."""

from collections.abc import Callable, Collection

from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers

_ANCHORS = ("a", "A", "0", ".")  # texts, one of which is a single token


class TokenBytes:
    """The bytes that each token adds to a text, also where they are only a part of a character.

    Args:
        decode: ids to text, without the special tokens.
        hidden: the special tokens, id to written form.
        byte_ids: ids that are written <0x41> and are one byte.
    """

    def __init__(
        self,
        backend: Backend,
        decode: Callable[[list[int]], str],
        hidden: dict[int, str],
        byte_ids: Collection[int],
    ) -> None:
        self._backend, self._decode, self._byte_ids = backend, decode, byte_ids
        self._known = {index: token.encode() for index, token in hidden.items()}
        is_byte_level = backend.decoder is not None and backend.decoder.decode(["Ġ"]) == " "
        self._alphabet = _byte_level_alphabet() if is_byte_level else {}
        self._anchor = next(
            (ids for text in _ANCHORS if len(ids := backend.encode(text, add_special_tokens=False).ids) == 1), []
        )

    def of(self, index: int) -> bytes:
        """The bytes of a token; of a special token, which leaves no text, those of its written form."""
        if index not in self._known:
            self._known[index] = self._find(index)
        return self._known[index]

    def _find(self, index: int) -> bytes:
        written = self._backend.id_to_token(index)
        if written is None:  # it only pads the vocabulary
            return b""
        if index in self._byte_ids:
            return bytes([int(written[3:5], 16)])
        if self._alphabet and all(char in self._alphabet for char in written):
            return bytes(self._alphabet[char] for char in written)
        # Decoders strip a space from the beginning of a text, so that the token must not come first.
        return self._decode([*self._anchor, index])[len(self._decode(self._anchor)) :].encode()


def _byte_level_alphabet() -> dict[str, int]:
    """The characters by which byte-level BPE writes bytes: printable ones are themselves (GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
    assert alphabet.keys() == set(pre_tokenizers.ByteLevel.alphabet())
    return alphabet
