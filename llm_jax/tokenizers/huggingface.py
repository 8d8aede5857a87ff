"""Any tokenizer.json, and any name on the Hugging Face Hub."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

from llm_jax.errors import TokenizerError, UnknownToken
from llm_jax.tokenizers.base import ChatTemplate
from llm_jax.tokenizers.declared import ADDED, add_declared_tokens, roles_of
from llm_jax.tokenizers.files import TOKENIZER, TokenizerFiles
from llm_jax.tokenizers.token_bytes import TokenBytes

# For GPT-2's files and a single tokenizer.json, which name no roles: the usual tokens, if the vocabulary has them.
USUAL_TOKENS = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}


class HFTokenizer:
    """A fast Hugging Face tokenizer.

    Args:
        backend: the tokenizer of the `tokenizers` library.
        config: of tokenizer_config.json: the special tokens by role, and entries that only transformers reads.
        chat_template: Jinja source, or named sources.

    >>> from llm_jax.demo import PATH
    >>> tokenizer = HFTokenizer.from_pretrained(PATH)
    >>> tokenizer.decode(tokenizer.encode("The little dog"))
    'The little dog'
    """

    def __init__(
        self, backend: Backend, config: Mapping[str, Any] | None = None, chat_template: ChatTemplate | None = None
    ) -> None:
        config = dict(config or {})
        backend.no_padding()
        backend.no_truncation()
        add_declared_tokens(backend, config)
        config.pop(ADDED, None)  # the backend has them now
        vocab = backend.get_vocab(with_added_tokens=True)
        self._backend = backend
        self._config = config
        self.special_tokens = roles_of(config) or {
            role: token for role, token in USUAL_TOKENS.items() if token in vocab
        }
        self.chat_template = chat_template
        self.vocab_size = 1 + max(vocab.values(), default=-1)  # not the count: ids may have gaps
        added = backend.get_added_tokens_decoder()
        self.hidden_tokens = {token.content: index for index, token in added.items() if token.special}
        self.byte_ids = _byte_ids(backend)
        hidden = {index: token for token, index in self.hidden_tokens.items()}
        self._token_bytes = TokenBytes(backend, self.decode, hidden, self.byte_ids)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path) -> Self:
        """A directory, a tokenizer.json, or a name on the Hub.

        A name, and a directory without tokenizer.json, need the transformers package.

        Raises:
            TokenizerError: there is no tokenizer that can be read.
        """
        path = Path(name_or_path)
        if path.is_file() or (path / TOKENIZER).is_file():
            return cls.load(path)
        return cls._load_with_transformers(str(name_or_path))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a directory with a tokenizer.json, or the file itself, without transformers."""
        return cls.from_files(TokenizerFiles.read(path))

    @classmethod
    def from_files(cls, files: TokenizerFiles) -> Self:
        return cls(files.backend(), files.config, files.chat_template)

    @property
    def pad_token_id(self) -> int | None:
        return self._id_of("pad_token")

    @property
    def bos_token_id(self) -> int | None:
        return self._id_of("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        return self._id_of("eos_token")

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; no beginning or end token is added.

        Raises:
            TokenizerError: `text` holds a lone surrogate, which is not text.
            UnknownToken: the vocabulary has no token for a part of the text, and no unknown token.
        """
        return self._encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each, several at a time."""
        try:
            return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]
        except Exception:  # one of them cannot be encoded: `encode` says which, and why
            return [self.encode(text) for text in texts]

    def encode_with_ends(self, text: str) -> tuple[list[int], list[int]]:
        """`encode`, and for each id where its token ends in `text`, in characters."""
        encoding = self._encode(text, add_special_tokens=False)
        return encoding.ids, [end for _, end in encoding.offsets]

    def encode_with_special_tokens(self, text: str) -> list[int]:
        """`encode`, with what the tokenizer's post-processor adds: a BOS before the text, an EOS after it, nothing."""
        return self._encode(text, add_special_tokens=True).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`. Special tokens, and ids that only pad the vocabulary, have no text.

        Raises:
            UnknownToken: a negative id.
        """
        try:
            return self._backend.decode([int(index) for index in ids], skip_special_tokens=True)
        except OverflowError:
            raise UnknownToken(f"Token ids go from 0 to {self.vocab_size - 1}; got {min(ids)}.") from None

    def token_bytes(self, index: int) -> bytes:
        """The bytes that a token adds to a text, also where they are a part of a character; b"" of an unused id."""
        return self._token_bytes.of(index)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and the chat template."""
        config = {"tokenizer_class": "PreTrainedTokenizerFast"} | self._config | self.special_tokens
        TokenizerFiles(self._backend.to_str(pretty=True), config, self.chat_template).write(directory)

    def to_json(self) -> str:
        """The text of its tokenizer.json."""
        return self._backend.to_str()

    def _encode(self, text: str, *, add_special_tokens: bool) -> Encoding:
        try:
            text.encode()  # the library's own message would speak of types
        except UnicodeEncodeError as error:
            raise TokenizerError(f"The text holds a lone surrogate at character {error.start}; remove it.") from error
        try:
            return self._backend.encode(text, add_special_tokens=add_special_tokens)
        except Exception as error:  # the library raises plain Exception
            raise UnknownToken(f"The tokenizer cannot encode {text[:40]!r}: {error}.") from error

    def _id_of(self, role: str) -> int | None:
        token = self.special_tokens.get(role)
        return None if token is None else self._backend.token_to_id(token)

    @classmethod
    def _load_with_transformers(cls, name: str) -> Self:
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise TokenizerError(
                f"{name!r} is no directory with a {TOKENIZER}, and a name on the Hub needs the transformers package: "
                "install the extra 'hf', or give a local path."
            ) from error
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise TokenizerError(
                f"No tokenizer can be loaded from {name!r}: {error}\n"
                f"Give a directory that holds {TOKENIZER}, or a name on the Hub while the network is reachable."
            ) from error
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise TokenizerError(f"{name!r} has no fast tokenizer; convert it to a {TOKENIZER} with transformers.")
        return cls(backend, tokenizer.special_tokens_map, tokenizer.chat_template)


def _byte_ids(backend: Backend) -> frozenset[int]:
    """The ids of <0x00> to <0xFF>, where the decoder joins such tokens to text; none elsewhere."""
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    if backend.decoder is None or backend.decoder.decode([names[65]]) != "A":
        return frozenset()
    return frozenset(index for name in names if (index := backend.token_to_id(name)) is not None)
